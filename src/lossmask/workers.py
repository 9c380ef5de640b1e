"""Encode rows in processes that a hostile row may end: the row is rejected, nothing else is lost.

In: chunks of rows. Out: the same chunks with what became of every row. A row that hangs, eats
memory or crashes ends its process; then that row alone is rejected, and another process goes on
with the others. Which rows are rejected does not depend on the number of processes: a row that
ended its process for a reason that may lie elsewhere, such as other rows that used up the machine's
memory, is encoded once more while nothing else runs.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from typing import Any

from lossmask.confinement import REASON, Limits, name_of_exit, ran_out_of_time, rejection_after
from lossmask.data_files import RawRow
from lossmask.errors import LossmaskError, TemplateError
from lossmask.fork_server import start_fork_server, starting_method
from lossmask.inherited_encoder import load_apart
from lossmask.outcome import Outcome
from lossmask.worker import (
    BETWEEN_ROWS,
    IN_BATCH,
    LOADING,
    Chunk,
    Progress,
    R,
    RowEncoder,
    T,
    Worker,
)

__all__ = ["Chunk", "Progress", "Workers", "encode_apart", "encode_each"]

_SECONDS_BETWEEN_REPORTS = 0.1
_ROWS_AT_LIMITS = 3  # so many, and none kept before, and it is the template, not the rows


@dataclass(slots=True)
class Outcomes:
    """Results that are simply kept."""

    all: list[Outcome] = field(default_factory=list)

    def add(self, raw: RawRow, outcome: Outcome) -> None:
        """Take the outcome of the next row."""
        self.all.append(outcome)

    def close(self) -> None:
        """Do nothing."""


class Workers:
    """Processes with an encoder each; replaced when a row ends them.

    Use as a context manager: at its end they are killed.

    Args:
        load: Makes the encoder, in each process.
        limits: What one row may cost.
        method: How processes start: as :func:`starting_method` says, or ``fork``, which is quick
            and right for a process without threads that use locks.
        expects_many: Let processes, and those that replace them, load the fast backend at once.
    """

    def __init__(
        self,
        load: Callable[[], RowEncoder],
        limits: Limits,
        *,
        method: str | None = None,
        expects_many: bool = False,
    ) -> None:
        self._load = load
        self._limits = limits
        self._method = method or starting_method()
        self._workers: list[Worker] = []
        self._expects_many = expects_many
        if self._method == "forkserver":
            self._load = start_fork_server(load, expects_many=expects_many)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def start(self, count: int) -> None:
        """Let processes load the encoder; returns once the fork server has, where there is one.

        Args:
            count: Processes.
        """
        while len(self._workers) < count:
            self._workers.append(self._worker())

    def _worker(self) -> Worker:
        return Worker(self._load, self._limits, self._method, self._expects_many)

    def ask(self, question: Callable[[Any], T]) -> T:
        """Return what a function says about the encoder, in one of the processes.

        Args:
            question: A function of a module; what it returns travels between processes.

        Raises:
            LossmaskError: A process cannot load the encoder, or ends.
        """
        worker = self._free_worker()
        answer = worker.ask(question)
        if answer is None:
            self._workers.remove(worker)
            raise _died(worker.bury())
        return answer

    def encode(
        self,
        chunks: Iterable[Chunk[R]],
        count: int = 1,
        progress: Progress = lambda done: None,
    ) -> Iterator[Chunk[R]]:
        """Encode chunks.

        Args:
            chunks: Read as processes become free.
            count: Number of processes.
            progress: Told the bytes of the rows that are done.

        Yields:
            The chunks with their results, as they are finished.

        Raises:
            LossmaskError: A process cannot load the encoder, or ends outside of any row.
        """
        doubtful: list[Chunk[R]] = []
        yield from self._encode(iter(chunks), count, progress, doubtful)
        yield from self._encode(iter(doubtful), 1, progress, None)

    def try_template(self, rows: Iterable[RawRow], count: int = 1) -> None:
        """Encode rows one by one until one is kept, to find a template at which none would be.

        Rows that are rejected for another reason than the limits say nothing about it.

        Args:
            rows: The first rows of the data.
            count: Processes that each encode the first one, for its template to be compiled there.

        Raises:
            TemplateError: Several rows reach the limits before one is kept.
        """
        hits = 0
        for raw in rows:
            chunk, *_ = self.encode([Chunk(0, [raw], Outcomes()) for _ in range(count)], count)
            count = 1
            [outcome] = chunk.results.all
            if outcome.rejection is None:
                return
            hits += outcome.rejection.reason == REASON
            if hits == _ROWS_AT_LIMITS:
                raise TemplateError(
                    f"{hits} rows reach the limits of what one row may cost ({self._limits}) "
                    f"before any is kept; nothing is written. Of {raw.place}: "
                    f"{outcome.rejection.detail}",
                    reason=REASON,
                )

    def _encode(
        self,
        chunks: Iterator[Chunk[R]],
        count: int,
        progress: Progress,
        doubtful: list[Chunk[R]] | None,
    ) -> Iterator[Chunk[R]]:
        """Encode chunks; without ``doubtful`` nothing else runs, and each death is its row's."""
        waiting: deque[Chunk[R]] = deque()
        finished: list[Chunk[R]] = []
        while True:
            while len(self._busy()) < count and (waiting or _read_one(chunks, waiting)):
                self._free_worker().give(waiting.popleft())
            yield from finished  # what is done with them, and reading, takes no worker's time
            finished.clear()
            if not (busy := self._busy()):
                return
            if not waiting:
                _read_one(chunks, waiting)
            ready = wait([worker.pipe for worker in busy], _SECONDS_BETWEEN_REPORTS)
            for worker in busy:
                chunk = worker.chunk
                assert chunk is not None
                chunk.report(worker.row, progress)
                if worker.pipe not in ready:
                    continue
                if not worker.receive():
                    self._workers.remove(worker)
                    is_judged = self._judge(worker, chunk, alone=doubtful is None)
                    (waiting if is_judged or doubtful is None else doubtful).append(chunk)
                elif worker.chunk is None:
                    chunk.report(chunk.done, progress)
                    finished.append(chunk)

    def _judge(self, worker: Worker, chunk: Chunk[R], *, alone: bool) -> bool:
        """Reject the row at which a process ended, if it is certain that the row ended it.

        Returns:
            Whether it is.

        Raises:
            LossmaskError: The process ended outside of any row.
        """
        row, exit_code = worker.row, worker.bury()
        if row == LOADING or (row == BETWEEN_ROWS and alone):
            raise _died(exit_code)
        if row == IN_BATCH:  # one of its rows; which, only one by one tells
            chunk.one_by_one = True
            return True
        if row == BETWEEN_ROWS or not (alone or ran_out_of_time(exit_code)):
            return False
        chunk.verdicts[row] = rejection_after(exit_code, self._limits)
        return True

    def _busy(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.chunk is not None]

    def _free_worker(self) -> Worker:
        for worker in self._workers:
            if worker.chunk is None:
                return worker
        self._workers.append(self._worker())
        return self._workers[-1]


