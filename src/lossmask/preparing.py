"""Data files -> a prepared folder: what ``lossmask prepare`` does.

::

    OUT/part-00000.parquet   examples of input rows 0..999, columns: row, input_ids, labels,
                             loss_weights, message_index
    OUT/part-00001.parquet   …
    OUT/tokenizer            only if tokens were added to it
    OUT/rejected.jsonl       every row that was not kept: place, reason, the row itself
    OUT/manifest.json        written last: counts, tokenizer, template, policy, fit, fingerprint

Rows are cut into chunks of fixed size, so the result does not depend on the number of processes,
nor on the number of runs that write one folder together (``output_folder``). Started again after a
kill, the same command goes on with the chunks that are not done. Rows are encoded in ``workers``,
files are written here alone.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import resources
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from lossmask.confinement import Limits
from lossmask.data_files import check_files, fingerprint_of, in_chunks, read_rows, total_bytes
from lossmask.encoded_rows import Counts, EncodedRows, json_line
from lossmask.encoder import Encoder
from lossmask.errors import BackendDiffers, InputError, PolicyError
from lossmask.fit import Fit
from lossmask.layout import Layout
from lossmask.max_rejected import MaxRejected
from lossmask.output_folder import REJECTED, TOKENIZER, UNFINISHED, OutputFolder, shard_name
from lossmask.policy import Policy, nearest
from lossmask.remembered import folder
from lossmask.setting import Proving
from lossmask.worker import Chunk, Progress
from lossmask.workers import Workers

__all__ = ["Counts", "EncoderSource", "Engine", "Prepared", "prepare"]

Engine = Literal["local", "ray"]

FORMAT = 1
ROWS_PER_SHARD = 1000
_SECONDS_BETWEEN_LOOKS = 1.0
_LARGE = 2_000_000  # bytes of data for which it pays to load the fast backend at once


@dataclass(frozen=True, slots=True)
class EncoderSource:
    """How to make the encoder, in this process or another one."""

    tokenizer: str
    policy: Policy = field(default_factory=Policy)
    chat_template: str | None = None
    stop_tokens: tuple[str | int, ...] = ()
    template_variables: tuple[tuple[str, Any], ...] = ()
    layout: Layout = field(default_factory=Layout)
    special_tokens: bool = False
    proof: Proving = "template"
    fit: Fit = field(default_factory=Fit)
    fast: bool = True

    def load(self) -> Encoder:
        """Load tokenizer and template."""
        return Encoder.from_pretrained(
            self.tokenizer,
            self.policy,
            chat_template=self.chat_template,
            stop_tokens=self.stop_tokens,
            template_variables=dict(self.template_variables),
            layout=self.layout,
            special_tokens=self.special_tokens,
            proof=self.proof,
            fit=self.fit,
            fast=self.fast,
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared folder, and what became of the rows."""

    folder: Path
    counts: Counts


