"""An output folder while it is written, by one run or by several on one or more machines.

::

    OUT/…                              the finished output, if there is one: untouched till the end
    OUT/unfinished/fingerprint         of what is being written; all who write it have the same
    OUT/unfinished/part-00007.parquet  a finished shard
    OUT/unfinished/00007.json          its record, written behind it: chunk 7 is done
    OUT/unfinished/00008.claim         somebody works on chunk 8, and touches this file meanwhile
    OUT/unfinished/manifest.json       everything is there, and is being moved into OUT

Every file appears whole or not at all. Who is killed leaves claims that nobody touches any more;
then another run takes the chunk, or the same command started again does. Two that work on one chunk
write the same bytes, so a claim only saves work and never decides over the result. Only at the end
is the old output replaced, file by file, the manifest last; whoever is killed meanwhile finishes
when started again.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lossmask.errors import PreparedDataError

MANIFEST = "manifest.json"
REJECTED = "rejected.jsonl"
TOKENIZER = "tokenizer"
UNFINISHED = "unfinished"

_SECONDS_BETWEEN_BEATS = 5.0
_SECONDS_TILL_DEAD = 60.0
_FINGERPRINT = "fingerprint"


class OutputFolder:
    """One run's view of an output folder.

    Args:
        path: The folder.
        fingerprint: Hash of all that decides over what is written.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self._unfinished = path / UNFINISHED
        self._end = self._unfinished / "end.claim"
        self._claimed: set[Path] = set()

    def finished(self) -> dict[str, Any] | None:
        """Return the manifest if the folder holds what is to be written, moved there or not yet.

        Raises:
            PreparedDataError: A file cannot be moved.
        """
        if self._is_ours() and (self._unfinished / MANIFEST).exists():
            self._move_in()
        manifest = _read_json(self.path / MANIFEST)
        if manifest is None or manifest.get("fingerprint") != self.fingerprint:
            return None
        self._clear()
        return manifest

    def is_begun(self) -> bool:
        """Return whether an unfinished output is one of the same fingerprint."""
        return self._is_ours()

    def check(self, *, overwrite: bool) -> None:
        """Make sure that a new output may be begun.

        Raises:
            PreparedDataError: The folder holds something else, which is not to be overwritten, was
                not written by lossmask, or is being written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise _exists(f"{self.path} is a file: choose another folder")
        if not self.path.exists() or not any(self.path.iterdir()):
            return
        if self._unfinished.exists() and (busy := self._who_is_there()):
            raise PreparedDataError(
                f"{self.path} is being written, from other data or with other settings, by {busy}: "
                "choose another folder, or end that run first",
                reason="output_busy",
            )
        if not overwrite:
            raise _exists(
                f"{self.path} is not empty and was not prepared from this data, tokenizer, "
                "template, policy, fit and limits: choose another folder, or replace it with "
                "--overwrite"
            )
        if others := sorted(each.name for each in self.path.iterdir() if not _is_ours(each.name)):
            raise _exists(
                f"{self.path} holds files that lossmask did not write ({', '.join(others[:3])}): "
                "choose another folder"
            )

    def begin(self) -> None:
        """Begin a new output; what is finished stays until the new one is.

        Raises:
            PreparedDataError: Somebody else has just begun another one, or it cannot be written.
        """
        with _explained(self.path):
            if self._unfinished.exists() and not self._is_ours():
                shutil.rmtree(self._unfinished)
            self._unfinished.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError), (self._unfinished / _FINGERPRINT).open("x") as stream:
                stream.write(self.fingerprint)
        if not self._is_ours():
            raise PreparedDataError(
                f"{self.path} has just been claimed by another run: choose another folder",
                reason="output_busy",
            )

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Touch this run's claims every few seconds, so that others see that they are worked on."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(_SECONDS_BETWEEN_BEATS):
                for claim in list(self._claimed):
                    with suppress(OSError):
                        os.utime(claim)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            for claim in self._claimed:
                claim.unlink(missing_ok=True)

    def record(self, number: int) -> dict[str, Any] | None:
        """Return the record of a chunk, None if it is not done."""
        return _read_json(self._unfinished / f"{number:05d}.json")

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield number and record of every chunk that is done, ascending."""
        for path in sorted(self._unfinished.glob("[0-9]*.json")):
            record = _read_json(path)
            if record is not None:
                yield int(path.stem), record

    def all_done(self, count: int) -> bool:
        """Return whether each of the first ``count`` chunks is done."""
        return all((self._unfinished / f"{k:05d}.json").exists() for k in range(count))

    def has_free(self, count: int) -> bool:
        """Return whether there is anything to do that nobody works on."""
        now = self._now()
        missing = [k for k in range(count) if not (self._unfinished / f"{k:05d}.json").exists()]
        claims = [self._unfinished / f"{k:05d}.claim" for k in missing]
        return not all(_is_alive(claim, now) for claim in claims or [self._end])

    def claim(self, number: int) -> bool:
        """Take a chunk, unless somebody else works on it."""
        return self._claim(self._unfinished / f"{number:05d}.claim")

    def write_chunk(self, number: int, shard: bytes | None, record: dict[str, Any]) -> None:
        """Write the shard of a chunk, if it has one, and behind it its record.

        Raises:
            PreparedDataError: The disk is full, or the folder cannot be written.
        """
        with self._writing():
            if shard is not None:
                _write(self._unfinished / shard_name(number), shard)
            _write(self._unfinished / f"{number:05d}.json", json.dumps(record).encode())
        self._release(self._unfinished / f"{number:05d}.claim")

    def write_tail(self, name: str, lines: Iterator[bytes]) -> None:
        """Write a file that belongs to the whole output.

        Raises:
            PreparedDataError: The disk is full, or the folder cannot be written.
        """
        with _explained(self.path):
            path = self._unfinished / name
            temporary = _temporary(path)
            with temporary.open("wb") as stream:
                stream.writelines(lines)
                _to_disk(stream)
            temporary.replace(path)

    def claim_end(self) -> bool:
        """Take on to finish the output, unless somebody else does."""
        return self._claim(self._end)

    def finish(self, manifest: dict[str, Any]) -> None:
        """Replace what the folder holds by what was written.

        Raises:
            PreparedDataError: The disk is full, or the folder cannot be written.
        """
        text = json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True)
        self.write_tail(MANIFEST, iter([(text + "\n").encode()]))
        self._move_in()

    @property
    def tokenizer_folder(self) -> Path:
        """Where a tokenizer that was changed is saved before it is moved."""
        return self._unfinished / TOKENIZER

    def discard(self) -> None:
        """Forget all chunks of this run: they have to be encoded again."""
        shutil.rmtree(self._unfinished, ignore_errors=True)
        self._claimed.clear()

    def _is_ours(self) -> bool:
        try:
            return (self._unfinished / _FINGERPRINT).read_text() == self.fingerprint
        except OSError:
            return False

    def _claim(self, path: Path) -> bool:
        with self._writing():
            try:
                with path.open("x") as stream:
                    json.dump(_who_am_i(), stream)
            except FileExistsError:
                if path not in self._claimed and _is_alive(path, self._now()):
                    return False
                _write(path, json.dumps(_who_am_i()).encode())
            self._claimed.add(path)
            return True
        return False  # another run has finished the output

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Leave the block where another run has finished the output, and explain other failures."""
        try:
            with _explained(self.path):
                yield
        except PreparedDataError as error:
            if not isinstance(error.__cause__, FileNotFoundError) or self._unfinished.exists():
                raise

    def _release(self, path: Path) -> None:
        self._claimed.discard(path)
        path.unlink(missing_ok=True)

    def _who_is_there(self) -> str:
        """Return who works on the unfinished output, empty if nobody does."""
        now = self._now()
        for claim in self._unfinished.glob("*.claim"):
            if _is_alive(claim, now):
                found = _read_json(claim) or {}
                return f"process {found.get('process', '?')} on {found.get('host', '?')}"
        return ""

    def _now(self) -> float:
        """Return the time by the clock that the times of the files are told by."""
        probe = self.path / f"{UNFINISHED}-{os.getpid()}.tmp"
        try:
            probe.touch()
            return probe.stat().st_mtime
        except OSError:
            return time.time()
        finally:
            probe.unlink(missing_ok=True)

    def _move_in(self) -> None:
        """Move everything into the folder, the manifest last; each step may have been done."""
        source, manifest = self._unfinished, _read_json(self._unfinished / MANIFEST)
        if manifest is None:
            return  # another run has just moved it
        with _explained(self.path), suppress(FileNotFoundError):  # likewise
            old = _read_json(self.path / MANIFEST)
            if old is not None and old != manifest:
                (self.path / MANIFEST).unlink()  # first: what is there is no longer whole
            shards = {shard["file"] for shard in manifest["shards"]}
            for path in self.path.glob("part-*.parquet"):
                if path.name not in shards:
                    path.unlink()
            for name in (*sorted(shards), REJECTED):
                if (source / name).exists():
                    (source / name).replace(self.path / name)
            if (source / TOKENIZER).exists():
                shutil.rmtree(self.path / TOKENIZER, ignore_errors=True)
                (source / TOKENIZER).replace(self.path / TOKENIZER)
            elif "added" not in manifest["tokenizer"]:
                shutil.rmtree(self.path / TOKENIZER, ignore_errors=True)
            (source / MANIFEST).replace(self.path / MANIFEST)
        self._clear()

    def _clear(self) -> None:
        """Remove what is left of an unfinished output of ours, what tells that it is ours last."""
        if self._is_ours():
            with suppress(FileNotFoundError):  # another run does the same
                for path in self._unfinished.iterdir():
                    if path.name != _FINGERPRINT:
                        _remove(path)
            (self._unfinished / _FINGERPRINT).unlink(missing_ok=True)
        with suppress(OSError):  # there is none, or it is another one
            self._unfinished.rmdir()


def shard_name(number: int) -> str:
    """Return the file name of a chunk's shard."""
    return f"part-{number:05d}.parquet"


