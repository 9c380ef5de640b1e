"""Control tokens that a message holds as text: which tokens those are, and when they are refused.

``<|im_end|>`` typed by a user is text, but the tokenizer makes of it the token that ends a turn.
The origins of a rendering tell it from the one that the template writes.

In: turns, in text and in ids. Out: an error that names the message and the token, or nothing.
``escaping`` is about encoding such text as the characters it is.
"""

from __future__ import annotations

import functools
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from lossmask.completions import Turn
from lossmask.conversation import Conversation
from lossmask.errors import ConversationError, ParityError
from lossmask.leaf_places import LeafPlaces
from lossmask.protocols import AnyTokenizer
from lossmask.setting import Setting
from lossmask.stops import Stops, any_of
from lossmask.tokenizing import Ids, TextTokenizer, Tokens
from lossmask.traced_text import OF_TOOLS, Origins
from lossmask.turn_tokens import TokenizedTurn


class Occurrence(NamedTuple):
    """A control token in a text: half-open character interval, without swallowed white space."""

    start: int
    end: int
    token_id: int


@dataclass(frozen=True, slots=True, eq=False)
class ControlTokens:
    """The tokens that stand for more than their text.

    Those that the tokenizer flags as special, and the stop tokens among its added tokens. Other
    added tokens (``<think>``, ``<tool_call>`` of Qwen3) are text that a message may well hold.

    Attributes:
        texts: Id -> text.
        ids: int32 (n,), the keys of ``texts``.
        unknown_id: The token for characters that the vocabulary lacks; None if there is none, or if
            it is a stop token too.
    """

    texts: dict[int, str]
    ids: Ids
    unknown_id: int | None

    def occurrences(self, text: str, tokens: Tokens, first: int = 0) -> list[Occurrence]:
        """Return the control tokens among the tokens of a text from one on, ascending."""
        found = []
        for position, token_id in enumerate(tokens.ids[first:].tolist(), start=first):
            if token_id not in self.texts:
                continue
            start, end = tokens.offsets[position].tolist()
            name = self.texts[token_id]
            at = text.find(name, start, end)
            if at >= 0:
                found.append(Occurrence(at, at + len(name), token_id))
            elif token_id != self.unknown_id:  # written otherwise: the tokenizer normalises text
                found.append(Occurrence(*_without_space(text, start, end), token_id))
        return found


def _without_space(text: str, start: int, end: int) -> tuple[int, int]:
    """Return ``text[start:end]`` without the white space that its token swallowed."""
    piece = text[start:end]
    bare = piece.strip() or piece
    start += piece.index(bare)
    return start, start + len(bare)


@functools.lru_cache(maxsize=8)
def control_tokens_of(tokenizer: AnyTokenizer, stops: Stops) -> ControlTokens:
    """Return the control tokens of a tokenizer whose model stops at ``stops``."""
    special = set(tokenizer.control_tokens())
    texts = {
        token_id: str(token)
        for token_id, token in tokenizer.tokenizer.added_tokens_decoder.items()
        if str(token) in special or token_id in stops.ids
    }
    unknown = tokenizer.tokenizer.unk_token_id
    return ControlTokens(
        texts, np.asarray(list(texts), np.int32), None if unknown in stops.ids else unknown
    )


def refuse_control_tokens(
    turns: Sequence[Turn], conversation: Conversation, setting: Setting
) -> None:
    """Refuse control tokens that the template did not write, as far as the policy says.

    Args:
        turns: With the texts that will be tokenized.
        conversation: What they were made of.
        setting: Policy, tokenizer, stops.

    Raises:
        ConversationError: Names the message, the field and the token.
    """
    policy = setting.policy.control_tokens
    if policy == "allow":
        return
    texts = tuple(control_tokens_of(setting.tokenizer, setting.stops).texts.values())
    pattern = any_of(texts)
    is_rendered = not isinstance(setting.tokenizer, TextTokenizer)
    _refuse_untraced(conversation, pattern, with_tools=policy == "error" or is_rendered)
    if is_rendered:
        return  # where text is not tokenized, only the ids tell: see check_control_ids
    longest = max(map(len, texts), default=0)
    scans: dict[LeafPlaces, ControlScan] = {}
    for turn in reversed(turns):
        if policy == "error" and (
            turn.places not in scans or len(scans[turn.places].text) < len(turn.text)
        ):
            scans[turn.places] = ControlScan(turn.text, turn.origins, pattern, longest)
    for turn in turns:
        if policy == "escape":
            _refuse_of_both(turn, pattern)
            continue
        for start, end in scans[turn.places].written_in(turn.text):
            _refuse_written(turn, start, end)


class ControlScan:
    """The control tokens in a text, and which of them a message wrote a part of.

    What is found in a beginning of the text is told from that, but near its end, where a token may
    have been cut.
    """

    def __init__(self, text: str, origins: Origins, pattern: re.Pattern[str], longest: int) -> None:
        self.text = text
        self._pattern = pattern
        self._spans = [found.span() for found in pattern.finditer(text)]
        self._longest = longest
        spans = np.array(self._spans, np.int64).reshape(-1, 2)
        count = np.append(0, np.cumsum((origins >= 0) | (origins == OF_TOOLS)))
        is_written = count[spans[:, 1]] > count[spans[:, 0]]
        self._written = [self._spans[number] for number in np.flatnonzero(is_written).tolist()]

    def written_in(self, beginning: str) -> Iterator[tuple[int, int]]:
        """Yield the tokens in a beginning of the text that a message may have written."""
        if len(beginning) == len(self.text):
            yield from self._written
            return
        last = len(beginning) - self._longest
        yield from takewhile(lambda span: span[0] <= last, self._written)
        before = bisect_right(self._spans, (last, len(self.text)))
        start = max(self._spans[before - 1][1] if before else 0, last + 1, 0)
        yield from (found.span() for found in self._pattern.finditer(beginning, start))


