"""Data files -> a prepared folder: what ``lossmask prepare`` does.

::

    OUT/part-00000.parquet   examples of input rows 0..999, columns: row, input_ids, labels,
                             loss_weights, message_index
    OUT/part-00001.parquet   …
    OUT/tokenizer            only if tokens were added to it
    OUT/rejected.jsonl       every row that was not kept: place, reason, the row itself
    OUT/manifest.json        written last: counts, tokenizer, template, policy, fit, fingerprint

Rows are cut into chunks of fixed size, so the result does not depend on the number of processes. A
chunk is finished when its record lies in ``OUT/unfinished``; started again after a kill, the same
command goes on with the chunks that have none. Rows are encoded in ``workers``, files are written
here alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from lossmask.confinement import Limits
from lossmask.data_files import check_files, fingerprint_of, in_chunks, read_rows, total_bytes
from lossmask.encoded_rows import Counts, EncodedRows, json_line
from lossmask.encoder import Encoder
from lossmask.errors import InputError, PreparedDataError
from lossmask.fit import Fit
from lossmask.layout import Layout
from lossmask.policy import Policy
from lossmask.setting import Proving
from lossmask.worker import Chunk, Progress
from lossmask.workers import Workers

__all__ = ["Counts", "EncoderSource", "prepare"]

FORMAT = 1
ROWS_PER_SHARD = 1000
_UNFINISHED = "unfinished"
_TOKENIZER = "tokenizer"


@dataclass(frozen=True, slots=True)
class EncoderSource:
    """How to make the encoder, in this process or another one."""

    tokenizer: str
    policy: Policy = field(default_factory=Policy)
    chat_template: str | None = None
    stop_tokens: tuple[str, ...] = ()
    template_variables: tuple[tuple[str, Any], ...] = ()
    layout: Layout = field(default_factory=Layout)
    special_tokens: bool = False
    proof: Proving = "template"
    fit: Fit = field(default_factory=Fit)

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
        )


def prepare(
    paths: Sequence[Path],
    source: EncoderSource,
    output: Path,
    *,
    workers: int = 1,
    limits: Limits | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done: None,
) -> Counts:
    """Encode data files into a prepared folder.

    Starts processes, so a script calls it under ``if __name__ == "__main__":``.

    Args:
        paths: Data files, in any format that ``data_files`` and ``formats`` read.
        source: Tokenizer, template and policy.
        output: Folder to write; created. A run that was killed is continued.
        workers: Processes; the result is the same for any number.
        limits: What one row may cost; a row that needs more is rejected.
        overwrite: Replace a folder prepared from something else.
        progress: Told the bytes of input done.

    Returns:
        Counts with ``rows_in == rows_kept + rows_rejected``.

    Raises:
        InputError: A file is missing or no data, or there is no row.
        PreparedDataError: The folder holds something else.
        TemplateError: The first rows all reach the limits; nothing is written.
    """
    limits = limits or Limits()
    check_files(paths)
    with Workers(source.load, limits) as pool:
        encoder = source.load()
        fingerprint = _fingerprint(paths, encoder, limits)
        state = _state(output, fingerprint, overwrite)
        if isinstance(state, Counts):
            progress(total_bytes(paths) or 0)
            return state
        if state == "new":
            _check_rows(paths)
            pool.try_template(islice(read_rows(paths), ROWS_PER_SHARD))
            _claim(output, fingerprint)
        counts = Counts()
        chunks = _chunks_left(paths, output, counts, progress)
        for chunk in pool.encode(chunks, max(workers, 1), progress):
            _write_chunk(output, chunk)
            counts.add(chunk.results.counts)
    _finish(output, paths, encoder, source, limits, counts, fingerprint)
    return counts


def _check_rows(paths: Sequence[Path]) -> None:
    if next(read_rows(paths), None) is None:
        raise InputError(f"no rows in {', '.join(map(str, paths))}", reason="no_rows")


def _chunks_left(
    paths: Sequence[Path], output: Path, counts: Counts, progress: Progress
) -> Iterator[Chunk[EncodedRows]]:
    """Yield the chunks to encode; those of an earlier start are added to ``counts``."""
    for number, rows in enumerate(in_chunks(read_rows(paths), ROWS_PER_SHARD)):
        if finished := _counts_of(output, number):
            counts.add(finished)
            progress(sum(raw.size for raw in rows))
        else:
            yield Chunk(number, rows, EncodedRows())


def _write_chunk(output: Path, chunk: Chunk[EncodedRows]) -> None:
    """Write a chunk's shard and, last, its record."""
    results = chunk.results
    if results.shard is not None:
        _write(output / _shard_name(chunk.number), results.shard)
    record = {"counts": results.counts.to_mapping(), "rejected": results.rejected}
    _write(output / _UNFINISHED / f"{chunk.number:05d}.json", json.dumps(record).encode())


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def _shard_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _counts_of(output: Path, number: int) -> Counts | None:
    record = output / _UNFINISHED / f"{number:05d}.json"
    if not record.exists():
        return None
    return Counts.from_mapping(json.loads(record.read_text(encoding="utf-8"))["counts"])


