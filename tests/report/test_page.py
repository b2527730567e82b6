import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from plotly.offline import get_plotlyjs

from arkasr.errors import InputError
from arkasr.report.page import write_report
from arkasr.report.utterances import Limits
from tests.report.example_run import SETS, build_run
from tests.report.test_utterances import only_base

LOADING = {"src", "href", "srcset", "poster", "action", "data"}


class Reader(HTMLParser):
    """Collects tags and text of a page, and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("option", "summary") or self.open[-1] == tag:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read_page(run_path: Path, limits: Limits | None = None) -> Reader:
    reader = Reader()
    reader.feed(write_report(run_path, limits or Limits()).read_text(encoding="utf-8"))
    return reader


def words(reader: Reader) -> str:
    return re.sub(r"\s+", " ", "".join(reader.text))


def test_the_page_loads_no_other_resource(run_path: Path) -> None:
    reader = read_page(run_path)
    for tag, attributes in reader.tags:
        for name in LOADING & attributes.keys():
            assert (attributes[name] or "").startswith("#"), (tag, name)
    assert not reader.of("link")
    assert not reader.of("img")
    policy = next(meta["content"] for meta in reader.of("meta") if "http-equiv" in meta)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_tag_is_closed(run_path: Path) -> None:
    assert read_page(run_path).open == []


def test_transcripts_cannot_become_markup(run_path: Path) -> None:
    attack = '</td><script>alert(1)</script><img src=x onerror="alert(2)">'
    harmless = len(read_page(run_path).of("script"))
    only_base(run_path, {"id": f'"{attack}', "text": attack, "speaker": attack, "error": attack})
    only_base(run_path, {"id": "b", "text": attack, "pred_text": attack + " one"}, name="zh-read")
    recipe = run_path / "recipe.yaml"
    recipe.write_text(recipe.read_text() + f"note: '{attack}'\n")
    reader = read_page(run_path)
    assert len(reader.of("script")) == harmless
    assert not reader.of("img")
    assert reader.open == []
    assert f"failed: {attack}" in "".join(reader.text)


def test_all_sections_are_present_in_order(run_path: Path) -> None:
    reader = read_page(run_path)
    sections = [attributes["id"] for attributes in reader.of("section")]
    assert sections == ["rates", "comparisons", "support", "learning", "diagnostics", "utterances", "setup"]
    text = words(reader)
    for part in (
        "12 min 34 s of computing",
        "Normaliser basic@1",
        "paired permutation test over utterances",
        "VUSS mean",
        "speaker0",
        "commit",
        "untrained: preset: ark-asr-tiny",
    ):
        assert part in text


def test_the_rate_table_has_a_row_per_variant(run_path: Path) -> None:
    html = write_report(run_path).read_text(encoding="utf-8")
    table = html[html.index('class="rates"') : html.index("</table>")]
    assert table.count("<tr") == 1 + 6
    assert table.count('class="teacher"') == 1
    assert "<b>" in table[table.index("<tbody>") :]


def test_tables_and_controls_are_accessible(run_path: Path) -> None:
    reader = read_page(run_path)
    tables = reader.of("table")
    assert all(attributes.get("scope") in ("row", "col") for attributes in reader.of("th"))
    assert len(reader.of("caption")) == len(tables) - len([table for table in tables if table.get("class") == "facts"])
    assert all(button["aria-label"] for button in reader.of("button"))
    assert all(div["aria-label"] for div in reader.of("div") if div.get("role") == "img")
    assert [attributes["lang"] for attributes in reader.of("html")] == ["en"]
    assert {td["lang"] for td in reader.of("td") if "lang" in td} == {"en", "zh"}


def test_audio_is_embedded_up_to_the_limit_and_the_rest_is_counted(run_path: Path) -> None:
    reader = read_page(run_path, Limits(clips_per_set=3))
    clips = [button["data-clip"] or "" for button in reader.of("button")]
    assert len(clips) == 2 * 3
    assert all(clip.startswith("data:audio/mpeg;base64,") for clip in clips)
    assert "3 utterances with audio, those with the most errors; 1 were left out" in words(reader)


def test_a_missing_recording_has_a_message_instead_of_a_button(run_path: Path) -> None:
    (run_path.parent / "audio" / "en-clean" / "0.flac").unlink()
    reader = read_page(run_path)
    assert len(reader.of("button")) == 7
    assert "recording not found" in words(reader)


def test_plotly_is_embedded_once(run_path: Path) -> None:
    html = write_report(run_path).read_text(encoding="utf-8")
    (packed,) = re.findall(r'<script type="text/plain" id="plotly">(.*?)</script>', html)
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()


def test_a_run_without_training_or_support_has_no_empty_sections(run_path: Path, tmp_path: Path) -> None:
    (run_path / "stages").rename(tmp_path / "elsewhere")
    (run_path / "environment.json").unlink()
    text = (run_path / "results.json").read_text()
    (run_path / "results.json").write_text(text[: text.index(' "support"')] + ' "support": []}')
    reader = read_page(run_path)
    assert [attributes["id"] for attributes in reader.of("section")] == ["rates", "comparisons", "utterances", "setup"]
    assert len([div for div in reader.of("div") if div.get("class") == "chart"]) == 1


def test_a_page_without_charts_has_no_plotly(run_path: Path, tmp_path: Path) -> None:
    (run_path / "stages").rename(tmp_path / "elsewhere")
    results = json.loads((run_path / "results.json").read_text())
    results["rows"] = [row for row in results["rows"] if row["variant"] == "base"]
    (run_path / "results.json").write_text(json.dumps(results | {"comparisons": []}))
    recipe = yaml.safe_load((run_path / "recipe.yaml").read_text())
    (run_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"variants": {"base": "base"}}))
    assert "plotly" not in {script.get("id") for script in read_page(run_path).of("script")}


def test_the_page_is_reproducible_and_no_temporary_file_remains(run_path: Path) -> None:
    first = write_report(run_path).read_bytes()
    before = sorted(path.name for path in run_path.iterdir())
    assert write_report(run_path).read_bytes() == first
    assert sorted(path.name for path in run_path.iterdir()) == before


def test_a_damaged_run_keeps_the_old_page(run_path: Path) -> None:
    report = write_report(run_path)
    old = report.read_bytes()
    (run_path / "results.json").write_text("{")
    with pytest.raises(InputError):
        write_report(run_path)
    assert report.read_bytes() == old


def test_the_page_of_the_quickstart_is_small(tmp_path: Path) -> None:
    path = build_run(tmp_path / "run", sets=list(SETS), utterances=100, steps=600, seconds=2.0)
    assert write_report(path).stat().st_size < 15e6


def test_every_p_has_its_scope_and_every_set_its_number_of_speakers(run_path: Path) -> None:
    text = words(read_page(run_path))
    comparisons = 2 * (len(("en-clean", "zh-read")) + 1)
    scope = "these two models, not the recipes that made them (one training seed)"
    assert text.count(scope) == comparisons + 2
    assert "4 utterances 3 speakers" in text
