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


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "identity"])
def test_normalisation_is_idempotent(profile):
    normalize = get_profile(profile)
    for text in ("The QUICK fox, isn't it?", "我有 3 个苹果", "Ärger — überall"):
        assert normalize(normalize(text)) == normalize(text)


def test_a_label_has_the_version_and_an_unknown_profile_suggests_the_nearest():
    assert get_profile("basic").label == "basic@1"
    with pytest.raises(InputError, match="did you mean 'basic'"):
        get_profile("bassic")
    with pytest.raises(InputError, match="known are basic, identity"):
        get_profile("xyzzy")


def test_the_unit_of_a_language():
    assert [unit_for(language) for language in ("English", "Chinese", "Korean", None)] == [
        "word",
        "character",
        "word",
        "word",
    ]
