"""Chunks of rows encoded on the nodes of a Ray cluster: what ``--engine ray`` does.

In: data files and an output folder that every node sees. Out: the shards and records of chunks in
that folder, the very bytes that this machine alone would write. Ray Data hands out *places*, not
rows, so that data travels from the shared storage to the node that encodes it and nowhere else::

    driver                      Ray Data, one task per processor                     shared folder
    places of chunks  ->  read the chunk | TableEncoder | Parquet, record   ->   unfinished/part-…
                      <-  chunk 7 is done, so many bytes

Tasks that die with their node leave nothing half written; Ray has them done again elsewhere.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from lossmask.confinement import Limits
from lossmask.data_files import RawRow, places_of_chunks, read_rows, total_bytes
from lossmask.encoded_rows import parquet_bytes
from lossmask.errors import LossmaskError, PolicyError
from lossmask.instruction_styles import is_style
from lossmask.output_folder import UNFINISHED, OutputFolder
from lossmask.preparing import EncoderSource, code_fingerprint
from lossmask.raw_rows import Place, Start
from lossmask.table_batches import EncodedTable, TableEncoder, table_of_rows
from lossmask.worker import Progress

_MOST_BLOCKS = 4096  # of places: what Ray has to keep account of
_SECONDS_TILL_UNREACHABLE = 10.0
_ANSWER = pa.schema({"chunk": pa.int64(), "size": pa.int64(), "error": pa.binary()})
_PLACE = ("row", "file", "position", "number", "start_row")


@dataclass(frozen=True, slots=True)
class RayJob:
    """What a node has to know.

    Attributes:
        run: Names this run of the command.
        paths: Absolute.
        names: The same as they were given, which is what rejected rows are told by.
        source: Tokenizer, template and policy.
        limits: What one row may cost.
        rows_per_chunk: Of every chunk but the last.
        output: The output folder, absolute.
        fingerprint: Of what is written there.
        encoder: Fingerprint of the driver's encoder, which is also that of every node.
        code: Fingerprint of the driver's code, likewise.
        size: Bytes of the data, None if unknown; likewise.
    """

    run: str
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    source: EncoderSource
    limits: Limits
    rows_per_chunk: int
    output: Path
    fingerprint: str
    encoder: str
    code: str
    size: int | None


def ray_job(
    paths: Sequence[Path],
    source: EncoderSource,
    limits: Limits,
    rows_per_chunk: int,
    out: OutputFolder,
    encoder_fingerprint: str,
) -> RayJob:
    """Put together what nodes have to know, with paths that do not depend on the current folder."""
    return RayJob(
        run=uuid4().hex,
        paths=tuple(path.absolute() if path.exists() else path for path in paths),
        names=tuple(map(str, paths)),
        source=replace(
            source,
            tokenizer=_absolute(source.tokenizer),
            chat_template=_absolute_template(source.chat_template),
        ),
        limits=limits,
        rows_per_chunk=rows_per_chunk,
        output=out.path.absolute(),
        fingerprint=out.fingerprint,
        encoder=encoder_fingerprint,
        code=code_fingerprint(),
        size=total_bytes(paths),
    )


def encode_on_ray(job: RayJob, workers: int, progress: Progress) -> int:
    """Encode the chunks that nobody has done or works on.

    Args:
        job: What to encode. Ray must be connected.
        workers: Tasks at once; each takes one processor of the cluster.
        progress: Told the bytes of input done.

    Returns:
        The number of chunks that the data has, done or not.

    Raises:
        LossmaskError: A node cannot work, or Ray cannot go on.
    """
    out = OutputFolder(job.output, job.fingerprint)
    places = list(places_of_chunks(job.paths, job.rows_per_chunk))
    left = [place for place in places if out.record(_number(job, place)) is None]
    is_strict = False
    while left:
        answered: set[int] = set()
        errors: list[LossmaskError] = []
        try:
            for number, size, error in _pass(job, left, workers, is_strict):
                answered.add(number)
                progress(size)
                if error is not None:
                    errors.append(pickle.loads(error))
                    _stop(job)  # and let tasks end: none may write what another run begins anew
        except Exception as error:  # Ray has some twenty kinds, and wraps those of others
            raise LossmaskError(
                f"Ray cannot go on: {error}. What is done is kept: start the same command again, "
                "which goes on from there",
                reason="ray_failed",
            ) from error
        if errors:
            raise errors[0]
        before = len(left)
        left = [
            place
            for place in left
            if (number := _number(job, place)) not in answered and out.record(number) is None
        ]
        is_strict = len(left) == before  # no task lived for a chunk: let Ray say why
    return len(places)


@contextmanager
def connected_to_ray(address: str | None, workers: int) -> Iterator[int]:
    """Connect to a Ray cluster, or start Ray on this machine alone; a connection is kept.

    Args:
        address: Of the cluster; None: what the environment variable ``RAY_ADDRESS`` says.
        workers: Tasks at once; 0: one per processor.

    Yields:
        The number of tasks at once.

    Raises:
        PolicyError: Ray is not installed.
        LossmaskError: There is no cluster at the address, or a connection to another one.
    """
    try:
        import ray
    except ImportError as error:
        raise PolicyError(
            'the engine ray needs Ray Data, which is not installed: pip install "lossmask[ray]"',
            reason="no_ray",
        ) from error
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(address or os.environ.get("RAY_ADDRESS"), workers)
    elif address not in (None, "auto", ray.get_runtime_context().gcs_address):
        raise LossmaskError(
            f"this process is connected to Ray at {ray.get_runtime_context().gcs_address}, not at "
            f"{address}: leave the address out, or call ray.shutdown() before",
            reason="no_ray",
        )
    try:
        yield workers or max(int(ray.cluster_resources().get("CPU", 1)), 1)
    finally:
        if is_ours:
            ray.shutdown()


def _connect(address: str | None, workers: int) -> None:
    import ray

    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        host, _, port = (address or "").removeprefix("ray://").rpartition(":")
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=_SECONDS_TILL_UNREACHABLE).close()
        ray.init(
            address=address or "local",
            num_cpus=None if address else workers or None,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise LossmaskError(
            f"cannot connect to Ray at {address or 'this machine'}: {error}; is it running "
            "(`ray status`), and does this machine have its token?",
            reason="no_ray",
        ) from error


def _pass(
    job: RayJob, places: Sequence[Place], workers: int, is_strict: bool
) -> Iterator[tuple[int, int, bytes | None]]:
    """Let Ray Data go over chunks once, and yield what tasks answer.

    A chunk whose task was given up is not answered; with ``is_strict`` its error is raised instead.
    """
    from ray.data import TaskPoolStrategy, from_arrow

    blocks = _blocks(places)
    with _quiet_ray_data(max_errored_blocks=0 if is_strict else -1):
        answers = from_arrow(blocks).map_batches(
            _write_chunks,
            fn_args=(job,),
            batch_size=None,
            batch_format="pyarrow",
            compute=TaskPoolStrategy(min(workers, len(blocks))),
            num_cpus=1,
        )
        for answer in answers.iter_rows():
            yield answer["chunk"], answer["size"], answer["error"]


@contextmanager
def _quiet_ray_data(*, max_errored_blocks: int) -> Iterator[None]:
    """Set for a while how many blocks may fail (-1: any number), without bars and reports."""
    from ray.data import DataContext

    context, log = DataContext.get_current(), logging.getLogger("ray.data")
    before = context.max_errored_blocks, context.enable_progress_bars, log.level
    context.max_errored_blocks, context.enable_progress_bars = max_errored_blocks, False
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.max_errored_blocks, context.enable_progress_bars = before[:2]
        log.setLevel(before[2])


def _blocks(places: Sequence[Place]) -> list[pa.Table]:
    """Return places as tables of neighbours, which a task reads one after the other."""
    size = -(-len(places) // _MOST_BLOCKS)
    rows = [(place.row, place.file, *astuple(place.start), place.start_row) for place in places]
    return [
        pa.table(dict(zip(_PLACE, map(list, zip(*rows[k : k + size], strict=True)), strict=True)))
        for k in range(0, len(rows), size)
    ]


def _write_chunks(places: pa.Table, job: RayJob) -> pa.Table:
    """Encode and write the chunks at some places: the task that nodes do.

    Tasks rather than actors: an actor whose node is lost waits for a free processor to be started
    again on, and keeps its chunks from the others meanwhile.

    Returns:
        A row per chunk that was done. What fails is in the last one: Ray would wrap the error.
    """
    answers = list[dict[str, Any]]()
    for values in places.to_pylist():
        if _stop_file(job).exists():
            break
        start = Start(values["position"], values["number"])
        place = Place(values["row"], values["file"], start, values["start_row"])
        number = _number(job, place)
        try:
            size = _writer_of(job).write(number, place)
        except LossmaskError as error:
            answers.append({"chunk": number, "size": 0, "error": pickle.dumps(error)})
            break
        answers.append({"chunk": number, "size": size, "error": None})
    return pa.Table.from_pylist(answers, schema=_ANSWER)


def _stop(job: RayJob) -> None:
    """Let the tasks of a run do nothing more."""
    with suppress(OSError):  # another run has finished the output, and nobody works on it
        _stop_file(job).touch()


def _stop_file(job: RayJob) -> Path:
    return job.output / UNFINISHED / f"{job.run}.stop"


_writers: dict[str, _ChunkWriter] = {}
"""Run -> what writes its chunks in this process, for as long as Ray gives it tasks of that run."""


def _writer_of(job: RayJob) -> _ChunkWriter:
    if job.run not in _writers:
        for writer in _writers.values():
            writer.close()
        _writers.clear()
        _check(job)
        _writers[job.run] = _ChunkWriter(job)
    return _writers[job.run]


class _ChunkWriter:
    """Encodes and writes chunks of one run."""

    def __init__(self, job: RayJob) -> None:
        self._job = job
        self._out = OutputFolder(job.output, job.fingerprint)
        self._encode = TableEncoder(job.source.load, job.limits)
        self._rows = _Rows(job.paths)
        self._names = dict(zip(map(str, job.paths), job.names, strict=True))
        self._alive = ExitStack()
        self._alive.enter_context(self._out.kept_alive())

    def close(self) -> None:
        """End its process, and release what it claims."""
        self._encode.close()
        self._alive.close()

    def write(self, number: int, place: Place) -> int:
        """Encode and write a chunk, unless somebody else does; return its size in bytes."""
        if self._out.record(number) is not None or not self._out.claim(number):
            return 0
        rows = [
            raw._replace(file=self._names[raw.file])
            for raw in self._rows.take(place, self._job.rows_per_chunk)
        ]
        encoded = EncodedTable.of(self._encode(table_of_rows(rows)))
        shard = None if encoded.examples is None else parquet_bytes(encoded.examples)
        record = {"counts": encoded.counts.to_mapping(), "rejected": encoded.rejected}
        self._out.write_chunk(number, shard, record)
        return sum(raw.size for raw in rows)


def _check(job: RayJob) -> None:
    """Make sure that this node would write what the driver's would.

    Raises:
        LossmaskError: It has other code, another tokenizer, or does not see the files.
    """
    here, out = f"the Ray node {socket.gethostname()}", OutputFolder(job.output, job.fingerprint)
    if not out.is_begun() and out.finished() is None:
        raise LossmaskError(
            f"{here} does not see {job.output} as this machine does: choose a folder on storage "
            "that all nodes share",
            reason="not_shared",
        )
    missing = [path for path in job.paths if path.is_absolute() and not path.exists()]
    if missing or total_bytes(job.paths) != job.size:
        raise LossmaskError(
            f"{here} does not see {missing[0] if missing else 'the data'} as this machine does: "
            "put the data on storage that all nodes share",
            reason="not_shared",
        )
    if code_fingerprint() != job.code:
        raise LossmaskError(
            f"{here} has another version of lossmask, transformers, tokenizers or jinja2 than "
            "this machine: install the same on both",
            reason="other_versions",
        )
    if job.source.load().fingerprint() != job.encoder:
        raise LossmaskError(
            f"{here} loads another tokenizer or template from {job.source.tokenizer} than this "
            "machine: put it on storage that all nodes share",
            reason="not_shared",
        )


class _Rows:
    """The rows of files at any place; at places further on without beginning anew, if it can."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._rows: Iterator[RawRow] = iter(())
        self._next = -1

    def take(self, place: Place, count: int) -> list[RawRow]:
        """Return ``count`` rows, or how many there are."""
        if not place.start_row <= self._next <= place.row:
            self._rows, self._next = read_rows(self._paths, place), place.row
        taken = list(islice(self._rows, place.row - self._next, place.row - self._next + count))
        self._next = place.row + len(taken)
        return taken


def _number(job: RayJob, place: Place) -> int:
    return place.row // job.rows_per_chunk


def _absolute(name: str) -> str:
    """Return a path that is here as one that does not depend on the working directory."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


def _absolute_template(template: str | None) -> str | None:
    is_file = template is not None and not is_style(template) and not {"{", "\n"} & {*template}
    return _absolute(template) if template is not None and is_file else template
