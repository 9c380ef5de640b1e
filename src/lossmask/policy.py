"""What to train on: one small frozen value, checked when it is made."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from lossmask.errors import PolicyError

_LISTED = 20  # a longer list hides the one that was meant


@dataclass(frozen=True, slots=True)
class Policy:
    """Which turns carry the loss, and what happens where the template gets in the way.

    Raises:
        PolicyError: A value is not one of those listed.

    Example:
        >>> Policy(train_on="last_assistant").history
        'expand'
    """

    train_on: Literal["all_assistant", "last_assistant"] = "all_assistant"
    """``all_assistant``: every assistant message. ``last_assistant``: only the last one."""

    history: Literal["expand", "last", "as_rendered", "error"] = "expand"
    """For turns that the full rendering shows differently from how they were generated: ``expand``
    gives each an example of its own, ``last`` leaves them out of the loss, ``as_rendered`` trains
    them as the full rendering shows them (not at parity; reported), ``error`` rejects."""

    boundary: Literal["inference", "include", "exclude", "error"] = "inference"
    """Where one token of the joint text spans the end of the prompt: ``inference`` tokenizes prompt
    and completion apart, ``include`` and ``exclude`` keep the joint tokens and take that one into
    the loss or out of it (not at parity; reported), ``error`` rejects."""

    control_tokens: Literal["error", "escape", "allow"] = "error"
    """Control tokens typed inside a message: ``error`` rejects the conversation, ``escape`` encodes
    them as the plain characters they are, ``allow`` encodes them as the tokenizer does, which is
    what inference would do with the same text."""

    append_stop: Literal["history", "eos", "never"] = "history"
    """For a turn that the template ends without a stop token: ``history`` appends the one that the
    template writes there when the conversation goes on, if it shows one; ``eos`` appends the
    tokenizer's eos where history shows none; ``never`` leaves the turn without."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value, allowed = getattr(self, field.name), get_args(hints[field.name])
            if value not in allowed:
                raise PolicyError(
                    f"policy {field.name} is {value!r}; {nearest(str(value), allowed)}"
                )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Policy:
        """Build a policy from a mapping such as a YAML file holds.

        Raises:
            PolicyError: A key or value is unknown; names the nearest valid one.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise PolicyError(f"policy has no key {key!r}; {nearest(str(key), known)}")
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """Return the policy as plain data, for manifests."""
        return asdict(self)


def nearest(given: str, allowed: list[str] | tuple[str, ...]) -> str:
    """Say which values are allowed, and which one was probably meant."""
    close = difflib.get_close_matches(given, allowed, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    if close and len(allowed) > _LISTED:
        return meant.rstrip()
    return f"{meant}allowed: {', '.join(allowed)}"
