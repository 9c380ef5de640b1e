"""A report counts every row and shows some: whatever is in them, it shows as text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from tokenizers import AddedToken
from transformers import AutoTokenizer

from lossmask.attribution import attribute
from lossmask.auditing import Audit
from lossmask.confinement import Limits
from lossmask.data_files import RawRow
from lossmask.embedded import DEMO_MODEL
from lossmask.errors import InputError
from lossmask.html_page import html_page
from lossmask.preparing import EncoderSource
from lossmask.report_command import SCRIPTS, STYLES
from lossmask.reporting import Traced, fitting, report, sample, sample_text
from lossmask.tallies import Instance, Tally
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
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.injections import CANARY, INJECTIONS
from tests.scenarios import assistant, call, tool, user

LIMITS = Limits(60, 4)


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chats(count: int) -> list[Any]:
    return [
        {"messages": [user(f"Question {k}?"), assistant("word " * (k + 1))]} for k in range(count)
    ]


def of_demo(path: Path, *, examples: int = 200, workers: int = 1) -> dict[str, Any]:
    source = EncoderSource(str(DEMO_MODEL))
    return report([path], source, limits=LIMITS, examples=examples, workers=workers)


def test_figures_are_of_every_row_and_examples_of_some(tmp_path: Path) -> None:
    rows = [*chats(30), {"messages": [user("no answer")]}, {"messages": "broken"}]
    found = of_demo(written(tmp_path / "chats.jsonl", rows), examples=4)
    audit = found["audit"]
    assert (audit["rows_in"], audit["rows_kept"], audit["rows_rejected"]) == (32, 30, 2)
    assert audit["examples"] == 30
    assert [example["row"] for example in found["examples"]] == [0, 7, 15, 23]
    assert [example["place"] for example in found["examples"]][:2] == [
        "chats.jsonl:1",
        "chats.jsonl:8",
    ]
    assert found["sample"] == (
        "4 of 30 examples are shown: those that findings name, and rows evenly spaced over the "
        "data. All figures are of every row."
    )
    assert [(each["place"], each["reason"]) for each in found["rejected"]] == [
        ("chats.jsonl:31", "no_assistant"),
        ("chats.jsonl:32", "bad_conversation"),
    ]
    assert audit["rejections"]["no_assistant"]["examples"][0]["place"] == ("chats.jsonl:31")
    for histogram in found["histograms"]:
        assert sum(histogram["bars"]["counts"]) == 30
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_result_is_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    rows = [*chats(450), {"messages": []}]
    path = written(tmp_path / "chats.jsonl", rows)
    assert of_demo(path, examples=20) == of_demo(path, examples=20, workers=2)


def test_a_row_that_is_all_there_is_can_be_rejected(tmp_path: Path) -> None:
    found = of_demo(written(tmp_path / "chats.jsonl", [{"messages": []}]))
    assert found["examples"] == []
    assert found["rejected"][0]["text"] == '{"messages": []}'
    assert found["histograms"][0]["bars"] == {"edges": [0, 1], "counts": [0]}


def test_no_rows_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no rows in .*empty\.jsonl"):
        of_demo(written(tmp_path / "empty.jsonl", []))


def test_rows_that_findings_name_are_shown_with_what_was_found(tmp_path: Path) -> None:
    rows = chats(60)
    rows[41] = {"messages": [user("Q"), {**assistant("A"), "mood": "calm"}]}
    rows[43] = rows[7]
    found = of_demo(written(tmp_path / "chats.jsonl", rows), examples=5)
    shown = {example["row"]: example["findings"] for example in found["examples"]}
    assert len(shown) == 5
    [dropped] = shown[41]
    assert dropped[0] == "key_dropped"
    assert [finding[0] for finding in shown[43]] == ["duplicate_conversation"]
    assert shown[43][0][1] == "the same as chats.jsonl:8"


def test_rows_are_chosen_so_that_they_come_to_the_examples_asked_for() -> None:
    assert sample(Audit(rows_in=1000, examples=2000, tokens=20_000), 10) == [0, 249, 499, 749, 999]
    assert sample(Audit(rows_in=1000, examples=1000, tokens=10_000), 0) == []
    assert sample(Audit(rows_in=3, examples=3, tokens=30), 200) == [0, 1, 2]
    assert sample(Audit(rows_in=9), 200) == []


def test_fewer_rows_are_chosen_where_they_are_long() -> None:
    assert len(sample(Audit(rows_in=100, examples=100, tokens=20_000_000), 50)) == 3
    said = sample_text(100, 3, 50)
    assert said.startswith("3 of 100 examples are shown, as many as make 500,000 tokens: those")
    assert sample_text(3, 3, 50) == "All 3 examples are shown."


def test_no_more_tokens_are_shown_than_a_browser_can_open(tmp_path: Path) -> None:
    [example] = EncoderSource(str(DEMO_MODEL)).load().encode([user("Q"), assistant("x " * 99_999)])
    raw = [RawRow("chats.jsonl", line, line - 1, b"{}") for line in (1, 2, 3, 4)]
    traced = [Traced(each, 1, 1, example, ("user", "assistant"), ()) for each in raw]
    assert 200_000 < len(example) < 250_000
    named = Audit(findings={"kind": Tally(1, 1, [Instance("chats.jsonl", 3, None, "said")])})
    assert [each.raw.line for each in fitting(traced, named, 4)] == [1, 3]
    assert [each.raw.line for each in fitting(traced, named, 1)] == [3]


def test_authors_are_those_of_attribution(tmp_path: Path) -> None:
    path = written(tmp_path / "chats.jsonl", chats(1))
    [authors] = attribute(EncoderSource(str(DEMO_MODEL)).load(), chats(1)[0])
    [example] = of_demo(path)["examples"]
    runs = example["authors"]["runs"]
    assert [run[0] for run in runs] == [author.end - author.start for author in authors]
    assert example["authors"]["fields"] == ["content"]


# --- the page ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of rows, names and tokens that would all like to be more than text."""
    folder = tmp_path_factory.mktemp("hostile")
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    tokenizer.add_tokens([AddedToken(text, special=False) for text in INJECTIONS[:4]])
    tokenizer.chat_template = FIXTURE_TEMPLATES["chatml with tools"]
    tokenizer.save_pretrained(folder / "tokenizer")
    rows: list[Any] = []
    for text in INJECTIONS:
        function = {"type": "function", "function": {"name": text, "description": text}}
        calls = [call(text, {text: text})]
        messages = [
            user(text),
            assistant(text, **{text: text}),
            user("Now call."),
            assistant("", tool_calls=calls),
            tool(text),
            assistant(f"done {text}"),
        ]
        rows.append({"messages": messages, "tools": [function]})
        rows.append({"messages": [{"role": text, "content": text}], text: text})
    rows.append({"messages": [user("Long?"), assistant("line\n" * 400 + "the needle")]})
    data = written(folder / f"<img src=x onerror=window.{CANARY}=1>.jsonl", rows)
    found = report([data], EncoderSource(str(folder / "tokenizer")), limits=LIMITS)
    page = folder / "report.html"
    page.write_text(html_page(found["title"], found, scripts=SCRIPTS, styles=STYLES), "utf-8")
    return page


