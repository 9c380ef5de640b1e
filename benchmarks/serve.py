"""Times the live page in Chromium: from a keystroke to tokens on the screen.

    python benchmarks/serve.py                                       # the embedded model
    python benchmarks/serve.py --tokenizer ../shared/corpus/tokenizers/qwen3 --tokens 700

A conversation of about so many tokens is opened and typed into, a key at a time, in three places:
the first message, the last message, the chat template (each key makes another template, which is
compiled). Printed are medians and 95th percentiles of what the page itself measures, from the input
event to the frame with the new tokens, and of the part of it that is encoding.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from lossmask import Encoder
from lossmask.embedded import DEMO_MODEL

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.browser import browser, open_page, set_screen

_ASKED = "What did the committee that met on Tuesday decide about the bridge over the river? "
_ANSWERED = (
    "It decided to build the new bridge a mile upstream, where the river is narrow and the banks "
    "are rock, to let the old one stand for walkers, and to ask the towns on either side for a "
    "third of what it costs. Work begins in spring. "
)
_TEXT = "and so on, until it is done."  # typed


def conversation(tokenizer: str, tokens: int) -> dict[str, Any]:
    """Return a row that becomes an example of at least so many tokens."""
    encoder = Encoder.from_pretrained(tokenizer)
    messages = [{"role": "system", "content": "You are a clerk."}]
    while True:
        messages += [
            {"role": "user", "content": _ASKED},
            {"role": "assistant", "content": _ANSWERED},
        ]
        if max(map(len, encoder.encode(messages))) >= tokens:
            return {"messages": messages}


def typed(driver: Chrome, box: WebElement, text: str) -> list[dict[str, float]]:
    """Type a text a key at a time, each once the tokens of the last are there."""
    driver.execute_script("lossmask.live.timings.length = 0")
    box.click()
    for count, key in enumerate(text, start=1):
        box.send_keys(key)
        until(driver, f"lossmask.live.timings.length >= {count} && lossmask.live.isSettled()")
    timings: list[dict[str, float]] = driver.execute_script("return lossmask.live.timings")
    return timings


def until(driver: Chrome, script: str) -> None:
    """Wait for a page to be so.

    Raises:
        AssertionError: It is not within a minute.
    """
    for _ in range(6000):
        if driver.execute_script(f"return {script}"):
            return
        time.sleep(0.01)
    raise AssertionError(f"never: {script}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", default=str(DEMO_MODEL))
    parser.add_argument("--tokens", type=int, default=700)
    options = parser.parse_args()
    row = conversation(options.tokenizer, options.tokens)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "row.jsonl"
        data.write_text(json.dumps(row))
        command = [sys.executable, "-m", "lossmask.cli", "serve", str(data), "--port", "0"]
        with subprocess.Popen(
            [*command, "-t", options.tokenizer], stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            try:
                measured, tokens = measure(server.stdout.readline().strip(), Path(folder) / "p")
            finally:
                server.terminate()
    table = Table("typed into", "median", "95 %", "encoding", title=f"{tokens:,} tokens")
    for name, timings in measured.items():
        totals = [each["total"] for each in timings]
        encoding = statistics.median(each["encode"] for each in timings)
        row_of = (statistics.median(totals), statistics.quantiles(totals, n=20)[-1], encoding)
        table.add_row(name, *(f"{value:.0f} ms" for value in row_of))
    Console().print(table)


def measure(address: str, profile: Path) -> tuple[dict[str, list[dict[str, float]]], int]:
    """Return the timings of each place, and how many tokens the page shows."""
    with browser(profile) as driver:
        set_screen(driver, width=1280, height=900)
        open_page(driver, address)
        until(driver, "lossmask.live && lossmask.live.hasOrigins()")  # all is loaded
        boxes = driver.find_elements(By.CSS_SELECTOR, "textarea.content")
        typed(driver, boxes[0], _TEXT[:5])
        measured = {
            "the first message": typed(driver, boxes[0], _TEXT),
            "the last message": typed(driver, boxes[-1], _TEXT),
        }
        driver.find_element(By.ID, "tab-template").click()
        template = driver.find_element(By.CSS_SELECTOR, ".pane:not([hidden]) .code textarea")
        measured["the template"] = typed(driver, template, _TEXT)
        shown = int(driver.execute_script("return lossmask.live.example().tokens"))
    return measured, shown


if __name__ == "__main__":
    main()
