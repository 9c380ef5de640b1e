"""A cache is the same data set, mapped from disk, and never the data set of other bytes."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lossmask.column_cache
import lossmask.prepared
from lossmask.errors import PreparedDataError
from lossmask.prepared import PreparedDataset, load_prepared
from lossmask.prepared_shards import read_parts
from tests.tiny_models import tiny_examples, write_prepared


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards decoded so far."""
    seen: list[str] = []

    def recorded(folder: Any, file: str, examples: int) -> Any:
        seen.append(file)
        return read_parts(folder, file, examples)

    monkeypatch.setattr(lossmask.prepared, "read_parts", recorded)
    return seen


def assert_same_data(left: PreparedDataset, right: PreparedDataset) -> None:
    assert list(left.columns) == list(right.columns)
    for name, values in left.columns.items():
        assert values.dtype == right.columns[name].dtype
        np.testing.assert_array_equal(values, right.columns[name])
    np.testing.assert_array_equal(left.starts, right.starts)
    np.testing.assert_array_equal(left.rows, right.rows)


def mapped_file(values: np.ndarray[Any, Any]) -> str:
    assert isinstance(values.base, np.memmap)
    return Path(str(values.base.filename)).name


def test_the_columns_are_mapped_and_the_shards_decoded_once(
    tmp_path: Path, decoded: list[str]
) -> None:
    examples = tiny_examples(17)
    folder = write_prepared(tmp_path / "data", [examples[:8], examples[8:]])
    first = load_prepared(folder, cache=tmp_path / "new" / "cache")
    again = load_prepared(folder, cache=tmp_path / "new" / "cache")
    assert decoded == ["part-00000.parquet", "part-00001.parquet"]
    assert_same_data(first, load_prepared(folder))
    assert_same_data(again, first)
    for name, values in again.columns.items():
        assert mapped_file(values) == f"{name}.npy"
        assert type(values) is np.ndarray
        assert not values.flags.writeable
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["cache"]


def test_a_pickle_names_the_cache_and_holds_no_tokens(tmp_path: Path) -> None:
    folder = write_prepared(tmp_path / "data", [tiny_examples(1000)])
    data = load_prepared(folder, cache=tmp_path / "cache")
    pickled = pickle.dumps(data)
    assert len(pickled) < 2000
    again = pickle.loads(pickled)
    assert_same_data(again, data)
    assert mapped_file(again.starts) == "starts.npy"
    assert again.manifest == data.manifest


def test_a_cache_of_a_changed_folder_is_written_anew(tmp_path: Path, decoded: list[str]) -> None:
    folder = write_prepared(tmp_path / "data", [tiny_examples(4, seed=1)])
    before = load_prepared(folder, cache=tmp_path / "cache")
    ids = before.columns["input_ids"].tolist()
    other = write_prepared(tmp_path / "other", [tiny_examples(4, seed=2)])
    shutil.copytree(other, folder, dirs_exist_ok=True)
    after = load_prepared(folder, cache=tmp_path / "cache")
    assert_same_data(after, load_prepared(other))
    assert before.columns["input_ids"].tolist() == ids  # what is mapped stays
    load_prepared(other, cache=tmp_path / "cache")
    assert len(decoded) == 4


def test_shards_that_changed_under_the_same_manifest_are_decoded_again(
    tmp_path: Path, decoded: list[str]
) -> None:
    folder = write_prepared(tmp_path / "data", [tiny_examples(4)])
    load_prepared(folder, cache=tmp_path / "cache")
    (folder / "part-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(PreparedDataError, match="cannot be read"):
        load_prepared(folder, cache=tmp_path / "cache")


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = write_prepared(tmp_path / "data", [tiny_examples(4)])
    (folder / "part-00000.parquet").unlink()
    with pytest.raises(PreparedDataError, match="it is not there"):
        load_prepared(folder, cache=tmp_path / "cache")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"columns": []}'])
def test_a_folder_that_holds_something_else_is_left_alone(
    tmp_path: Path, content: str | None
) -> None:
    folder = write_prepared(tmp_path / "data", [tiny_examples(1)])
    cache = tmp_path / "cache"
    cache.mkdir()
    name = "thesis.tex" if content is None else "record.json"
    (cache / name).write_text(content or "")
    with pytest.raises(PreparedDataError, match="cache is in use, and not as a cache"):
        load_prepared(folder, cache=cache)
    assert [path.name for path in cache.iterdir()] == [name]


def test_the_process_that_finishes_first_makes_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_prepared(tmp_path / "data", [tiny_examples(4)])
    cache = tmp_path / "cache"
    write, move = lossmask.column_cache._write, lossmask.column_cache._move
    moved = []

    def recorded(*arguments: Any) -> None:
        move(*arguments)
        moved.append(cache.stat().st_ino)

    def while_another_finishes(*arguments: Any) -> None:
        monkeypatch.setattr(lossmask.column_cache, "_write", write)
        load_prepared(folder, cache=cache)
        write(*arguments)

    monkeypatch.setattr(lossmask.column_cache, "_write", while_another_finishes)
    monkeypatch.setattr(lossmask.column_cache, "_move", recorded)
    assert_same_data(load_prepared(folder, cache=cache), load_prepared(folder))
    assert moved == [cache.stat().st_ino, cache.stat().st_ino]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data"]


def test_an_empty_folder_needs_no_cache(tmp_path: Path) -> None:
    folder = write_prepared(tmp_path / "data", [])
    assert len(load_prepared(folder, cache=tmp_path / "cache")) == 0
    assert not (tmp_path / "cache").exists()
