"""Time collators side by side: a batch of prepared examples in, a table of times and ratios out.

    python benchmarks/collate.py                    # 32 examples of about 1,000 tokens
    python benchmarks/collate.py --examples 8 --tokens 4000 --rounds 200

The yardstick is the *bare copies*: arrays of the types and shapes that the collator gives back,
allocated anew and filled by ``memcpy``, nothing else. Each round calls everything once, in a new
order; the ratio is the median over the rounds of a call's time by that of the bare copies of the
same round, so that a slow moment of the machine slows both.

Our batches are timed from the numbers of the examples on: ``PaddedCollator(...)(data.__getitems__(
numbers))``. What the others take is made beforehand, and not timed: lists of ids, as ``datasets``
hands them out, and for TRL, which takes them too, NumPy arrays.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening, PreTrainedTokenizerFast
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from lossmask.collate import PaddedCollator
from lossmask.embedded import DEMO_MODEL
from lossmask.padding_free import PaddingFreeCollator
from lossmask.prepared import PreparedDataset


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one way of making a batch takes."""

    name: str
    layout: str
    """``padded`` or ``padding-free``."""
    microseconds: float
    """Median of all rounds."""
    ratio: float
    """Median over the rounds of the time by that of the bare copies of the same layout."""


def measure(
    *, examples: int = 32, tokens: int = 1000, rounds: int = 100, seed: int = 0
) -> list[Timing]:
    """Time every collator on batches of one shape.

    Args:
        examples: Of a batch.
        tokens: Of an example, on average; lengths spread evenly by a fifth to either side.
        rounds: How often each is called. Each round has a batch of its own.
        seed: Of the data and the batches.

    Returns:
        The bare copies and the collators, layout by layout.
    """
    torch.set_num_threads(1)
    draw = np.random.default_rng(seed)
    data = _data(draw, examples * 40, tokens)
    seconds: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):
        numbers = draw.choice(len(data), examples, replace=False)
        ways = _ways(data, numbers)
        for name in draw.permutation(len(ways)):
            key, call = ways[name]
            begin = time.perf_counter()
            call()
            spent = time.perf_counter() - begin
            if number:  # the first round warms up
                seconds.setdefault(key, []).append(spent)
    return [
        Timing(
            name,
            layout,
            statistics.median(spent) * 1e6,
            statistics.median(
                own / bare for own, bare in zip(spent, seconds["bare copies", layout], strict=True)
            ),
        )
        for (name, layout), spent in sorted(seconds.items(), key=lambda each: _place(*each[0]))
    ]


Way = tuple[tuple[str, str], Callable[[], object]]


def _ways(data: PreparedDataset, numbers: np.ndarray[Any, Any]) -> list[Way]:
    tensors = PaddedCollator(0)
    arrays = PaddedCollator(0, return_tensors="np")
    flat = PaddingFreeCollator(return_flash_attn_kwargs=True)
    flat_arrays = PaddingFreeCollator(return_flash_attn_kwargs=True, return_tensors="np")
    items = [
        {name: item[name].astype(np.int64) for name in ("input_ids", "labels")}
        for item in data.__getitems__(numbers)
    ]
    rows = [{name: values.tolist() for name, values in item.items()} for item in items]
    seq2seq = DataCollatorForSeq2Seq(_tokenizer())
    flattening = DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    return [
        (("bare copies", "padded"), _bare(arrays(data.__getitems__(numbers)))),
        (("lossmask, NumPy", "padded"), lambda: arrays(data.__getitems__(numbers))),
        (("lossmask, torch", "padded"), lambda: tensors(data.__getitems__(numbers))),
        (("TRL", "padded"), lambda: _TRL(rows)),
        (("TRL, from NumPy", "padded"), lambda: _TRL(items)),
        (("transformers, Seq2Seq", "padded"), lambda: seq2seq(_copied(rows))),
        (("bare copies", "padding-free"), _bare(flat_arrays(data.__getitems__(numbers)))),
        (("lossmask, NumPy", "padding-free"), lambda: flat_arrays(data.__getitems__(numbers))),
        (("lossmask, torch", "padding-free"), lambda: flat(data.__getitems__(numbers))),
        (("TRL", "padding-free"), lambda: _TRL_FLAT(rows)),
        (("TRL, from NumPy", "padding-free"), lambda: _TRL_FLAT(items)),
        (("transformers, WithFlattening", "padding-free"), lambda: flattening(rows)),
    ]


_TRL = DataCollatorForLanguageModeling(pad_token_id=0)
_TRL_FLAT = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
_ORDER = ("bare copies", "lossmask, NumPy", "lossmask, torch", "TRL", "TRL, from NumPy")


def _place(name: str, layout: str) -> tuple[str, int]:
    return layout, _ORDER.index(name) if name in _ORDER else len(_ORDER)


def _copied(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [dict(row) for row in rows]  # this collator writes into the mappings it is given


def _bare(batch: dict[str, Any]) -> Callable[[], object]:
    """Return what copies the arrays of a batch into new ones."""
    sources = [values for values in batch.values() if isinstance(values, np.ndarray)]

    def copy() -> object:
        copies = []
        for source in sources:
            target = np.empty_like(source)
            np.copyto(target, source)
            copies.append(target)
        return copies

    return copy


def _tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_file=str(DEMO_MODEL / "tokenizer.json"), pad_token="<|im_end|>"
    )


def _data(draw: np.random.Generator, examples: int, tokens: int) -> PreparedDataset:
    lengths = draw.integers(tokens * 4 // 5, tokens * 6 // 5 + 1, examples)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = draw.integers(4, 30_000, starts[-1]).astype(np.int32)
    in_loss = draw.random(len(ids)) < 0.4
    columns = {
        "input_ids": ids,
        "labels": np.where(in_loss, ids, -100).astype(np.int32),
        "loss_weights": in_loss.astype(np.float32),
        "message_index": np.zeros(len(ids), np.int32),
    }
    return PreparedDataset("drawn at random", {}, columns, starts, np.arange(examples))


def table(timings: Sequence[Timing]) -> Table:
    """Lay timings out as a table."""
    made = Table("layout", "collator", "median, µs", "x bare copies")
    for each in timings:
        made.add_row(each.layout, each.name, f"{each.microseconds:,.0f}", f"{each.ratio:.1f}")
    return made


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=100)
    chosen = parser.parse_args(arguments)
    timings = measure(examples=chosen.examples, tokens=chosen.tokens, rounds=chosen.rounds)
    Console().print(table(timings))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
