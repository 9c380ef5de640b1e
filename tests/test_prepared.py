"""A prepared folder opens to exactly the examples written, or says what is wrong with it."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader, Subset
from transformers import DataCollatorWithFlattening

import lossmask.prepared_shards
from lossmask.collate import PaddedCollator
from lossmask.errors import PreparedDataError
from lossmask.padding_free import PaddingFreeCollator
from lossmask.prepared import TOKEN_COLUMNS, load_prepared
from tests.tiny_models import Example, tiny_examples, write_prepared


def change_manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_shard(folder: Path, name: str, values: pa.Array) -> None:
    path = folder / "part-00000.parquet"
    table = pq.read_table(path)
    place = table.column_names.index(name)
    pq.write_table(table.set_column(place, name, values), path)


def broken_example(**changes: Any) -> Example:
    example: Example = {
        "input_ids": np.array([7, 8, 2], np.int32),
        "labels": np.array([-100, 8, 2], np.int32),
        "loss_weights": np.array([0, 0.5, 1], np.float32),
        "message_index": np.array([-1, 1, 1], np.int32),
    }
    for name, values in changes.items():
        example[name] = np.array(values, example[name].dtype)
    return example


def test_items_are_the_arrays_that_were_written(tmp_path: Path) -> None:
    examples = tiny_examples(17)
    write_prepared(tmp_path, [examples[:8], examples[8:9], [], examples[9:]])
    data = load_prepared(str(tmp_path))
    assert len(data) == 17
    for index, example in enumerate(examples):
        for item in (data[index], data[index - 17]):
            assert list(item) == list(TOKEN_COLUMNS)
            for name, kind in TOKEN_COLUMNS.items():
                assert item[name].dtype == kind
                np.testing.assert_array_equal(item[name], example[name])
    assert data.lengths.tolist() == [len(example["input_ids"]) for example in examples]
    assert data.tokenizer["stop_ids"] == [2, 3]


def test_rows_name_the_input_row_of_each_example(tmp_path: Path) -> None:
    examples = tiny_examples(5)
    write_prepared(tmp_path, [examples[:2], examples[2:]], rows=[0, 0, 3, 4, 4])
    data = load_prepared(tmp_path)
    assert data.rows.dtype == np.int64
    assert data.rows.tolist() == [0, 0, 3, 4, 4]


@pytest.mark.parametrize("index", [4, -5])
def test_an_index_outside_the_data_is_an_index_error(tmp_path: Path, index: int) -> None:
    data = load_prepared(write_prepared(tmp_path, [tiny_examples(4)]))
    with pytest.raises(IndexError, match=f"example {index} of 4"):
        data[index]


def test_a_batch_is_its_items_in_the_order_asked_for(tmp_path: Path) -> None:
    examples = tiny_examples(9)
    write_prepared(tmp_path, [examples[:4], examples[4:]])
    data = load_prepared(tmp_path)
    batch = data.__getitems__([8, 0, -1, 3, 3])
    assert batch.numbers is not None
    assert batch.numbers.tolist() == [8, 0, 8, 3, 3]
    for place, index in enumerate([8, 0, 8, 3, 3]):
        for name, values in data[index].items():
            np.testing.assert_array_equal(batch[place][name], values)
            np.testing.assert_array_equal(values, examples[index][name])
            assert np.shares_memory(batch[place][name], data.columns[name])
    assert len(data.__getitems__([])) == 0


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 4], "example 4 of 4"),
        ([-5], "example -5 of 4"),
        ([0.0], "not float64 values"),
        ([True], "not bool values"),
        ([[0]], "whole numbers in one row"),
    ],
)
def test_a_batch_outside_the_data_is_an_index_error(
    tmp_path: Path, indices: Any, message: str
) -> None:
    data = load_prepared(write_prepared(tmp_path, [tiny_examples(4)]))
    with pytest.raises(IndexError, match=message):
        data.__getitems__(indices)


def test_a_loader_of_torch_hands_whole_batches_to_any_collator(tmp_path: Path) -> None:
    examples = tiny_examples(5)
    data: Any = load_prepared(write_prepared(tmp_path, [examples]))
    loader = DataLoader(Subset(data, [4, 1, 0]), batch_size=2, collate_fn=PaddedCollator(0))
    expected = [PaddedCollator(0)([examples[4], examples[1]]), PaddedCollator(0)(examples[:1])]
    for batch, want in zip(loader, expected, strict=True):
        for name, values in want.items():
            assert values.equal(batch[name])
    for batch in DataLoader(data, batch_size=5, collate_fn=DataCollatorWithFlattening()):
        for name, values in batch.items():
            assert values.equal(PaddingFreeCollator()(examples)[name])


def test_iteration_ends(tmp_path: Path) -> None:
    data = load_prepared(write_prepared(tmp_path, [tiny_examples(4)]))
    assert len([data[index] for index in range(len(data))]) == 4


def test_an_empty_folder_has_no_examples(tmp_path: Path) -> None:
    data = load_prepared(write_prepared(tmp_path, []))
    assert len(data) == 0
    assert data.rows.shape == data.lengths.shape == (0,)
    assert data.largest_token() == (-1, "")


def test_largest_token_names_the_first_example_that_holds_it(tmp_path: Path) -> None:
    examples = tiny_examples(6)
    examples[4]["input_ids"][0] = 999
    data = load_prepared(write_prepared(tmp_path, [examples[:1], examples[1:]], rows=range(10, 16)))
    token, where = data.largest_token()
    assert token == 999
    assert where.endswith("part-00001.parquet, example 3 (input row 14)")


def test_data_survives_pickling_for_worker_processes(tmp_path: Path) -> None:
    data = load_prepared(write_prepared(tmp_path, [tiny_examples(4)]))
    again = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(again[3]["input_ids"], data[3]["input_ids"])


def test_a_slice_of_a_column_starts_at_its_own_first_value() -> None:
    column = pa.array([[4, 5], [6], [7, 8]], pa.list_(pa.int32())).slice(1)
    values, starts = lossmask.prepared_shards._flat("x", "labels", column, np.dtype(np.int32))
    assert values.tolist() == [6, 7, 8]
    assert starts.tolist() == [0, 1, 3]


def test_large_lists_are_read_too(tmp_path: Path) -> None:
    write_prepared(tmp_path, [[broken_example()]])
    change_shard(tmp_path, "input_ids", pa.array([[7, 8, 2]], pa.large_list(pa.int32())))
    assert load_prepared(tmp_path)[0]["input_ids"].tolist() == [7, 8, 2]


def test_items_cannot_be_written_to(tmp_path: Path) -> None:
    data = load_prepared(write_prepared(tmp_path, [tiny_examples(1)]))
    with pytest.raises(ValueError, match="read-only"):
        data[0]["input_ids"][0] = 1


def test_the_columns_take_16_bytes_a_token_and_keep_no_arrow_memory(tmp_path: Path) -> None:
    write_prepared(tmp_path, [tiny_examples(40), tiny_examples(30)])
    grown = []
    for _ in range(3):  # what earlier tests left behind may come and go
        before = pa.total_allocated_bytes()
        data = load_prepared(tmp_path)
        grown.append(pa.total_allocated_bytes() - before)
    columns = list(data.columns.values())
    assert sum(values.nbytes for values in columns) == 16 * data.manifest["tokens"]
    assert all(values.base is None for values in columns)
    assert min(grown) <= 0


def test_a_folder_in_an_object_store_is_the_same_data(tmp_path: Path) -> None:
    examples = tiny_examples(9)
    write_prepared(tmp_path, [examples[:4], examples[4:]])
    store = fsspec.filesystem("memory")
    store.put(str(tmp_path), "/bucket/prepared", recursive=True)
    try:
        local, remote = load_prepared(tmp_path), load_prepared("memory://bucket/prepared")
        cached = load_prepared("memory://bucket/prepared/", cache=tmp_path / "cache")
        for data in (remote, cached):
            for name, values in local.columns.items():
                np.testing.assert_array_equal(data.columns[name], values)
        assert remote.folder == "memory://bucket/prepared"
        assert "memory://bucket/prepared/part-0000" in remote.largest_token()[1]
        store.rm("/bucket/prepared/part-00001.parquet")
        where = "memory://bucket/prepared/part-00001.parquet: .*it is not there"
        with pytest.raises(PreparedDataError, match=where):
            load_prepared("memory://bucket/prepared")
        store.rm("/bucket/prepared/manifest.json")
        with pytest.raises(PreparedDataError, match="memory://bucket/prepared has no manifest"):
            load_prepared("memory://bucket/prepared")
    finally:
        store.rm("/bucket", recursive=True)
    with pytest.raises(PreparedDataError, match="no prepared folder at memory://bucket/prepared"):
        load_prepared("memory://bucket/prepared")


def test_storage_that_fsspec_does_not_know_is_refused() -> None:
    with pytest.raises(PreparedDataError, match=r"nowhere://x cannot be opened: Protocol not"):
        load_prepared("nowhere://x")


def test_shards_differ_in_no_column(tmp_path: Path) -> None:
    write_prepared(tmp_path, [[broken_example()], [broken_example()]])
    path = tmp_path / "part-00000.parquet"
    table = pq.read_table(path)
    ignorable = pa.array([[False, True, True]], pa.list_(pa.bool_()))
    pq.write_table(table.append_column("ignorable", ignorable), path)
    with pytest.raises(PreparedDataError, match=r"some shards have 'ignorable'.*part-00001"):
        load_prepared(tmp_path)


def test_importing_this_module_imports_no_torch() -> None:
    code = "import sys, lossmask.prepared; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(PreparedDataError, match=r"no prepared folder at .*absent.*prepare"):
        load_prepared(tmp_path / "absent")


def test_a_folder_without_manifest_is_unfinished(tmp_path: Path) -> None:
    with pytest.raises(PreparedDataError, match=r"has no manifest\.json.*continues"):
        load_prepared(tmp_path)


def test_a_manifest_that_is_no_json_is_named(tmp_path: Path) -> None:
    write_prepared(tmp_path, [tiny_examples(1)])
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(PreparedDataError, match=r"manifest\.json is not JSON"):
        load_prepared(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(PreparedDataError, match="a JSON object was expected, it is list"):
        load_prepared(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format is 2, this version reads 1"),
        ({"complete": False}, "not complete. Run the same `lossmask prepare` again"),
        ({"complete": "yes"}, "not complete"),
        ({"tokens": None}, "tokens is None"),
        ({"rows_in": True}, "rows_in is True"),
        ({"rows_in": 9}, r"rows_in 9 is not rows_kept 4 \+ rows_rejected 0"),
        ({"shards": None}, "shards is not a list"),
        ({"shards": ["part-00000.parquet"]}, "not a file with its examples"),
        ({"shards": [{"file": "../x.parquet", "examples": 4}]}, "not a file of this folder"),
        ({"shards": [{"file": "x.parquet", "examples": 4}]}, r"x\.parquet: .*it is not there"),
        ({"shards": [{"file": "part-00000.parquet", "examples": 5}]}, "holds 4 .* says 5"),
        ({"chat_template": None}, "chat_template is not the source of a template"),
        ({"tokenizer": None}, "tokenizer is not an object"),
        ({"tokenizer": {"stop_ids": ["</s>"]}}, r"tokenizer\.stop_ids is \['</s>'\]"),
        ({"examples": 5}, "examples is 5, but the shards hold 4"),
        ({"tokens": 1}, "tokens is 1, but the shards hold"),
        ({"tokens": 1000}, "tokens is 1000, but the shards hold"),
        ({"examples": 3}, "examples is 3, but the shards hold more"),
        ({"supervised_tokens": 1}, "supervised_tokens is 1, but the shards hold"),
    ],
)
def test_a_manifest_that_disagrees_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_prepared(tmp_path, [tiny_examples(4)])
    change_manifest(tmp_path, **changes)
    with pytest.raises(PreparedDataError, match=message):
        load_prepared(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [-100, 9, 2]}, "token 1: labels is 9 and input_ids 8, but a label is -100 or"),
        ({"labels": [-1, 8, 2]}, "token 0: labels is -1"),
        ({"loss_weights": [0.5, 0.5, 1]}, "token 0: loss_weights is 0.5"),
        ({"loss_weights": [0, 0, 1]}, "token 1: loss_weights is 0.0"),
        ({"loss_weights": [0, 1, np.nan]}, "token 2: loss_weights is nan"),
        ({"loss_weights": [0, 1, np.inf]}, "token 2: loss_weights is inf"),
        ({"input_ids": [-7, 8, 2]}, "token 0: input_ids is -7"),
        ({"labels": [-100] * 3, "loss_weights": [0] * 3}, "no token in the loss"),
        ({"labels": [7, -100, -100], "loss_weights": [1, 0, 0]}, "no token in the loss"),
    ],
)
def test_a_broken_example_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    examples = [broken_example(), broken_example(), broken_example(**changes), broken_example()]
    write_prepared(tmp_path, [examples], rows=[5, 6, 7, 8], row_group_size=2)
    where = r"part-00000\.parquet, example 2 \(input row 7\)"
    with pytest.raises(PreparedDataError, match=f"{where}.*{message}"):
        load_prepared(tmp_path)


def test_an_example_without_tokens_is_refused(tmp_path: Path) -> None:
    nothing: Example = {name: np.array([], kind) for name, kind in TOKEN_COLUMNS.items()}
    write_prepared(tmp_path, [[broken_example(), nothing]])
    with pytest.raises(PreparedDataError, match=r"example 1 .* no token in the loss"):
        load_prepared(tmp_path)


def test_columns_of_unequal_length_are_refused(tmp_path: Path) -> None:
    short = broken_example()
    short["message_index"] = short["message_index"][:2]
    write_prepared(tmp_path, [[broken_example(), short]])
    with pytest.raises(PreparedDataError, match="example 1: message_index and input_ids differ"):
        load_prepared(tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("labels", pa.array([[-100, 8, 2]], pa.list_(pa.int64())), "'labels' is list.*int64"),
        ("labels", pa.array([3], pa.int32()), "'labels' is int32, not a list of int32"),
        ("labels", pa.array([None], pa.list_(pa.int32())), "'labels' holds nulls"),
        ("labels", pa.array([[None, 8, 2]], pa.list_(pa.int32())), "'labels' holds nulls"),
        ("row", pa.array([3], pa.int32()), "'row' is int32, not int64"),
    ],
)
def test_a_column_of_another_type_is_refused(
    tmp_path: Path, name: str, values: pa.Array, message: str
) -> None:
    write_prepared(tmp_path, [[broken_example()]])
    change_shard(tmp_path, name, values)
    with pytest.raises(PreparedDataError, match=message):
        load_prepared(tmp_path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    write_prepared(tmp_path, [[broken_example()]])
    path = tmp_path / "part-00000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["loss_weights"]), path)
    with pytest.raises(PreparedDataError, match="column 'loss_weights' is missing"):
        load_prepared(tmp_path)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    write_prepared(tmp_path, [tiny_examples(4)])
    path = tmp_path / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PreparedDataError, match=r"part-00000\.parquet: .*cannot be read"):
        load_prepared(tmp_path)
