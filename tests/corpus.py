"""The corpus of published templates, tokenizers and data sets, where the machine has it.

It lies in ``../shared/corpus`` beside the repository, or where ``LOSSMASK_CORPUS`` says. Tests
that use it are skipped without it.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase

ROOT = Path(
    os.environ.get("LOSSMASK_CORPUS") or Path(__file__).resolve().parents[2] / "shared" / "corpus"
)
needs_corpus = pytest.mark.skipif(
    not ROOT.is_dir(), reason=f"no corpus at {ROOT}; set LOSSMASK_CORPUS to its folder"
)

_CONTROL = re.compile(
    r"<\|[^|<>\s'\"{}+]+\|>|<｜[^｜<>\s'\"]+｜>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|"
    r"TOOL_RESULTS|THINK)\]|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|unk|pad)>|<<?/?SYS>>?"
)

_CHATML = ("<|im_start|>", "<|im_end|>")


def template_names() -> list[str]:
    """Return the file names of all templates, sorted; none without the corpus."""
    return sorted(path.name for path in (ROOT / "templates").glob("*.jinja"))


def template_source(name: str) -> str:
    return (ROOT / "templates" / name).read_bytes().decode("utf-8")


@functools.cache
def template_manifest() -> dict[str, dict[str, Any]]:
    entries = json.loads((ROOT / "templates" / "manifest.json").read_text(encoding="utf-8"))
    return {entry["file"]: entry for entry in entries}


@functools.cache
def native_tokenizers() -> dict[str, str]:
    """Return template file name -> folder name of the tokenizer it belongs to."""
    pairs = json.loads((ROOT / "tokenizers" / "native_template_pairs.json").read_text())
    return {template: tokenizer for tokenizer, template in pairs.items()}


@functools.cache
def tokenizer(name: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(ROOT / "tokenizers" / name)


def tokenizer_for(template: str) -> PreTrainedTokenizerBase:
    """Return the native tokenizer, or a small one that has the template's control tokens."""
    if template in native_tokenizers():
        return tokenizer(native_tokenizers()[template])
    adapted = copy.deepcopy(tokenizer("tiny-llama3-bpe"))
    entry = template_manifest()[template]
    texts = set(_CONTROL.findall(template_source(template)))
    special = {key: entry[key] for key in ("bos_token", "eos_token") if entry.get(key)}
    texts.update(special.values())
    adapted.add_tokens(
        [AddedToken(text, special=True, normalized=False) for text in sorted(texts)],
        special_tokens=True,
    )
    adapted.add_special_tokens(special)
    return adapted


def tokenizer_names() -> list[str]:
    """Return the folder names of all tokenizers that render by a chat template; none without."""
    names = [path.parent.name for path in (ROOT / "tokenizers").glob("*/PROVENANCE.json")]
    return sorted(name for name in names if name != "mistral-nemo-common")


def fitted(name: str, style: str = "native") -> tuple[PreTrainedTokenizerBase, str]:
    """Return a tokenizer and the file name of a template, made to fit each other.

    ``native``: the tokenizer's own template, ChatML where none is known. ``chatml``: its control
    tokens are added to a copy of the tokenizer. ``alpaca``, ``vicuna``: templates of plain text,
    where nothing but the end of a turn, if that, is a control token.
    """
    own = {tokenizer: template for template, tokenizer in native_tokenizers().items()}
    if style == "native" and name in own:
        return tokenizer(name), own[name]
    adapted = copy.deepcopy(tokenizer(name))
    template = {"alpaca": "royallab__alpaca.jinja", "vicuna": "hermesfc__vicuna.jinja"}.get(
        style, "llamacpp__Qwen-Qwen2.5-7B-Instruct.jinja"
    )
    if style in ("native", "chatml"):
        special = [AddedToken(t, special=True, normalized=False) for t in _CHATML]
        adapted.add_tokens(special, special_tokens=True)
        adapted.add_special_tokens({"eos_token": "<|im_end|>"})
    elif adapted.eos_token is None:
        adapted.add_special_tokens({"eos_token": adapted.sep_token})
    if adapted.bos_token is None:
        adapted.add_special_tokens({"bos_token": adapted.cls_token or adapted.eos_token})
    return adapted, template


def rows(dataset: str, limit: int | None = None) -> list[dict[str, Any]]:
    """Return the rows of a data set; files are split at newlines only."""
    text = (ROOT / "datasets" / f"{dataset}.messages.jsonl").read_bytes().decode("utf-8")
    lines = [line for line in text.split("\n") if line]
    return [json.loads(line) for line in lines[:limit]]


def dataset_names() -> list[str]:
    return sorted(
        path.name.removesuffix(".messages.jsonl")
        for path in (ROOT / "datasets").glob("*.messages.jsonl")
    )
