"""Data files -> a prepared folder: what ``lossmask prepare`` does.

::

    OUT/part-00000.parquet   examples of input rows 0..999, columns: row, input_ids, labels,
                             loss_weights, message_index
    OUT/part-00001.parquet   …
    OUT/rejected.jsonl       every row that was not kept: place, reason, the row itself
    OUT/manifest.json        written last: counts, tokenizer, template, policy, fingerprint

Rows are cut into chunks of fixed size, so the result does not depend on the number of processes. A
chunk is finished when its record lies in ``OUT/unfinished``; started again after a kill, the same
command goes on with the chunks that have none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lossmask.data_files import RawRow, check_files, in_chunks, read_rows
from lossmask.encoder import Encoder
from lossmask.errors import InputError, LossmaskError, PreparedDataError
from lossmask.example import Example
from lossmask.outcome import Outcome, Rejection
from lossmask.policy import Policy

FORMAT = 1
ROWS_PER_SHARD = 1000
_UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class EncoderSource:
    """How to make the encoder, in this process or another one."""

    tokenizer: str
    policy: Policy = field(default_factory=Policy)
    chat_template: str | None = None
    stop_tokens: tuple[str, ...] = ()
    template_variables: tuple[tuple[str, Any], ...] = ()

    def load(self) -> Encoder:
        """Load tokenizer and template."""
        return Encoder.from_pretrained(
            self.tokenizer,
            self.policy,
            chat_template=self.chat_template,
            stop_tokens=self.stop_tokens,
            template_variables=dict(self.template_variables),
        )


@dataclass(slots=True)
class Counts:
    """What became of the rows; of one chunk, or added up."""

    rows_in: int = 0
    rows_kept: int = 0
    rows_rejected: int = 0
    examples: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    rejections: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)

    def add(self, other: Counts) -> None:
        """Add the counts of another chunk."""
        for name in ("rows_in", "rows_kept", "rows_rejected", "examples"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.tokens += other.tokens
        self.supervised_tokens += other.supervised_tokens
        self.rejections.update(other.rejections)
        self.findings.update(other.findings)

    def to_mapping(self) -> dict[str, Any]:
        """Return the counts as plain data."""
        plain = {name: getattr(self, name) for name in _COUNT_NAMES}
        return plain | {"rejections": dict(self.rejections), "findings": dict(self.findings)}

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> Counts:
        """Read counts back from a chunk's record."""
        plain = {k: v for k, v in values.items() if k not in ("rejections", "findings")}
        return cls(
            **plain,
            rejections=Counter(values["rejections"]),
            findings=Counter(values["findings"]),
        )


Progress = Callable[[int], None]
"""Called with the number of bytes of input that are done."""


def prepare(
    paths: Sequence[Path],
    source: EncoderSource,
    output: Path,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress = lambda done: None,
) -> Counts:
    """Encode data files into a prepared folder.

    Args:
        paths: JSON Lines files of ``{"messages": [...], "tools": [...]}``.
        source: Tokenizer, template and policy.
        output: Folder to write; created. A run that was killed is continued.
        workers: Processes; the result is the same for any number.
        overwrite: Replace a folder prepared from something else.
        progress: Told the bytes of input done.

    Returns:
        Counts with ``rows_in == rows_kept + rows_rejected``.

    Raises:
        InputError: A file is missing or not JSON Lines.
        PreparedDataError: The folder holds something else.
    """
    check_files(paths)
    encoder = source.load()
    fingerprint = _fingerprint(paths, encoder)
    finished = _claim(output, fingerprint, overwrite)
    if finished is not None:
        progress(sum(path.stat().st_size for path in paths))
        return finished
    counts = Counts()
    for chunk_counts in _encode_chunks(paths, source, encoder, output, workers, progress):
        counts.add(chunk_counts)
    if not counts.rows_in:
        shutil.rmtree(output / _UNFINISHED)
        raise InputError(f"no rows in {', '.join(map(str, paths))}", reason="no_rows")
    _finish(output, paths, encoder, source, counts, fingerprint)
    return counts