def _is_ours(name: str) -> bool:
    return name in (MANIFEST, REJECTED, TOKENIZER, UNFINISHED) or any(
        fnmatch(name, pattern) for pattern in ("part-*.parquet", "*.tmp")
    )


def _exists(text: str) -> PreparedDataError:
    return PreparedDataError(text, reason="output_exists")


def _who_am_i() -> dict[str, Any]:
    return {"host": _host(), "process": os.getpid()}


def _host() -> str:
    """Return a name for what process numbers are unique in: a machine, or a container on it."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = 0
    return f"{socket.gethostname()}/{space}"


def _is_alive(claim: Path, now: float) -> bool:
    """Return whether somebody still works on what a claim is about."""
    found = _read_json(claim) or {}
    process = found.get("process")
    if found.get("host") == _host() and isinstance(process, int):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass
    try:
        return now - claim.stat().st_mtime < _SECONDS_TILL_DEAD
    except OSError:
        return False  # it has just been released


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    temporary = _temporary(path)
    with temporary.open("wb") as stream:
        stream.write(data)
        _to_disk(stream)
    temporary.replace(path)


def _temporary(path: Path) -> Path:
    """Return a name that no other process takes."""
    return path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def _to_disk(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say what to do where the folder cannot be written."""
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise PreparedDataError(
            f"cannot write to {path}: {error.strerror or error}. What is done is kept, and an "
            f"earlier output is untouched: {'make room' if is_full else 'mend that'} and start the "
            "same command again, which goes on from there",
            reason="disk_full" if is_full else "cannot_write",
        ) from error