def open_at(driver: Chrome, page: Path, **screen: Any) -> None:
    set_screen(driver, **{"width": 1280, "height": 900, **screen})
    open_page(driver, page)


def is_quiet(driver: Chrome, page: Path) -> bool:
    """Tell whether nothing ran, nothing was logged and nothing asked for since the page opened."""
    assert driver.execute_script(f"return window.{CANARY}") is None
    assert console_messages(driver) == []
    assert requested(driver) == [page.resolve().as_uri()]
    return True


@needs_browser
def test_nothing_in_the_data_runs_whatever_is_clicked(driver: Chrome, hostile_page: Path) -> None:
    open_at(driver, hostile_page)
    drawn = texts(driver, ".item")
    assert len(drawn) == len(INJECTIONS) + 1
    kinds = texts(driver, "#findings .kind")
    assert "key_dropped" in kinds
    assert len(texts(driver, "#rejected details")) == len(INJECTIONS)
    for details in driver.find_elements(By.CSS_SELECTOR, "#rejected details summary")[:3]:
        details.click()
    for _ in drawn:
        driver.execute_script(
            "const {drawn, example} = lossmask.report;"
            "for (let k = 0; k < example.tokens; k += 5) drawn.select(k);"
        )
        driver.find_element(By.TAG_NAME, "body").send_keys("j")
    assert texts(driver, "h1")[0].startswith("<img src=x onerror=")
    allowed = "document.querySelectorAll('img, iframe, object, embed, base, link:not([rel=icon])')"
    assert driver.execute_script(f"return {allowed}.length") == 0
    assert is_quiet(driver, hostile_page)


