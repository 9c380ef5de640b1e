"""Several runs write one folder without losing or spoiling anything, whenever any of them ends."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lossmask import PreparedDataError
from lossmask import output_folder as module
from lossmask.output_folder import OutputFolder

MINE, OTHER = "a" * 64, "b" * 64


def manifest(fingerprint: str, *files: str) -> dict[str, Any]:
    shards = [{"file": file, "examples": 1} for file in files]
    return {"fingerprint": fingerprint, "shards": shards, "tokenizer": {}}


def begun(path: Path, fingerprint: str = MINE) -> OutputFolder:
    out = OutputFolder(path, fingerprint)
    out.begin()
    return out


def finish(out: OutputFolder, *numbers: int) -> None:
    for number in numbers:
        assert out.claim(number)
        out.write_chunk(number, f"{out.fingerprint[0]}{number}".encode(), {"n": number})
    out.write_tail("rejected.jsonl", iter([b"{}\n"]))
    files = [f"part-{number:05d}.parquet" for number in numbers]
    out.finish(manifest(out.fingerprint, *files))


def contents(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.iterdir() if each.is_file()}


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_is_finished_lies_in_the_folder_and_nothing_else(tmp_path: Path) -> None:
    out = begun(tmp_path / "out")
    finish(out, 0, 1)
    assert sorted(each.name for each in out.path.iterdir()) == [
        "manifest.json",
        "part-00000.parquet",
        "part-00001.parquet",
        "rejected.jsonl",
    ]
    assert OutputFolder(out.path, MINE).finished() == manifest(
        MINE, "part-00000.parquet", "part-00001.parquet"
    )
    assert OutputFolder(out.path, OTHER).finished() is None


def test_the_old_output_is_whole_until_the_new_one_is(tmp_path: Path) -> None:
    finish(begun(tmp_path / "out"), 0, 1, 2)
    before = contents(tmp_path / "out")
    new = OutputFolder(tmp_path / "out", OTHER)
    new.check(overwrite=True)
    new.begin()
    new.write_chunk(0, b"b0", {})
    new.write_tail("rejected.jsonl", iter([]))
    assert contents(tmp_path / "out") == before
    new.finish(manifest(OTHER, "part-00000.parquet"))
    after = contents(tmp_path / "out")
    assert after.pop("manifest.json") != before["manifest.json"]
    assert after == {"part-00000.parquet": b"b0", "rejected.jsonl": b""}


@pytest.mark.parametrize("moves", range(5))
def test_moving_in_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    finish(begun(tmp_path / "out"), 0, 1, 2)
    new = begun(tmp_path / "out", OTHER)
    count = 0
    replace = Path.replace

    def dying(self: Path, target: Path) -> Path:
        nonlocal count
        if target.parent == tmp_path / "out":
            if count == moves:
                raise KeyboardInterrupt
            count += 1
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dying)
        try:
            finish(new, 0, 1)
        except KeyboardInterrupt:
            assert moves < 4
    assert OutputFolder(tmp_path / "out", OTHER).finished() is not None
    after = contents(tmp_path / "out")
    assert json.loads(after.pop("manifest.json"))["fingerprint"] == OTHER
    assert after == {
        "part-00000.parquet": b"b0",
        "part-00001.parquet": b"b1",
        "rejected.jsonl": b"{}\n",
    }


def test_a_chunk_is_claimed_by_one_run_only(tmp_path: Path) -> None:
    one, two = begun(tmp_path / "out"), begun(tmp_path / "out")
    assert (one.claim(0), two.claim(0), two.claim(1), one.claim(1)) == (True, False, True, False)
    one.write_chunk(0, None, {"n": 0})
    assert two.record(0) == {"n": 0}
    assert (two.all_done(1), two.all_done(2)) == (True, False)


def test_the_claim_of_a_process_that_is_gone_counts_no_more(tmp_path: Path) -> None:
    out = begun(tmp_path / "out")
    claim = tmp_path / "out" / "unfinished" / "00000.claim"
    claim.write_text(json.dumps({**module._who_am_i(), "process": dead_process()}))
    assert out.has_free(1)
    assert out.claim(0)
    assert json.loads(claim.read_text())["process"] == os.getpid()


def test_the_claim_of_another_machine_counts_as_long_as_it_is_touched(tmp_path: Path) -> None:
    out = begun(tmp_path / "out")
    claim = tmp_path / "out" / "unfinished" / "00000.claim"
    claim.write_text(json.dumps({"host": "elsewhere", "process": dead_process()}))
    assert not out.has_free(1)
    assert not out.claim(0)
    old = time.time() - module._SECONDS_TILL_DEAD - 1
    os.utime(claim, (old, old))
    assert out.has_free(1)
    assert out.claim(0)


def test_claims_are_touched_while_a_run_is_alive_and_gone_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_BEATS", 0.01)
    out = begun(tmp_path / "out")
    claim = tmp_path / "out" / "unfinished" / "00000.claim"
    with out.kept_alive():
        assert out.claim(0)
        os.utime(claim, (0, 0))
        deadline = time.monotonic() + 10
        while claim.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert claim.stat().st_mtime > 0
    assert not claim.exists()


def test_a_folder_that_others_write_otherwise_is_busy(tmp_path: Path) -> None:
    assert begun(tmp_path / "out").claim(0)
    with pytest.raises(PreparedDataError, match=rf"by process {os.getpid()} on") as caught:
        OutputFolder(tmp_path / "out", OTHER).check(overwrite=True)
    assert caught.value.reason == "output_busy"


def test_what_a_run_that_is_gone_left_behind_is_overwritten_only_if_asked(tmp_path: Path) -> None:
    begun(tmp_path / "out")
    other = OutputFolder(tmp_path / "out", OTHER)
    with pytest.raises(PreparedDataError, match="is not empty") as caught:
        other.check(overwrite=False)
    assert caught.value.reason == "output_exists"
    other.check(overwrite=True)
    other.begin()
    assert not OutputFolder(tmp_path / "out", MINE).is_begun()


def test_of_two_that_begin_at_once_with_other_settings_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = OutputFolder(tmp_path / "out", MINE), OutputFolder(tmp_path / "out", OTHER)
    mkdir = Path.mkdir

    def at_once(self: Path, *arguments: Any, **options: Any) -> None:
        mkdir(self, parents=True, exist_ok=True)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "mkdir", mkdir)
            other.begin()

    monkeypatch.setattr(Path, "mkdir", at_once)
    with pytest.raises(PreparedDataError, match="has just been claimed by another run"):
        mine.begin()
    assert other.is_begun()


def test_a_run_that_comes_late_to_a_finished_output_writes_nothing(tmp_path: Path) -> None:
    one, two = begun(tmp_path / "out"), begun(tmp_path / "out")
    finish(one, 0)
    before = contents(tmp_path / "out")
    assert not two.claim(1)
    assert not two.claim_end()
    two.write_chunk(0, b"late", {})
    assert two.finished() is not None
    assert contents(tmp_path / "out") == before
    assert not (tmp_path / "out" / "unfinished").exists()


@pytest.mark.parametrize(
    ("number", "reason", "remedy"),
    [
        (errno.ENOSPC, "disk_full", "make room and start the same command again"),
        (errno.EACCES, "cannot_write", "mend that and start the same command again"),
    ],
)
def test_a_folder_that_cannot_be_written_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str, remedy: str
) -> None:
    finish(begun(tmp_path / "out"), 0)
    before = contents(tmp_path / "out")
    out = begun(tmp_path / "out", OTHER)
    assert out.claim(0)

    def fails(stream: Any) -> Iterator[None]:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(module, "_to_disk", fails)
        with pytest.raises(PreparedDataError, match=remedy) as caught:
            out.write_chunk(0, b"new", {})
    assert caught.value.reason == reason
    assert contents(tmp_path / "out") == before
    finish(out, 0)
    assert contents(tmp_path / "out")["part-00000.parquet"] == b"b0"
