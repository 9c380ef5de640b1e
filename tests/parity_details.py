"""What the oracle asks besides: weights, who wrote a token, what a turn begins and ends with.

``check_closely`` is ``tests.parity.check`` and these. Told by transformers, the tokenizer and the
data alone, as there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from lossmask import Encoder, Example, LossmaskError, Span
from tests.parity import Case, Oracle, Wrong, strings_in
from tests.scenarios import Message

_TAG = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z_]{1,40}\]")
_WORD = re.compile(r"\b[QASRT]\d+\b")


def check_closely(
    encoder: Encoder, messages: list[Message], tools: list[Any] | None = None
) -> Case:
    """Encode a conversation and hold it against inference, details included."""
    oracle = CloserOracle(encoder, messages, tools)
    try:
        whole = oracle.render(len(messages), prompt=False)
    except Exception as error:  # whatever the template raises: there is nothing to compare
        return Case("raises", f"{type(error).__name__}: {error}")
    try:
        examples = encoder.encode(messages, tools)
    except LossmaskError as error:
        status = "no completion" if oracle.finds_no_completion(error) else "refused"
        return Case(status, f"{error.reason}: {error}")
    try:
        oracle.check_examples(examples, whole)
        for example in examples:
            oracle.check_details(example)
    except Wrong as error:
        return Case("wrong", str(error))
    kinds = sorted({finding.kind for example in examples for finding in example.findings})
    return Case("exact", findings=tuple(kinds))


class CloserOracle(Oracle):
    """An oracle that asks more, and is not misled by escapes, short texts and lone prefills."""

    def __init__(self, encoder: Encoder, messages: list[Message], tools: list[Any] | None) -> None:
        super().__init__(encoder, messages, tools)
        self.weights = [_weight(message) for message in messages]
        self.appends_stops = encoder.policy.append_stop != "never"

    def _generation_prompt(self, index: int, prompt: str) -> str:
        """Return what the generation prompt adds, nothing where a prefill stands without one."""
        try:
            return super()._generation_prompt(index, prompt)
        except Exception:  # whatever the template raises: it shows no context by itself
            _require(index in self.prefills, f"message {index}: no context without prompt")
            return ""

    def _unseen(self, index: int, full: str) -> list[str]:
        """Return the strings of a message without which the rendering is the same."""
        unseen = []
        for text, changed in _other_texts(self.messages[index]):
            if not text.strip():
                continue
            try:
                alike = self._apply([*self.messages[:index], changed]) == full
            except Exception:  # whatever the template raises: it looks at the text
                continue
            if alike:
                unseen.append(text)
        return unseen

    def _check_owner(self, completion: str, index: int) -> None:
        """Require the words of the message, as far as no escape is joined to them."""
        words = set(_WORD.findall(completion))
        own = set(_WORD.findall(strings_in(self.messages[index])))
        _require(words <= own, f"message {index}: supervised text holds {words - own}")
        content = strings_in(self.messages[index].get("content"))
        content = content.removeprefix(self.prefills.get(index, ""))
        answer = re.split(r"</think>|\[/THINK\]", content)[-1]
        missing = [word for word in re.findall(r"[^\W_]+", answer) if word not in completion]
        _require(not missing, f"message {index}: {missing} is not supervised")

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


def _other_texts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each string inside a value, and the value with another string in its place."""
    if isinstance(value, str):
        yield value, "Z9 other words"
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = [item for item in value.items() if item[0] not in ("role", "type")]
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        for text, changed in _other_texts(item):
            copied: Any = dict(value) if isinstance(value, dict) else list(value)
            copied[key] = changed
            yield text, copied


def _require(holds: bool, detail: str) -> None:
    if not holds:
        raise Wrong(detail)
