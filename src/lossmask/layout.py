"""How the rows of a data set are laid out: which format, which names for columns and roles."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lossmask.errors import InputError

FORMATS = (
    "openai",
    "anthropic",
    "harmony",
    "llamafactory",
    "sharegpt",
    "alpaca",
    "prompt_completion",
    "query_response",
    "segments",
    "text",
    "tokens",
)
"""The layouts a row can have; ``auto`` tells them apart row by row."""

COLUMNS = (
    "messages",
    "conversations",
    "conversation",
    "tools",
    "functions",
    "system",
    "instruction",
    "input",
    "output",
    "prompt",
    "completion",
    "query",
    "response",
    "history",
    "text",
    "segments",
    "input_ids",
    "labels",
    "loss_weights",
    "loss_mask",
    "assistant_masks",
    "completion_mask",
    "attention_mask",
    "weights",
    "weight",
    "sample_weight",
    "loss_weight",
    "chat_template_kwargs",
)
"""Every row key that some format reads; other keys of a row are metadata."""

MESSAGE_KEYS = ("role", "content")
"""The keys of a message that a layout may name otherwise."""

TARGET_ROLES = ("system", "developer", "user", "assistant", "tool", "function", "tool_call")
"""What a role may stand for; ``tool_call`` is an assistant's call written as JSON."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of rows.

    Raises:
        InputError: A format, column or role is unknown; names the nearest valid one.

    Example:
        >>> Layout(columns={"instruction": "question", "output": "answer"}).format
        'auto'
    """

    format: str = "auto"
    """One of :data:`FORMATS`, or ``auto``: told per row by its keys."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Our name of a row's key -> the data's name, ``{"messages": "dialog"}``."""

    roles: Mapping[str, str] = field(default_factory=dict)
    """The data's name of a role -> ours, ``{"customer": "user"}``; before the built-in names."""

    message_keys: Mapping[str, str] = field(default_factory=dict)
    """Our name of a message's key (``role``, ``content``) -> the data's name."""

    input_separator: str = "\n\n"
    """Alpaca: what stands between instruction and input, where there is an input."""

    instruction_template: str | tuple[str, ...] | None = None
    """Marker before what the user says, in rows of formatted ``text``; several for
    several roles."""

    response_template: str | tuple[str, ...] | None = None
    """Marker before what the model says, in rows of formatted ``text``."""

    def __post_init__(self) -> None:
        for name in ("columns", "roles", "message_keys"):
            _check_names(name, getattr(self, name))
        if self.format not in ("auto", *FORMATS):
            raise _unknown("format", self.format, ("auto", *FORMATS))
        for ours in self.columns:
            if ours not in COLUMNS:
                raise _unknown("column", ours, COLUMNS)
        for ours in self.message_keys:
            if ours not in MESSAGE_KEYS:
                raise _unknown("message key", ours, MESSAGE_KEYS)
        for ours in self.roles.values():
            if ours not in TARGET_ROLES:
                raise _unknown("role", ours, TARGET_ROLES)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Layout:
        """Build a layout from a mapping such as a YAML file holds.

        Raises:
            InputError: A key or value is unknown; names the nearest valid one.
        """
        known = [each.name for each in fields(cls)]
        for key in values:
            if key not in known:
                raise _unknown("key", str(key), known)
        markers = {
            name: tuple(values[name])
            for name in ("instruction_template", "response_template")
            if isinstance(values.get(name), list)
        }
        return cls(**{**values, **markers})

    def to_mapping(self) -> dict[str, Any]:
        """Return the layout as plain data, for manifests."""
        return asdict(self)


def nearest_name(given: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant; empty where none is near.

    Example:
        >>> nearest_name("mesages", ["messages", "text"])
        "did you mean 'messages'?"
    """
    close = difflib.get_close_matches(given, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def _check_names(key: str, names: object) -> None:
    if isinstance(names, Mapping) and all(
        isinstance(name, str) for pair in names.items() for name in pair
    ):
        return
    raise InputError(f"layout: {key!r} must map names to names, got {names!r}", reason="bad_layout")


def _unknown(what: str, given: object, known: Iterable[str]) -> InputError:
    known = tuple(known)
    meant = nearest_name(str(given), known)
    return InputError(
        f"layout: unknown {what} {given!r}; {meant + ' ' if meant else ''}known: "
        f"{', '.join(known)}",
        reason="bad_layout",
    )
