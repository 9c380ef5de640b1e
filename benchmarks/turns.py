"""Time one conversation of more and more turns: the time of a turn has to stay the same.

    python benchmarks/turns.py                               # the embedded tokenizer and template
    python benchmarks/turns.py --tokenizer Qwen/Qwen3-0.6B --chat-template qwen2_5_training.jinja

Each round encodes every length once, in turn, so that a slow moment of the machine slows all; the
ratio is the median over the rounds of the time of a turn by that in the shortest conversation.
Every answer is trained, the whole way (``Encoder.encode``): as tool calls, reasoning and weights in
the data go. Where a template shows earlier turns differently later, each turn becomes an example
of its own, and the output itself grows with the square of the turns.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

from rich.console import Console
from rich.table import Table

from lossmask import Encoder
from lossmask.embedded import DEMO_MODEL

LENGTHS = (10, 20, 40, 80, 160, 320)
_TEXT = "the a model reads every turn once and learns what it writes , not what it is told ."


def conversation(turns: int, *, words: int = 60) -> list[dict[str, str]]:
    """Return a conversation of questions and answers, no two alike."""
    draw = random.Random(turns)
    roles = ("user", "assistant")
    return [
        {"role": roles[number % 2], "content": " ".join(draw.choices(_TEXT.split(), k=words))}
        for number in range(2 * turns)
    ]


def measure(encoder: Encoder, *, rounds: int) -> list[tuple[int, float, float, int]]:
    """Return for each number of turns milliseconds of a turn, its ratio, and examples."""
    conversations = {turns: conversation(turns) for turns in LENGTHS}
    spent: dict[int, list[float]] = {turns: [] for turns in LENGTHS}
    examples = {}
    encoder.encode(conversations[LENGTHS[0]])
    for _ in range(rounds):
        for turns, messages in conversations.items():
            began = time.perf_counter()
            examples[turns] = len(encoder.encode(messages))
            spent[turns].append((time.perf_counter() - began) / turns * 1e3)
    return [
        (
            turns,
            statistics.median(spent[turns]),
            statistics.median(
                own / first for own, first in zip(spent[turns], spent[LENGTHS[0]], strict=True)
            ),
            examples[turns],
        )
        for turns in LENGTHS
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokenizer", default=str(DEMO_MODEL))
    parser.add_argument("--chat-template")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    encoder = Encoder.from_pretrained(options.tokenizer, chat_template=options.chat_template)
    table = Table("turns", "ms of a turn", "ratio", "examples")
    for turns, milliseconds, ratio, examples in measure(encoder, rounds=options.rounds):
        table.add_row(str(turns), f"{milliseconds:.2f}", f"{ratio:.2f}", str(examples))
    Console().print(table)


if __name__ == "__main__":
    main()
