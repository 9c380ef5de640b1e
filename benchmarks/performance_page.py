"""Measure everything and write it down: ``docs/performance.md`` and the picture in it.

    python benchmarks/performance_page.py                 # about half an hour on two cores
    python benchmarks/performance_page.py --quick         # minutes, to try it out

Needs matplotlib (extra ``benchmarks``). Every table is of one run, beside its peers.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import collate
import datasets
import matplotlib
import pack
import prepare
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, MaxNLocator

DOCS = Path(__file__).resolve().parents[1] / "docs"
_TURNS = (2, 8, 32, 128, 512)


def main() -> int:
    """Measure, write the page and the picture."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder to write to")
    given = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    datasets.disable_progress_bars()
    quick = given.quick
    count = 1_000 if quick else 10_000
    timings = prepare.measure(count=count, rounds=1 if quick else 5)
    stages = prepare.measure_stages(count=1_000 if quick else 5_000)
    sizes = (1_000, 3_000) if quick else (1_000, 10_000, 100_000)
    commands = [prepare.measure_command(size) for size in sizes]
    turns = {number: prepare.measure_turns(number, count=10 if quick else 40) for number in _TURNS}
    packs = pack.measure(
        documents=100_000 if quick else 1_000_000,
        peer_documents=10_000 if quick else 100_000,
        max_length=4096,
        repeats=1 if quick else 3,
    )
    batches = collate.measure(rounds=20 if quick else 100)
    draw(given.docs / "performance.svg", timings, commands, turns)
    lines = page(timings, stages, commands, turns, packs, batches, count)
    (given.docs / "performance.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


def page(
    timings: list[prepare.Timing],
    stages: dict[str, float],
    commands: list[prepare.Command],
    turns: dict[int, float],
    packs: list[pack.Measured],
    batches: list[collate.Timing],
    count: int,
) -> list[str]:
    """Return the page as lines of Markdown."""
    peer = timings[0].conversations
    names = ("lossmask", "trl", "transformers", "tokenizers", "fastokens", "pyarrow", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return [
        "# Performance",
        "",
        "![conversations a second beside TRL, whole commands, time a turn](performance.svg)",
        "",
        "Made by `python benchmarks/performance_page.py`. Ratios are medians over rounds in which "
        "everything is timed anew; a",
        f"machine of {os.cpu_count()} shared cores ({platform.machine()}), Python "
        f"{platform.python_version()}, {versions}.",
        "",
        f"## Preparation: {count:,} conversations of about 730 tokens",
        "",
        *prepare.markdown(timings),
        "",
        "TRL is `SFTTrainer(assistant_only_loss=True)` over a data set in memory, in one process; "
        "`one process` makes the same",
        "columns, and weights and messages besides, of the same rows in memory; `with files` reads "
        "JSON Lines and makes Parquet,",
        "every row under its limits of time and memory. The last way renders each conversation and "
        "encodes it, nothing else: no masks, no",
        "checks; what a template writes around contents is found out once by lossmask, which is "
        "why it takes less. `fastokens` encodes",
        "a batch in two threads, even in one process. Where the time of a conversation goes:",
        "",
        "| stage | µs |",
        "| --- | --- |",
        *(f"| {name} | {microseconds:.0f} |" for name, microseconds in stages.items()),
        "",
        "**Whole commands**, `lossmask prepare` with two workers, start-up, tokenizer and Parquet "
        "included:",
        "",
        "| conversations | seconds | a second | times TRL's rate above | memory of all processes |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {each.conversations:,} | {each.seconds:.1f} | "
            f"{each.conversations / each.seconds:,.0f} | "
            f"{each.conversations / each.seconds / peer:.1f} | {each.gibibytes:.2f} GiB |"
            for each in commands
        ),
        "",
        "Memory is that of all processes together, pages that they share counted once; most of it "
        "is the tokenizer, which",
        "workers share. **Turns**: the time of a turn in conversations of more and more",
        "turns, in microseconds: "
        + ", ".join(f"{number} turns {each:.0f}" for number, each in turns.items())
        + ".",
        "",
        "What is not plain (tool calls, reasoning, weights in the data, templates that rewrite "
        "history, SentencePiece) goes the whole",
        "way, some thirty times slower; `benchmarks/turns.py` times that.",
        "",
        "## Packing",
        "",
        *pack.markdown(packs).splitlines(),
        "",
        "## Batches: 32 examples of about 1,000 tokens",
        "",
        "| collator | layout | µs | times the bare copies |",
        "| --- | --- | --- | --- |",
        *(
            f"| {each.name} | {each.layout} | {each.microseconds:,.0f} | {each.ratio:.1f} |"
            for each in batches
        ),
    ]


def draw(
    path: Path,
    timings: list[prepare.Timing],
    commands: list[prepare.Command],
    turns: dict[int, float],
) -> None:
    """Draw three plots side by side into an SVG file."""
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "lossmask", "font.size": 9})
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    names = [each.name for each in timings][::-1]
    colours = ["#9aa0a6" if name.startswith(("TRL", "Jinja")) else "#188038" for name in names]
    bars = left.barh(names, [each.conversations for each in timings][::-1], color=colours)
    left.bar_label(bars, [f" {each.ratio:.0f}x" for each in timings][::-1])
    left.margins(x=0.15)
    left.set_title("conversations a second")
    left.xaxis.set_major_locator(MaxNLocator(4))
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    counts = [each.conversations for each in commands]
    middle.loglog(
        counts, [each.seconds for each in commands], "o-", color="#188038", label="prepare"
    )
    peer = timings[0].conversations
    middle.loglog(
        counts, [each / peer for each in counts], "--", color="#9aa0a6", label="TRL's rate"
    )
    middle.set_title("seconds of a whole command")
    middle.set_xlabel("conversations")
    middle.legend(frameon=False)
    right.semilogx(list(turns), list(turns.values()), "o-", color="#188038", base=2)
    right.set_ylim(0, max(turns.values()) * 1.3)
    right.set_title("µs a turn")
    right.set_xlabel("turns of a conversation")
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