def _read_one(chunks: Iterator[Chunk[R]], waiting: deque[Chunk[R]]) -> bool:
    """Let the next chunk wait, if there is one; return whether there is."""
    chunk = next(chunks, None)
    if chunk is not None:
        waiting.append(chunk)
    return chunk is not None


def _died(exit_code: int) -> LossmaskError:
    return LossmaskError(
        f"a worker process ended outside of any row ({name_of_exit(exit_code)}): is there "
        "too little memory for that many --workers?",
        reason="worker_died",
    )


def encode_apart(raw: RawRow, load: Callable[[], RowEncoder], limits: Limits) -> Outcome:
    """Encode one row in a process of its own, which may be lost.

    Args:
        raw: The row.
        load: Makes the encoder.
        limits: What the row may cost.

    Raises:
        LossmaskError: The encoder cannot be loaded.
    """
    [(_, outcome)] = encode_each([raw], load, limits)
    return outcome


def encode_each(
    rows: Iterable[RawRow], load: Callable[[], RowEncoder], limits: Limits
) -> Iterator[tuple[RawRow, Outcome]]:
    """Encode rows one after the other in a process of its own, which may be lost.

    Args:
        rows: The rows, read one at a time.
        load: Makes the encoder.
        limits: What each row may cost.

    Yields:
        Each row with its outcome, in order.

    Raises:
        LossmaskError: The encoder cannot be loaded.
    """
    method = "fork" if sys.platform == "linux" else None
    with Workers(partial(load_apart, load), limits, method=method) as workers:
        for raw in rows:
            [chunk] = workers.encode([Chunk(0, [raw], Outcomes())])
            yield raw, chunk.results.all[0]
