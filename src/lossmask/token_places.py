"""What each token of an example is to its conversation: an answer, its stop token, a header.

In: an example, and the messages where they are known. Out: one name per token. Differences of masks
are counted by these names, so that they can be told in a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lossmask.example import Example

__all__ = [
    "ANSWER",
    "ANSWER_TEMPLATE",
    "ELSEWHERE",
    "FURTHER",
    "STOP",
    "TEMPLATE",
    "UNKNOWN",
    "places_of",
]

STOP = "stop token"
"""The token at which inference ends a turn, at the end of a completion."""
ANSWER = "answer"
"""What a message wrote inside of a completion."""
ANSWER_TEMPLATE = "template in answer"
"""What the template wrote inside of a completion: the model has to generate it, too."""
TEMPLATE = "template"
"""What the template wrote outside of completions, such as headers: nobody generates it."""
UNKNOWN = "other text"
"""Text that is told by no conversation."""
FURTHER = "further example"
"""Any token of an example that the other side does not make."""
ELSEWHERE = " of other text"
"""Behind one of the others: in text that the other side does not have."""


def places_of(example: Example, messages: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Name what each token of an example is.

    Args:
        example: The example, n tokens.
        messages: The conversation, for the roles; None where it is not known.

    Returns:
        n names: those above, or ``user message`` and so on for what messages wrote outside of
        completions.

    Example:
        >>> from lossmask import Encoder
        >>> from lossmask.embedded import DEMO_MODEL
        >>> messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
        >>> [example] = Encoder.from_pretrained(DEMO_MODEL).encode(messages)
        >>> list(dict.fromkeys(places_of(example, messages)))
        ['template', 'user message', 'answer', 'stop token']
    """
    owners = example.message_index.tolist()
    names = {owner: TEMPLATE if owner < 0 else _name_of(owner, messages) for owner in set(owners)}
    places = [names[owner] for owner in owners]
    for span in example.spans:
        for token in range(span.token_start, span.token_end):
            places[token] = ANSWER_TEMPLATE if owners[token] < 0 else ANSWER
        if span.stop is not None:
            places[span.token_end - 1] = STOP
    return places


def _name_of(index: int, messages: Sequence[Mapping[str, Any]] | None) -> str:
    if messages is None or index >= len(messages):
        return "message"
    return f"{messages[index]['role']} message"
