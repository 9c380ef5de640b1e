"""A conversation that is too long -> its latest exchanges, encoded anew.

In: a row with messages and those of its examples that is too long. Out: an example of the shortened
conversation, which is exactly what inference would have had of that; messages keep the numbers of
the row. An exchange is a user message and all up to the next one, so that tool calls stay with
their results; a system or developer message at the beginning is kept::

    system   user  assistant   user  assistant  tool  assistant   user  assistant
    kept     exchange 0        exchange 1                         exchange 2
             dropped first     then this one                      never

The fewest exchanges are dropped with which it fits. Where a row became several examples, each that
is too long is shortened on its own, so every turn keeps the longest context that there is room for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lossmask.conversation import Conversation, read_conversation
from lossmask.errors import LossmaskError
from lossmask.example import Example, Finding
from lossmask.outcome import Outcome, Rejection
from lossmask.pipeline import encode_trained
from lossmask.renderers import for_conversation
from lossmask.setting import Setting
from lossmask.tokenizing import Ids
from lossmask.trained_messages import trained_messages

_LEADING = ("system", "developer")


def drop_turns(
    row: Mapping[str, Any],
    examples: Sequence[Example],
    number: int,
    before: Sequence[Ids],
    setting: Setting,
) -> Outcome:
    """Shorten the conversation that one example shows until the example fits.

    Args:
        row: Has ``messages``.
        examples: What the row became.
        number: The example that is too long.
        before: Ids of the examples before it, as they are kept.
        setting: Template, tokenizer, policy, fit.

    Returns:
        An example, seldom more, that trains what this one trains of the exchanges that are left;
        or why there is none.
    """
    example = examples[number]
    if number and not example.spans:
        return Outcome(rejection=_too_long(example, setting, "and it trains no reply", None))
    shortening = _shortening(row, examples, number, before, setting)
    try:
        guess = _guess(shortening, example)
        dropped = fewest(shortening.fits_without, guess=guess, most=shortening.most)
    except LossmaskError as error:
        why = f"and without its oldest exchanges: {error.detail}"
        return Outcome(
            rejection=_too_long(example, setting, why, error.message_index, reason=error.reason)
        )
    if dropped is None:
        why = (
            "and it is too long even when all exchanges before that of its last trained message "
            "are dropped: allow more, or cut tokens with truncation keep_start or keep_end"
        )
        return Outcome(rejection=_too_long(example, setting, why, shortening.last))
    shorter = shortening.without(dropped)
    cut = _finding(shortening, dropped, len(example) - sum(map(len, shorter)))
    kept = [_findings_kept(each, shortening) for each in shorter]
    told = [each for each in example.findings if shortening.is_elsewhere(each, dropped)]
    first = replace(kept[0], findings=(*kept[0].findings, *told, cut))
    return Outcome((first, *kept[1:]))


@dataclass(frozen=True, slots=True)
class _Shortening:
    """A conversation and what it is without its first exchanges.

    Attributes:
        conversation: As far as the example shows it.
        trained: Its messages that the example trains, with their weights.
        last: The last of which something is in the loss.
        elsewhere: Messages that other examples train.
        starts: Where each exchange begins; what is before the first is kept.
        is_first: Whether the example is the first one of its row, which carries what was found
            about messages that none trains.
        seen: Ids of the examples before it.
        setting: Template, tokenizer, policy, fit.
        encoded: Exchanges dropped -> examples.
    """

    conversation: Conversation
    trained: dict[int, float]
    last: int
    elsewhere: frozenset[int]
    starts: tuple[int, ...]
    is_first: bool
    seen: tuple[Ids, ...]
    setting: Setting
    encoded: dict[int, list[Example]] = field(default_factory=dict)

    def without(self, dropped: int) -> list[Example]:
        """Encode the conversation without its first exchanges.

        Raises:
            LossmaskError: That cannot be encoded; names the message of the row.
        """
        if dropped not in self.encoded:
            kept = [*range(self.starts[0]), *range(self.starts[dropped], self._count)]
            number_of = {index: number for number, index in enumerate(kept)}
            trained = {number_of[i]: w for i, w in self.trained.items() if i in number_of}
            part, setting = _part(self.conversation, kept), for_conversation(self.setting)
            try:
                encoded = encode_trained(part, trained, setting, self.seen)
            except LossmaskError as error:
                index = None if error.message_index is None else kept[error.message_index]
                raise LossmaskError(
                    error.detail, reason=error.reason, message_index=index
                ) from error
            self.encoded[dropped] = [_renumbered(example, kept) for example in encoded]
        return self.encoded[dropped]

    def fits_without(self, dropped: int) -> bool:
        """Return whether all that is left without the first exchanges fits."""
        return all(self.setting.fit.admits(len(each)) for each in self.without(dropped))

    def is_elsewhere(self, finding: Finding, dropped: int) -> bool:
        """Return whether a finding of the first example is about what only others still show."""
        index, gone = finding.message_index, range(self.starts[0], self.starts[dropped])
        is_gone = index in gone and index not in self.trained
        return index in self.elsewhere or (bool(self.elsewhere) and is_gone)

    @property
    def most(self) -> int:
        """How many exchanges can be dropped: none from that of the last trained message on."""
        return bisect_right(self.starts, self.last) - 1

    @property
    def _count(self) -> int:
        return len(self.conversation.messages)


def _shortening(
    row: Mapping[str, Any],
    examples: Sequence[Example],
    number: int,
    before: Sequence[Ids],
    setting: Setting,
) -> _Shortening:
    whole = read_conversation(row["messages"], row.get("tools"), row.get("weight"))
    trained = trained_messages(whole, setting.policy)
    by_example = [{span.message_index for span in example.spans} for example in examples]
    own = by_example[number]
    elsewhere = frozenset().union(*by_example) - own
    if number:  # it shows the conversation up to its own last turn
        trained = {index: weight for index, weight in trained.items() if index in own}
        whole = _part(whole, range(max(own) + 1))
    else:
        trained = {i: weight for i, weight in trained.items() if i not in elsewhere}
    return _Shortening(
        whole,
        trained,
        max(own or trained),  # only prompts count where there is none of its own
        elsewhere,
        exchanges([message["role"] for message in whole.messages]),
        not number,
        (*before, np.empty(0, np.int32)) if number else (),  # not empty: it is not the first one
        setting,
    )


def exchanges(roles: Sequence[str]) -> tuple[int, ...]:
    """Return where each exchange begins; what is before the first one is no part of any.

    >>> exchanges(["system", "user", "assistant", "tool", "assistant", "user", "user"])
    (1, 5)
    """
    lead = next((at for at, role in enumerate(roles) if role not in _LEADING), len(roles))
    asked = [
        at
        for at in range(lead + 1, len(roles))
        if roles[at] == "user" and roles[at - 1] != "user"  # several in a row are one question
    ]
    return (lead, *asked)


def _guess(shortening: _Shortening, example: Example) -> int:
    """Return how many exchanges probably have to be dropped, by the tokens that each has now."""
    reached = np.maximum.accumulate(example.message_index)
    firsts = np.searchsorted(reached, shortening.starts)
    lengths = len(example) - (firsts - firsts[0])
    fitting = np.flatnonzero([shortening.setting.fit.admits(int(n)) for n in lengths])
    return int(fitting[0]) if fitting.size else shortening.most


def fewest(fits_without: Callable[[int], bool], *, guess: int, most: int) -> int | None:
    """Return how many exchanges have to be dropped: as many fit, one fewer does not.

    Args:
        fits_without: Asked seldom: twice if the guess is right, else as a bisection does.
        guess: How many it probably is.
        most: How many can be dropped; without dropping any, it does not fit.

    Returns:
        From 1 to ``most``, or None if that many are not enough.
    """
    does_not, does = 0, most + 1
    near = (guess, guess - 1, guess + 1)
    while does - does_not > 1:
        tried = next((k for k in near if does_not < k < does), (does_not + does) // 2)
        if fits_without(tried):
            does = tried
        else:
            does_not = tried
    return does if does <= most else None


def _part(conversation: Conversation, kept: Sequence[int]) -> Conversation:
    """Return some of the messages of a conversation, each with what the data says of it."""
    number_of = {index: number for number, index in enumerate(kept)}
    ranges = {number_of[i]: each for i, each in conversation.ranges.items() if i in number_of}
    prefills = {number_of[i]: each for i, each in conversation.prefills.items() if i in number_of}
    return replace(
        conversation,
        messages=tuple(conversation.messages[index] for index in kept),
        weights=tuple(conversation.weights[index] for index in kept),
        ranges=ranges,
        prefills=prefills,
        numbers=tuple(conversation.numbers[i] if conversation.numbers else i for i in kept),
    )


def _renumbered(example: Example, kept: Sequence[int]) -> Example:
    """Return an example of some messages of a row, with the numbers they have in the row."""
    of_row = np.array([*kept, -1], np.int32)  # -1 stays: it takes the last
    return replace(
        example,
        message_index=of_row[example.message_index],
        spans=tuple(replace(s, message_index=kept[s.message_index]) for s in example.spans),
        findings=tuple(
            replace(f, message_index=int(of_row[f.message_index])) for f in example.findings
        ),
    )


def _findings_kept(example: Example, shortening: _Shortening) -> Example:
    """Leave out what other examples say themselves."""
    return replace(
        example,
        findings=tuple(
            each
            for each in example.findings
            if (
                each.message_index not in shortening.elsewhere
                if shortening.is_first
                else each.message_index in shortening.trained
            )
        ),
    )


def _finding(shortening: _Shortening, dropped: int, tokens: int) -> Finding:
    first, last = shortening.starts[0], shortening.starts[dropped] - 1
    return Finding(
        "turns_dropped",
        f"the oldest exchanges are dropped, {dropped} of {len(shortening.starts)} (messages "
        f"{first} to {last}, {tokens} tokens): max_length {shortening.setting.fit.max_length}",
        first,
    )


def _too_long(
    example: Example, setting: Setting, why: str, index: int | None, *, reason: str = "too_long"
) -> Rejection:
    lengths = f"an example has {len(example)} tokens, max_length is {setting.fit.max_length}"
    return Rejection(reason, f"{lengths}, {why}", index)
