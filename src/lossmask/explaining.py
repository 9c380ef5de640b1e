r"""Why a token is in the loss, or is not.

In: an encoder, a row of data, tokens of one of its examples. Out: an :class:`Explanation` each::

    <|im_start|>assistant\n  Hello        <|im_end|>   \n
    in the prompt of         the answer   its stop     behind the stop: the model never writes it
    message 1

The rule that decided is one of ``token_rules``, who made the token tells ``attribution``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lossmask.attribution import Attributed, Author, Source, attributed
from lossmask.encoder import Encoder
from lossmask.errors import InputError
from lossmask.example import Example
from lossmask.policy import PARTS
from lossmask.rendered_tokens import RenderedTokens
from lossmask.spelling import NOTHING_SPELLS, spellings_to_try
from lossmask.token_rules import TokenRules
from lossmask.tokenizing import TextTokenizer


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one token counts as much as it does.

    Attributes:
        example: Number of the example among those of the row, from 1.
        token: Index in the example.
        id: Of the vocabulary.
        text: The characters it stands for, some of which other tokens may share.
        start: The first of them in the example's text.
        end: Behind the last of them.
        spelled: The bytes that it spells, None where they are not known.
        message_index: The message that wrote it, -1 = the template.
        role: Of that message, None for the template.
        field: Where in the message it stands, None for the template.
        field_start: Its first character there, None where that is unknown.
        part: What it is part of, an entry of ``policy.PARTS``; None in rows of text or ids.
        is_trained: Whether it is in the loss.
        weight: Its loss weight.
        rule: What decided.
        reason: The same in one sentence.
        template_line: Line of the chat template that wrote it, None where that is unknown.
        template_source: That line.
    """

    example: int
    token: int
    id: int
    text: str
    start: int
    end: int
    spelled: bytes | None
    message_index: int
    role: str | None
    field: str | None
    field_start: int | None
    part: str | None
    is_trained: bool
    weight: float
    rule: str
    reason: str
    template_line: int | None
    template_source: str | None

    def to_mapping(self) -> dict[str, Any]:
        """Return it as plain data; the bytes in hexadecimal."""
        spelled = None if self.spelled is None else self.spelled.hex()
        return {**asdict(self), "spelled": spelled}


@dataclass(frozen=True, slots=True)
class Explained:
    """A row whose tokens can be asked about.

    Attributes:
        encoder: What encoded it.
        row: Its examples, with what they were built from.
    """

    encoder: Encoder
    row: Attributed

    @classmethod
    def of(cls, encoder: Encoder, row: Mapping[str, Any]) -> Explained:
        """Encode a row.

        Raises:
            InputError: It is rejected.
        """
        found = attributed(encoder, row)
        if (rejection := found.outcome.rejection) is not None:
            raise InputError(
                f"the row is rejected, so it has no tokens: {rejection.detail}",
                reason=rejection.reason,
                message_index=rejection.message_index,
            )
        return cls(encoder, found)

    def find(self, text: str, *, example: int | None = None) -> list[tuple[int, int]]:
        """Return the tokens that stand for any character of a text, wherever it occurs.

        Args:
            text: What to look for.
            example: In which example only, from 0; None: in all.

        Returns:
            Example, from 0, and token, ascending; occurrences do not overlap.

        Raises:
            InputError: It does not occur.
        """
        examples = self.row.outcome.examples
        found = dict.fromkeys(
            (number, token)
            for number, each in enumerate(examples)
            if example in (None, number)
            for start in _occurrences(each.text, text)
            for token in _tokens_of(each, start, start + len(text))
        )
        if not found:
            where = f"the row's {len(examples)} example(s)"
            where = where if example is None else f"example {example + 1}"
            raise InputError(
                f"{text!r} does not occur in {where} as the template renders it; `lossmask show` "
                "draws what does",
                reason="text_not_found",
            )
        return list(found)

    def explain(self, token: int, *, example: int = 0) -> Explanation:
        """Explain one token.

        Args:
            token: Index in the example; negative ones count from its end.
            example: Which of the row's examples, from 0.

        Raises:
            InputError: There is no such example or token.
        """
        examples = self.row.outcome.examples
        if not 0 <= example < len(examples):
            raise InputError(
                f"there is no example {example + 1}: the row became {len(examples)}",
                reason="no_such_example",
            )
        each, source = examples[example], self.row.sources[example]
        if not -len(each) <= token < len(each):
            raise InputError(
                f"there is no token {token}: the {len(each)} tokens of example {example + 1} are "
                f"numbered from 0 to {len(each) - 1}",
                reason="no_such_token",
            )
        token %= len(each)
        rule = TokenRules(self.encoder, self.row, example).rule(token)
        weight = float(each.loss_weights[token])
        start, end = (int(at) for at in each.offsets[token])
        author = _author(self.row.authors[example], each, token)
        message = int(each.message_index[token])
        line = author.template_line if author else None
        return Explanation(
            example + 1,
            token,
            int(each.input_ids[token]),
            each.text[start:end],
            start,
            end,
            bytes_of_token(self.encoder, int(each.input_ids[token])),
            message,
            self.role_of(message),
            author.field if author else None,
            _field_start(author, max(start, author.start)) if author else None,
            None if each.parts is None else PARTS[int(each.parts[token])],
            weight != 0,
            weight,
            rule.name,
            rule.reason,
            line,
            None if line is None or source.group is None else self._source_line(line, source),
        )

    def role_of(self, message: int) -> str | None:
        """Return the role of a message of the row, None where there is none."""
        messages = self.row.normal.get("messages")
        return str(messages[message]["role"]) if messages and message >= 0 else None

    def _source_line(self, line: int, of: Source) -> str:
        tools = None if of.weigher is None else of.weigher.conversation.tools
        source = self.encoder.chat_template(tools)
        return source.replace("\r\n", "\n").replace("\r", "\n").split("\n")[line - 1]


