"""The state of a pass over data: a place in an order in, plain data out, and back, checked.

A state is small because the order follows from a seed. It names everything that the batches that
are left depend on, so that one that is loaded elsewhere resumes exactly or is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lossmask.errors import PolicyError

__all__ = ["place_of", "saved_state"]


def saved_state(
    epoch: int, position: int, order: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a state.

    Args:
        epoch: 0-based.
        position: Batches of it that were handed out.
        order: Checksum of the epoch's order.
        settings: What the order and the batches depend on.

    Returns:
        Plain data that JSON holds.
    """
    return {"epoch": epoch, "position": position, "order": order, **settings}


def place_of(
    state: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    order: Callable[[int], int],
    batches: Callable[[int], int],
) -> tuple[int, int]:
    """Return the place of a state.

    Args:
        state: As `saved_state` made it.
        settings: Those of what resumes it.
        order: Epoch -> checksum of its order.
        batches: Epoch -> number of its batches.

    Returns:
        The epoch, and the batches of it that were handed out.

    Raises:
        PolicyError: It is no such state, or that of other data, settings or another order.
    """
    if missing := sorted({"epoch", "position", "order", *settings} - state.keys()):
        raise PolicyError(f"the state to resume has no {missing[0]!r}; it has {sorted(state)}.")
    for name, value in settings.items():
        if state[name] != value:
            raise PolicyError(
                f"the state to resume has {name} {state[name]!r}, and here it is {value!r}: the "
                "batches that are left would be others. Resume with the data and settings that "
                "the state was saved with."
            )
    epoch, position = int(state["epoch"]), int(state["position"])
    if not 0 <= position <= batches(epoch):
        raise PolicyError(f"the state to resume is at batch {position} of {batches(epoch)}.")
    if state["order"] != order(epoch):
        raise PolicyError(
            f"the order of epoch {epoch} is not that which the state was saved with: resume with "
            "the same data and the same version of NumPy."
        )
    return epoch, position