def prepare(
    paths: Sequence[Path],
    source: EncoderSource,
    output: Path | None = None,
    *,
    workers: int = 1,
    limits: Limits | None = None,
    max_rejected: MaxRejected | None = None,
    overwrite: bool = False,
    engine: Engine = "local",
    ray_address: str | None = None,
    progress: Progress = lambda done: None,
    notice: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Encode data files into a prepared folder.

    Starts processes, so a script calls it under ``if __name__ == "__main__":``. The same call on
    several machines that share the folder divides the work between them.

    Args:
        paths: Data files, in any format that ``data_files`` and ``formats`` read.
        source: Tokenizer, template and policy.
        output: Folder to write; created. A run that was killed is continued. None: a folder of the
            cache, named by all that decides over the result, so that it is prepared once.
        workers: Processes; the result is the same for any number. With ``ray``, 0 is one per
            processor of the cluster.
        limits: What one row may cost; a row that needs more is rejected.
        max_rejected: More rejected rows than these are an error, at the end; nothing is finished
            then, and the same call with another limit has nothing to encode.
        overwrite: Replace a folder prepared from something else, once the new one is whole.
        engine: ``local``: processes of this machine; ``ray``: of a Ray cluster, for the same result
            (``docs/ray.md``).
        ray_address: Of the cluster; None: that of ``RAY_ADDRESS`` or of ``ray.init`` before, else
            Ray is started on this machine.
        progress: Told the bytes of input done.
        notice: Told what a person should know while it runs.

    Returns:
        The folder, and counts with ``rows_in == rows_kept + rows_rejected``.

    Raises:
        InputError: A file is missing or no data, or there is no row.
        PreparedDataError: The folder holds something else, is being written otherwise, or cannot
            be written; or more rows are rejected than may be.
        PolicyError: ``engine`` is neither, or Ray is not installed.
        LossmaskError: Ray cannot be reached or cannot go on, or a node of it differs.
        TemplateError: The first rows all reach the limits; nothing is written.
    """
    limits = limits or Limits()
    if engine not in get_args(Engine):
        raise PolicyError(f"engine is {engine!r}; {nearest(engine, get_args(Engine))}")
    check_files(paths)
    with _ray(engine, ray_address, workers) as workers:

        def run(source: EncoderSource) -> Prepared:
            return _prepare(
                paths,
                source,
                output,
                workers,
                limits,
                max_rejected,
                overwrite,
                engine,
                progress,
                notice,
            )

        try:
            return run(source)
        except BackendDiffers as error:
            notice(f"{error.detail}: starting again with the tokenizer itself")
            return run(replace(source, fast=False))


def _ray(engine: Engine, address: str | None, workers: int) -> AbstractContextManager[int]:
    """Be connected to Ray where that is the engine; gives the number of processes to use."""
    if engine == "local":
        return nullcontext(max(workers, 1))
    from lossmask.ray_engine import connected_to_ray

    return connected_to_ray(address, workers)


def _prepare(
    paths: Sequence[Path],
    source: EncoderSource,
    output: Path | None,
    workers: int,
    limits: Limits,
    max_rejected: MaxRejected | None,
    overwrite: bool,
    engine: Engine,
    progress: Progress,
    notice: Callable[[str], None],
) -> Prepared:
    is_large = (total_bytes(paths) or _LARGE) >= _LARGE
    with Workers(source.load, limits, expects_many=is_large) as pool:
        data = [fingerprint_of(path) for path in paths]  # while the encoder is being loaded
        processes = workers if engine == "local" else 1
        pool.start(processes)
        encoder = pool.ask(_describe)
        fingerprint = _fingerprint(data, encoder, limits)
        out = OutputFolder(output or folder("prepared") / fingerprint[:32], fingerprint)
        if (manifest := out.finished()) is None and not out.is_begun():
            out.check(overwrite=overwrite)
            _check_rows(paths)
            pool.try_template(islice(read_rows(paths), ROWS_PER_SHARD), processes)
            out.begin()
            manifest = out.finished()  # by another run, which began and ended meanwhile
        if manifest is not None:
            progress(total_bytes(paths) or 0)
            return Prepared(out.path, Counts.of_manifest(manifest))
        try:
            with out.kept_alive():
                if engine == "local":
                    encode_left = _local(paths, out, pool, workers, progress)
                else:
                    encode_left = _on_ray(paths, out, source, limits, encoder, workers, progress)
                manifest = _encode_all(encode_left, out, notice)
                if manifest is None:
                    counts, shards = _gather(out, max_rejected)
                    manifest = _manifest(out, paths, encoder, source, limits, counts, shards)
                    out.finish(manifest)
        except BackendDiffers:
            out.discard()
            raise
        return Prepared(out.path, Counts.of_manifest(manifest))


def _check_rows(paths: Sequence[Path]) -> None:
    if next(read_rows(paths), None) is None:
        raise InputError(f"no rows in {', '.join(map(str, paths))}", reason="no_rows")


def _local(
    paths: Sequence[Path], out: OutputFolder, pool: Workers, workers: int, progress: Progress
) -> Callable[[], int]:
    """Return what encodes the chunks that are left here, and returns the number of all."""
    left = _ChunksLeft(paths, out, progress)

    def encode_left() -> int:
        for chunk in pool.encode(iter(left), workers, progress):
            results = chunk.results
            record = {"counts": results.counts.to_mapping(), "rejected": results.rejected}
            out.write_chunk(chunk.number, results.shard, record)
        return left.count

    return encode_left


def _on_ray(
    paths: Sequence[Path],
    out: OutputFolder,
    source: EncoderSource,
    limits: Limits,
    encoder: _Description,
    workers: int,
    progress: Progress,
) -> Callable[[], int]:
    """Return what encodes the chunks that are left on Ray, and returns the number of all."""
    from lossmask.ray_engine import encode_on_ray, ray_job

    job = ray_job(paths, source, limits, ROWS_PER_SHARD, out, encoder.fingerprint)
    return lambda: encode_on_ray(job, workers, progress)


def _encode_all(
    encode_left: Callable[[], int], out: OutputFolder, notice: Callable[[str], None]
) -> dict[str, Any] | None:
    """Encode until every chunk is done, by this run or another one.

    Returns:
        None if this run is to finish the output, the manifest if another one has.
    """
    while True:
        count = encode_left()
        if (manifest := out.finished()) is not None:
            return manifest
        if out.all_done(count) and out.claim_end():
            return None
        notice("the rest is being worked on by another run: waiting for it")
        while out.finished() is None and not out.has_free(count):
            time.sleep(_SECONDS_BETWEEN_LOOKS)


class _ChunksLeft:
    """The chunks that nobody has done or works on; each pass over them reads the data anew."""

    def __init__(self, paths: Sequence[Path], out: OutputFolder, progress: Progress) -> None:
        self._paths = paths
        self._out = out
        self._progress = progress
        self._told: set[int] = set()
        self.count = 0

    def __iter__(self) -> Iterator[Chunk[EncodedRows]]:
        for number, rows in enumerate(in_chunks(read_rows(self._paths), ROWS_PER_SHARD)):
            self.count = max(self.count, number + 1)
            is_done = self._out.record(number) is not None
            if number not in self._told and is_done:
                self._progress(sum(raw.size for raw in rows))
                self._told.add(number)
            elif not is_done and self._out.claim(number):
                self._told.add(number)
                yield Chunk(number, rows, EncodedRows())


def _gather(
    out: OutputFolder, max_rejected: MaxRejected | None
) -> tuple[Counts, list[dict[str, Any]]]:
    """Add the records of all chunks up, write the rejected rows, and list the shards.

    Raises:
        PreparedDataError: More rows are rejected than may be.
    """
    counts, shards = Counts(), list[dict[str, Any]]()

    def lines() -> Iterator[bytes]:
        for number, record in out.records():
            chunk = Counts.from_mapping(record["counts"])
            counts.add(chunk)
            if chunk.examples:
                shards.append({"file": shard_name(number), "examples": chunk.examples})
            yield from (json_line(rejected).encode() for rejected in record["rejected"])

    out.write_tail(REJECTED, lines())
    if max_rejected is not None:
        max_rejected.check(counts.rows_rejected, counts.rows_in, out.path / UNFINISHED / REJECTED)
    return counts, shards


@dataclass(frozen=True, slots=True)
class _Description:
    """What a manifest says about an encoder, which only workers load.

    Attributes:
        fingerprint: Hash of all that decides over what it encodes.
        chat_template: Source of the template.
        layout: How rows are laid out.
        tokenizer: Its ids and sizes.
        added: Id of each token that was added to the tokenizer -> ids of the pieces it replaces.
    """

    fingerprint: str
    chat_template: str
    layout: dict[str, Any]
    tokenizer: dict[str, Any]
    added: dict[str, list[int]]


def _describe(encoder: Encoder) -> _Description:
    tokenizer, fingerprint = encoder.tokenizer, encoder.fingerprint()
    return _Description(
        fingerprint,
        encoder.chat_template(),
        encoder.layout.to_mapping(),
        {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "stop_ids": sorted(encoder.stop_ids),
            "fingerprint": fingerprint,
        },
        {
            str(tokenizer.convert_tokens_to_ids(text)): ids
            for text, ids in encoder.added_pieces.items()
        },
    )


def _manifest(
    out: OutputFolder,
    paths: Sequence[Path],
    encoder: _Description,
    source: EncoderSource,
    limits: Limits,
    counts: Counts,
    shards: list[dict[str, Any]],
) -> dict[str, Any]:
    template = encoder.chat_template
    return {
        "format": FORMAT,
        "complete": True,
        "fingerprint": out.fingerprint,
        **counts.to_mapping(),
        "shards": shards,
        "data": [str(path) for path in paths],
        "tokenizer": _describe_tokenizer(encoder, source, out),
        "chat_template": template,
        "chat_template_sha256": _sha256(template.encode()),
        "policy": source.policy.to_mapping(),
        "layout": encoder.layout,
        "fit": source.fit.to_mapping(),
        "limits": asdict(limits),
        "versions": {name: version(name) for name in ("lossmask", "transformers", "tokenizers")},
    }


def _describe_tokenizer(
    encoder: _Description, source: EncoderSource, out: OutputFolder
) -> dict[str, Any]:
    local = Path(source.tokenizer).expanduser()
    added = {"added": encoder.added} if encoder.added else {}
    if added:
        local = out.path / TOKENIZER
        source.load().tokenizer.save_pretrained(str(out.tokenizer_folder))
    path = str(local.resolve()) if added or local.exists() else source.tokenizer
    return {**added, "path": path, **encoder.tokenizer}


def _fingerprint(data: Sequence[str], encoder: _Description, limits: Limits) -> str:
    """Return a hash of all that decides over the result, the code included.

    Args:
        data: A hash of each file.
        encoder: Tokenizer, template, policy.
        limits: What a row may cost.
    """
    parts = [
        encoder.fingerprint,
        code_fingerprint(),
        str(FORMAT),
        str(ROWS_PER_SHARD),
        str(limits),
    ]
    return _sha256("\n".join([*parts, *data]).encode())


@cache
def code_fingerprint() -> str:
    """Return a hash of what the result is made by: this package, and what renders and tokenizes."""
    code = hashlib.sha256()
    files = resources.files("lossmask")
    for path in sorted(files.iterdir(), key=lambda path: path.name):
        if path.name.endswith(".py"):
            code.update(path.read_bytes())
    names = ("lossmask", "transformers", "tokenizers", "jinja2")
    return "\n".join([code.hexdigest(), *(f"{name} {version(name)}" for name in names)])


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
