r"""Files are cut at ``\n`` only, every line has its place, and nothing is dropped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lossmask import InputError
from lossmask.data_files import RawRow, check_files, in_chunks, read_row, read_rows


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def places(path: Path) -> list[tuple[int, int, bytes]]:
    return [(raw.line, raw.row, raw.data) for raw in read_rows([path])]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_other_line_separators_stay_inside_a_row(tmp_path: Path, separator: str) -> None:
    line = f'{{"a": "x{separator}y"}}'.encode()
    assert places(write(tmp_path / "a.jsonl", line + b"\n{}\n")) == [(1, 0, line), (2, 1, b"{}")]


def test_a_lone_carriage_return_is_no_line_break(tmp_path: Path) -> None:
    assert places(write(tmp_path / "a.jsonl", b'{"a":\r1}\n')) == [(1, 0, b'{"a":\r1}')]


def test_windows_line_ends_are_not_part_of_the_row(tmp_path: Path) -> None:
    data = b'{"a": 1}\r\n\r\n{"a": 2}\r\n'
    assert places(write(tmp_path / "a.jsonl", data)) == [(1, 0, b'{"a": 1}'), (3, 1, b'{"a": 2}')]


def test_blank_lines_are_counted_as_lines_and_not_as_rows(tmp_path: Path) -> None:
    data = b"\n{}\n   \n\t\n[]\n\n"
    assert places(write(tmp_path / "a.jsonl", data)) == [(2, 0, b"{}"), (5, 1, b"[]")]


def test_the_last_line_needs_no_newline(tmp_path: Path) -> None:
    assert places(write(tmp_path / "a.jsonl", b"{}\n[]")) == [(1, 0, b"{}"), (2, 1, b"[]")]


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert places(write(tmp_path / "a.jsonl", b"")) == []


def test_rows_are_numbered_over_all_files_and_lines_within_each(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", b"{}\n{}\n")
    second = write(tmp_path / "b.jsonl", b"\n{}\n")
    rows = list(read_rows([first, second]))
    assert [(raw.file, raw.line, raw.row) for raw in rows] == [
        (str(first), 1, 0),
        (str(first), 2, 1),
        (str(second), 2, 2),
    ]
    assert rows[2].place == f"{second}:2"


def test_a_row_is_parsed_as_utf_8() -> None:
    row = {"messages": [{"content": "é😀\u2028"}]}
    assert RawRow("f", 1, 0, json.dumps(row, ensure_ascii=False).encode()).parse() == row


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": }', "not JSON: Expecting value: line 1 column 7"),
        (b'{"a": 1', "not JSON: Expecting ',' delimiter"),
        (b"{} {}", "not JSON: Extra data"),
        (b'{"a": "\xff"}', "not UTF-8: .* can't decode byte 0xff in position 7"),
        (b'{"a": "\xe2\x82"}', "not UTF-8: "),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8: "),
        (b"[1]", "expected an object with the key 'messages', got list"),
        (b'"text"', "expected an object with the key 'messages', got str"),
        (b"null", "expected an object with the key 'messages', got NoneType"),
        (b"[" * 100_000, "JSON nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not JSON: Exceeds the limit"),
    ],
)
def test_a_line_that_is_no_object_says_why(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as info:
        RawRow("f", 1, 0, data).parse()
    assert info.value.reason == "broken_json"


def test_a_byte_order_mark_at_the_beginning_of_a_file_is_not_text(tmp_path: Path) -> None:
    [raw] = read_rows([write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": 1}\n')])
    assert raw.parse() == {"a": 1}


def test_missing_files_are_named(tmp_path: Path) -> None:
    there = write(tmp_path / "a.jsonl", b"{}")
    missing = tmp_path / "b.jsonl"
    with pytest.raises(InputError, match=re.escape(f"no such file: {missing}")) as info:
        check_files([there, missing])
    assert info.value.reason == "no_such_path"


def test_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; name the JSON Lines files in it"):
        check_files([tmp_path])


@pytest.mark.parametrize("data", [b'[{"messages": []}]', b' \n\t[\n  {"messages": []}\n]'])
def test_a_json_array_is_refused_with_the_way_to_convert_it(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path / "a.json", data)
    with pytest.raises(InputError, match=r"is a JSON array; expected JSON Lines.*jq -c '\.\[\]' a"):
        check_files([path])


def test_json_lines_pass(tmp_path: Path) -> None:
    check_files([write(tmp_path / "a", b'\n{"a": [1]}\n'), write(tmp_path / "empty", b"")])


def test_one_row_is_found_by_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"n": 0}\n\n{"n": 1}\n')
    assert (read_row(path, 1).line, read_row(path, 1).parse()) == (3, {"n": 1})
    with pytest.raises(InputError, match=r"has 2 rows, numbered from 0: there is no row 2"):
        read_row(path, 2)


def test_chunks_hold_every_row_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b"{}\n" * 7)
    chunks = list(in_chunks(read_rows([path]), 3))
    assert [[raw.row for raw in chunk] for chunk in chunks] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_chunks(iter([]), 3)) == []
