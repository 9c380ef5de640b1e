"""Parquet, Arrow and saved data sets: the rows as they were written, but for filled nulls."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from lossmask import InputError
from lossmask.columnar_files import read_parquet
from lossmask.data_files import check_files, fingerprint_of, read_rows, total_bytes

CALL = {"function": {"name": "f", "arguments": {"x": 1}}}
ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "é"}, {"role": "assistant", "tool_calls": [CALL]}]},
    {"messages": [{"role": "user", "content": "b"}], "weight": 0.5, "tags": [None, "x"]},
]


def write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path)


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)


def write_file(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)


def write_feather(table: pa.Table, path: Path) -> None:
    feather.write_feather(table, str(path))


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [row.get(name) for row in rows] for name in names})


def parsed(path: Path) -> list[Any]:
    return [raw.parse() for raw in read_rows([path])]


@pytest.mark.parametrize("name", ["a.parquet", "a.bin"])
@pytest.mark.parametrize("write", [write_parquet, write_stream, write_file, write_feather])
def test_every_kind_is_told_by_its_content_and_has_its_rows(
    tmp_path: Path, write: Any, name: str
) -> None:
    path = tmp_path / name
    write(table_of(ROWS), path)
    check_files([path])
    found = list(read_rows([path]))
    assert [raw.parse() for raw in found] == ROWS
    assert [(raw.place, raw.line, raw.row) for raw in found] == [
        (f"{path}#1", 1, 0),
        (f"{path}#2", 2, 1),
    ]
    total = total_bytes([path])
    assert total == path.stat().st_size
    assert 0 < sum(raw.size for raw in found) <= total


def test_sizes_of_parquet_rows_come_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": list(range(1000))}), path, row_group_size=300)
    found = list(read_rows([path]))
    assert [raw.parse() for raw in found] == [{"n": n} for n in range(1000)]
    assert sum(raw.size for raw in found) == path.stat().st_size


def test_filled_nulls_are_left_out_and_others_kept(tmp_path: Path) -> None:
    kind = pa.struct(
        {
            "role": pa.string(),
            "arguments": pa.struct({"x": pa.int64(), "y": pa.struct({"z": pa.null()})}),
            "map": pa.map_(pa.string(), pa.int64()),
            "list": pa.list_(pa.string()),
        }
    )
    row = {
        "role": "user",
        "arguments": {"x": None, "y": {"z": None}},
        "map": [("k", None)],
        "list": [None, "a"],
    }
    table = pa.table(
        {
            "messages": pa.array([[row, None]], pa.list_(kind)),
            "tools": pa.array([None], pa.string()),
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    kept = {"role": "user", "arguments": {"y": {}}, "map": {"k": None}, "list": [None, "a"]}
    assert parsed(path) == [{"messages": [kept, None]}]


def test_json_columns_are_what_they_say(tmp_path: Path) -> None:
    features = datasets.Features({"tool_calls": datasets.List(datasets.Json())})
    rows = [{"tool_calls": [{"arguments": {"x": None}}]}, {"tool_calls": [{"name": "f"}, "text"]}]
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(path))
    assert parsed(path) == rows


def test_types_that_json_lacks_become_text_or_an_object(tmp_path: Path) -> None:
    table = pa.table(
        {
            "at": [datetime.datetime(2024, 1, 2, 3, 4, 5)],
            "day": [datetime.date(2024, 1, 2)],
            "price": [decimal.Decimal("1.50")],
            "bytes": [b"text"],
            "kind": pa.array(["a"]).dictionary_encode(),
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    assert parsed(path) == [
        {
            "at": "2024-01-02T03:04:05",
            "day": "2024-01-02",
            "price": "1.50",
            "bytes": {"base64": "dGV4dA=="},
            "kind": "a",
        }
    ]


def test_a_value_that_cannot_be_read_rejects_its_row_alone(tmp_path: Path) -> None:
    invalid = pa.array([b"a", b"\xff", b"c"], pa.binary()).view(pa.string())
    maps = pa.array([[("k", 1)], [], [("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64()))
    path = tmp_path / "a.arrow"
    write_file(pa.table({"text": invalid, "map": maps}), path)
    first, second, third = read_rows([path])
    assert first.parse() == {"text": "a", "map": {"k": 1}}
    with pytest.raises(InputError, match=r"the column 'text' cannot be read: not UTF-8: .*0xff"):
        second.parse()
    assert json.loads(second.data) == {"map": {}}
    with pytest.raises(InputError, match="the column 'map' cannot be read: a map that has a key"):
        third.parse()


def test_a_saved_data_set_is_read_over_all_of_its_files(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    rows = [{"text": str(n), "extra": None if n else "x"} for n in range(7)]
    datasets.Dataset.from_list(rows).save_to_disk(path, num_shards=3)
    assert len(list(path.glob("*.arrow"))) == 3
    check_files([path])
    found = list(read_rows([path]))
    assert [raw.line for raw in found] == [1, 2, 3, 4, 5, 6, 7]
    assert found[6].place == f"{path}#7"
    expected = [{"text": "0", "extra": "x"}, *({"text": str(n)} for n in range(1, 7))]
    assert [raw.parse() for raw in found] == expected
    assert total_bytes([path]) == sum(f.stat().st_size for f in path.glob("*.arrow"))
    before = fingerprint_of(path)
    datasets.Dataset.from_list(rows[::-1]).save_to_disk(tmp_path / "other", num_shards=3)
    assert fingerprint_of(tmp_path / "other") != before
    (path / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(InputError, match=r"is not whole: there is no .*data-00001-of-00003"):
        check_files([path])


def test_a_folder_of_splits_names_them(tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_list([{"text": "x"}])
    datasets.DatasetDict(train=dataset, test=dataset).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match=r"several data sets, name one: .*/saved/train, .*/test"):
        check_files([tmp_path / "saved"])
    assert parsed(tmp_path / "saved" / "test") == [{"text": "x"}]


@pytest.mark.parametrize("state", ['{"_data_files": 7}', "{}", "[]", "{"])
def test_a_broken_state_is_named(tmp_path: Path, state: str) -> None:
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(InputError, match=r"state\.json"):
        check_files([tmp_path])


@pytest.mark.parametrize("write", [write_parquet, write_file])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "a.parquet"
    write(table_of(ROWS), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"cannot be read as .*; it was cut off or is broken"):
        check_files([path])


def test_a_stream_that_was_cut_off_is_refused_where_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_stream(pa.table({"n": list(range(3))}), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read as Arrow"):
        parsed(path)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_file(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    with pytest.raises(InputError, match="more than one column 'a'"):
        check_files([path])


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    text = "".join(chr(97 + n * n % 26) for n in range(2000))
    schema = pa.schema({"text": pa.string()})
    with pq.ParquetWriter(path, schema, use_dictionary=False, compression="none") as writer:
        for n in range(10):
            values = [f"{n} {k} {text}" for k in range(2000)]
            writer.write_table(pa.table({"text": values}), row_group_size=20000)
    assert path.stat().st_size > 40_000_000
    before, peak, count = pa.total_allocated_bytes(), 0, 0
    for _ in read_parquet(path):
        count += 1
        peak = max(peak, pa.total_allocated_bytes() - before) if count % 100 == 0 else peak
    assert count == 20_000
    assert peak < 15_000_000
