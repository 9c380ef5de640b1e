"""Values of a row in the words of an error text."""

from __future__ import annotations

import reprlib


def kind_of(value: object) -> str:
    """Say what kind of value it is."""
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return names.get(type(value)) or f"{type(value).__name__} {shown(value)}"


def shown(value: object) -> str:
    """Return a short ``repr``, however long or deep the value is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an int of more digits than Python writes
        return "a number of too many digits"
