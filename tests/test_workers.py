"""A row may end the process that encodes it: it alone is rejected, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lossmask import Encoder, LossmaskError, Outcome, Rejection, TokenizerError
from lossmask import worker as worker_module
from lossmask.confinement import GIBIBYTE, Limits
from lossmask.data_files import RawRow
from lossmask.workers import Chunk, Workers, encode_apart
from lossmask.workers import Outcomes as Results

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and memory limits")

LIMITS = Limits(seconds=0.1, gibibytes=1)


class Together:
    """Stands in for what encodes rows together."""

    size = 256

    def lay_out(self, row: Mapping[str, Any]) -> object:
        if row["do"] == "hang early":
            while True:
                pass
        return row["do"] if row["do"].startswith("together") else None

    def check_backend(self) -> None:
        pass

    def tokenize(self, layouts: Sequence[object]) -> Any:
        if "together, crash" in layouts:
            os.kill(os.getpid(), signal.SIGTRAP)
        return SimpleNamespace(are_exact=lambda numbers: False)


class Patient:
    """Stands in for an encoder: does to its process what a row says."""

    row_batches = Together()

    def __init__(self, notes: Path | None = None) -> None:
        self.notes = notes

    def encode_row(self, row: Mapping[str, Any]) -> Outcome:
        do = row["do"]
        if self.notes is not None:
            with self.notes.open("a") as stream:
                stream.write(f"{do}\n")
        if do == "hang":
            while True:
                pass
        elif do == "eat":
            bytearray(2 * GIBIBYTE)
        elif do == "crash":
            os.kill(os.getpid(), signal.SIGTRAP)
        elif do == "exit":
            os._exit(3)
        elif do == "crash once":
            assert self.notes is not None
            if self.notes.read_text().count(do) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        elif do == "bug":
            raise KeyError("a bug")
        elif do == "odd bug":
            raise type("Unknown", (Exception,), {})("of a class that cannot travel")
        return Outcome(rejection=Rejection("read", do, None))


def chunk(*dos: str, number: int = 0) -> Chunk[Results]:
    rows = [RawRow("f", row, row, json.dumps({"do": do}).encode()) for row, do in enumerate(dos)]
    return Chunk(number, rows, Results())


def workers(load: Callable[[], Any]) -> Workers:
    return Workers(load, LIMITS, method="fork")


def reasons(encoded: Chunk[Results]) -> list[str]:
    return [outcome.rejection.reason for outcome in encoded.results.all if outcome.rejection]


def words(encoded: Chunk[Results]) -> list[str]:
    """Return what each row says, or the word that tells what ended its process."""
    details = [outcome.rejection.detail for outcome in encoded.results.all if outcome.rejection]
    known = ("SIGTRAP", "exit code 3", "processor time", "GiB")
    return [next((word for word in known if word in detail), detail) for detail in details]


CHUNKS = (
    ("a", "hang", "b", "eat", "c"),
    ("d", "crash", "crash", "e"),
    ("f", "g"),
    ("exit",),
)
EXPECTED = [
    ["a", "processor time", "b", "GiB", "c"],
    ["d", "SIGTRAP", "SIGTRAP", "e"],
    ["f", "g"],
    ["exit code 3"],
]


@pytest.mark.parametrize("count", [1, 3])
def test_rows_that_end_their_process_are_rejected_and_no_others(count: int) -> None:
    told: list[int] = []
    chunks = [chunk(*dos, number=number) for number, dos in enumerate(CHUNKS)]
    with workers(Patient) as pool:
        found = sorted(pool.encode(iter(chunks), count, told.append), key=lambda c: c.number)
        assert [words(encoded) for encoded in found] == EXPECTED
    assert [reasons(encoded) for encoded in found] == [
        ["read", "template_limits", "read", "template_limits", "read"],
        ["read", "template_limits", "template_limits", "read"],
        ["read", "read"],
        ["template_limits"],
    ]
    assert sum(told) == sum(len(raw.data) + 1 for encoded in chunks for raw in encoded.rows)


def test_a_process_works_on_the_next_chunk_while_the_last_one_is_handed_on() -> None:
    read: list[int] = []

    def chunks() -> Iterator[Chunk[Results]]:
        for number in range(4):
            read.append(number)
            yield chunk("a", number=number)

    with workers(Patient) as pool:
        for done, encoded in enumerate(pool.encode(chunks())):
            assert encoded.number == done
            assert read == list(range(min(done + 2, 4)))
            assert bool(pool._busy()) is (done < 3)


def test_a_template_is_tried_in_as_many_processes_as_will_be_used() -> None:
    with workers(Patient) as pool:
        pool.try_template(chunk("a", "b").rows, 2)
        assert len(pool._workers) == 2


@pytest.mark.parametrize("count", [1, 2])
def test_rows_that_end_their_process_together_are_encoded_one_by_one(
    tmp_path: Path, count: int
) -> None:
    notes = tmp_path / "notes"
    dos = ("a", "together, fine", "together, crash", "hang early", "b")
    with workers(lambda: Patient(notes)) as pool:
        [encoded] = pool.encode([chunk(*dos)], count)
    assert words(encoded) == ["a", *dos[1:3], "processor time", "b"]
    assert notes.read_text().split("\n") == ["a", *dos[1:3], "b", ""]  # each once


@pytest.mark.parametrize("count", [1, 2])
def test_a_row_whose_process_is_killed_once_by_another_cause_is_not_blamed(
    tmp_path: Path, count: int
) -> None:
    notes = tmp_path / "notes"
    chunks = [chunk("a", "crash once", "b"), chunk("c", number=1)]
    with workers(lambda: Patient(notes)) as pool:
        found = sorted(pool.encode(chunks, count), key=lambda c: c.number)
    assert [words(encoded) for encoded in found] == [["a", "crash once", "b"], ["c"]]
    assert notes.read_text().count("crash once") == 2


def test_rows_encoded_before_a_death_are_not_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_SECONDS_BETWEEN_SNAPSHOTS", 0)
    monkeypatch.setattr(worker_module, "_SHARE_OF_SNAPSHOTS", 1e9)
    notes = tmp_path / "notes"
    with workers(lambda: Patient(notes)) as pool:
        [encoded] = pool.encode([chunk("a", "b", "hang", "c", "crash", "d")])
    assert words(encoded) == ["a", "b", "processor time", "c", "SIGTRAP", "d"]
    assert notes.read_text().split() == ["a", "b", "hang", "c", "crash", "crash", "d"]


def test_a_bug_in_a_worker_arrives_with_its_traceback() -> None:
    with workers(Patient) as pool, pytest.raises(KeyError, match="a bug") as caught:
        list(pool.encode([chunk("a", "bug")]))
    assert 'raise KeyError("a bug")' in str(caught.value.__cause__)
    with workers(Patient) as pool, pytest.raises(RuntimeError, match="Unknown: of a class that"):
        list(pool.encode([chunk("odd bug")]))


def refuse_to_load() -> Encoder:
    raise TokenizerError("there is none", reason="no_such_path")


def crash_while_loading() -> Encoder:
    os._exit(9)


def test_an_encoder_that_cannot_be_loaded_is_an_error() -> None:
    with workers(refuse_to_load) as pool, pytest.raises(TokenizerError, match="there is none"):
        list(pool.encode([chunk("a")], 2))
    with workers(crash_while_loading) as pool, pytest.raises(LossmaskError) as caught:
        list(pool.encode([chunk("a")], 2))
    assert caught.value.reason == "worker_died"
    assert str(caught.value) == (
        "a worker process ended outside of any row (exit code 9): is there too little memory for "
        "that many --workers?"
    )


class Clumsy(Results):
    """Results that end their process when they are closed."""

    def close(self) -> None:
        os._exit(5)


def test_a_death_outside_of_any_row_blames_none() -> None:
    chunks: list[Chunk[Results]] = [Chunk(0, chunk("a").rows, Clumsy()), chunk("b", number=1)]
    with workers(Patient) as pool, pytest.raises(LossmaskError, match=r"any row \(exit code 5\)"):
        list(pool.encode(chunks, 2))


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


class Interrupted(Exception):
    """As an interrupt from the keyboard, without ending the tests."""


def test_an_interrupt_ends_a_row_that_hangs_and_its_process(tmp_path: Path) -> None:
    notes = tmp_path / "notes"

    def note_process() -> Any:
        notes.write_text(str(os.getpid()))
        return Patient()

    def interrupt(signal_number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(Interrupted), workers(note_process) as pool:
            list(pool.encode([chunk("hang")]))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not is_running(int(notes.read_text()))


def test_an_interrupt_from_the_keyboard_does_not_reach_the_workers(tmp_path: Path) -> None:
    class Unimpressed(Patient):
        def encode_row(self, row: Mapping[str, Any]) -> Outcome:
            os.kill(os.getpid(), signal.SIGINT)
            return super().encode_row(row)

    with workers(Unimpressed) as pool:
        [encoded] = pool.encode([chunk("a")])
    assert words(encoded) == ["a"]


def test_workers_end_when_the_process_that_they_work_for_is_killed(tmp_path: Path) -> None:
    notes = tmp_path / "notes"

    def note_process() -> Any:
        notes.write_text(f"{os.getpid()}\n")
        return Patient()

    child = os.fork()
    if not child:
        pool = workers(note_process)
        list(pool.encode([chunk("a")]))
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    deadline = time.monotonic() + 10
    while is_running(int(notes.read_text())) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(int(notes.read_text()))


def test_one_row_is_encoded_apart() -> None:
    [hanging] = chunk("hang").rows
    [harmless] = chunk("a").rows
    broken = RawRow("f", 1, 0, b"{")
    outcomes = [encode_apart(raw, Patient, LIMITS) for raw in (hanging, harmless, broken)]  # type: ignore[arg-type]
    assert [outcome.rejection and outcome.rejection.reason for outcome in outcomes] == [
        "template_limits",
        "read",
        "broken_json",
    ]
