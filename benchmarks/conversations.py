"""Conversations to measure on: about 730 tokens each, of published texts where they are there.

In: how many, and a seed. Out: rows ``{"messages": [...]}``. The texts are those of the corpus of
instruction data beside the repository, or of the conversations that lossmask embeds; they are put
together anew for each conversation, so that no two are alike however many there are.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lossmask.embedded import DEMO_CONVERSATIONS, DEMO_MODEL

CORPUS = Path(
    os.environ.get("LOSSMASK_CORPUS") or Path(__file__).resolve().parents[2] / "shared" / "corpus"
)
_SETS = ("gpteacher-roleplay", "gpteacher-codegen", "lf-alpaca-en-demo", "lf-alpaca-zh-demo")
_CHARACTERS, _SPREAD = 2350, 600

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML with the tags by which TRL masks; used where there is no corpus."""


def tokenizer_folder() -> Path:
    """Return the folder of the tokenizer to measure with: Qwen3's, or the embedded one."""
    path = CORPUS / "tokenizers" / "qwen3"
    return path if path.is_dir() else DEMO_MODEL


def template_source() -> str:
    """Return the template to measure with: one that TRL ships, tags included, or ChatML."""
    path = CORPUS / "templates" / "trl__qwen2_5_training.jinja"
    return path.read_text(encoding="utf-8") if path.is_file() else CHATML


def conversations(count: int, *, seed: int = 0, turns: int | None = None) -> Iterator[Any]:
    """Yield rows with ``messages``.

    Args:
        count: How many.
        seed: Of the choice of texts.
        turns: Questions with answers in each; by default as many as make about 730 tokens.
    """
    exchanges = list(_exchanges())
    draw = random.Random(seed)
    for _ in range(count):
        messages: list[dict[str, str]] = []
        if draw.random() < 0.5:
            messages.append({"role": "system", "content": "You are a helpful assistant."})
        size, wanted, number = 0, draw.gauss(_CHARACTERS, _SPREAD), 0
        while number < turns if turns is not None else size < wanted:
            chosen = draw.choice(exchanges)
            messages += chosen
            size += sum(len(message["content"]) for message in chosen)
            number += 1
        yield {"messages": messages or list(exchanges[0])}


def _exchanges() -> Iterator[list[dict[str, str]]]:
    """Yield a question and its answer each."""
    files = [CORPUS / "datasets" / f"{name}.messages.jsonl" for name in _SETS]
    for path in files if files[0].is_file() else [DEMO_CONVERSATIONS]:
        for line in path.read_text(encoding="utf-8").split("\n"):
            messages = json.loads(line)["messages"] if line else []
            plain = [message for message in messages if message["role"] in ("user", "assistant")]
            for place in range(0, len(plain) - 1, 2):
                pair = [
                    {"role": message["role"], "content": message["content"]}
                    for message in plain[place : place + 2]
                ]
                is_exchange = [message["role"] for message in pair] == ["user", "assistant"]
                if is_exchange and all(message["content"] for message in pair):
                    yield pair
