"""Tiny causal language models with random weights, and tiny data to train them on.

Comes in: an architecture name, or examples. Goes out: a model of a few thousand parameters in
float32, or a folder as ``lossmask prepare`` writes it. Nothing is downloaded. Models are compared
by `parameters` and `assert_same`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

VOCAB_SIZE = 40
EOS = 2
STOP = 3

_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
}


def tiny_llama(**changes: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**{**_SIZES, "initializer_range": 0.2, **changes}))


def tiny_gpt2(**changes: Any) -> Any:
    """Build a GPT-2: absolute positions, head tied to the embedding, no dropout."""
    sizes = {
        "vocab_size": VOCAB_SIZE,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": EOS,
        "pad_token_id": EOS,
        "initializer_range": 0.2,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }
    return GPT2LMHeadModel(GPT2Config(**{**sizes, **changes}))


def tiny_gemma2(**changes: Any) -> Any:
    """Build a Gemma 2 whose final soft-cap is low enough to bend every logit."""
    sizes = {**_SIZES, "head_dim": 8, "final_logit_softcapping": 1.5, "initializer_range": 0.3}
    return Gemma2ForCausalLM(Gemma2Config(**{**sizes, **changes}))


def tiny_cohere(**changes: Any) -> Any:
    sizes = {**_SIZES, "logit_scale": 0.25, "initializer_range": 0.2}
    return CohereForCausalLM(CohereConfig(**{**sizes, **changes}))


TINY_MODELS: dict[str, Callable[..., Any]] = {
    "llama": tiny_llama,
    "gpt2": tiny_gpt2,
    "gemma2": tiny_gemma2,
    "cohere": tiny_cohere,
}


def tiny_model(name: str, *, seed: int = 0, **changes: Any) -> Any:
    """Build a model whose weights depend on the seed alone.

    Args:
        name: A key of `TINY_MODELS`.
        seed: Of the weights.
        **changes: Fields of its configuration.

    Returns:
        The model, float32, on the CPU, in evaluation mode.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return TINY_MODELS[name](**changes).eval()


def parameters(model: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor], atol: float) -> None:
    assert left.keys() == right.keys()
    for name, values in left.items():
        torch.testing.assert_close(values, right[name], atol=atol, rtol=0)


Example = dict[str, Any]


class Rows(Dataset[Example]):
    """A torch data set over examples in memory."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def tiny_examples(count: int, *, seed: int = 0) -> list[Example]:
    """Draw examples of 4 to 12 tokens: a prompt, then an answer that ends in `STOP` and is trained.

    Args:
        count: How many.
        seed: Of the tokens, lengths and weights.

    Returns:
        Dictionaries of NumPy arrays as `PreparedDataset` gives them. Weights are 0.5, 1 or 2.
    """
    draw = np.random.default_rng(seed)
    examples: list[Example] = []
    for _ in range(count):
        prompt, answer = int(draw.integers(1, 6)), int(draw.integers(2, 6))
        ids = draw.integers(4, VOCAB_SIZE, prompt + answer + 1).astype(np.int32)
        ids[-1] = STOP
        in_loss = np.arange(len(ids)) >= prompt
        weights = draw.choice([0.5, 1.0, 2.0], len(ids)).astype(np.float32)
        examples.append(
            {
                "input_ids": ids,
                "labels": np.where(in_loss, ids, -100).astype(np.int32),
                "loss_weights": np.where(in_loss, weights, 0).astype(np.float32),
                "message_index": in_loss.astype(np.int32),
            }
        )
    return examples


def write_tokenizer(folder: Path, chat_template: Any) -> Path:
    """Write a tokenizer with the words ``w0`` to ``w39``; its ids are those of the tiny models."""
    words = {f"w{index}": index for index in range(VOCAB_SIZE)}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")),
        eos_token=f"w{EOS}",
        chat_template=chat_template,
    ).save_pretrained(folder)
    return folder


PARQUET_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("loss_weights", pa.list_(pa.float32())),
        ("message_index", pa.list_(pa.int32())),
    ]
)


def write_prepared(
    folder: Path,
    shards: Sequence[Sequence[Example]],
    *,
    rows: Sequence[int] | None = None,
    tokenizer_path: str = "no/such/tokenizer",
    chat_template: str = "{{ messages }}",
    row_group_size: int = 3,
) -> Path:
    """Write a prepared folder.

    Args:
        folder: Made if missing.
        shards: The examples of each shard.
        rows: Input row of each example over all shards; by default each its own.
        tokenizer_path: What the manifest names as tokenizer.
        chat_template: What the manifest gives as the template that rendered the rows.
        row_group_size: Examples per Parquet row group.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    examples = [example for shard in shards for example in shard]
    numbers = list(range(len(examples)) if rows is None else rows)
    entries: list[dict[str, Any]] = []
    first = 0
    for index, shard in enumerate(shards):
        columns = [[example[name] for example in shard] for name in PARQUET_SCHEMA.names[1:]]
        table = pa.Table.from_arrays(
            [
                pa.array(values, field.type)
                for values, field in zip(
                    [numbers[first : first + len(shard)], *columns], PARQUET_SCHEMA, strict=True
                )
            ],
            schema=PARQUET_SCHEMA,
        )
        name = f"part-{index:05d}.parquet"
        pq.write_table(table, folder / name, row_group_size=row_group_size)
        entries.append({"file": name, "examples": len(shard)})
        first += len(shard)
    manifest = {
        "format": 1,
        "complete": True,
        "rows_in": len(set(numbers)),
        "rows_kept": len(set(numbers)),
        "rows_rejected": 0,
        "examples": len(examples),
        "tokens": sum(len(example["input_ids"]) for example in examples),
        "supervised_tokens": sum(int((example["labels"] != -100).sum()) for example in examples),
        "shards": entries,
        "tokenizer": {
            "path": tokenizer_path,
            "vocab_size": VOCAB_SIZE,
            "eos_token_id": EOS,
            "pad_token_id": EOS,
            "stop_ids": [EOS, STOP],
            "fingerprint": "0" * 64,
        },
        "chat_template": chat_template,
        "chat_template_sha256": hashlib.sha256(chat_template.encode()).hexdigest(),
        "policy": {},
        "versions": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (folder / "rejected.jsonl").write_text("", encoding="utf-8")
    return folder