def explain(
    encoder: Encoder, row: Mapping[str, Any], token: int, *, example: int = 0
) -> Explanation:
    """Explain why one token of a row is in the loss, or is not.

    Args:
        encoder: The encoder.
        row: In any layout that the encoder reads.
        token: Index in the example; negative ones count from its end.
        example: Which of the row's examples, from 0.

    Raises:
        InputError: The row is rejected, or there is no such token.

    Example:
        >>> from lossmask.embedded import DEMO_MODEL
        >>> encoder = Encoder.from_pretrained(DEMO_MODEL)
        >>> row = {"messages": [{"role": "user", "content": "Hi"},
        ...                     {"role": "assistant", "content": "Hello"}]}
        >>> explain(encoder, row, 0).reason
        'inference supplies it: it is in the prompt of message 1'
        >>> explain(encoder, row, -2).reason
        'it is the stop token of message 1: train_on=all_assistant trains that message'
    """
    return Explained.of(encoder, row).explain(token, example=example)


def bytes_of_token(encoder: Encoder, token_id: int) -> bytes | None:
    """Return the bytes that a token spells, None where that is not known for certain."""
    tokenizer = encoder.setting.tokenizer
    if isinstance(tokenizer, RenderedTokens):
        return tokenizer.vocabulary.token_bytes(token_id)
    if not isinstance(tokenizer, TextTokenizer):
        return None
    own = tokenizer.tokenizer
    if token_id in own.added_tokens_decoder:
        return str(own.added_tokens_decoder[token_id]).encode()
    spellings = spellings_to_try(own)
    name = own.convert_ids_to_tokens(token_id)
    if len(spellings) > 1 or not isinstance(name, str):
        return None
    spelled = spellings[0].bytes_of(name)
    return None if spelled == NOTHING_SPELLS else spelled


def _occurrences(text: str, searched: str) -> Iterator[int]:
    at = text.find(searched) if searched else -1
    while at >= 0:
        yield at
        at = text.find(searched, at + len(searched))


def _tokens_of(example: Example, start: int, end: int) -> list[int]:
    """Return the tokens that stand for a character of ``text[start:end]``."""
    starts, ends = example.offsets[:, 0], example.offsets[:, 1]
    found: list[int] = np.flatnonzero((starts < end) & (ends > start)).tolist()
    return found


def _author(authors: Sequence[Author], example: Example, token: int) -> Author | None:
    """Return who wrote the first character of a token that a message wrote, or else the first."""
    start, end = (int(at) for at in example.offsets[token])
    across = [each for each in authors if each.start < max(end, start + 1) and each.end > start]
    written = (each for each in across if each.message_index >= 0)
    return next(written, across[0] if across else None)


def _field_start(author: Author, at: int) -> int | None:
    return None if author.field_start is None else author.field_start + at - author.start
