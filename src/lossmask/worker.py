"""One process that encodes rows and may be lost, seen from both of its ends.

In: a chunk of rows. Out: what became of each, or the row at which the process ended. The template
is compiled and rendered in such processes only.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from lossmask.confinement import OUT_OF_MEMORY, Limits, confined, make_disposable
from lossmask.data_files import RawRow
from lossmask.errors import LossmaskError
from lossmask.fork_server import interrupts_held_back
from lossmask.outcome import Outcome, Rejection
from lossmask.plain_examples import consecutive, plain_examples
from lossmask.plain_tokens import FlatTokens
from lossmask.row_batches import BATCH_SIZE, collection_paused
from lossmask.skeletons import PlainLayout

Progress = Callable[[int], None]
"""Called with the number of bytes of input that are done."""

_SECONDS_BETWEEN_SNAPSHOTS = 1.0
_SHARE_OF_SNAPSHOTS = 0.05  # of the time, at most: those of long examples take a while
IN_BATCH, LOADING, BETWEEN_ROWS = -3, -2, -1  # what a worker says instead of the row it is at


class Batches(Protocol):
    """Encodes rows many at a time, see ``row_batches``."""

    def lay_out(self, row: Mapping[str, Any]) -> list[PlainLayout] | None:
        """Lay out the examples of one row; None if it has to be encoded by itself."""

    def expect_many(self) -> None:
        """Load what only many rows are worth."""

    def tokenize(self, layouts: Sequence[PlainLayout]) -> FlatTokens:
        """Tokenize what was laid out."""

    def check_backend(self) -> None:
        """Raise if what was encoded so far is not certain."""


class RowEncoder(Protocol):
    """What a worker encodes rows with: an ``Encoder``, or what stands in for one."""

    @property
    def row_batches(self) -> Batches:
        """What encodes rows many at a time."""

    def encode_row(self, row: Mapping[str, Any]) -> Outcome:
        """Encode one row; never raises on bad data."""


class Results(Protocol):
    """Collects what became of the rows of a chunk; travels between processes."""

    def add(self, raw: RawRow, outcome: Outcome) -> None:
        """Take the outcome of the next row."""

    def close(self) -> None:
        """Do what is to be done once after the last row."""


@runtime_checkable
class FlatResults(Protocol):
    """Results that take examples as they lie in a batch."""

    def add_flat(self, raws: Sequence[RawRow], tokens: FlatTokens, numbers: list[range]) -> None:
        """Take the next rows, which became some examples each, one after the other, of a batch."""


@runtime_checkable
class PlainResults(Protocol):
    """Results that look at rows besides, and at what is the same for a whole batch once."""

    def add_plain(
        self,
        raw: RawRow,
        row: Mapping[str, Any],
        layouts: Sequence[PlainLayout],
        batch: tuple[FlatTokens, range],
    ) -> None:
        """Take the next row, parsed and laid out: the examples of those numbers of a batch."""


R = TypeVar("R", bound=Results)
T = TypeVar("T")


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
        one_by_one: Whether no rows are to be encoded together: a batch ended its process.
    """

    number: int
    rows: Sequence[RawRow]
    results: R
    done: int = 0
    verdicts: dict[int, Rejection] = field(default_factory=dict)
    reported: int = 0
    one_by_one: bool = False

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

    def __init__(
        self,
        load: Callable[[], RowEncoder],
        limits: Limits,
        method: str,
        expects_many: bool = False,
    ) -> None:
        context: Any = multiprocessing.get_context(method)
        self.pipe, theirs = context.Pipe()
        self._row = context.RawValue("q", LOADING)
        self.chunk: Chunk[Any] | None = None
        inherited = self.pipe if method == "fork" else None
        self._process = context.Process(
            target=_work,
            args=(theirs, inherited, self._row, load, limits, os.getcwd(), expects_many),
            daemon=True,
        )
        with interrupts_held_back(), warnings.catch_warnings():
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
            self.pipe.send(replace(chunk, rows=()))
            for at in range(0, len(chunk.rows), BATCH_SIZE):  # much quicker than all rows at once
                self.pipe.send(chunk.rows[at : at + BATCH_SIZE])
            self.pipe.send(())

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

    def ask(self, question: Callable[[Any], T]) -> T | None:
        """Return what a function says about the encoder, None if the process has ended.

        Raises:
            BaseException: What the process failed with.
        """
        try:
            self.pipe.send(question)
            message: Any = self.pipe.recv()
        except (EOFError, OSError):
            return None
        if isinstance(message, _Failure):
            raise message.error from _RemoteError(message.trace)
        answer: T = message
        return answer

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
    pipe: Any,
    inherited: Any,
    at: Any,
    load: Callable[[], RowEncoder],
    limits: Limits,
    folder: str,
    expects_many: bool,
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
        if expects_many:
            encoder.row_batches.expect_many()
        at.value = BETWEEN_ROWS
        while (given := _next_given(pipe)) is not None:
            if isinstance(given, Chunk):
                given.rows = [*chain.from_iterable(iter(pipe.recv, ()))]
                _encode_chunk(given, pipe, at, encoder, limits)
            else:
                pipe.send(given(encoder))
    except BaseException as error:
        with suppress(OSError):  # the process that this one works for is gone
            pipe.send(_Failure(_picklable(error), traceback.format_exc()))


def _next_given(pipe: Any) -> Chunk[Any] | Callable[[Any], object] | None:
    try:
        given: Chunk[Any] | Callable[[Any], object] = pipe.recv()
    except (EOFError, ConnectionResetError):
        return None
    return given


