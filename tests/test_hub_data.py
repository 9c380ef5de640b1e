"""Data sets of the hub: how they are named, that one commit is read, and what goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from lossmask import InputError, hub_data
from lossmask.data_files import check_files, fingerprint_of, read_rows, total_bytes
from lossmask.hub_data import HubId, read_hub_id

ROWS = [{"messages": [{"role": "user", "content": "a"}]}, {"messages": []}]


class Hub:
    """Stands in for the hub: one data set, whose main branch can move."""

    def __init__(self) -> None:
        self.commit = "c0ffee"
        self.splits = {"train": ROWS}
        self.calls: list[tuple[Any, ...]] = []

    def dataset_info(self, name: str, *, revision: str | None) -> Any:
        if name != "org/name":
            raise OSError(f"404: no {name}\nmore lines")
        return type("Info", (), {"sha": revision or self.commit})

    def load(self, name: str, config: Any, *, split: Any, revision: str, streaming: bool) -> Any:
        self.calls.append((name, config, split, revision, streaming))
        made = {
            key: datasets.Dataset.from_list(rows).to_iterable_dataset()
            for key, rows in self.splits.items()
        }
        return datasets.IterableDatasetDict(made) if split is None else made[split]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    made = Hub()
    monkeypatch.setattr(datasets, "load_dataset", made.load)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.chdir(tmp_path)
    hub_data._opened.cache_clear()
    yield made
    hub_data._opened.cache_clear()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", HubId("org/name")),
        ("o-1/n.v2_x", HubId("o-1/n.v2_x")),
        ("org/name:default/train", HubId("org/name", None, "default", "train")),
        ("org/name@refs/pr/1:c/t", HubId("org/name", "refs/pr/1", "c", "t")),
        ("org/name@v1", HubId("org/name", "v1")),
        ("name", None),
        ("/org/name", None),
        ("./org/name", None),
        ("a/b/c", None),
        ("C:/a/b", None),
    ],
)
def test_ids_are_told_from_paths(text: str, expected: HubId | None) -> None:
    assert read_hub_id(text) == expected


@pytest.mark.parametrize("text", ["org/name:train", "org/name:a/b/c", "org/name:", "org/name@"])
def test_an_id_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"expected org/name, org/name:config/split"):
        read_hub_id(text)


def test_rows_come_from_the_only_split(hub: Hub) -> None:
    check_files([Path("org/name")])
    found = list(read_rows([Path("org/name")]))
    assert [raw.parse() for raw in found] == ROWS
    assert [raw.place for raw in found] == ["org/name#1", "org/name#2"]
    assert total_bytes([Path("org/name")]) is None
    assert hub.calls == [("org/name", None, None, "c0ffee", True)]


def test_a_split_that_is_named_is_read(hub: Hub) -> None:
    hub.splits["test"] = ROWS[:1]
    [raw] = read_rows([Path("org/name@v1:main/test")])
    assert raw.file == "org/name@v1:main/test"
    assert hub.calls == [("org/name", "main", "test", "v1", True)]


def test_several_splits_are_named(hub: Hub) -> None:
    hub.splits["test"] = ROWS
    names = "name one: org/name:default/train, org/name:default/test"
    with pytest.raises(InputError, match=names) as info:
        check_files([Path("org/name")])
    assert info.value.reason == "no_split"


def test_the_fingerprint_is_of_the_commit_that_is_read(hub: Hub) -> None:
    before = fingerprint_of(Path("org/name"))
    hub.commit = "0ddba11"
    assert fingerprint_of(Path("org/name")) == before
    assert [raw.parse() for raw in read_rows([Path("org/name")])] == ROWS
    assert {call[3] for call in hub.calls} == {"c0ffee"}
    hub_data._opened.cache_clear()
    assert fingerprint_of(Path("org/name")) != before
    assert fingerprint_of(Path("org/name:default/train")) != fingerprint_of(Path("org/name"))


def test_what_is_not_there_is_said_in_one_line(hub: Hub) -> None:
    with pytest.raises(InputError, match=r"no file org/none, and .*: 404: no org/none$") as info:
        check_files([Path("org/none")])
    assert info.value.reason == "no_such_path"


def test_a_missing_file_is_not_looked_for_on_the_hub(hub: Hub) -> None:
    Path("data").mkdir()
    for name in ("org/name.jsonl", "data/name"):
        with pytest.raises(InputError, match=f"no such file: {name}"):
            check_files([Path(name)])
    assert hub.calls == []


def test_without_the_package_the_way_to_get_it_is_said(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets") as info:
        check_files([Path("org/name")])
    assert info.value.reason == "no_datasets"


def test_a_lost_connection_is_an_error_of_the_data(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost:
        def __iter__(self) -> Iterator[Any]:
            yield {"messages": []}
            raise ConnectionError("lost")

    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: Lost())
    rows = read_rows([Path("org/name:default/train")])
    assert next(rows).row == 0
    with pytest.raises(InputError, match="reading org/name from the hub failed: lost"):
        next(rows)
