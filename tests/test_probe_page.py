"""The page of a probe: what it holds, what it shows, and that text of the data stays text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from lossmask import Encoder
from lossmask.embedded import DEMO_MODEL
from lossmask.example import Example
from lossmask.learned_tokens import Learned, find_learned
from lossmask.prepared import PreparedDataset
from lossmask.probe_page import EXAMPLES, _chosen, probe_page
from lossmask.probed_tokens import ProbedTokens
from lossmask.token_text import TokenTexts
from tests.browser import (
    browser,
    console_messages,
    needs_browser,
    open_page,
    requested,
    screenshot,
    texts,
)
from tests.injections import CANARY, INJECTIONS

ENCODER = Encoder.from_pretrained(DEMO_MODEL)
TEXTS = TokenTexts(ENCODER.tokenizer)


def encoded(answer: str) -> Example:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]
    [example] = ENCODER.encode(messages)
    return example


def probed(examples: list[Example], *, scale: float = 1.0) -> ProbedTokens:
    """Give the k-th token in the loss of example e the loss (e + k / 10) * scale."""
    parts = []
    for number, example in enumerate(examples):
        positions = np.flatnonzero(example.loss_mask).astype(np.int32)
        n = len(positions)
        guesses = np.stack([example.input_ids[positions], np.full(n, 100_000)], axis=1)
        parts.append(
            ProbedTokens(
                example=np.full(n, number, np.int32),
                position=positions,
                token=example.input_ids[positions],
                weight=np.ones(n, np.float32),
                loss=((number + np.arange(n) / 10) * scale).astype(np.float32),
                rank=np.zeros(n, np.int32),
                top_ids=guesses.astype(np.int32),
                top_logprobs=np.full((n, 2), np.log(0.25), np.float32),
            )
        )
    return ProbedTokens.joined(parts)


def page_of(examples: list[Example], *, compared: bool = False, model: str = "tuned") -> str:
    n = len(examples)
    data = PreparedDataset("prepared", {}, {}, np.arange(n + 1), np.arange(n) * 2)
    tokens, earlier = probed(examples), probed(examples, scale=2.0)
    criterion = Learned(mean_loss=0.2, first=0, count=1)
    found = find_learned(tokens, criterion=criterion, stop_ids=[2])
    before = ("base", earlier, find_learned(earlier, stop_ids=[2]))
    return probe_page(
        data,
        tokens,
        found,
        model=model,
        spelled=examples.__getitem__,
        texts=TEXTS,
        before=before if compared else None,
    )


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


def opened(driver: Chrome, folder: Path, page: str) -> None:
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    open_page(driver, path)


def fetched(driver: Chrome) -> list[str]:
    """Return the names of what the page asked for; the browser's own first page asks, too."""
    return [url.rpartition("/")[2] for url in requested(driver) if not url.startswith("chrome")]


def click(driver: Chrome, element: WebElement) -> None:
    """Click on an element wherever it is, under the bar at the top, say."""
    driver.execute_script("arguments[0].click()", element)


def test_a_page_has_the_hardest_and_some_of_all_others() -> None:
    assert _chosen(list(range(7)), EXAMPLES) == list(range(7))
    chosen = _chosen(list(range(1000)), EXAMPLES)
    assert len(set(chosen)) == EXAMPLES
    assert chosen[:50] == list(range(50))
    assert chosen[-1] == 999
    assert max(np.diff(chosen[50:]).tolist()) <= 21


@needs_browser
def test_each_token_has_the_colour_of_its_loss_and_its_predictions(
    driver: Chrome, tmp_path: Path
) -> None:
    examples = [encoded("Yes"), encoded("No, you are not in it")]
    opened(driver, tmp_path, page_of(examples))
    assert texts(driver, ".item-head b") == ["example 1", "example 0"]
    spans = driver.find_elements(By.CSS_SELECTOR, ".tokens .lm-t.probed")
    losses = [1 + k / 10 for k in range(len(spans))]
    assert len(spans) == examples[1].supervised_count
    levels = ["l3" if loss < 2 else "l4" for loss in losses]
    assert all(
        level in (span.get_attribute("class") or "").split()
        for level, span in zip(levels, spans, strict=True)
    )
    assert not driver.find_elements(By.CSS_SELECTOR, ".tokens .lm-t.unasked.lm-trained")
    click(driver, spans[1])
    labels, values = texts(driver, ".lm-card dt"), texts(driver, ".lm-card dd")
    card = list(zip(labels, values, strict=True))
    assert ("loss", "1.100 nats · 33.29%") in card
    assert ("rank", "first") in card
    own = TEXTS.text_of(int(examples[1].input_ids[examples[1].loss_mask][1]))
    assert ("25.0%", f"{own.replace(' ', '·')} ◂ this one") in card
    assert ("25.0%", "<100000>") in card
    assert console_messages(driver) == []
    assert fetched(driver) == ["page.html"]
    screenshot(driver, tmp_path / "page.png")


@needs_browser
def test_figures_and_tables_are_what_was_found(driver: Chrome, tmp_path: Path) -> None:
    examples = [encoded("Yes"), encoded("No")]
    tokens = probed(examples)
    found = find_learned(tokens, criterion=Learned(mean_loss=0.2, first=0, count=1), stop_ids=[2])
    opened(driver, tmp_path, page_of(examples))
    assert texts(driver, ".figure-value")[0] == f"{found.loss:.3f}"
    assert texts(driver, ".setting code") == [
        f"-p 'ignore={sorted(kind.token for kind in found.learned)}'"
        if len(found.learned) > 1
        else f"-p 'ignore=[{found.learned[0].token}]'"
    ]
    rows = texts(driver, ".pair section:last-child tbody tr")
    assert len(rows) == len(found.carrying)
    assert rows[0].startswith(TEXTS.text_of(found.carrying[0].token))


@needs_browser
def test_a_comparison_shows_before_and_after_and_colours_the_change(
    driver: Chrome, tmp_path: Path
) -> None:
    examples = [encoded("Yes"), encoded("No")]
    opened(driver, tmp_path, page_of(examples, compared=True))
    [span, *_] = driver.find_elements(By.CSS_SELECTOR, ".tokens .lm-t.probed")
    click(driver, span)
    assert "2.000 nats · 13.53%" in texts(driver, ".lm-card dd")
    assert "better-2" not in (span.get_attribute("class") or "")
    [toggle, *_] = driver.find_elements(By.CSS_SELECTOR, ".steps button")
    click(driver, toggle)
    [span, *_] = driver.find_elements(By.CSS_SELECTOR, ".tokens .lm-t.probed")
    assert "better-2" in (span.get_attribute("class") or "")  # from 2 to 1
    assert texts(driver, ".levels")[-1].startswith("change of the loss")
    assert texts(driver, "h1") == ["base → tuned on prepared"]
    assert console_messages(driver) == []


@needs_browser
def test_no_text_is_taken_for_markup(driver: Chrome, tmp_path: Path) -> None:
    examples = [encoded(text) for text in INJECTIONS]
    opened(driver, tmp_path, page_of(examples, compared=True, model=INJECTIONS[0]))
    for item in driver.find_elements(By.CSS_SELECTOR, ".item"):
        click(driver, item)
    assert driver.execute_script(f"return window.{CANARY}") is None
    assert len(driver.find_elements(By.CSS_SELECTOR, ".item")) == len(INJECTIONS)
    assert console_messages(driver) == []
    assert fetched(driver) == ["page.html"]
