"""Time an audit beside preparation of the same rows: conversations in, times and ratios out.

    python benchmarks/audit.py                            # 3,000 conversations, three rounds
    python benchmarks/audit.py --command 100000           # whole commands side by side, too

Each round does both, one after the other, in this process and on the processor time of this process
alone, so that a slow moment of the machine changes nothing. ``repeats`` is what is done once all
rows are known. Every tenth conversation is new, the others are copies of it with a word in front:
the worst case, in which nine of ten prompts are nearly the same as another one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conversations import conversations, template_source, tokenizer_folder
from prepare import measure_command

from lossmask import Encoder
from lossmask.audit_data import ROWS_PER_CHUNK, add_repeats_within
from lossmask.auditing import Audit, Checks
from lossmask.confinement import Limits
from lossmask.data_files import in_chunks, read_rows
from lossmask.encoded_rows import EncodedRows
from lossmask.preparing import ROWS_PER_SHARD
from lossmask.repeated_rows import Repeats
from lossmask.worker import Chunk, R, _encode_chunk

COPIES = 10


class _Pipe:
    def send(self, message: object) -> None:
        """Keep nothing: what a worker would send is looked at here."""


class _At:
    value = 0


def copied(count: int) -> Iterator[dict[str, Any]]:
    """Yield conversations, each ten times with another first word."""
    for row in conversations(-(-count // COPIES)):
        for copy in range(COPIES):
            first, *others = row["messages"]
            named = {**first, "content": f"copy{copy} {first['content']}"}
            yield {"messages": [named, *others]}


def measure(*, count: int = 3_000, rounds: int = 3) -> list[tuple[float, float, float]]:
    """Return the seconds of preparing, of auditing, and of those what repeats take, a round each.

    Args:
        count: Conversations.
        rounds: How often both are timed.
    """
    encoder = Encoder.from_pretrained(tokenizer_folder(), chat_template=template_source())
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "chats.jsonl")
        with data.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in copied(count))
        _encoded(encoder, data, 200, EncodedRows, most=1)
        encoder.row_batches.expect_many()
        checks, times = Checks.of(encoder), []
        for _ in range(rounds):
            began = time.process_time()
            for _ in _encoded(encoder, data, ROWS_PER_SHARD, EncodedRows):
                pass
            prepared = time.process_time()
            with Repeats() as repeats:
                whole = Audit(checks)
                parts = _encoded(encoder, data, ROWS_PER_CHUNK, lambda: Audit(checks))
                for number, part in enumerate(parts):
                    repeats.add(number, part.texts)
                    whole.merge(part)
                encoded = time.process_time()
                add_repeats_within(whole, repeats.table())
            ended = time.process_time()
            times.append((prepared - began, ended - prepared, ended - encoded))
    return times


def _encoded(
    encoder: Encoder, data: Path, size: int, make: Callable[[], R], most: int | None = None
) -> Iterator[R]:
    for number, rows in enumerate(in_chunks(read_rows([data]), size)):
        if most is not None and number >= most:
            return
        chunk = Chunk(number, rows, make())
        _encode_chunk(chunk, _Pipe(), _At(), encoder, Limits())
        yield chunk.results


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--conversations", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--command", type=int, nargs="*", default=[], help="sizes to run whole")
    given = parser.parse_args()
    times = measure(count=given.conversations, rounds=given.rounds)
    for name, index in (("prepare", 0), ("audit", 1), ("of which repeats", 2)):
        of_a_row = statistics.median(row[index] for row in times) / given.conversations
        print(f"{name:<18}{of_a_row * 1e6:8.0f} µs a conversation")
    print(f"ratio {statistics.median(row[1] / row[0] for row in times):.2f}")
    for count in given.command:
        taken = {name: measure_command(count, name=name) for name in ("prepare", "audit")}
        for name, each in taken.items():
            print(f"lossmask {name} of {count:,}: {each.seconds:.1f} s, {each.gibibytes:.2f} GiB")
        print(f"ratio {taken['audit'].seconds / taken['prepare'].seconds:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