def _state(
    output: Path, fingerprint: str, overwrite: bool
) -> Counts | Literal["new", "unfinished"]:
    """Return the counts of the finished run that ``output`` holds, or whether one was begun.

    Raises:
        PreparedDataError: It holds something else, and ``overwrite`` is not set or may not be.
    """
    manifest, started = output / "manifest.json", output / _UNFINISHED / "fingerprint"
    if manifest.exists():
        found = json.loads(manifest.read_text(encoding="utf-8"))
        if found.get("fingerprint") == fingerprint and not (output / _UNFINISHED).exists():
            return Counts.from_mapping({name: found[name] for name in Counts.__dataclass_fields__})
    if started.exists() and started.read_text() == fingerprint:
        return "unfinished"
    if output.exists() and not output.is_dir():
        raise PreparedDataError(
            f"{output} is a file: choose another folder", reason="output_exists"
        )
    if output.exists() and any(output.iterdir()):
        if not overwrite:
            raise PreparedDataError(
                f"{output} is not empty and was not prepared from this data, tokenizer, template, "
                "policy, fit and limits: choose another folder, or replace it with --overwrite",
                reason="output_exists",
            )
        if others := sorted(path.name for path in output.iterdir() if not _is_ours(path.name)):
            raise PreparedDataError(
                f"{output} holds files that lossmask did not write ({', '.join(others[:3])}): "
                "choose another folder",
                reason="output_exists",
            )
    return "new"


def _is_ours(name: str) -> bool:
    return name in _OURS or fnmatch(name, "part-*.parquet") or fnmatch(name, "part-*.tmp")


_OURS = (
    "manifest.json",
    "manifest.tmp",
    "rejected.jsonl",
    "rejected.tmp",
    _UNFINISHED,
    _TOKENIZER,
)


def _claim(output: Path, fingerprint: str) -> None:
    """Remove what an earlier run wrote, and make ``output`` ours."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "manifest.json").unlink(missing_ok=True)  # first: what is left is unfinished
    for path in output.iterdir():
        if _is_ours(path.name) and path.is_file():
            path.unlink()
    for folder in (_UNFINISHED, _TOKENIZER):
        shutil.rmtree(output / folder, ignore_errors=True)
    (output / _UNFINISHED).mkdir()
    _write(output / _UNFINISHED / "fingerprint", fingerprint.encode())


def _finish(
    output: Path,
    paths: Sequence[Path],
    encoder: Encoder,
    source: EncoderSource,
    limits: Limits,
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
                stream.write(json_line(rejected))
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
        "tokenizer": _describe_tokenizer(encoder, source, output),
        "chat_template": encoder.chat_template(),
        "chat_template_sha256": _sha256(encoder.chat_template().encode()),
        "policy": encoder.policy.to_mapping(),
        "fit": encoder.fit.to_mapping(),
        "layout": encoder.layout.to_mapping(),
        "limits": asdict(limits),
        "versions": {name: version(name) for name in ("lossmask", "transformers", "tokenizers")},
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False, sort_keys=True)
    _write(output / "manifest.json", (text + "\n").encode())
    shutil.rmtree(output / _UNFINISHED)


def _describe_tokenizer(encoder: Encoder, source: EncoderSource, output: Path) -> dict[str, Any]:
    local = Path(source.tokenizer).expanduser()
    added: dict[str, Any] = {}
    if encoder.added_pieces:
        local = output / _TOKENIZER
        encoder.tokenizer.save_pretrained(str(local))
        ids = encoder.tokenizer.convert_tokens_to_ids
        added["added"] = {str(ids(text)): each for text, each in encoder.added_pieces.items()}
    return added | {
        "path": str(local.resolve()) if local.exists() else source.tokenizer,
        "vocab_size": len(encoder.tokenizer),
        "eos_token_id": encoder.tokenizer.eos_token_id,
        "pad_token_id": encoder.tokenizer.pad_token_id,
        "stop_ids": sorted(encoder.stop_ids),
        "fingerprint": encoder.fingerprint(),
    }


def _fingerprint(paths: Sequence[Path], encoder: Encoder, limits: Limits) -> str:
    parts = [encoder.fingerprint(), version("lossmask"), str(FORMAT), str(ROWS_PER_SHARD)]
    parts.append(str(limits))
    for path in paths:
        parts.append(fingerprint_of(path))
    return _sha256("\n".join(parts).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
