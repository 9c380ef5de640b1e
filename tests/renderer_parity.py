"""The oracle for renderers of ids: is an example what inference would have?

Told by the renderer's own library alone, through two functions that return ids: nothing here calls
lossmask's rendering, perturbation or alignment. ``check`` encodes one conversation and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossmask import Encoder, Example, LossmaskError, Span
from tests.parity import Case, Wrong, require
from tests.scenarios import Message

Ids = list[int]
LEFT_OUT = {"no_prompt", "nothing_generated", "content_dropped", "arguments_torn"}


@dataclass(frozen=True)
class Library:
    """A renderer's library, asked directly.

    Attributes:
        prompt: Messages and tools -> the ids of the prompt; raises what the library raises.
        full: Messages that end with an answer -> their ids in training.
        spell: Ids -> their bytes.
        stop_ids: Where inference stops.
    """

    prompt: Callable[[list[Message], Any], Ids]
    full: Callable[[list[Message], Any], Ids]
    spell: Callable[[Ids], bytes]
    stop_ids: Collection[int]


def check(
    encoder: Encoder, library: Library, messages: list[Message], tools: list[Any] | None = None
) -> Case:
    """Encode a conversation under the default policy and hold it against inference."""
    trained = [
        index
        for index, message in enumerate(messages)
        if message["role"] == "assistant"
        and message.get("train", True)
        and message.get("weight", 1)
        and message.get("loss", True)
    ]
    plain = [{k: v for k, v in m.items() if k not in ("train", "weight", "loss")} for m in messages]
    try:
        examples = encoder.encode(messages, tools)
    except LossmaskError as error:
        return Case("refused", f"{error.reason}: {error}")
    try:
        _check_examples(examples, library, plain, tools, trained)
    except Wrong as error:
        return Case("wrong", str(error))
    kinds = sorted({finding.kind for example in examples for finding in example.findings})
    return Case("exact", findings=tuple(kinds))


def _check_examples(
    examples: Sequence[Example],
    library: Library,
    messages: list[Message],
    tools: list[Any] | None,
    trained: list[int],
) -> None:
    findings = [finding for example in examples for finding in example.findings]
    left_out = {f.message_index for f in findings if f.kind in LEFT_OUT and f.message_index}
    spans = [span.message_index for example in examples for span in example.spans]
    require(sorted([*spans, *left_out]) == trained, f"trained turns {spans}, not {trained}")
    for index in left_out:
        require(not _can_prompt(library, messages[:index], tools), f"message {index} was left out")
    for example in examples:
        _check_arrays(example, library)
        for span in example.spans:
            _check_span(example, span, library, messages, tools)


def _can_prompt(library: Library, messages: list[Message], tools: list[Any] | None) -> bool:
    try:
        return bool(messages) and bool(library.prompt(messages, tools))
    except Exception:  # whatever the library raises
        return False


def _check_arrays(example: Example, library: Library) -> None:
    """Require mask, labels, text and offsets to be those of the ids and spans."""
    ids = example.input_ids.tolist()
    expected = np.zeros(len(example), bool)
    for span in example.spans:
        expected[span.token_start : span.token_end] = True
    require(np.array_equal(example.loss_mask, expected), "the mask is not the spans")
    require(
        np.array_equal(example.labels, np.where(expected, example.input_ids, -100)), "the labels"
    )
    require(type(example.text) is str, "the text is no plain string")
    require(library.spell(ids) == example.text.encode(), "the ids do not spell the text")
    at = 0
    for token_id, (start, end) in zip(ids, example.offsets.tolist(), strict=True):
        width = len(library.spell([token_id]))
        before, until = len(example.text[:start].encode()), len(example.text[:end].encode())
        require(before <= at < at + width <= until, f"token at {start} has a wrong interval")
        is_whole = before == at and until == at + width
        require(is_whole or end == start + 1 or _is_ragged(example.text[start:end]), "interval")
        at += width


def _is_ragged(text: str) -> bool:
    """Return whether a token may begin or end inside a character of this text."""
    return any(len(character.encode()) > 1 for character in (text[0], text[-1]))


def _check_span(
    example: Example,
    span: Span,
    library: Library,
    messages: list[Message],
    tools: list[Any] | None,
) -> None:
    """Require the ids of the prompt, then those that the full ids have more, up to a stop."""
    index, ids = span.message_index, example.input_ids.tolist()
    prompt = library.prompt(messages[:index], tools)
    full = library.full(messages[: index + 1], tools)
    generated = ids[span.token_start : span.token_end]
    require(
        ids[: span.token_start] == prompt,
        f"message {index}: the ids before the supervised run are not those of the prompt",
    )
    require(example.text[: span.start].encode() == library.spell(prompt), "the prompt's text")
    require(
        example.text[span.start : span.end].encode() == library.spell(generated), "the span's text"
    )
    if full[: len(prompt)] == prompt:
        require(
            generated == _until_stop(full[len(prompt) :], library.stop_ids),
            f"message {index}: supervised {library.spell(generated)!r}, inference generates "
            f"{library.spell(full[len(prompt) :])!r}",
        )
        return
    kinds = {finding.kind for finding in example.findings if finding.message_index == index}
    said = kinds & {"context_differs", "boundary_straddle"}
    require(bool(said), f"message {index}: the full ids do not begin with the prompt's, unsaid")
    ends = [k for k in range(len(full)) if full[k : k + len(generated)] == generated]
    require(bool(ends), f"message {index}: {library.spell(generated)!r} is not in the full ids")


def _until_stop(ids: Ids, stop_ids: Collection[int]) -> Ids:
    end = next((k + 1 for k, token_id in enumerate(ids) if token_id in stop_ids), len(ids))
    return ids[:end]
