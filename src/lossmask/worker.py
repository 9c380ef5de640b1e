"""One process that encodes rows and may be lost, seen from both of its ends.

In: a chunk of rows. Out: what became of each, or the row at which the process ended. The template
is compiled and rendered in such processes only.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from lossmask.confinement import OUT_OF_MEMORY, Limits, confined, make_disposable
from lossmask.data_files import RawRow
from lossmask.encoder import Encoder
from lossmask.errors import LossmaskError
from lossmask.outcome import Outcome, Rejection

if sys.platform != "win32":
    from multiprocessing import forkserver, resource_tracker

Progress = Callable[[int], None]
"""Called with the number of bytes of input that are done."""

_SECONDS_BETWEEN_SNAPSHOTS = 1.0
_SHARE_OF_SNAPSHOTS = 0.05  # of the time, at most: those of long examples take a while
LOADING, BETWEEN_ROWS = -2, -1  # what a worker says instead of the row that it is at

_IMPORTED_ONCE = (
    "lossmask.preparing",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.configuration_llama",  # any configuration: they import torch
)
"""Modules that loading a tokenizer imports in seconds; a fork server hands them on in no time."""


class Results(Protocol):
    """Collects what became of the rows of a chunk; travels between processes."""

    def add(self, raw: RawRow, outcome: Outcome) -> None:
        """Take the outcome of the next row."""

    def close(self) -> None:
        """Do what is to be done once after the last row."""


R = TypeVar("R", bound=Results)


@dataclass(slots=True)
class Chunk(Generic[R]):
    """Rows to encode, and how far that is.

    Attributes:
        number: Of the chunk, for its owner.
        rows: All of them.
        results: What became of the first ``done`` rows; closed when it is all of them.
        done: How many rows ``results`` holds.
        verdicts: Index of a row that is not to be encoded -> why.
        reported: How many rows were reported as done.
    """

    number: int
    rows: Sequence[RawRow]
    results: R
    done: int = 0
    verdicts: dict[int, Rejection] = field(default_factory=dict)
    reported: int = 0

    def report(self, done: int, progress: Progress) -> None:
        """Report the rows that became done since the last time."""
        if done > self.reported:
            progress(sum(raw.size for raw in self.rows[self.reported : done]))
            self.reported = done


@dataclass(frozen=True, slots=True)
class _Done:
    """A worker's message: the results of the first ``count`` rows of its chunk."""

    count: int
    results: Any


@dataclass(frozen=True, slots=True)
class _Failure:
    """A worker's message: an error that is not about a row."""

    error: BaseException
    trace: str


