"""The page of a diff in a browser: both sides, outlined where they differ; nothing in it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from lossmask import Rejection, Span
from lossmask.diff_page import diff_page
from lossmask.diff_words import Sides
from lossmask.diffing import Diff, compare_examples
from tests.browser import browser, console_messages, needs_browser, open_page, requested, texts
from tests.hand_made import made

HOSTILE = "</script><img src=x onerror=document.title='run'>"
pytestmark = needs_browser


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def page(tmp_path: Path) -> Path:
    diff = Diff()
    spans = [Span(1, 4, 7, 3, 5, "E")]
    owners = [-1, 0, -1, 1, -1]
    a = made(f"U|{HOSTILE}|A|Yo|E", [3, 4], owners=owners, spans=spans)
    b = made(f"U|{HOSTILE}|A|Yo|E", [1, 3], owners=owners, spans=spans)
    messages = [{"role": HOSTILE}, {"role": "assistant"}]
    found = compare_examples([a], [b, made("only|B", [1])], messages, row=0, place=HOSTILE)
    diff.add_compared(found, 1)
    diff.add_rejected("f:2", None, Rejection("trl_raises", HOSTILE, None))
    path = tmp_path / "diff.html"
    path.write_text(diff_page(diff, Sides("lossmask", HOSTILE, "a", HOSTILE)), encoding="utf-8")
    return path


def test_both_sides_stand_beside_each_other_and_what_differs_is_outlined(
    driver: Chrome, page: Path
) -> None:
    open_page(driver, page)
    pairs = driver.find_elements(By.CSS_SELECTOR, ".ld-pair")
    assert len(pairs) == 2
    sides = pairs[0].find_elements(By.CSS_SELECTOR, "section")
    assert sides[0].rect["y"] == sides[1].rect["y"]
    assert sides[0].rect["x"] + sides[0].rect["width"] <= sides[1].rect["x"] + 1
    for section in (1, 2):
        inside = f".ld-pair:nth-of-type(1) section:nth-child({section}) .lm-t"
        assert texts(driver, f"{inside}.ld-lost") == ["E"]
        assert texts(driver, f"{inside}.ld-added") == [HOSTILE]
        assert len(texts(driver, inside)) == 5
    assert texts(driver, ".ld-none") == ["has no such example"]
    cards = texts(driver, ".ld-card")
    assert cards[:4] == [
        "2rows",
        "0the same on both sides",
        "1differ",
        f"1rejected by {HOSTILE} only",
    ]
    assert texts(driver, ".ld-said li")[0] == f"{HOSTILE} rejects 1 of 2 rows (trl_raises)"
    rows = texts(driver, ".ld-changes tr")
    assert rows[1] == f"11in the loss of B only{HOSTILE} message0 → 1{HOSTILE}"
    assert rows[2] == "44in the loss of A onlystop token1 → 0E"


def test_a_token_that_is_picked_shows_its_counterpart(driver: Chrome, page: Path) -> None:
    open_page(driver, page)
    driver.find_elements(By.CSS_SELECTOR, ".ld-pick")[1].click()
    assert texts(driver, ".lm-selected") == ["E"]
    assert texts(driver, ".ld-twin") == ["E"]
    assert "in the loss of A only" in texts(driver, ".lm-card")[0]


def test_nothing_that_stands_in_the_data_runs_or_is_asked_for(driver: Chrome, page: Path) -> None:
    open_page(driver, page)
    assert driver.title.startswith("lossmask diff: lossmask and </script>")
    assert driver.find_elements(By.CSS_SELECTOR, "img") == []
    assert console_messages(driver) == []
    assert requested(driver) == [page.resolve().as_uri()]
