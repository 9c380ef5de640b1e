"""JSON is parsed as Python's own parser does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossmask.raw_rows import parsed_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ODD = [
    b"12345678901234567890123",
    b"-9223372036854775809",
    b"123456789012345678901234567890.5",
    b"-0",
    b"-0.0",
    b"1e400",
    b"1e-400",
    b"0.1000000000000000055511151231257827",
    b"NaN",
    b"-Infinity",
    b'"\\ud800"',
    b'"\\ud83d\\ude00\\ude00"',
    b'"\\ud83d\\u0041"',
    b'{"\\ud800": 1}',
    b'{"a": 1, "a": 2}',
    b'"\xed\xa0\x80"',
    b'"\xc0\x80"',
    b'"\xf4\x90\x80\x80"',
    b'"a\x01"',
    b'"\x7f"',
    b'"\\/"',
    b'"\\x"',
    b'"\\u12"',
    b"[1,]",
    b"{1: 2}",
    b"[1]\x00",
    b"\x0c[1]",
    b"[1]\xc2\xa0",
    b"\xef\xbb\xbf[1]",
    b"01",
    b"1.",
    b".5",
    b"+1",
    b"-",
    b"",
    b"[" * 900 + b"]" * 900,
    b"1" * 5000,
]


def what_becomes_of(parse: Any, data: bytes) -> str:
    """Return the value, or the error, as text that tells 1 from 1.0 and 0.0 from -0.0."""
    try:
        return repr(parse(data))
    except (ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"


def by_python(data: bytes) -> Any:
    return json.loads(data.decode())


@pytest.mark.parametrize("data", ODD)
def test_odd_values_are_what_python_makes_of_them(data: bytes) -> None:
    assert what_becomes_of(parsed_json, data) == what_becomes_of(by_python, data)


@given(VALUES, st.booleans(), st.integers(0, 200), st.binary(max_size=2))
def test_values_are_what_python_makes_of_them(
    value: Any, is_ascii: bool, at: int, instead: bytes
) -> None:
    data = json.dumps(value, ensure_ascii=is_ascii).encode(errors="surrogatepass")
    for each in (data, data[:at] + instead + data[at + 1 :]):
        assert what_becomes_of(parsed_json, each) == what_becomes_of(by_python, each)
