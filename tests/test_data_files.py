r"""Files are cut at ``\n`` only, every line has its place, and nothing is dropped."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lossmask import InputError
from lossmask.data_files import (
    RawRow,
    check_files,
    fingerprint_of,
    in_chunks,
    places_of_chunks,
    read_row,
    read_rows,
    total_bytes,
)


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
    with pytest.raises(InputError, match="is a folder; name the files in it"):
        check_files([tmp_path])


@pytest.mark.parametrize("data", [b'[{"n": 1}, {"n": 2}]', b' \n\t[\n  {"n": 1},\n{"n": 2}\n]'])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a"])
def test_a_json_array_is_read_whatever_its_name(tmp_path: Path, name: str, data: bytes) -> None:
    path = write(tmp_path / name, data)
    check_files([path])
    rows = list(read_rows([path]))
    assert [(raw.place, raw.parse()) for raw in rows] == [
        (f"{path}#1", {"n": 1}),
        (f"{path}#2", {"n": 2}),
    ]
    assert sum(raw.size for raw in rows) == total_bytes([path]) == len(data)


def test_an_array_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not end with"):
        check_files([write(tmp_path / "a.json", b'[{"n": 1},')])


@pytest.mark.parametrize("name", ["a.csv", "a.parquet.csv"])
def test_csv_is_told_by_its_name(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, b"a,b\n1,2\n")
    check_files([path])
    assert [(raw.place, raw.parse()) for raw in read_rows([path])] == [
        (f"{path}:2", {"a": "1", "b": "2"})
    ]


def test_json_lines_are_told_by_their_content(tmp_path: Path) -> None:
    for name in ("a.csv", "a.json", "a.txt", "a"):
        path = write(tmp_path / name, b'\xef\xbb\xbf \n{"a": 1}\n')
        check_files([path])
        assert [(raw.place, raw.parse()) for raw in read_rows([path])] == [(f"{path}:2", {"a": 1})]


def test_a_broken_first_line_is_a_row_where_the_name_says_json_lines(tmp_path: Path) -> None:
    for name, line in (("a.jsonl", b"broken"), ("a.ndjson", b"\xff"), ("a", b'{"broken')):
        path = write(tmp_path / name, line + b"\n{}\n")
        check_files([path])
        assert places(path) == [(1, 0, line), (2, 1, b"{}")]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b'{\n  "data": [{}]\n}', r"neither a JSON array nor JSON Lines.*\.KEY\[\]"),
        ("a.txt", b"role,content\n", "cannot tell what .* is: it begins with b'role,content'"),
        ("a", b"PAR", "cannot tell what .* is: it begins with b'PAR'"),
        ("a.parquet", b"", "is neither Parquet nor Arrow: it begins with b''"),
        ("a.arrow", b'{"a": 1}\n', "is neither Parquet nor Arrow"),
        ("a.csv", b"", "there is no header"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        ("a.jsonl", b"\x1f\x8b\x08\x00", "is compressed: unpack it with `gunzip`"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\x00", "is compressed: unpack it with `unzstd`"),
        ("a.xlsx", b"PK\x03\x04", "or a spreadsheet"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "is UTF-16"),
        ("a.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_what_is_no_data_is_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_files([write(tmp_path / name, data)])


def test_sizes_are_those_of_the_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"a": 1}\r\n\n{}')
    assert [raw.size for raw in read_rows([path])] == [10, 2]
    assert RawRow("f", 1, 0, b"{}").size == 3
    assert total_bytes([path, path]) == 26


def test_the_fingerprint_of_a_file_is_the_hash_of_its_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b"{}\n")
    assert fingerprint_of(path) == hashlib.sha256(b"{}\n").hexdigest()


def test_a_row_travels_between_processes_with_all_it_says() -> None:
    raw = RawRow("f", 1, 0, b"{}", True, 7, "broken")
    assert pickle.loads(pickle.dumps(raw)) == raw
    with pytest.raises(InputError, match=r"^broken$"):
        raw.parse()


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


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 100])
def test_the_rows_of_a_chunk_are_read_from_its_place(tmp_path: Path, size: int) -> None:
    table = pa.table({"prompt": [f"p{k}" for k in range(8)], "completion": ["c"] * 8})
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=3)
    bom = b"\xef\xbb\xbf"
    paths = [
        write(tmp_path / "a.jsonl", bom + b'{"k": 0}\n\n{"k": 1}\r\n   \n\n{broken\n\n'),
        write(tmp_path / "empty.jsonl", b""),
        tmp_path / "b.parquet",
        write(tmp_path / "c.csv", b"prompt,completion\n" + b"p,c\n" * 4),
        write(tmp_path / "d.json", b'[{"k": 5}, {"k": 6}]'),
        write(tmp_path / "e.jsonl", b'\n{"k": 7}\n{"k": 8}'),
    ]
    rows = list(read_rows(paths))
    places = list(places_of_chunks(paths, size))
    assert len(rows) == 3 + 8 + 4 + 2 + 2
    assert [place.row for place in places] == list(range(0, len(rows), size))
    for place in places:
        chunk = list(islice(read_rows(paths, place), size))
        assert chunk == rows[place.row : place.row + size]


def test_reading_begins_at_the_line_and_at_the_row_group(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": list("abcdefgh")}), tmp_path / "a.parquet", row_group_size=3)
    lines = write(tmp_path / "b.jsonl", b"{}\n\n[1]\n[2]\n")
    found = list(places_of_chunks([tmp_path / "a.parquet", lines], 4))
    assert [(place.row, place.file, place.start_row) for place in found] == [
        (0, 0, 0),
        (4, 0, 3),
        (8, 1, 8),
    ]
    assert [place.start.position for place in found] == [0, 1, 0]
    [_, _, third] = places_of_chunks([lines], 1)
    assert (third.start.position, third.start.number, third.start_row) == (8, 3, 2)


def test_files_without_rows_have_no_places(tmp_path: Path) -> None:
    assert list(places_of_chunks([write(tmp_path / "a.jsonl", b"\n\n")], 10)) == []
