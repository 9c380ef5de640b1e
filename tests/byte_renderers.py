"""Small renderers, one per way in which renderers differ: a token is a byte, or two.

They stand in for libraries such as mistral-common; their ids can be worked out by hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from lossmask import TokenRenderer
from lossmask.embedded import DEMO_MODEL
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.renderer_parity import Ids, Library
from tests.scenarios import Message

DOCS = (Path(__file__).resolve().parents[1] / "docs" / "renderers.md").read_text(encoding="utf-8")
END, USER, BOT, TOOLS = 256, 257, 258, 259
NAMES = {END: b"<end>", USER: b"<user>", BOT: b"<bot>", TOOLS: b"<tools>"}


class Bytes:
    """One token per byte, control tokens between; a place to make mistakes in."""

    stop_ids = frozenset({END})
    control_ids = frozenset(NAMES)

    def token_bytes(self, token_id: int) -> bytes:
        return NAMES.get(token_id) or bytes([token_id])

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
    ) -> Sequence[int]:
        ids: Ids = []
        for message in messages:
            header = BOT if message["role"] == "assistant" else USER
            ids += [header, *self.text(message["content"]), END]
        return [*ids, BOT] if add_generation_prompt else ids

    def text(self, text: str) -> Ids:
        return list(text.encode())


class ToolsLast(Bytes):
    """Shows the tools before the last user message, as Mistral does."""

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
    ) -> Sequence[int]:
        last = max(k for k, message in enumerate(messages) if message["role"] == "user")
        before = list(super().render(messages[:last]))
        after = super().render(messages[last:], add_generation_prompt=add_generation_prompt)
        return [*before, *([TOOLS, *b"f()"] if tools else []), *after]


class SystemOnlyInPrompts(Bytes):
    """Drops the system message once the answer is there."""

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
    ) -> Sequence[int]:
        is_finished = messages[-1]["role"] == "assistant"
        kept = [m for m in messages if m["role"] != "system" or not is_finished]
        return super().render(kept, add_generation_prompt=add_generation_prompt)


class Pairs(Bytes):
    """Two bytes of text are one token: `300 + first * 256 + second`, over the whole rendering."""

    def token_bytes(self, token_id: int) -> bytes:
        pair = token_id - 300
        return bytes(divmod(pair, 256)) if pair >= 0 else super().token_bytes(token_id)

    def text(self, text: str) -> Ids:
        data = text.encode()
        pairs = [300 + a * 256 + b for a, b in zip(data[::2], data[1::2], strict=False)]
        return pairs + list(data[len(pairs) * 2 :])


class Merging(Pairs):
    """Writes headers as text and pairs the bytes of a message: tokens span a prompt's end."""

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
    ) -> Sequence[int]:
        ids: Ids = []
        for message in messages:
            ids += [*self.text(f"{message['role'][:3]}:{message['content']}"), END]
        return [*ids, *(self.text("ass:") if add_generation_prompt else [])]


class ParsesContent(Bytes):
    """Makes control tokens of what messages say, as a careless encoder does."""

    def text(self, text: str) -> Ids:
        parts = re.split("(<end>|<user>)", text)
        control = {"<end>": [END], "<user>": [USER]}
        return [token_id for part in parts for token_id in control.get(part) or part.encode()]


class JinjaAsText:
    """A template of our own, rendered by transformers, as a renderer of text."""

    def __init__(self, name: str) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
        self._template = FIXTURE_TEMPLATES[name]

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(messages),
            tools=tools,
            chat_template=self._template,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
        )
        return text


def library(renderer: TokenRenderer) -> Library:
    return Library(
        lambda messages, tools: list(
            renderer.render(messages, tools=tools, add_generation_prompt=True)
        ),
        lambda messages, tools: list(renderer.render(messages, tools=tools)),
        lambda ids: b"".join(map(renderer.token_bytes, ids)),
        renderer.stop_ids,
    )


def code_of_docs() -> list[str]:
    """Return the Python examples of docs/renderers.md."""
    return re.findall(r"```python\n(.*?)```", DOCS, flags=re.DOTALL)
