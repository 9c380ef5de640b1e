"""Time preparation side by side with TRL: conversations in, a table of times and ratios out.

    python benchmarks/prepare.py                          # 10,000 conversations
    python benchmarks/prepare.py --conversations 2000 --rounds 1
    python benchmarks/prepare.py --command 100000         # whole commands, start-up included, too

Each round makes every way anew, one after the other, so that a slow moment of the machine slows
all; the ratio is the median over the rounds of TRL's time by that of the same round. Every way has
the same conversations, tokenizer and template, and makes ids and labels of them.

* ``TRL``: ``SFTTrainer(assistant_only_loss=True)`` from a data set in memory, one process.
* ``lossmask, one process``: the same rows to the same columns, in this process.
* ``lossmask, with files``: from JSON Lines to Parquet, in one process, limits of a row in force.
* ``lossmask, two processes``: the same by two worker processes, which are started already.
* ``Jinja, fastokens alone``: each conversation rendered and its text encoded, nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice, pairwise
from pathlib import Path
from typing import Any

import datasets
import psutil
from conversations import conversations, template_source, tokenizer_folder
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils.chat_template_utils import _compile_jinja_template
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from lossmask import Encoder
from lossmask.confinement import Limits
from lossmask.data_files import RawRow, in_chunks, read_rows
from lossmask.encoded_rows import EncodedRows, examples_table
from lossmask.plain_examples import consecutive
from lossmask.preparing import EncoderSource
from lossmask.row_batches import BATCH_SIZE, collection_paused
from lossmask.tokenizing import TextTokenizer
from lossmask.workers import Chunk, Workers

ROWS_PER_CHUNK = 1000
STAGES = (
    "read JSON",
    "render, find prompts and turns",
    "tokenize, verify, mask",
    "columns",
    "Parquet",
)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one way of preparing takes."""

    name: str
    seconds: float
    """Median of all rounds."""
    conversations: float
    """A second."""
    ratio: float
    """Median over the rounds of TRL's time by this one's of the same round."""


@dataclass(frozen=True, slots=True)
class Command:
    """How long a whole command takes, start-up and Parquet included."""

    conversations: int
    workers: int
    seconds: float
    gibibytes: float
    """Most memory of all its processes together, pages that they share counted once (PSS)."""


def measure(*, count: int = 10_000, rounds: int = 3) -> list[Timing]:
    """Time every way of preparing.

    Args:
        count: Conversations.
        rounds: How often each way is timed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = list(conversations(count))
        data = write(folder / "chats.jsonl", iter(rows))
        template = folder / "template.jinja"
        template.write_text(template_source(), encoding="utf-8")
        source = EncoderSource(str(tokenizer_folder()), chat_template=str(template))
        encoder = source.load()
        encoder.encode_batch(rows[:BATCH_SIZE])  # the template is compiled, the backend loaded
        with Workers(source.load, Limits()) as pool:
            list(pool.encode(_chunks(data, 2), 2))
            ways: dict[str, Callable[[], object]] = {
                "TRL": partial(_by_trl, rows),
                "lossmask, one process": partial(_columns, encoder, rows),
                "lossmask, with files": partial(_with_files, encoder, data),
                "lossmask, two processes": lambda: list(pool.encode(_chunks(data), 2)),
                "Jinja, fastokens alone": partial(_alone, encoder, rows),
            }
            times: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, work in ways.items():
                    started = time.perf_counter()
                    spent = work()
                    taken = time.perf_counter() - started
                    times[way].append(spent if isinstance(spent, float) else taken)
    return [
        Timing(
            way,
            statistics.median(seconds),
            count / statistics.median(seconds),
            statistics.median(a / b for a, b in zip(times["TRL"], seconds, strict=True)),
        )
        for way, seconds in times.items()
    ]


def measure_command(count: int, *, workers: int = 2, name: str = "prepare") -> Command:
    """Run ``lossmask prepare`` or ``audit`` on conversations of its own.

    Args:
        count: Conversations.
        workers: Processes.
        name: Of the command.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = write(folder / "chats.jsonl", conversations(count))
        template = folder / "template.jinja"
        template.write_text(template_source(), encoding="utf-8")
        given = [name, str(data), "-t", str(tokenizer_folder()), "--chat-template", str(template)]
        given += ["-o", str(folder / "out")] if name == "prepare" else ["--fail-on", "never"]
        command = [sys.executable, "-m", "lossmask.cli", *given]
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--workers", str(workers)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        largest = 0.0
        while process.poll() is None:
            largest = max(largest, _memory(process.pid))
            time.sleep(0.25)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise RuntimeError(f"lossmask {name} ended with {process.returncode}")
    return Command(count, workers, seconds, largest / 2**30)


def measure_turns(turns: int, *, count: int = 40, rounds: int = 5) -> float:
    """Return the microseconds a turn of encoding conversations of so many turns, the median."""
    encoder = Encoder.from_pretrained(tokenizer_folder(), chat_template=template_source())
    rows = list(conversations(count, turns=turns))
    encoder.encode_batch(list(conversations(BATCH_SIZE)))
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        _columns(encoder, rows)
        times.append(time.perf_counter() - started)
    return statistics.median(times) / count / turns * 1e6


