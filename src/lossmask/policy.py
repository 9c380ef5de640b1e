"""What to train on: one small frozen value, checked when it is made."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from lossmask.conversation import ROLES
from lossmask.errors import PolicyError
from lossmask.swift_loss_scale import check_config

_LARGEST = 3.4028234e38  # of float32
_LISTED = 20  # a longer list hides the one that was meant

PARTS = (
    "prompt",
    "scaffold",
    "content",
    "reasoning",
    "tool_calls",
    "tool_calls.name",
    "tool_calls.arguments",
    "tool_calls.syntax",
    "stop",
)
"""What a token can be part of. ``tool_calls`` stands for the three below it."""

_DEFAULT_WEIGHTS = {part: float(part not in ("prompt", "scaffold")) for part in PARTS}
_TrainOn = Literal["all_assistant", "last_assistant", "last_turn", "all"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What carries the loss, how much, and what happens where the template gets in the way.

    Raises:
        PolicyError: A value is not one of those listed.

    Example:
        >>> Policy(train_on="last_assistant").history
        'expand'
        >>> Policy(weights={"prompt": 0.1, "reasoning": 0}).weight_of("reasoning")
        0.0
    """

    train_on: _TrainOn | tuple[str, ...] = "all_assistant"
    """``all_assistant``: every assistant message. ``last_assistant``: only the last one.
    ``last_turn``: those after the last user message. ``all``: the whole rendered text, headers and
    all, in one example. Or the roles to train, as ``("assistant", "tool")``. A weight that the data
    gives a message wins over it."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """Loss weight by part: of a completion ``content``, ``reasoning`` (think blocks in the content
    included), ``tool_calls`` (or finer, ``tool_calls.name``, ``tool_calls.arguments``,
    ``tool_calls.syntax``) and ``stop``, each 1 unless given; outside of completions ``prompt``
    (what messages wrote) and ``scaffold`` (what the template wrote), each 0 unless given."""

    loss_scale: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] = ()
    """Weights by what stands in a completion, in the form of ms-swift's ``loss_scale`` files:
    literals with ``[own weight, weight of what follows]``, or regular expressions with
    ``[weight]``; several are a chain. They multiply."""

    ignore: tuple[int | str, ...] = ()
    """Supervised tokens that are left out of the loss with ``ignore_probability``: ids, or texts.
    Tokens that any model predicts at once drown the loss of those that matter."""

    ignore_probability: float = 0.8
    """Drawn anew for each epoch when a batch is made, from seed, epoch and example."""

    stop: Literal["train", "last", "never"] = "train"
    """Which stop tokens are in the loss: all, that of the last trained turn only, or none."""

    empty_think: Literal["train", "ignore"] = "train"
    """A think block with nothing in it that the model would have to generate."""

    spans: Literal["contract", "tags"] = "contract"
    """``contract``: what inference generates. ``tags``: what lies between the template's own
    ``{% generation %}`` tags, whatever inference does; where the two differ is reported."""

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
        object.__setattr__(self, "train_on", _train_on(self.train_on))
        object.__setattr__(self, "weights", _weights(self.weights))
        if self.loss_scale:
            check_config(self.loss_scale)
        object.__setattr__(self, "ignore", _ignored(self.ignore))
        _check_probability(self.ignore_probability)
        hints = get_type_hints(type(self))
        for each in fields(self):
            value, allowed = getattr(self, each.name), get_args(hints[each.name])
            if get_origin(hints[each.name]) is Literal and value not in allowed:
                raise PolicyError(
                    f"policy {each.name} is {value!r}; {nearest(str(value), allowed)}"
                )

    def weight_of(self, part: str) -> float:
        """Return the weight of a part; a finer one wins over ``tool_calls``."""
        group = part.partition(".")[0]
        if part in self.weights:
            return self.weights[part]
        return self.weights.get(group, _DEFAULT_WEIGHTS[part])

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Policy:
        """Build a policy from a mapping such as a YAML file holds.

        Raises:
            PolicyError: A key or value is unknown; names the nearest valid one.
        """
        if not isinstance(values, Mapping):
            raise PolicyError(f"expected a policy as keys and values, got {type(values).__name__}")
        known = [each.name for each in fields(cls)]
        for key in values:
            if key not in known:
                raise PolicyError(f"policy has no key {key!r}; {nearest(str(key), known)}")
        return cls(**values)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Policy:
        """Read a policy from a YAML file.

        Raises:
            PolicyError: There is no such file, or it is not a policy.
        """
        return cls.from_mapping(read_yaml(path))

    @classmethod
    def from_axolotl(cls, config: Mapping[str, Any]) -> Policy:
        """Build the policy that an Axolotl configuration asks for.

        Args:
            config: Axolotl's YAML file as a mapping, or one of its ``datasets``.

        Raises:
            PolicyError: It asks for something about the loss that a policy cannot say.
        """
        from lossmask.compat.axolotl_policy import policy_keywords_from_axolotl

        return cls(**policy_keywords_from_axolotl(config))

    def to_mapping(self) -> dict[str, Any]:
        """Return the policy as plain data, for manifests."""
        return asdict(self)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read keys and values from a YAML file.

    Raises:
        PolicyError: There is no such file, or it holds something else.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PolicyError(f"cannot read the policy {str(path)!r}: {error}") from error
    if not isinstance(values, (dict, type(None))):
        raise PolicyError(
            f"{str(path)!r}: expected a policy as keys and values, got {type(values).__name__}"
        )
    return values or {}


def nearest(given: str, allowed: Sequence[str]) -> str:
    """Say which values are allowed, and which one was probably meant."""
    close = difflib.get_close_matches(given, allowed, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    if close and len(allowed) > _LISTED:
        return meant.rstrip()
    return f"{meant}allowed: {', '.join(allowed)}"


def _train_on(value: object) -> str | tuple[str, ...]:
    """Check what to train on; roles are sorted, so that equal policies are equal."""
    names = get_args(_TrainOn)
    if isinstance(value, str):
        if value in names:
            return value
        if value in ROLES:
            return (value,)
        raise PolicyError(f"policy train_on is {value!r}; {nearest(value, [*names, *ROLES])}")
    if not isinstance(value, Iterable) or not (roles := list(value)):
        raise PolicyError(f"policy train_on is {value!r}; give one of {', '.join(names)}, or roles")
    for role in roles:
        if role not in ROLES:
            raise PolicyError(f"policy train_on has {role!r}; {nearest(str(role), ROLES)}")
    return tuple(sorted(set(roles)))


def _weights(values: object) -> dict[str, float]:
    if not isinstance(values, Mapping):
        raise PolicyError(f"policy weights is {values!r}; expected a weight for each part")
    for part, weight in values.items():
        if part not in PARTS:
            raise PolicyError(f"policy weights has no part {part!r}; {nearest(str(part), PARTS)}")
        _check_number(f"policy weights[{part!r}]", weight)
    return {part: float(weight) for part, weight in sorted(values.items())}


def _ignored(values: object) -> tuple[int | str, ...]:
    items = (values,) if isinstance(values, (int, str)) else values
    if not isinstance(items, Iterable):
        raise PolicyError(f"policy ignore is {values!r}; give token ids or texts")
    ignored = tuple(items)
    for item in ignored:
        if isinstance(item, bool) or not isinstance(item, (int, str)) or item == "":
            hint = " (in YAML, yes and no are true and false: put them in quotes)"
            raise PolicyError(
                f"policy ignore has {item!r}; give token ids or texts"
                f"{hint if isinstance(item, bool) else ''}"
            )
    return ignored


def _check_probability(value: object) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:  # type: ignore[operator]  # a number by now
        raise PolicyError(f"policy ignore_probability is {value!r}; give a number from 0 to 1")


def _check_number(name: str, value: object) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not abs(value) <= _LARGEST:  # type: ignore[arg-type]  # a number by now
        raise PolicyError(f"{name} is {value!r}; give a number")