def _encode_chunks(
    paths: Sequence[Path],
    source: EncoderSource,
    encoder: Encoder,
    output: Path,
    workers: int,
    progress: Progress,
) -> Iterator[Counts]:
    chunks = enumerate(in_chunks(read_rows(paths), ROWS_PER_SHARD))
    if workers <= 1:
        for number, chunk in chunks:
            if counts := _done(output, number):
                progress(_size(chunk))
            yield counts or encode_chunk(number, chunk, encoder, output, progress)
        return
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(source,)
    ) as pool:
        sizes: dict[Future[Counts], int] = {}
        for number, chunk in chunks:
            if counts := _done(output, number):
                yield counts
                progress(_size(chunk))
                continue
            sizes[pool.submit(_encode_in_worker, number, chunk, output)] = _size(chunk)
            while len(sizes) > 2 * workers:
                yield from _collect(sizes, progress)
        while sizes:
            yield from _collect(sizes, progress)


def _collect(sizes: dict[Future[Counts], int], progress: Progress) -> Iterator[Counts]:
    ready, _ = wait(sizes, return_when=FIRST_COMPLETED)
    for future in ready:
        progress(sizes.pop(future))
        yield future.result()


def _size(chunk: Sequence[RawRow]) -> int:
    return sum(len(raw.data) + 1 for raw in chunk)


_worker_encoder: Encoder | None = None


def _start_worker(source: EncoderSource) -> None:
    global _worker_encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker_encoder = source.load()


def _encode_in_worker(number: int, chunk: list[RawRow], output: Path) -> Counts:
    assert _worker_encoder is not None
    return encode_chunk(number, chunk, _worker_encoder, output)


def encode_chunk(
    number: int,
    chunk: Sequence[RawRow],
    encoder: Encoder,
    output: Path,
    progress: Progress = lambda done: None,
) -> Counts:
    """Encode one chunk and write its shard, its rejections and, last, its record."""
    counts = Counts(rows_in=len(chunk))
    rejected: list[dict[str, Any]] = []
    kept: list[tuple[int, Example]] = []
    for raw in chunk:
        outcome = encode_raw(raw, encoder)
        progress(len(raw.data) + 1)
        if outcome.rejection is not None:
            rejected.append(_rejected_record(raw, outcome.rejection))
            counts.rejections[outcome.rejection.reason] += 1
        kept.extend((raw.row, example) for example in outcome.examples)
    counts.rows_rejected = len(rejected)
    counts.rows_kept = len(chunk) - len(rejected)
    counts.examples = len(kept)
    counts.tokens = sum(len(example) for _, example in kept)
    counts.supervised_tokens = sum(example.supervised_count for _, example in kept)
    counts.findings.update(f.kind for _, example in kept for f in example.findings)
    if kept:
        _write_shard(output / _shard_name(number), kept)
    record = {"counts": counts.to_mapping(), "rejected": rejected}
    _write_text(output / _UNFINISHED / f"{number:05d}.json", json.dumps(record))
    return counts


def encode_raw(raw: RawRow, encoder: Encoder) -> Outcome:
    """Encode one line of data; never raises on bad data."""
    try:
        row = raw.parse()
    except LossmaskError as error:
        return Outcome(rejection=Rejection.from_error(error))
    return encoder.encode_row(row)


def _rejected_record(raw: RawRow, rejection: Rejection) -> dict[str, Any]:
    try:
        original: Any = dict(raw.parse())
    except LossmaskError:
        original = raw.data.decode("utf-8", errors="backslashreplace")
    return {
        "file": raw.file,
        "line": raw.line,
        "row": raw.row,
        "reason": rejection.reason,
        "message_index": rejection.message_index,
        "detail": rejection.detail,
        "original": original,
    }


def _write_shard(path: Path, kept: Sequence[tuple[int, Example]]) -> None:
    examples = [example for _, example in kept]
    lengths = [len(example) for example in examples]
    borders = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))

    def column(arrays: Sequence[Any]) -> Any:
        return pa.ListArray.from_arrays(borders, pa.array(np.concatenate(arrays)))

    table = pa.table(
        {
            "row": pa.array([row for row, _ in kept], pa.int64()),
            "input_ids": column([example.input_ids for example in examples]),
            "labels": column([example.labels for example in examples]),
            "loss_weights": column([example.loss_weights for example in examples]),
            "message_index": column([example.message_index for example in examples]),
        }
    )
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _shard_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _done(output: Path, number: int) -> Counts | None:
    record = output / _UNFINISHED / f"{number:05d}.json"
    if not record.exists():
        return None
    return Counts.from_mapping(json.loads(record.read_text(encoding="utf-8"))["counts"])


