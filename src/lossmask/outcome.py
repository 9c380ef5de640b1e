"""What became of a row: kept as one or more examples, or rejected with a reason. Never lost."""

from __future__ import annotations

from dataclasses import dataclass, fields

from lossmask.errors import LossmaskError
from lossmask.example import Example


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a row was not kept.

    Attributes:
        reason: Stable slug that summaries count by.
        detail: What happened and what to do.
        message_index: The message concerned, or None.
    """

    reason: str
    detail: str
    message_index: int | None

    @classmethod
    def from_error(cls, error: LossmaskError) -> Rejection:
        """Turn an error about one row into the record of its rejection."""
        return cls(error.reason, error.detail, error.message_index)

    def __str__(self) -> str:
        where = "" if self.message_index is None else f"message {self.message_index}: "
        return f"{self.reason}: {where}{self.detail}"


@dataclass(frozen=True, slots=True)
class Lost:
    """What truncation took away, of rows that are kept and of rows rejected for it alike.

    The tokens of the untruncated examples are those of the examples kept and these.

    Attributes:
        tokens: Tokens.
        supervised_tokens: Tokens in the loss.
        turns: Supervised turns of which nothing is in the loss any more.
        examples: Examples of which nothing is kept.
        cut_replies: Supervised turns that a cut went through, whatever became of them.
    """

    tokens: int = 0
    supervised_tokens: int = 0
    turns: int = 0
    examples: int = 0
    cut_replies: int = 0

    def __add__(self, other: Lost) -> Lost:
        names = [each.name for each in fields(self)]
        return Lost(*(getattr(self, name) + getattr(other, name) for name in names))


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row's end: exactly one of ``examples`` (one or more) and ``rejection`` is there.

    ``lost`` is what truncation took away.
    """

    examples: tuple[Example, ...] = ()
    rejection: Rejection | None = None
    lost: Lost = Lost()

    def __post_init__(self) -> None:
        if bool(self.examples) == (self.rejection is not None):
            raise ValueError("an outcome has either examples or a rejection")