def measure_stages(*, count: int = 5_000, rounds: int = 3) -> dict[str, float]:
    """Return the microseconds that each stage takes of a conversation, medians.

    Args:
        count: Conversations.
        rounds: How often each stage is timed.
    """
    encoder = Encoder.from_pretrained(tokenizer_folder(), chat_template=template_source())
    encoder.encode_batch(list(conversations(BATCH_SIZE)))
    batches = encoder.row_batches
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in conversations(count)]
    raw = RawRow("", 1, 0, b"")
    times: list[list[float]] = []
    for _ in range(rounds):
        with collection_paused():
            clock = [time.perf_counter()]
            rows = [RawRow("", 1, 0, line).parse() for line in lines]
            clock.append(time.perf_counter())
            layouts = [batches.lay_out(row) for row in rows]
            clock.append(time.perf_counter())
            plain = [layout for each in layouts for layout in each or ()]
            groups = [plain[k : k + BATCH_SIZE] for k in range(0, len(plain), BATCH_SIZE)]
            tokens = [batches.tokenize(group) for group in groups]
            clock.append(time.perf_counter())
            shards = []
            for at in range(0, len(tokens), ROWS_PER_CHUNK // BATCH_SIZE):
                shards.append(EncodedRows())
                for each in tokens[at : at + ROWS_PER_CHUNK // BATCH_SIZE]:
                    numbers = [range(k, k + 1) for k in range(len(each.is_exact))]
                    shards[-1].add_flat([raw] * len(numbers), each, numbers)
            clock.append(time.perf_counter())
            for shard in shards:
                shard.close()
            clock.append(time.perf_counter())
        times.append([(end - start) / count * 1e6 for start, end in pairwise(clock)])
    return {
        stage: statistics.median(each)
        for stage, each in zip(STAGES, zip(*times, strict=True), strict=True)
    }


def _by_trl(rows: list[Any]) -> float:
    """Return the seconds that ``SFTTrainer`` takes over its data set."""
    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder()))
    tokenizer.chat_template = template_source()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    data = Dataset.from_list(rows)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **size, **heads))
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            assistant_only_loss=True,
            max_length=None,
            report_to="none",
            use_cpu=True,
            bf16=False,
        )
        started = time.perf_counter()
        SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer)
        return time.perf_counter() - started


def _columns(encoder: Encoder, rows: list[Any]) -> None:
    """Make the columns that TRL makes, and weights and messages besides, of rows in memory."""
    results = EncodedRows()
    batches = encoder.row_batches
    for number in range(0, len(rows), BATCH_SIZE):
        batch = rows[number : number + BATCH_SIZE]
        with collection_paused():
            laid_out = [batches.lay_out(row) or [] for row in batch]
        tokens = batches.tokenize([*chain.from_iterable(laid_out)])
        numbers = [*consecutive(laid_out)]
        exact = [bool(own) and tokens.are_exact(own) for own in numbers]
        for is_exact, run in groupby(range(len(batch)), exact.__getitem__):
            places = list(run)
            raws = [RawRow("", number + place, number + place, b"") for place in places]
            if is_exact:
                results.add_flat(raws, tokens, [numbers[place] for place in places])
                continue
            for raw, place in zip(raws, places, strict=True):
                results.add(raw, encoder.encode_row(batch[place]))
    batches.check_backend()
    examples_table(results.columns)


def _with_files(encoder: Encoder, data: Path) -> None:
    from lossmask.worker import _encode_chunk

    class Pipe:
        def send(self, message: object) -> None:
            pass

    class At:
        value = 0

    for chunk in _chunks(data):
        _encode_chunk(chunk, Pipe(), At(), encoder, Limits())


def _chunks(data: Path, most: int | None = None) -> Iterator[Chunk[EncodedRows]]:
    for number, rows in enumerate(islice(in_chunks(read_rows([data]), ROWS_PER_CHUNK), most)):
        yield Chunk(number, rows, EncodedRows())


def _alone(encoder: Encoder, rows: list[Any]) -> None:
    """Render each conversation and encode it, and nothing else."""
    compiled = _compile_jinja_template(template_source())
    special = encoder.tokenizer.special_tokens_map
    tokenizer = encoder._setting.tokenizer
    assert isinstance(tokenizer, TextTokenizer)
    for number in range(0, len(rows), BATCH_SIZE):
        texts = [
            compiled.render(messages=row["messages"], add_generation_prompt=False, **special)
            for row in rows[number : number + BATCH_SIZE]
        ]
        tokenizer.encode_flat(texts)


def write(path: Path, rows: Iterator[Any]) -> Path:
    """Write rows as JSON Lines."""
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def _memory(pid: int) -> float:
    """Return the bytes of memory that a process and all below it hold, what they share once."""
    try:
        top = psutil.Process(pid)
        held = [each.memory_full_info().pss for each in [top, *top.children(recursive=True)]]
    except psutil.Error:  # one of them has just ended
        return 0.0
    return float(sum(held))


def markdown(timings: list[Timing]) -> list[str]:
    """Return the table of :func:`measure` as lines of Markdown."""
    lines = ["| way | seconds | conversations a second | times TRL |", "| --- | --- | --- | --- |"]
    for each in timings:
        rate = f"{each.conversations:,.0f}"
        lines.append(f"| {each.name} | {each.seconds:.2f} | {rate} | {each.ratio:.1f} |")
    return lines


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--conversations", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--command", type=int, nargs="*", default=[], help="sizes to run whole")
    parser.add_argument("--turns", type=int, nargs="*", default=[], help="turns a conversation")
    given = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    datasets.disable_progress_bars()
    print(*markdown(measure(count=given.conversations, rounds=given.rounds)), sep="\n")
    for count in given.command:
        print(measure_command(count), f"({threading.active_count()} threads here)")
    for turns in given.turns:
        print(f"{turns} turns: {measure_turns(turns):.0f} µs a turn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