class _RemoteError(Exception):
    """The traceback of an error in another process, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class Worker:
    """One process, seen from the one that it works for."""

    def __init__(self, load: Callable[[], Encoder], limits: Limits, method: str) -> None:
        context: Any = multiprocessing.get_context(method)
        self.pipe, theirs = context.Pipe()
        self._row = context.RawValue("q", LOADING)
        self.chunk: Chunk[Any] | None = None
        inherited = self.pipe if method == "fork" else None
        self._process = context.Process(
            target=_work,
            args=(theirs, inherited, self._row, load, limits, os.getcwd()),
            daemon=True,
        )
        with _interrupts_held_back(), warnings.catch_warnings():
            # Python 3.12 warns of any thread; those of numpy and torch hold nothing while they idle
            warnings.filterwarnings("ignore", r".*multi-threaded.*fork\(\)", DeprecationWarning)
            self._process.start()
        theirs.close()

    @property
    def row(self) -> int:
        """Index in its chunk of the row that it is at; negative if at none."""
        return int(self._row.value)

    def give(self, chunk: Chunk[Any]) -> None:
        """Let it work on a chunk."""
        self.chunk = chunk
        with suppress(OSError):  # it has just ended, which the next `receive` finds out
            self.pipe.send(chunk)

    def receive(self) -> bool:
        """Take a message about its chunk; the chunk is gone from here when it is finished.

        Returns:
            False if the process has ended.

        Raises:
            BaseException: What the process failed with, if not with a row.
        """
        assert self.chunk is not None
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            return False
        if isinstance(message, _Failure):
            raise message.error from _RemoteError(message.trace)
        self.chunk.done, self.chunk.results = message.count, message.results
        if message.count == len(self.chunk.rows):
            self.chunk = None
        return True

    def bury(self) -> int:
        """Wait for the end of the process, which has closed its pipe; return its exit code."""
        self._process.join()
        exit_code: int = self._process.exitcode
        self._process.close()
        self.pipe.close()
        return exit_code

    def kill(self) -> None:
        """End the process."""
        self._process.kill()
        self.bury()


def _work(
    pipe: Any, inherited: Any, at: Any, load: Callable[[], Encoder], limits: Limits, folder: str
) -> None:
    """Be a worker: load the encoder, then encode chunks until the pipe is closed."""
    if inherited is not None:
        inherited.close()  # or this process would itself keep the pipe open that it waits for
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who waits for this process ends it
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.chdir(folder)
    make_disposable()
    try:
        encoder = load()
        at.value = BETWEEN_ROWS
        while (chunk := _next_chunk(pipe)) is not None:
            _encode_chunk(chunk, pipe, at, encoder, limits)
    except BaseException as error:
        with suppress(OSError):  # the process that this one works for is gone
            pipe.send(_Failure(_picklable(error), traceback.format_exc()))


def _next_chunk(pipe: Any) -> Chunk[Any] | None:
    try:
        chunk: Chunk[Any] = pipe.recv()
    except (EOFError, ConnectionResetError):
        return None
    return chunk


def _encode_chunk(chunk: Chunk[Any], pipe: Any, at: Any, encoder: Encoder, limits: Limits) -> None:
    due = time.monotonic() + _SECONDS_BETWEEN_SNAPSHOTS
    for index in range(chunk.done, len(chunk.rows)):
        raw = chunk.rows[index]
        if index in chunk.verdicts:
            outcome = Outcome(rejection=chunk.verdicts[index])
        else:
            at.value = index
            try:
                outcome = encode_raw(raw, encoder, limits)
            except MemoryError:
                os._exit(OUT_OF_MEMORY)  # whatever it interrupted may be left half done
        at.value = BETWEEN_ROWS
        chunk.results.add(raw, outcome)
        if (now := time.monotonic()) >= due and index + 1 < len(chunk.rows):
            pipe.send(_Done(index + 1, chunk.results))
            took = time.monotonic() - now
            due = now + max(_SECONDS_BETWEEN_SNAPSHOTS, took / _SHARE_OF_SNAPSHOTS)
    chunk.results.close()
    pipe.send(_Done(len(chunk.rows), chunk.results))


def _picklable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever pickling it raises, what it says is to arrive
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def start_fork_server() -> None:
    """Let the fork server import what workers need while this process does something else."""
    if sys.platform != "win32":
        multiprocessing.set_forkserver_preload(list(_IMPORTED_ONCE))
        with _interrupts_held_back():
            forkserver.ensure_running()


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, not even while they start."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # starting it later would let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def encode_raw(raw: RawRow, encoder: Encoder, limits: Limits) -> Outcome:
    """Encode one line of data within limits; never raises on bad data.

    Raises:
        MemoryError: It went beyond the memory it may have; beyond the time the process ends.
    """
    try:
        row = raw.parse()
    except LossmaskError as error:
        return Outcome(rejection=Rejection.from_error(error))
    messages = row.get("messages")
    with confined(limits, len(messages) if isinstance(messages, list) else 0):
        return encoder.encode_row(row)


def starting_method() -> str:
    """Return how to start processes: quickly where there are fork servers, else from scratch."""
    fits_a_socket_address = len(os.fsencode(tempfile.gettempdir())) < 70
    return "forkserver" if sys.platform == "linux" and fits_a_socket_address else "spawn"
