"""A page holds all it needs, and whatever text is in its data is only ever text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from lossmask import Encoder
from lossmask.embedded import DEMO_MODEL
from lossmask.html_page import html_page, json_for_html
from lossmask.token_data import token_data
from tests.browser import (
    browser,
    console_messages,
    needs_browser,
    one,
    open_page,
    requested,
    screenshot,
    set_screen,
    texts,
)
from tests.injections import CANARY, INJECTIONS
from tests.scenarios import assistant, user


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


def page_of(*texts: str, title: str = "page") -> str:
    messages = [user("Hi"), *(message for text in texts for message in _turn(text))]
    [example] = Encoder.from_pretrained(DEMO_MODEL).encode(messages)
    data = {"example": token_data(example, messages)}
    return html_page(title, data, scripts=["tokens.js"], styles=["tokens.css"])


def _turn(text: str) -> list[dict[str, str]]:
    return [assistant(text), user(text)]


def test_data_is_json_that_nothing_in_it_can_end() -> None:
    data = {"texts": [*INJECTIONS, "\u2028\u2029\x7f\ud800&amp;"]}
    written = json_for_html(data)
    assert json.loads(written) == data
    assert not set("<>&\u2028\u2029\ud800") & set(written)
    written.encode()


def test_a_title_is_escaped() -> None:
    page = html_page("</title><script>alert(1)</script>", {}, scripts=[], styles=[])
    assert "<title>&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;</title>" in page


def test_a_page_names_every_script_and_style_by_its_hash_and_allows_no_connection() -> None:
    page = page_of("Hello")
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "connect-src" not in policy
    assert not re.findall(r'(?:src|href)="(?!data:,")', page)
    connected = html_page("page", {}, scripts=[], styles=[], connects=True)
    assert "connect-src 'self'" in connected


def test_no_asset_could_end_its_own_element() -> None:
    web = Path(html_page.__code__.co_filename).parent.joinpath("assets", "web")
    for asset in (*web.glob("*.js"), *web.glob("*.css")):
        assert not re.search(r"</(script|style)|<!--", asset.read_text("utf-8"), re.IGNORECASE)


@needs_browser
def test_text_of_any_kind_is_shown_as_text(driver: Chrome, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(page_of(*INJECTIONS, title=INJECTIONS[0]), encoding="utf-8")
    set_screen(driver, width=1000, height=700)
    open_page(driver, page)
    driver.execute_script(
        "const app = document.getElementById('app');"
        "window.handle = lossmask.drawTokens(app, lossmask.data().example);"
    )
    drawn = "".join(texts(driver, ".lm-t"))
    for shown, meant in (("⏎\n", "\n"), ("·", " "), ("\\u2028", "\u2028"), ("\\u2029", "\u2029")):
        drawn = drawn.replace(shown, meant)
    assert drawn == driver.execute_script("return lossmask.textOf(lossmask.data().example)")
    assert all(text in drawn for text in INJECTIONS)
    assert driver.execute_script(f"return window.{CANARY}") is None
    assert driver.title == INJECTIONS[0]
    assert (
        driver.execute_script("return document.querySelectorAll('#app :not(div, span, b)').length")
        == 0
    )
    assert console_messages(driver) == []
    assert requested(driver) == [page.resolve().as_uri()]
    screenshot(driver, tmp_path / "page.png")


@needs_browser
def test_the_card_of_a_token_says_what_is_known_of_it(driver: Chrome, tmp_path: Path) -> None:
    messages = [user("Hi"), assistant("Hey\u202e\x07 you")]
    [example] = Encoder.from_pretrained(DEMO_MODEL).encode(messages)
    page = tmp_path / "page.html"
    data = {"example": token_data(example, messages)}
    page.write_text(html_page("p", data, scripts=["tokens.js"], styles=["tokens.css"]), "utf-8")
    open_page(driver, page)
    driver.execute_script(
        "window.handle = lossmask.drawTokens(document.getElementById('app'), "
        "lossmask.data().example, {rows: (token) => [['loss', `0.${token}`]]});"
        "handle.select(arguments[0])",
        len(example) - 2,
    )
    card = one(driver, ".lm-card")
    assert card.text.split("\n") == [
        "<|im_end|>",
        "token", f"{len(example) - 2} of {len(example)}",
        "id", str(example.input_ids[-2]),
        "bytes", "3c 7c 69 6d 5f 65 6e 64 7c 3e",
        "weight", "1 · stop token, trained",
        "part", "stop",
        "loss", f"0.{len(example) - 2}",
        "written by", "the template",
    ]  # fmt: skip
    assert texts(driver, ".lm-role") == ["0 user", "1 assistant"]
    assert "Hey\\u202e␇ you" in "".join(texts(driver, ".lm-assistant .lm-t"))