@needs_browser
def test_examples_are_searched_filtered_and_gone_through_by_keyboard(
    driver: Chrome, hostile_page: Path
) -> None:
    open_at(driver, hostile_page)
    body = driver.find_element(By.TAG_NAME, "body")
    assert one(driver, ".item[aria-selected]").text.startswith("row 0")
    body.send_keys("jj")
    assert one(driver, ".detail h3").text == "row 4"
    body.send_keys("k")
    assert one(driver, ".detail h3").text == "row 2"
    body.send_keys(Keys.ARROW_RIGHT)
    assert one(driver, ".detail h3").text == "row 4"
    body.send_keys("/")
    driver.switch_to.active_element.send_keys("THE NEEDLE")
    assert one(driver, ".count").text == f"1 of {len(INJECTIONS) + 1} examples"
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    body.send_keys("n")
    middle = driver.execute_script(
        "const {drawn} = lossmask.report;"
        "const first = drawn.read.weights.findIndex((weight) => weight);"
        "return drawn.elementOf(first).getBoundingClientRect().top / innerHeight"
    )
    assert 0.3 < middle < 0.7
    body.send_keys("/")
    assert "".join(texts(driver, ".hit")).replace("·", " ").strip() == "the needle"
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    one(driver, ".filters .lm-button").click()
    driver.execute_script("document.querySelector('#findings .show').click()")
    assert one(driver, ".count").text == f"{len(INJECTIONS)} of {len(INJECTIONS) + 1} examples"
    one(driver, ".filters .lm-button").click()
    driver.execute_script("document.querySelector('.filters .limit').focus()")
    driver.switch_to.active_element.send_keys("800")
    assert texts(driver, ".item b") == [f"row {2 * len(INJECTIONS)}"]
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    body.send_keys("?")
    assert one(driver, "dialog").is_displayed()
    body.send_keys(Keys.ESCAPE)
    assert not one(driver, "dialog").is_displayed()
    assert is_quiet(driver, hostile_page)


@needs_browser
def test_a_token_tells_its_origin_when_pointed_at(driver: Chrome, hostile_page: Path) -> None:
    open_at(driver, hostile_page)
    body = driver.find_element(By.TAG_NAME, "body")
    body.send_keys("t")
    tokens = driver.switch_to.active_element
    assert tokens.get_attribute("class") == "lm-tokens"
    tokens.send_keys(Keys.ARROW_RIGHT)
    first = one(driver, ".lm-card").text
    assert "token\n0 of " in first
    assert "the template" in first
    tokens.send_keys(Keys.ARROW_RIGHT)
    assert "token\n1 of " in one(driver, ".lm-card").text
    driver.execute_script(
        "const {drawn, example} = lossmask.report;"
        "const k = drawn.read.weights.findIndex((weight) => weight);"
        "drawn.select(k);"
    )
    shown = one(driver, ".lm-card").text.split("\n")
    pairs = dict(zip(shown[-12::2], shown[-11::2], strict=True))
    assert pairs["weight"] == "1 · trained"
    assert pairs["part"] == "content"
    assert pairs["written by"].startswith("message 1 assistant · content · character")
    assert (
        pairs["template line"] == "4"
    )  # of the template, whose lines end in the middle of headers
    tokens.send_keys(Keys.ESCAPE)
    assert not one(driver, ".lm-card").is_displayed()
    assert is_quiet(driver, hostile_page)


@needs_browser
@pytest.mark.parametrize(
    ("width", "dark", "touch"), [(1280, False, False), (1280, True, False), (390, False, True)]
)
def test_the_page_can_be_read_in_the_light_in_the_dark_and_on_a_phone(
    driver: Chrome, hostile_page: Path, tmp_path: Path, width: int, dark: bool, touch: bool
) -> None:
    open_at(driver, hostile_page, width=width, dark=dark, touch=touch)
    image = screenshot(driver, tmp_path / "top.png")
    assert image.size == (width, 900)
    corner = image.getpixel((3, 890))
    assert isinstance(corner, tuple)
    assert (sum(corner) < 150) == dark
    sizes = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert sizes == [width, width]
    driver.execute_script("document.getElementById('examples').scrollIntoView()")
    screenshot(driver, tmp_path / "examples.png")
    one(driver, ".lm-theme").click()
    assert driver.execute_script("return document.documentElement.dataset.theme") == "light"
    driver.execute_script("lossmask.setTheme('auto')")
    assert is_quiet(driver, hostile_page)
