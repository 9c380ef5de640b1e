"""How long an example may be, and what happens to a longer one: one small frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from lossmask.errors import PolicyError
from lossmask.policy import nearest, read_yaml

Truncation = Literal["error", "drop", "keep_start", "keep_end", "drop_turns"]
CutReply = Literal["mask", "drop", "train"]

_CUTTING = ("keep_start", "keep_end")
_SHORTEST = 2  # of one token, nothing can be predicted


@dataclass(frozen=True, slots=True)
class Fit:
    """How long an example may be, and what happens to a longer one.

    Raises:
        PolicyError: A value is not one of those listed, or would decide nothing.

    Example:
        >>> Fit(max_length=2048, truncation="drop_turns").cut_reply
        'mask'
    """

    max_length: int | None = None
    """Tokens of the longest example; None: any length."""

    truncation: Truncation = "error"
    """For an example of more tokens: ``error`` rejects the row, ``drop`` leaves that example out,
    ``drop_turns`` leaves out the oldest exchanges of its conversation and encodes the rest anew,
    ``keep_start`` and ``keep_end`` cut tokens off the other end."""

    cut_reply: CutReply = "mask"
    """For a reply that ``keep_start`` or ``keep_end`` cut through: ``mask`` takes all of it out of
    the loss, ``drop`` leaves the example out, ``train`` trains what is left of it (a reply without
    its end teaches never to stop)."""

    def __post_init__(self) -> None:
        for name, allowed in (("truncation", Truncation), ("cut_reply", CutReply)):
            value = getattr(self, name)
            if value not in get_args(allowed):
                raise PolicyError(f"{name} is {value!r}; {nearest(str(value), get_args(allowed))}")
        if self.max_length is None and self.truncation != "error":
            raise PolicyError(
                f"truncation is {self.truncation!r}, but no max_length says which examples are too "
                "long: give one (--max-length)"
            )
        if self.max_length is not None and (
            type(self.max_length) is not int or self.max_length < _SHORTEST
        ):
            raise PolicyError(
                f"max_length is {self.max_length!r}; give a whole number of tokens, at least "
                f"{_SHORTEST}"
            )
        if self.cut_reply != "mask" and self.truncation not in _CUTTING:
            raise PolicyError(
                f"cut_reply is {self.cut_reply!r}, but truncation={self.truncation!r} cuts no "
                f"reply; {' and '.join(_CUTTING)} do"
            )

    def admits(self, length: int) -> bool:
        """Return whether an example of so many tokens fits."""
        return self.max_length is None or length <= self.max_length

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Fit:
        """Build a fit from a mapping such as a YAML file holds.

        Raises:
            PolicyError: A key or value is unknown; names the nearest valid one.
        """
        known = [each.name for each in fields(cls)]
        for key in values:
            if key not in known:
                raise PolicyError(f"fit has no key {key!r}; {nearest(str(key), known)}")
        return cls(**values)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Fit:
        """Read a fit from a YAML file.

        Raises:
            PolicyError: There is no such file, or it is not a fit.
        """
        return cls.from_mapping(read_yaml(path))

    def to_mapping(self) -> dict[str, Any]:
        """Return the fit as plain data, for manifests."""
        return asdict(self)
