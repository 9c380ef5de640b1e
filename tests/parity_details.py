"""What the oracle asks besides: weights, who wrote a token, what a turn begins and ends with.

``check_closely`` is ``tests.parity.check`` and these. Told by transformers, the tokenizer and the
data alone, as there.
"""

from __future__ import annotations

import re
from typing import Any, cast

from lossmask import Encoder, Example, Span
from tests.parity import Case, Oracle, Wrong, check, strings_in
from tests.scenarios import Message

_TAG = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z_]{1,40}\]")
_WORD = re.compile(r"\b[QASRT]\d+\b")


def check_closely(
    encoder: Encoder, messages: list[Message], tools: list[Any] | None = None
) -> Case:
    """Encode a conversation and hold it against inference, details included."""
    remembering = _Remembering(encoder)
    case = check(cast(Encoder, remembering), messages, tools)
    if case.status != "exact":
        return case
    try:
        details = _Details(encoder, messages, tools)
        for example in remembering.examples:
            details.check(example)
    except Wrong as error:
        return Case("wrong", str(error))
    return case


class _Remembering:
    """An encoder that keeps what it encoded."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.examples: list[Example] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode(self, messages: list[Message], tools: list[Any] | None) -> list[Example]:
        self.examples = self._encoder.encode(messages, tools)
        return self.examples


class _Details(Oracle):
    """Checks of one example."""

    def __init__(self, encoder: Encoder, messages: list[Message], tools: list[Any] | None) -> None:
        super().__init__(encoder, messages, tools)
        self.weights = [_weight(message) for message in messages]
        self.appends_stops = encoder.policy.append_stop != "never"

    def check(self, example: Example) -> None:
        self._check_attribution(example)
        for span in example.spans:
            index = span.message_index
            kinds = {f.kind for f in example.findings if f.message_index == index}
            prompt = self.render(index, prompt=True)
            full = self.render(index + 1, prompt=False)
            self._check_weights(example, span)
            if "generation_prompt_mismatch" in kinds:
                self._check_mismatch(index, span.start, prompt, full)
            self._check_stop(example, span, full, kinds)
            self._check_calls(example.text[span.start : span.end], index)
            self._check_straddle(example, span, kinds)
            _require(not self._is_unclosed(index), f"message {index} never closes its think block")

    def _check_weights(self, example: Example, span: Span) -> None:
        weights = set(example.loss_weights[span.token_start : span.token_end].tolist())
        expected = {self.weights[span.message_index]}
        _require(weights == expected, f"message {span.message_index}: weights {weights}")

    def _check_attribution(self, example: Example) -> None:
        """Require that tokens inside a word that only one message holds name that message."""
        starts, ends = example.offsets[:, 0], example.offsets[:, 1]
        texts = [strings_in(message) for message in self.messages]
        for word in _WORD.finditer(example.text):
            holders = [k for k, text in enumerate(texts) if word.group() in text]
            others = (self.template, strings_in(self.tools or []))
            if len(holders) != 1 or any(word.group() in other for other in others):
                continue
            inside = (starts >= word.start()) & (ends <= word.end()) & (ends > starts)
            named = set(example.message_index[inside].tolist())
            _require(named <= set(holders), f"{word.group()!r} is attributed to {named}")

    def _check_mismatch(self, index: int, at: int, prompt: str, full: str) -> None:
        """Require that a common prefix ends inside no tag, and that the context is the same."""
        for text in (prompt, full):
            inside = [tag.group() for tag in _TAG.finditer(text) if tag.start() < at < tag.end()]
            _require(not inside, f"message {index}: the prompt ends inside {inside}")
        context = self.render(index, prompt=False)
        _require(
            full.startswith(context.rstrip()) or not prompt.startswith(context),
            f"message {index}: its context {context!r} is not in the full rendering",
        )

    def _check_stop(self, example: Example, span: Span, full: str, kinds: set[str]) -> None:
        """Require the stop that the conversation shows, or else the one that history shows."""
        index, before = span.message_index, example.text[: span.start]
        completion = example.text[span.start : span.end]
        if "stop_appended" in kinds:
            written = full[full.rfind(completion.removesuffix(span.stop or "")) :]
            shown = self._next_header_stop(full, written)
            _require(not shown, f"message {index}: a stop is appended, but {shown!r} follows")
        elif self.appends_stops and not any(stop in completion for stop in self.stops):
            _require(example.text.startswith(before), "unreachable")
            try:
                shown = self._with_stop_of_history(index, full, full)
            except Wrong:
                return
            _require(shown == full, f"message {index}: history ends it with {shown[-20:]!r}")

    def _check_calls(self, completion: str, index: int) -> None:
        """Require names and arguments of tool calls, as far as JSON does not escape them."""
        calls = self.messages[index].get("tool_calls") or []
        functions = [call.get("function", call) for call in calls]
        words = [str(function["name"]) for function in functions]
        for function in functions:
            words += re.findall(r"[^\W_]+", strings_in(function.get("arguments")))
        lost = [word for word in words if word.isascii() and word not in completion]
        _require(not lost, f"message {index}: {lost} of its tool calls is not supervised")

    def _check_straddle(self, example: Example, span: Span, kinds: set[str]) -> None:
        if "boundary_straddle" not in kinds or self.boundary != "inference":
            return
        prompt, text = example.text[: span.start], example.text[: span.end]
        joint = self.ids(text)
        ids = example.input_ids[: span.token_end].tolist()
        _require(
            joint != ids, f"message {span.message_index}: no token spans the border {prompt!r}"
        )


def _weight(message: Message) -> float:
    weight = message.get("weight")
    return float(weight) if weight is not None else float(message.get("train") is not False)


def _require(holds: bool, detail: str) -> None:
    if not holds:
        raise Wrong(detail)
