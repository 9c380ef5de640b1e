"""Times a probe beside a plain evaluation of the same model on the same batches.

The plain one is what a loop of one's own does: the model's logits of every position, and their
cross-entropy. The probe tells rank and likeliest tokens as well, at the positions in the loss only.
Both take turns; medians and the ratio of each pair are printed::

    python benchmarks/probe.py
    python benchmarks/probe.py --vocabulary 151936 --examples 32
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from lossmask.collate import PaddedCollator
from lossmask.embedded import DEMO_CONVERSATIONS, DEMO_MODEL
from lossmask.model_loading import load_model
from lossmask.prepared import PreparedDataset, load_prepared
from lossmask.preparing import EncoderSource, prepare
from lossmask.probing import batches_of, probe

BATCH_SIZE = 16
MAX_TOKENS = 8192


def plain(model: Any, data: PreparedDataset) -> float:
    """Evaluate as a loop of one's own would, and return the mean loss."""
    collate = PaddedCollator(pad_token_id=0)
    total, count = 0.0, 0
    with torch.no_grad():
        for places in batches_of(data.lengths, batch_size=BATCH_SIZE, max_tokens=MAX_TOKENS):
            batch = collate(data.__getitems__(places))
            ids, mask = batch["input_ids"], batch["attention_mask"]
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
            labels = batch["labels"][:, 1:].flatten()
            total += float(functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum"))
            count += int((labels != -100).sum())
    return total / count


def probed(model: Any, data: PreparedDataset) -> float:
    """Probe, and return the mean loss."""
    found = probe(data, model, batch_size=BATCH_SIZE, max_tokens=MAX_TOKENS)
    return float(found.loss.astype(np.float64).mean())


def make_model(vocabulary: int) -> Any:
    """Return the embedded model, or one of random weights with a larger vocabulary."""
    if not vocabulary:
        return load_model(DEMO_MODEL, "float32").eval()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def main() -> None:
    """Print both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=0, help="0: the embedded model")
    parser.add_argument("--examples", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = DEMO_CONVERSATIONS.read_text(encoding="utf-8").splitlines()[: options.examples]
        chats, folder = Path(scratch) / "chats.jsonl", Path(scratch) / "prepared"
        chats.write_text("\n".join(rows), encoding="utf-8")
        prepare([chats], EncoderSource(str(DEMO_MODEL)), folder, workers=1)
        data, model = load_prepared(folder), make_model(options.vocabulary)
        compare(model, data, options.rounds)


def compare(model: Any, data: PreparedDataset, rounds: int) -> None:
    """Time both in turns and print medians."""
    assert abs(plain(model, data) - probed(model, data)) < 1e-5  # and both are warm
    seconds: dict[str, list[float]] = {"plain": [], "probe": []}
    for _ in range(rounds):
        for name, run in (("plain", plain), ("probe", probed)):
            start = time.perf_counter()
            run(model, data)
            seconds[name].append(time.perf_counter() - start)
    tokens = int(data.lengths.sum())
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name}: {median:.2f} s, {tokens / median:,.0f} tokens/s")
    pairs = zip(seconds["probe"], seconds["plain"], strict=True)
    print(f"probe / plain: {statistics.median(each / other for each, other in pairs):.2f}")


if __name__ == "__main__":
    main()
