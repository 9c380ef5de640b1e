"""CSV cells are strings, but for JSON in the columns that hold it; every row has its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lossmask import InputError
from lossmask.csv_files import check_csv, read_csv
from lossmask.data_files import read_rows


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def rows(path: Path) -> list[tuple[int, object]]:
    return [(record.number, json.loads(record.data)) for record in read_csv(path)]


def test_values_are_strings_at_the_line_they_begin_at(tmp_path: Path) -> None:
    text = 'instruction,output,weight\n"a, ""b""\nc",é😀,0.5\n\nd,,007\r\n'
    assert rows(write(tmp_path / "a.csv", text)) == [
        (2, {"instruction": 'a, "b"\nc', "output": "é😀", "weight": "0.5"}),
        (5, {"instruction": "d", "output": "", "weight": "007"}),
    ]


def test_places_are_lines_and_sizes_come_to_the_file_without_its_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'a,b\n1,"x\ny"\n2,é\n')
    found = list(read_rows([path]))
    assert [(raw.place, raw.row) for raw in found] == [(f"{path}:2", 0), (f"{path}:4", 1)]
    assert sum(raw.size for raw in found) == path.stat().st_size - len("a,b\n")


def test_json_is_read_in_its_columns_only(tmp_path: Path) -> None:
    text = 'messages,tools,text,history\n"[{""role"": ""user""}]",,[1],[broken\n'
    [(_, row)] = rows(write(tmp_path / "a.csv", text))
    assert row == {"messages": [{"role": "user"}], "text": "[1]", "history": "[broken"}


def test_tabs_separate_tsv(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "a.tsv", 'a\tb\n1,5\t"x\ty"\n')) == [
        (2, {"a": "1,5", "b": "x\ty"})
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "a.csv", b"\xef\xbb\xbfa,b\n1,2\n")) == [(2, {"a": "1", "b": "2"})]


def test_an_index_column_without_a_name_is_kept(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "a.csv", ",text\n0,x\n")) == [(2, {"": "0", "text": "x"})]


def test_cells_may_be_long(tmp_path: Path) -> None:
    [(_, row)] = rows(write(tmp_path / "a.csv", "text\n" + "x" * 300_000 + "\n"))
    assert row == {"text": "x" * 300_000}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"1\n", "the row has 1 cells, the header has 2"),
        (b"1,2,3\n", "the row has 3 cells, the header has 2"),
        (b"1,\xff\n", "not UTF-8: the cell of the column 'b'"),
    ],
)
def test_a_row_that_does_not_fit_is_rejected_by_itself(
    tmp_path: Path, line: bytes, problem: str
) -> None:
    path = write(tmp_path / "a.csv", b"a,b\n" + line + b"3,4\n")
    broken, whole = read_rows([path])
    with pytest.raises(InputError, match=problem) as info:
        broken.parse()
    assert info.value.reason == "broken_row"
    assert whole.parse() == {"a": "3", "b": "4"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "there is no header"),
        ("a.csv", "a,b,a\n1,2,3\n", "the header names 'a' more than once"),
        ("a.csv", "x" * 101 + ",b\n", "which is no name of a column"),
        (
            "a.csv",
            '"[{""role"": 1}]",b\n',
            r"the first row holds '\[\{\"role\": 1\}\]', which is no",
        ),
        (
            "a.csv",
            "a;b\n1;2\n",
            "the header is one column, 'a;b', as if separated by ';'; expected",
        ),
        ("a.tsv", "a,b\n1,2\n", "as if separated by ','; .* separated by tabs"),
    ],
)
def test_a_file_without_header_is_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as info:
        check_csv(write(tmp_path / name, text))
    assert info.value.reason == "no_header"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a,b\n1,2\n3,"x\n4,5\n', r"a\.csv:4 is not CSV: unexpected end of data"),
        ('a,b\n1,"x"y\n', r"a\.csv:2 is not CSV: ',' expected after '\"'"),
    ],
)
def test_quotes_out_of_order_say_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as info:
        rows(write(tmp_path / "a.csv", text))
    assert info.value.reason == "broken_csv"
