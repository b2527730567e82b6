import pytest

from arkasr.errors import InputError
from arkasr.evaluate.normalize import PROFILES, get_profile, unit_for


@pytest.mark.parametrize(
    ("profile", "text", "expected"),
    [
        ("identity", " As It, is. ", " As It, is. "),
        ("basic", "Don't STOP — it’s 9 o'clock!", "don't stop it's 9 o'clock"),
        ("basic", "'quoted' words' end", "quoted words end"),
        ("basic", "Straße, ÄRGER; naïve", "straße ärger naïve"),
        ("basic", "１２３ ＡＢＣ", "123 abc"),
        ("basic", "你好，世界！", "你好 世界"),
        ("basic", "", ""),
        ("whisper-en", "I'm gonna pay twenty dollars.", "i am going to pay $20"),
        ("zh", "我有 3 个苹果，", "我有三个苹果"),
        ("zh", "二零二六年 ABC 公司", "二零二六年 abc 公司"),
        ("upstream-ark", "１２ Apples, PLEASE!", "12 apples please"),
    ],
)
def test_profiles(profile, text, expected):
    assert get_profile(profile)(text) == expected


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "identity@1"])
def test_normalisation_is_idempotent(profile):
    normalize = get_profile(profile)
    for text in ("The QUICK fox, isn't it?", "我有 3 个苹果", "Ärger — überall"):
        assert normalize(normalize(text)) == normalize(text)


def test_a_label_has_the_version_and_an_unknown_profile_suggests_the_nearest():
    assert get_profile("basic").label == "basic@2"
    assert get_profile("basic@1").label == "basic@1"
    with pytest.raises(InputError, match="did you mean 'basic'"):
        get_profile("bassic")
    with pytest.raises(InputError, match="known are basic, identity"):
        get_profile("xyzzy")
    with pytest.raises(InputError, match=r"'basic@7' does not exist"):
        get_profile("basic@7")


SAME_WORDS = {
    "basic": [
        ("I love you ❤️", "I love you"),
        ("1️⃣ one", "1 one"),
        ("it's fine", "it´s fine", "it`s fine", "it‘s fine", "it’s fine", "itʼs fine", "it＇s fine"),
        (
            "cooperation",
            "co\u00adoperation",
            "co\u2060operation",
            "\ufeffcooperation",
            "cooper\u200eation",
            "cooper\u200bation",
        ),
        ("İstanbul'a", "istanbul'a", "İSTANBUL'a", "I\u0307stanbul'a"),
        ("ещё ЁЛКА", "еще елка"),
        ("Acţiune şi", "acțiune și"),
        ("مُحَمَّد", "محمد", "محـــمد"),
        ("كتابي", "کتابی"),
        ("שָׁלוֹם", "שלום"),
        ("hoà bình, khoẻ, thuý", "hòa bình khỏe thúy"),
        ("१२ लोग", "12 लोग"),
        ("می‌روم", "میروم"),
        ("ＡＢＣ１２", "abc12"),
        ("м’ята", "м'ята"),
    ],
    "whisper-en": [
        ("I don't know", "I don’t know", "I don´t know", "I do\u00adn't know"),
        ("a wonder\u2060ful day", "a wonderful day"),
    ],
    "zh": [
        ("我用GPT-4", "我用GPT4", "我用ＧＰＴ－４"),
        ("F-16战机", "F16战机"),
        ("增长50%-60%", "增长百分之五十到百分之六十"),
        ("我的电话是13882366638对吗", "我的电话是幺三八八二三六六六三八对吗", "我的电话是一三八八二三六六六三八对吗"),
        ("010-12345678", "零一零一二三四五六七八"),
        ("二〇二四年", "2024年", "二零二四年"),
        ("2024-05-01", "二零二四年五月一日"),
        ("一百万人", "1000000人"),
        ("零下-5度", "零下负五度"),
    ],
}


@pytest.mark.parametrize(("profile", "texts"), [(name, texts) for name, rows in SAME_WORDS.items() for texts in rows])
def test_what_a_native_reader_calls_the_same_words(profile, texts):
    normalize = get_profile(profile)
    assert {normalize(text) for text in texts} == {normalize(texts[0])}


OTHER_WORDS = [("ılık", "ilik"), ("cafe", "café"), ("we're", "were"), ("hoàn", "hòa"), ("一", "二")]


@pytest.mark.parametrize(("first", "second"), OTHER_WORDS)
def test_other_words_stay_different(first, second):
    assert get_profile("basic")(first) != get_profile("basic")(second)


def test_old_versions_do_not_change():
    assert get_profile("basic@1")("it´s İ") == "it \u0301s i\u0307"
    assert get_profile("zh@1")("F-16战机") == "f负十六战机"


def test_the_unit_of_a_language():
    assert [unit_for(language) for language in ("English", "Chinese", "Korean", None)] == [
        "word",
        "character",
        "word",
        "word",
    ]
