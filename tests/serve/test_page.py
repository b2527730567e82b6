"""The page in headless Chromium: `make test-browser`."""

import numpy as np
import pytest
import soundfile

from tests.serve.conftest import KEY, running

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(spoken, tmp_path_factory):
    """Chromium whose microphone plays a sentence."""
    sync_api = pytest.importorskip("playwright.sync_api")
    microphone = tmp_path_factory.mktemp("microphone") / "a.wav"
    soundfile.write(microphone, np.concatenate((spoken[0], np.zeros(16_000, dtype=np.float32))), 16_000)
    arguments = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}",
    ]
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, served_folder):
    """The page of a server with a key, without any message in the console."""
    with running(served_folder) as server:
        context = browser.new_context(viewport={"width": 390, "height": 800})
        page, messages = context.new_page(), []
        page.on("console", lambda message: messages.append(message.text) if "401" not in message.text else None)
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(server.url)
        page.fill("[name=key]", KEY)
        page.press("[name=key]", "Tab")
        page.wait_for_selector("select option", state="attached")
        yield page
        context.close()
        assert messages == []


def finished(page):
    page.wait_for_selector("#status:has-text('Done'), #error:not(:empty)", timeout=60_000)
    return page.inner_text("#error")


def test_a_file_is_transcribed_and_its_segments_play(page, long_recording, tmp_path):
    soundfile.write(tmp_path / "a talk.wav", long_recording[0], 16_000)
    page.set_input_files("#file", tmp_path / "a talk.wav")
    assert finished(page) == ""
    times = page.locator("#segments time").all_inner_texts()
    assert len(times) > 7
    assert times == sorted(times)
    page.locator("#segments button").nth(2).click()
    page.wait_for_selector("#segments button.playing")
    assert page.locator("#player").evaluate("player => player.currentTime") > 5
    for suffix, begin in (("TXT", ""), ("SRT", "1\n00:"), ("VTT", "WEBVTT"), ("JSON", "{")):
        with page.expect_download() as download:
            page.get_by_text(suffix, exact=True).click()
        assert download.value.suggested_filename == f"a talk.{suffix.lower()}"
        assert download.value.path().read_text().startswith(begin)


def test_the_microphone(page):
    page.click("#record")
    page.wait_for_selector("#live:not(:empty)", timeout=60_000)
    page.click("#record")
    assert finished(page) == ""
    assert page.inner_text("#live") == ""
    assert page.locator("#segments li").count() >= 1


def test_an_error_is_readable_and_the_next_file_works(page, spoken, tmp_path):
    (tmp_path / "notes.mp3").write_text("no sound")
    page.set_input_files("#file", tmp_path / "notes.mp3")
    assert "notes.mp3: not audio that can be read" in finished(page)
    soundfile.write(tmp_path / "a.wav", spoken[0], 16_000)
    page.set_input_files("#file", tmp_path / "a.wav")
    page.wait_for_selector("#status:has-text('Done')", timeout=60_000)
    assert page.inner_text("#error") == ""


def test_everything_is_reached_by_keyboard_and_nothing_is_wider_than_a_phone(page):
    reached = []
    page.focus("select")
    for _ in range(5):
        reached.append(page.evaluate_handle("document.activeElement").get_attribute("id"))
        page.keyboard.press("Tab")
    assert {"file", "record"} <= set(reached)
    assert page.locator("html").evaluate("html => html.scrollWidth") <= 390
