"""What an Axolotl configuration says of the loss -> keyword arguments for ``Policy``.

In: the configuration as its YAML holds it, or one of its ``datasets``. Out: ``train_on`` and
``stop``. What the configuration says besides of the loss and a policy cannot say is an error; all
that does not concern the loss is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lossmask.errors import PolicyError

_ROLES = {"human": "user", "gpt": "assistant"}
_ALL_ROLES = frozenset(("system", "user", "assistant", "tool"))
_STOPS = {"turn": "train", "last": "last", "none": "never"}
_UNDERSTOOD = ("roles_to_train", "train_on_eos", "train_on_eot", "train_on_inputs")
_FIELDS = {  # keys that are read from messages anyway, whatever the configuration calls them
    "message_field_training": ("train", "trainable", "training", "loss", "weight"),
    "message_field_training_detail": ("train_detail",),
}


def policy_keywords_from_axolotl(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments for ``Policy``.

    Args:
        config: A whole configuration, or one entry of its ``datasets``.

    Returns:
        ``train_on``: ``"all"`` (``train_on_inputs``), ``"all_assistant"``, or the roles, ascending;
        ``stop``: ``"train"``, ``"last"`` or ``"never"``.

    Raises:
        PolicyError: A value is unknown, the datasets contradict each other, or the configuration
            says of the loss what a policy cannot say.

    Example:
        >>> config = {"roles_to_train": ["gpt", "tool"], "train_on_eos": "none"}
        >>> policy_keywords_from_axolotl(config)
        {'train_on': ('assistant', 'tool'), 'stop': 'never'}
    """
    if not isinstance(config, Mapping):
        raise PolicyError(f"expected a mapping, as YAML holds it, got {type(config).__name__}")
    datasets = config.get("datasets") or [{}]
    if isinstance(datasets, Mapping) or not all(isinstance(each, Mapping) for each in datasets):
        raise PolicyError("datasets has to be a list of mappings")
    found = [_of_one({**config, **each}) for each in datasets]
    for place, each in enumerate(found):
        if each != found[0]:
            raise PolicyError(
                f"datasets 0 and {place} ask for different losses, {found[0]} and {each}; encode "
                "each with a policy of its own"
            )
    return found[0]


def _of_one(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read a dataset's entry, with what the configuration says for all of them."""
    given = {key: value for key, value in config.items() if value is not None}
    _refuse_others(given)
    inputs = given.get("train_on_inputs", False)
    if not isinstance(inputs, bool):
        raise PolicyError(f"train_on_inputs is {inputs!r}; expected true or false")
    roles = _roles(given)
    if inputs:
        train_on: str | tuple[str, ...] = "all"
    elif roles == {"assistant"}:
        train_on = "all_assistant"
    else:
        train_on = tuple(sorted(roles))
    return {"train_on": train_on, "stop": _stop(given, inputs or roles >= _ALL_ROLES)}


def _roles(given: Mapping[str, Any]) -> set[str]:
    """Return the roles to train, by the names that templates know."""
    roles = given.get("roles_to_train", ["assistant"])
    if isinstance(roles, str) or not all(isinstance(role, str) for role in roles):
        raise PolicyError(f"roles_to_train is {roles!r}; expected a list of roles")
    if not roles:
        raise PolicyError("roles_to_train is empty: nothing would be trained")
    names = dict(_ROLES)
    for target, sources in given.get("roles", {}).items():
        names.update(dict.fromkeys([sources] if isinstance(sources, str) else sources, target))
    return {names.get(role, role) for role in roles}


def _stop(given: Mapping[str, Any], trains_all: bool) -> str:
    """Return when the token that ends a turn is trained."""
    eos = given.get("train_on_eos", "turn")
    eot = given.get("train_on_eot", eos)
    if eos != eot:
        raise PolicyError(
            f"train_on_eos is {eos!r} and train_on_eot {eot!r}; a policy has one rule for all "
            "tokens that end a turn: set both to the same"
        )
    eos = "none" if eos is False else eos
    if eos == "all":
        if trains_all:
            return "train"
        raise PolicyError(
            "train_on_eos is 'all', but not all roles are trained: the ends of the other turns are "
            'never generated, so no policy trains them; use "turn", or train all roles'
        )
    if eos not in _STOPS:
        raise PolicyError(f"train_on_eos is {eos!r}; expected all, turn, last or none")
    return _STOPS[eos]


def _refuse_others(given: Mapping[str, Any]) -> None:
    """Refuse what else concerns the loss."""
    for key, known in _FIELDS.items():
        if key in given and given[key] not in known:
            raise PolicyError(
                f"{key} is {given[key]!r}; rename that key of the messages to {known[0]!r}"
            )
    if given.get("eot_tokens"):
        raise PolicyError(
            f"eot_tokens is {given['eot_tokens']!r}; give them to the encoder as stop_tokens and "
            "take the key out: a policy does not name tokens"
        )
    for key in given:
        if key.startswith(("train_on_", "roles_to_", "message_field_training")) and key not in (
            *_UNDERSTOOD,
            *_FIELDS,
        ):
            raise PolicyError(f"{key} concerns the loss, and no policy says what it says")