def _refuse_untraced(
    conversation: Conversation, pattern: re.Pattern[str], *, with_tools: bool
) -> None:
    """Refuse control tokens in what is rendered without origins, so that none can be escaped."""
    tools = conversation.tools
    first_with: dict[str, int | None] = {}
    for number, message in enumerate(conversation.messages):
        for key in message:
            first_with.setdefault(str(key), number)
    untraced = [(index, "a key", key) for key, index in first_with.items()]
    if tools and with_tools:
        untraced.append((None, "'tools'", json.dumps(tools, ensure_ascii=False)))
    for index, place, text in untraced:
        found = pattern.search(text)
        if found is not None:
            raise ConversationError(
                f"{place} contains the control token {found.group()!r}: the model would read it "
                "as one, and it cannot be escaped there; remove it, or say "
                'control_tokens="allow"',
                reason="control_token_in_content",
                message_index=index,
            )


def _refuse_of_both(turn: Turn, pattern: re.Pattern[str]) -> None:
    """Refuse an answer that begins with a control token of its own prompt.

    It is the message's text, to be escaped, and the generation prompt's, not to be.
    """
    begins = turn.places.begin_of_message(turn.message_index, turn.prompt_end)
    if begins == turn.prompt_end:
        return
    own = turn.rendering.message_index(0, turn.prompt_end) == turn.message_index
    for found in pattern.finditer(turn.text, 0, turn.prompt_end):
        if own[found.start() : found.end()].any():
            raise ConversationError(
                f"the message begins with the control token {found.group()!r}, which is in its "
                "prompt, too: whether to escape it cannot be told; remove it",
                reason="control_token_in_content",
                message_index=turn.message_index,
            )


def check_control_ids(turns: Sequence[TokenizedTurn], setting: Setting) -> None:
    """Check who wrote the stop tokens and control tokens among the ids.

    Raises:
        ConversationError: A message wrote a control token, and the policy does not allow it.
        ParityError: An answer holds a stop token, at which inference would end it.
    """
    control = control_tokens_of(setting.tokenizer, setting.stops)
    last, is_allowed = turns[-1], setting.policy.control_tokens == "allow"
    in_last = [] if is_allowed else control.occurrences(last.turn.text, last.tokens)
    is_harmless = not any(_is_written(last.turn, start, end) for start, end, _ in in_last)
    for turn in turns:
        _refuse_stop_inside(turn, setting.stops)
        if is_allowed:
            continue
        first = _as_in(last, turn) if is_harmless else 0
        for start, end, _ in control.occurrences(turn.turn.text, turn.tokens, first):
            _refuse_written(turn.turn, start, end)


def _as_in(last: TokenizedTurn, turn: TokenizedTurn) -> int:
    """Return how many tokens at the beginning two turns share, written by the same."""
    shared = turn.tokens.shared
    if turn.tokens.base is not last.tokens or not shared:
        return 0
    if turn.turn.places is last.turn.places:
        return shared
    end = int(last.tokens.offsets[:shared, 1].max())
    return shared if np.array_equal(turn.turn.origins[:end], last.turn.origins[:end]) else 0


def _is_written(turn: Turn, start: int, end: int) -> bool:
    """Return whether a message or the tools wrote any of some characters."""
    own = turn.origins[start:end]
    return bool(((own >= 0) | (own == OF_TOOLS)).any())


def _refuse_written(turn: Turn, start: int, end: int) -> None:
    """Refuse a control token of which a message wrote a part."""
    own = turn.origins[start:end]
    written = np.flatnonzero((own >= 0) | (own == OF_TOOLS))
    if not written.size:
        return
    leaf, offset = turn.rendering.origin(start + int(written[0]))
    place = "'tools'" if leaf is None else repr(leaf.path)
    raise ConversationError(
        f"{place} contains the control token {turn.text[start:end]!r} at character "
        f"{offset}: the model would read it as one; remove it, or say "
        'control_tokens="escape" or "allow"',
        reason="control_token_in_content",
        message_index=None if leaf is None else leaf.message_index,
    )


def _refuse_stop_inside(turn: TokenizedTurn, stops: Stops) -> None:
    """Refuse an answer that holds a stop token as its own text: the rest is never generated."""
    run = slice(turn.prompt_length, turn.completion_end)
    offsets = turn.tokens.offsets[run]
    for position, token_id in enumerate(turn.tokens.ids[run].tolist()):
        if token_id not in stops.ids:
            continue
        start, end = offsets[position].tolist()
        start, end = _without_space(turn.turn.text, start, end)
        if (turn.turn.origins[start:end] >= 0).any():
            raise ParityError(
                f"the message itself holds the stop token {turn.turn.text[start:end]!r}, at "
                f"{turn.turn.text[start : end + 20]!r}: inference would stop there and never "
                "generate the rest",
                reason="stop_inside",
                message_index=turn.turn.message_index,
            )
