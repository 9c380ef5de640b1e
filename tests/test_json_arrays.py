"""An array's elements are its bytes, wherever a block ends, and one that is broken is one row."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossmask import InputError, json_arrays
from lossmask.json_arrays import check_json_array, read_json_array


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def elements(path: Path) -> list[bytes]:
    return [record.data for record in read_json_array(path)]


def test_elements_are_numbered_and_keep_their_bytes(tmp_path: Path) -> None:
    data = b' \n[ {"a": [1, {"b": "],}"}]},\n  {"a":\n 1.50},{"\\"": "\\\\"} , 7\n]\n '
    path = write(tmp_path / "a.json", data)
    records = list(read_json_array(path))
    assert [record.data for record in records] == [
        b'{"a": [1, {"b": "],}"}]}',
        b'{"a":\n 1.50}',
        b'{"\\"": "\\\\"}',
        b"7",
    ]
    assert [record.number for record in records] == [1, 2, 3, 4]
    assert sum(record.size or 0 for record in records) == len(data.rstrip())


@pytest.mark.parametrize("data", [b"[]", b"\xef\xbb\xbf [ \n ] "])
def test_an_empty_array_has_no_elements(tmp_path: Path, data: bytes) -> None:
    assert elements(write(tmp_path / "a.json", data)) == []


@pytest.mark.parametrize("block", [3, 4, 5, 7])
def test_blocks_may_end_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(json_arrays, "_BLOCK", block)
    rows = [{"a": 'é😀\\" ]}{[,', "b": [[], {}, "\\"]}, {"": "\\\\\\"}, {"x": "y" * 50}]
    for text in (json.dumps(rows), json.dumps(rows, indent=3, ensure_ascii=False)):
        found = elements(write(tmp_path / "a.json", b"\xef\xbb\xbf  \n" + text.encode()))
        assert [json.loads(element) for element in found] == rows


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.recursive(
            st.none() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        )
    ),
    st.sampled_from([None, 1]),
)
def test_any_array_is_what_json_reads(rows: list[object], indent: int | None) -> None:
    stream = io.BytesIO(json.dumps(rows, indent=indent).encode())
    found = json_arrays._elements(stream, Path("a.json"))
    assert [json.loads(record.data) for record in found] == rows


def test_an_element_that_is_not_json_leaves_the_others(tmp_path: Path) -> None:
    data = b'[{"a": }, {"b": 1}, , \xff, {]},{"c": 2},]'
    expected = [b'{"a": }', b'{"b": 1}', b"", b"\xff", b"{]}", b'{"c": 2}', b""]
    # the bracket inside the braces closes them, and the brace behind it is text to the comma
    assert elements(write(tmp_path / "a.json", data)) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b'[{"a": 1}, {"b": 2',
            "ends inside the JSON array, in element 2, which begins at byte 10",
        ),
        (b'[{"a": "]', "in element 1, which begins at byte 1"),
        (b"[", "in element 1"),
        (b"[1]\n[2]\n", r"goes on behind the end of the JSON array, at byte 4: b'\[2\]"),
    ],
)
def test_a_broken_array_says_where(tmp_path: Path, data: bytes, message: str) -> None:
    path = write(tmp_path / "a.json", data)
    with pytest.raises(InputError, match=message) as info:
        elements(path)
    assert info.value.reason == "broken_json"


def test_an_array_that_was_cut_off_is_found_without_reading_it(tmp_path: Path) -> None:
    check_json_array(write(tmp_path / "a.json", b'[{"a": 1}]\n\n'))
    path = write(tmp_path / "b.json", b'[{"a": 1},\n')
    with pytest.raises(InputError, match=r"begins with '\[' but does not end with '\]'"):
        check_json_array(path)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    element = json.dumps({"text": "word " * 2000}).encode()
    path = write(tmp_path / "a.json", b"[" + b",".join([element] * 1500) + b"]")
    assert path.stat().st_size > 15_000_000
    tracemalloc.start()
    assert sum(1 for record in read_json_array(path) if record.data == element) == 1500
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6_000_000