def _claim(output: Path, fingerprint: str, overwrite: bool) -> Counts | None:
    """Make ``output`` ours, or return the counts of the finished run it holds.

    Raises:
        PreparedDataError: It holds something else and ``overwrite`` is not set.
    """
    manifest, started = output / "manifest.json", output / _UNFINISHED / "fingerprint"
    if manifest.exists():
        found = json.loads(manifest.read_text(encoding="utf-8"))
        if found.get("fingerprint") == fingerprint and not (output / _UNFINISHED).exists():
            return Counts.from_mapping({name: found[name] for name in _COUNT_NAMES})
    if started.exists() and started.read_text() == fingerprint:
        return None
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        if not overwrite:
            raise PreparedDataError(
                f"{output} is not empty and was not prepared from this data, tokenizer, template "
                "and policy: choose another folder, or replace it with --overwrite",
                reason="output_exists",
            )
        _remove_prepared(output)
    started.parent.mkdir(parents=True, exist_ok=True)
    _write_text(started, fingerprint)
    return None


def _remove_prepared(output: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    if not output.is_dir():
        raise PreparedDataError(
            f"{output} is a file: choose another folder", reason="output_exists"
        )
    (output / "manifest.json").unlink(missing_ok=True)
    (output / "rejected.jsonl").unlink(missing_ok=True)
    for shard in output.glob("part-*.parquet"):
        shard.unlink()
    shutil.rmtree(output / _UNFINISHED, ignore_errors=True)
    if others := sorted(path.name for path in output.iterdir()):
        raise PreparedDataError(
            f"{output} holds files that lossmask did not write ({', '.join(others[:3])}): choose "
            "another folder",
            reason="output_exists",
        )


_COUNT_NAMES = tuple(Counts.__dataclass_fields__)


def _finish(
    output: Path,
    paths: Sequence[Path],
    encoder: Encoder,
    source: EncoderSource,
    counts: Counts,
    fingerprint: str,
) -> None:
    """Write ``rejected.jsonl`` and the manifest, then remove the chunk records."""
    records = sorted((output / _UNFINISHED).glob("*.json"))
    shards = []
    with (output / "rejected.tmp").open("w", encoding="utf-8") as stream:
        for path in records:
            record = json.loads(path.read_text(encoding="utf-8"))
            for rejected in record["rejected"]:
                stream.write(_json_line(rejected))
            if examples := record["counts"]["examples"]:
                shards.append({"file": _shard_name(int(path.stem)), "examples": examples})
    (output / "rejected.tmp").replace(output / "rejected.jsonl")
    manifest = {
        "format": FORMAT,
        "complete": True,
        "fingerprint": fingerprint,
        **counts.to_mapping(),
        "shards": shards,
        "data": [str(path) for path in paths],
        "tokenizer": _describe_tokenizer(encoder, source),
        "chat_template": encoder.chat_template(),
        "chat_template_sha256": _sha256(encoder.chat_template().encode()),
        "policy": encoder.policy.to_mapping(),
        "versions": {name: version(name) for name in ("lossmask", "transformers", "tokenizers")},
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True)
    _write_text(output / "manifest.json", text + "\n")
    shutil.rmtree(output / _UNFINISHED)


def _json_line(record: dict[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character can only be written as an escape
        text = json.dumps(record)
    return text + "\n"


def _describe_tokenizer(encoder: Encoder, source: EncoderSource) -> dict[str, Any]:
    local = Path(source.tokenizer).expanduser()
    return {
        "path": str(local.resolve()) if local.exists() else source.tokenizer,
        "vocab_size": len(encoder.tokenizer),
        "eos_token_id": encoder.tokenizer.eos_token_id,
        "pad_token_id": encoder.tokenizer.pad_token_id,
        "stop_ids": sorted(encoder.stop_ids),
        "fingerprint": encoder.fingerprint(),
    }


def _fingerprint(paths: Sequence[Path], encoder: Encoder) -> str:
    parts = [encoder.fingerprint(), version("lossmask"), str(FORMAT), str(ROWS_PER_SHARD)]
    for path in paths:
        parts.append(_sha256_of_file(path))
    return _sha256("\n".join(parts).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sha256_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