def _encode_chunk(
    chunk: Chunk[Any], pipe: Any, at: Any, encoder: RowEncoder, limits: Limits
) -> None:
    """Encode what is left of a chunk, a batch of rows after the other."""
    snapshots = _Snapshots(pipe)
    end = chunk.done
    while end < len(chunk.rows):
        batch = range(end, min(end + BATCH_SIZE, len(chunk.rows)))
        end = batch.stop
        with confined(limits) as begin_row, collection_paused():
            _encode_batch(chunk, batch, at, encoder, begin_row, snapshots)
    encoder.row_batches.check_backend()
    chunk.results.close()
    pipe.send(_Done(len(chunk.rows), chunk.results))


def _encode_batch(
    chunk: Chunk[Any],
    batch: range,
    at: Any,
    encoder: RowEncoder,
    begin_row: Callable[[int], None],
    snapshots: _Snapshots,
) -> None:
    """Encode some rows of a chunk; nothing that they were parsed to is left behind."""
    plain = _encode_plain(chunk, batch, at, encoder, begin_row)
    for is_plain, run in groupby(batch, plain.__contains__):
        indices = list(run)
        if is_plain:
            _take_plain(chunk.results, [(chunk.rows[k], plain[k]) for k in indices])
            snapshots.send(chunk, indices[-1] + 1)
            continue
        for index in indices:
            at.value = index
            outcome = _encode_alone(chunk, index, encoder, begin_row)
            at.value = BETWEEN_ROWS
            chunk.results.add(chunk.rows[index], outcome)
            snapshots.send(chunk, index + 1)


_Plain = tuple[Mapping[str, Any], Sequence[PlainLayout], tuple[FlatTokens, range]]
"""A row, the layouts of its examples, and the batch that holds them with their numbers there."""


def _take_plain(results: Results, rows: list[tuple[RawRow, _Plain]]) -> None:
    """Let results take rows that follow one another, as they like it best."""
    if isinstance(results, PlainResults):
        for raw, plain in rows:
            results.add_plain(raw, *plain)
    elif isinstance(results, FlatResults):
        tokens, _ = rows[0][1][2]
        results.add_flat([raw for raw, _ in rows], tokens, [own for _, (*_, (_, own)) in rows])
    else:
        for raw, (_, layouts, batch) in rows:
            results.add(raw, Outcome(plain_examples(layouts, *batch)))


def _encode_plain(
    chunk: Chunk[Any],
    batch: Iterable[int],
    at: Any,
    encoder: RowEncoder,
    begin_row: Callable[[int], None],
) -> dict[int, _Plain]:
    """Encode the plain conversations of a batch together; return the exact ones by row."""
    laid_out: dict[int, list[PlainLayout]] = {}
    rows: dict[int, Mapping[str, Any]] = {}
    if chunk.one_by_one:
        return {}
    batches = encoder.row_batches
    with _exit_if_out_of_memory():
        for index in batch:
            if index in chunk.verdicts:
                continue
            at.value = index
            try:
                row = chunk.rows[index].parse()
            except LossmaskError:
                continue  # told when it is encoded alone
            begin_row(_count_of_messages(row))
            layouts = batches.lay_out(row)
            if layouts is not None:
                laid_out[index], rows[index] = layouts, row
        if not laid_out:
            return {}
        at.value = IN_BATCH
        begin_row(len(laid_out))
        layouts_of_all = [*chain.from_iterable(laid_out.values())]
        tokens = batches.tokenize(layouts_of_all)
    at.value = BETWEEN_ROWS
    are_all_exact = tokens.are_exact(range(len(layouts_of_all)))
    numbers = consecutive(laid_out.values())
    return {
        index: (rows[index], layouts, (tokens, own))
        for (index, layouts), own in zip(laid_out.items(), numbers, strict=True)
        if are_all_exact or tokens.are_exact(own)
    }


def _encode_alone(
    chunk: Chunk[Any], index: int, encoder: RowEncoder, begin_row: Callable[[int], None]
) -> Outcome:
    """Encode one row; never raises on bad data."""
    if index in chunk.verdicts:
        return Outcome(rejection=chunk.verdicts[index])
    try:
        row = chunk.rows[index].parse()
    except LossmaskError as error:
        return Outcome(rejection=Rejection.from_error(error))
    begin_row(_count_of_messages(row))
    with _exit_if_out_of_memory():
        return encoder.encode_row(row)


def _count_of_messages(row: Mapping[str, Any]) -> int:
    messages = row.get("messages")
    return len(messages) if isinstance(messages, list) else 0


class _exit_if_out_of_memory:
    """End the process at a ``MemoryError``: whatever it interrupted may be left half done."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None and issubclass(kind, MemoryError):
            os._exit(OUT_OF_MEMORY)


class _Snapshots:
    """Sends what there is of a chunk about once a second, so that little of it can be lost."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._due = time.monotonic() + _SECONDS_BETWEEN_SNAPSHOTS

    def send(self, chunk: Chunk[Any], done: int) -> None:
        now = time.monotonic()
        if now < self._due or done == len(chunk.rows):
            return
        self._pipe.send(_Done(done, chunk.results))
        took = time.monotonic() - now
        self._due = now + max(_SECONDS_BETWEEN_SNAPSHOTS, took / _SHARE_OF_SNAPSHOTS)


def _picklable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever pickling it raises, what it says is to arrive
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
