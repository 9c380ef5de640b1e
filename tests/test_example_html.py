"""An example in a notebook: escaped, static, cut where it is long."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from lossmask import Encoder
from lossmask.embedded import DEMO_MODEL
from lossmask.example_html import example_html
from tests.browser import browser, needs_browser
from tests.scenarios import assistant, user

INJECTED = [
    "<script>document.title='hit'</script>",
    "<img src=x onerror=\"document.title='hit'\">",
    '"><svg onload="document.title=\'hit\'">',
    "'; background:url(http://evil.example/x) ; '",
    "</div></span><style>*{display:none}</style>",
    "&lt;b&gt; &amp; \u2028 \u202e \x1b[31m \x00",
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.from_pretrained(DEMO_MODEL)


def html(encoder: Encoder, question: str, answer: str, **keys: object) -> str:
    [example] = encoder.encode([user(question), assistant(answer, **keys)])
    return example._repr_html_()


def test_each_token_is_a_span_that_tells_of_itself(encoder: Encoder) -> None:
    drawn = html(encoder, "Hi", "Hello")
    assert drawn.count("<span") == 13
    assert "<b>13 tokens, 2 supervised (15.4%)</b>" in drawn
    assert (
        '<span style="color:#06351a;background-color:#8fe3b0" title="token 10, id 432, message 1, '
        'weight 1">Hello</span>' in drawn
    )
    assert (
        '<span style="color:#ffffff;background-color:#c2304a" title="token 11, id 2, template, '
        'weight 1">&lt;|im_end|&gt;</span>' in drawn
    )
    assert '<span style="opacity:.62" title="token 12, id 201, template, weight 0">⏎\n</span>' in (
        drawn
    )


@pytest.mark.parametrize("text", INJECTED)
def test_nothing_is_markup_but_our_own(text: str, encoder: Encoder) -> None:
    drawn = html(encoder, text, text)
    tags = set(re.findall(r"<(/?\w+)", drawn))
    assert tags <= {"div", "/div", "span", "/span", "b", "/b", "bdi", "/bdi"}
    assert set(re.findall(r"<\w+ (\w+)=", drawn)) == {"style"}
    assert not re.search("[\x00-\x09\x0b-\x1f\u2028\u202e]", drawn)


def test_a_literal_sign_for_a_line_break_breaks_no_line(encoder: Encoder) -> None:
    assert "⏎\n" not in html(encoder, "⏎", "x").split("⏎", 1)[1].split("im_end", 1)[0]


def test_a_negative_weight_is_hatched(encoder: Encoder) -> None:
    assert "repeating-linear-gradient" in html(encoder, "q", "bad", weight=-1)
    assert "repeating-linear-gradient" not in html(encoder, "q", "good", weight=2)


def test_hebrew_is_isolated_as_one(encoder: Encoder) -> None:
    drawn = html(encoder, "שלום", "x")
    assert drawn.count("<bdi>") == 1
    assert drawn.split("<bdi>")[1].split("</bdi>")[0].count("<span") > 1


def test_a_long_example_is_cut_in_the_middle_and_says_so(encoder: Encoder) -> None:
    [example] = encoder.encode([user("word " * 3000), assistant("the end")])
    drawn = example_html(example)
    assert drawn.count("<span") == 800
    assert f"… {len(example) - 800:,} tokens are left out here …" in drawn
    assert len(drawn) < 120_000
    assert f"{len(example):,} tokens" in drawn


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@needs_browser
def test_a_browser_runs_nothing_and_shows_everything(
    driver: Chrome, encoder: Encoder, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    body = "".join(html(encoder, text, text) for text in INJECTED)
    page.write_text(f"<!doctype html><meta charset=utf-8><title>ok</title>{body}", "utf-8")
    driver.get(page.as_uri())
    assert driver.title == "ok"
    shown = driver.execute_script("return document.body.textContent")
    for text in INJECTED[:-1]:
        assert shown.count(text) == 2
    assert driver.execute_script("return document.querySelectorAll('script,img,svg').length") == 0
