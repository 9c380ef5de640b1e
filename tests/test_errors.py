"""Errors keep what they know through pickling, and the tree drawn in the module is the real one."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

import lossmask
from lossmask import errors
from lossmask.errors import LossmaskError

CLASSES = sorted(
    (
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, LossmaskError)
    ),
    key=lambda kind: kind.__name__,
)


def drawn_tree() -> dict[str, tuple[str, list[str]]]:
    """Read class -> (parent, further bases) off the tree in the module's docstring."""
    tree: dict[str, tuple[str, list[str]]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ([ │├└─]*)(\w+(?:Error|Differs))(?:\((\w+)\))?(?:\s|$)", line):
            depth = len(found[1]) // 4
            parent = above[depth - 1] if depth else "Exception"
            above[depth:] = [found[2]]
            tree[found[2]] = (parent, [found[3]] if found[3] else [])
    return tree


def test_the_tree_in_the_docstring_equals_the_classes() -> None:
    actual = {
        kind.__name__: (kind.__bases__[0].__name__, [b.__name__ for b in kind.__bases__[1:]])
        for kind in CLASSES
    }
    assert drawn_tree() == actual


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("message_index", [None, 0, 3])
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_pickling_keeps_detail_reason_and_message(
    kind: type[LossmaskError], message_index: int | None, again: object
) -> None:
    assert callable(again)
    error = kind("what happened", reason="slug", message_index=message_index)
    back = again(error)
    assert type(back) is kind
    assert (back.detail, back.reason, back.message_index) == (
        "what happened",
        "slug",
        message_index,
    )
    assert str(back) == str(error)


def test_the_text_names_the_message() -> None:
    assert str(LossmaskError("bad", message_index=0)) == "message 0: bad"
    assert str(LossmaskError("bad")) == "bad"


def test_each_kind_has_a_reason_of_its_own() -> None:
    reasons = [kind("x").reason for kind in CLASSES]
    assert len(set(reasons)) == len(CLASSES)
    assert all(re.fullmatch("[a-z_]+", reason) for reason in reasons)


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not LossmaskError])
def test_each_kind_is_a_value_error_and_exported(kind: type[LossmaskError]) -> None:
    assert issubclass(kind, ValueError)
    assert getattr(lossmask, kind.__name__) is kind
