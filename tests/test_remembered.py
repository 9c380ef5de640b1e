"""Facts are remembered on disk, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lossmask.remembered import folder, recall, remember


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSMASK_CACHE", str(tmp_path / "cache"))


def test_a_fact_is_recalled_under_its_kind_and_key() -> None:
    remember("colours", "k1", {"sky": "blue", "n": [1, None]})
    assert recall("colours", "k1") == {"sky": "blue", "n": [1, None]}
    assert recall("colours", "k2") is None
    assert recall("shapes", "k1") is None


def test_a_fact_is_replaced() -> None:
    remember("colours", "k1", {"sky": "blue"})
    remember("colours", "k1", {"sky": "grey"})
    assert recall("colours", "k1") == {"sky": "grey"}
    assert [path.name for path in folder("colours").iterdir()] == ["k1.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"sky": "blue"}',
        json.dumps({"key": "another", "sky": "blue"}).encode(),
    ],
)
def test_a_file_that_is_not_what_was_written_is_no_fact(content: bytes) -> None:
    remember("colours", "k1", {"sky": "blue"})
    (folder("colours") / "k1.json").write_bytes(content)
    assert recall("colours", "k1") is None


def test_what_cannot_be_written_is_found_out_again(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the place of the folder")
    remember("colours", "k1", {"sky": "blue"})
    assert recall("colours", "k1") is None
    assert (tmp_path / "cache").read_text().startswith("a file")


def test_nothing_unfinished_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full)
    remember("colours", "k1", {"sky": "blue"})
    assert list(folder("colours").iterdir()) == []
    assert recall("colours", "k1") is None


def test_where_facts_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder("x") == tmp_path / "cache" / "x"
    monkeypatch.delenv("LOSSMASK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert folder("x") == Path("/xdg/lossmask/x")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert folder("x") == Path("/home/someone/.cache/lossmask/x")
