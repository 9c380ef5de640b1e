"""What the oracle asks besides: weights, who wrote a token, what a turn begins and ends with.

``check_closely`` is ``tests.parity.check`` and these. Told by transformers, the tokenizer and the
data alone, as there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lossmask import Encoder, Example, Span
from tests.parity import MARKER, TAG, Case, Oracle, Wrong, require, strings_in
from tests.scenarios import Message


def check_closely(
    encoder: Encoder, messages: list[Message], tools: list[Any] | None = None
) -> Case:
    """Encode a conversation and hold it against inference, details included."""
    return CloserOracle(encoder, messages, tools).case()


class CloserOracle(Oracle):
    """An oracle that asks more."""

    def __init__(self, encoder: Encoder, messages: list[Message], tools: list[Any] | None) -> None:
        super().__init__(encoder, messages, tools)
        self.weights = [_weight(message) for message in messages]
        self.appends_stops = encoder.policy.append_stop != "never"

    def check_examples(self, examples: Sequence[Example], whole: str) -> None:
        super().check_examples(examples, whole)
        for example in examples:
            self.check_details(example)

    def check_details(self, example: Example) -> None:
        """Require what ``check_examples`` does not ask for."""
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
            require(not self._is_unclosed(index), f"message {index} never closes its think block")

    def _check_weights(self, example: Example, span: Span) -> None:
        weights = set(example.loss_weights[span.token_start : span.token_end].tolist())
        expected = {self.weights[span.message_index]}
        require(weights == expected, f"message {span.message_index}: weights {weights}")

    def _check_attribution(self, example: Example) -> None:
        """Require that tokens inside a word that only one message holds name that message."""
        starts, ends = example.offsets[:, 0], example.offsets[:, 1]
        texts = [strings_in(message) for message in self.messages]
        for word in MARKER.finditer(example.text):
            holders = [k for k, text in enumerate(texts) if word.group() in text]
            others = (self.template, strings_in(self.tools or []))
            if len(holders) != 1 or any(word.group() in other for other in others):
                continue
            inside = (starts >= word.start()) & (ends <= word.end()) & (ends > starts)
            named = set(example.message_index[inside].tolist())
            require(named <= set(holders), f"{word.group()!r} is attributed to {named}")

    def _check_mismatch(self, index: int, at: int, prompt: str, full: str) -> None:
        """Require that a common prefix ends inside no tag, and that the context is the same."""
        for text in (prompt, full):
            inside = [tag.group() for tag in TAG.finditer(text) if tag.start() < at < tag.end()]
            require(not inside, f"message {index}: the prompt ends inside {inside}")
        context = self.render(index, prompt=False)
        require(
            full.startswith(context.rstrip()) or not prompt.startswith(context),
            f"message {index}: its context {context!r} is not in the full rendering",
        )

    def _check_stop(self, example: Example, span: Span, full: str, kinds: set[str]) -> None:
        """Require the stop that the conversation shows, or else the one that history shows."""
        index = span.message_index
        completion = example.text[span.start : span.end]
        if "stop_appended" in kinds:
            written = full[full.rfind(completion.removesuffix(span.stop or "")) :]
            shown = self._next_header_stop(full, written)
            require(not shown, f"message {index}: a stop is appended, but {shown!r} follows")
        elif self.appends_stops and not any(stop in completion for stop in self.stops):
            try:
                _, stop = self._stopped_as_in_history(index, full)
            except Wrong:
                return
            raise Wrong(f"message {index}: history ends it with {stop!r}")

    def _check_calls(self, completion: str, index: int) -> None:
        """Require names and arguments of tool calls, as far as JSON does not escape them."""
        calls = self.messages[index].get("tool_calls") or []
        functions = [call.get("function", call) for call in calls]
        words = [str(function["name"]) for function in functions]
        for function in functions:
            words += re.findall(r"[^\W_]+", strings_in(function.get("arguments")))
        lost = [word for word in words if word.isascii() and word not in completion]
        require(not lost, f"message {index}: {lost} of its tool calls is not supervised")

    def _check_straddle(self, example: Example, span: Span, kinds: set[str]) -> None:
        if "boundary_straddle" not in kinds or self.boundary != "inference":
            return
        prompt, text = example.text[: span.start], example.text[: span.end]
        joint = self.ids(text)
        ids = example.input_ids[: span.token_end].tolist()
        require(joint != ids, f"message {span.message_index}: no token spans the border {prompt!r}")


def _weight(message: Message) -> float:
    weight = message.get("weight")
    return float(weight) if weight is not None else float(message.get("train") is not False)
