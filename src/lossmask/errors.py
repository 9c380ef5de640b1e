"""Every error lossmask raises on purpose.

Tree::

    LossmaskError
    ├── InputError(ValueError)          the user's data: file, line, key
    │   └── ConversationError           one message or the conversation as a whole
    ├── TemplateError(ValueError)       the chat template: missing, broken, or it raised
    ├── TokenizerError(ValueError)      the tokenizer: missing, not loadable, unusable offsets
    │   └── BackendDiffers              the fast backend gives other ids than the tokenizer
    ├── ParityError(ValueError)         the exact mask cannot be derived; never guessed
    ├── PolicyError(ValueError)         an unknown key or value in a policy
    └── PreparedDataError(ValueError)   a prepared folder that is missing, unfinished or unfit

Each names what happened, where, what was expected, and what to do. The ``reason`` is a short stable
slug (``content_dropped``) that summaries count by.
"""

from __future__ import annotations


class LossmaskError(Exception):
    """Root of the tree. Catch it to catch everything lossmask raises on purpose.

    Args:
        detail: One or two sentences: what happened, expected and actual, what to do.
        reason: Short stable slug that summaries count by.
        message_index: Index of the message concerned, or None.
    """

    default_reason = "error"

    def __init__(
        self, detail: str, *, reason: str | None = None, message_index: int | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.reason = reason or self.default_reason
        self.message_index = message_index

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with the keyword arguments, which ``Exception`` alone would lose."""
        return (_rebuild, (type(self), self.detail, self.reason, self.message_index))

    def __str__(self) -> str:
        where = "" if self.message_index is None else f"message {self.message_index}: "
        return where + self.detail


def _rebuild(
    kind: type[LossmaskError], detail: str, reason: str, message_index: int | None
) -> LossmaskError:
    return kind(detail, reason=reason, message_index=message_index)


class InputError(LossmaskError, ValueError):
    """The data given is not what it should be: a broken line, a missing key, a missing file."""

    default_reason = "bad_input"


class ConversationError(InputError):
    """A conversation or one of its messages cannot be used."""

    default_reason = "bad_conversation"


class TemplateError(LossmaskError, ValueError):
    """The chat template is missing, does not compile, or raised while rendering."""

    default_reason = "template_error"


class TokenizerError(LossmaskError, ValueError):
    """The tokenizer is missing, cannot be loaded, or reports offsets that do not fit the text."""

    default_reason = "tokenizer_error"


class BackendDiffers(TokenizerError):
    """A text for which the fast backend gives other ids than the tokenizer."""

    default_reason = "backend_differs"


class ParityError(LossmaskError, ValueError):
    """The mask that inference parity asks for cannot be derived with certainty."""

    default_reason = "no_parity"


class PolicyError(LossmaskError, ValueError):
    """A policy has an unknown key or value."""

    default_reason = "bad_policy"


class PreparedDataError(LossmaskError, ValueError):
    """A prepared folder is missing, unfinished, or does not fit the model."""

    default_reason = "bad_prepared_data"
