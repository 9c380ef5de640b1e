"""A prepared folder -> its audit, as far as ids, weights and the manifest tell.

What encoding found is known from the manifest by number only, and rejected rows from
``rejected.jsonl``. Repeats and leaks are found among the ids; :data:`NOT_TOLD` says what is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.audit_data import add_about_tokens, add_leaks, add_repeats_within
from lossmask.audit_statistics import count_parts
from lossmask.auditing import Audit, Checks
from lossmask.errors import PreparedDataError
from lossmask.outcome import Lost
from lossmask.output_folder import REJECTED
from lossmask.parts import parts_of_answers
from lossmask.prepared_manifest import MANIFEST_NAME, PreparedFolder, bad_manifest, read_manifest
from lossmask.prepared_shards import ShardPart, read_parts
from lossmask.repeated_rows import Identity, Repeats, RowTexts
from lossmask.severities import FOUND
from lossmask.severities import REJECTED as REASONS_KNOWN
from lossmask.tallies import SHOWN, Instance, Tally
from lossmask.worker import Progress

WIDTH = 3
"""Tokens of a shingle."""
SHORTEST = 12
"""Tokens of the shortest prompt that is compared with others for being nearly the same."""

NOT_TOLD = (
    "In which rows encoding found something: the manifest holds numbers only.",
    "Reasoning and tool calls: their tokens count as content.",
    "System messages: they are part of a prompt here, and rows are compared token by token.",
    "Where a turn begins whose weights are 0 in between: a turn here is a run of tokens in the "
    "loss.",
    "Files and sources of the rows: each shard counts as a source.",
)
"""What the columns of a prepared folder cannot tell, one sentence each."""


def audit_prepared(
    folder: Path, *, eval_folder: Path | None = None, progress: Progress = lambda done: None
) -> Audit:
    """Audit a prepared folder, shard by shard.

    Args:
        folder: What ``lossmask prepare`` wrote.
        eval_folder: Another one, which the model is to be evaluated on.
        progress: Told the number of examples done.

    Raises:
        PreparedDataError: A folder is not whole, an example breaks an invariant, or the two folders
            were made with different tokenizers.
    """
    place = PreparedFolder.at(folder)
    manifest = read_manifest(place)
    audit = Audit(_checks(manifest), not_told=NOT_TOLD)
    with Repeats() as repeats:
        for number, part in enumerate(_parts(place, manifest)):
            _add_part(audit, part, repeats, number)
            progress(len(part.rows))
        _add_manifest(audit, place, manifest)
        table = repeats.table()
        add_repeats_within(audit, table)
        if eval_folder is not None:
            with Repeats() as others:
                _read_eval(PreparedFolder.at(eval_folder), manifest, others)
                add_leaks(audit, table, others.table())
    tokenizer = manifest["tokenizer"]
    add_about_tokens(audit, pad=tokenizer.get("pad_token_id"), stops=audit.checks.stop_ids)
    return audit


def _checks(manifest: Mapping[str, Any]) -> Checks:
    tokenizer = manifest["tokenizer"]
    return Checks(tuple(tokenizer["stop_ids"]), tokenizer.get("bos_token_id"))


def _parts(folder: PreparedFolder, manifest: Mapping[str, Any]) -> Iterator[ShardPart]:
    for entry in manifest["shards"]:
        yield from read_parts(folder, entry["file"], entry["examples"])


def _add_part(audit: Audit, part: ShardPart, repeats: Repeats, number: int) -> None:
    ids, weights = part.columns["input_ids"], part.columns["loss_weights"]
    message_index, in_loss = part.columns["message_index"], weights != 0
    is_stop = np.isin(ids, audit.checks.stop_ids)
    parts = parts_of_answers(in_loss, is_stop, message_index)
    counts = count_parts(parts, in_loss, part.starts[:-1].tolist())
    source = audit.statistics.source(part.where)
    is_first = np.append(True, part.rows[1:] != part.rows[:-1])
    texts = RowTexts(WIDTH, SHORTEST)
    for k, (first, end) in enumerate(zip(part.starts[:-1], part.starts[1:], strict=True)):
        own = slice(int(first), int(end))
        runs = _runs(in_loss[own])
        stops = int(is_stop[own][runs[:, 1] - 1].sum())
        supervised = int(in_loss[own].sum())
        audit.count_example(
            source,
            (int(end - first), supervised),
            turns=(len(runs), len(runs) - stops, stops),
            parts=counts[k],
            is_first=bool(is_first[k]),
        )
        place = (part.where, -(part.first + k + 1))
        for kind, details in audit.asked_of(ids[own], message_index[own]).items():
            instance = Instance(*place, None, details[0][1])
            audit.findings.setdefault(kind, Tally()).merge(Tally(1, 1, [instance]))
        if is_first[k]:
            texts.add(*place, _identity(ids[own], int(runs[-1, 0])))
    source.rows += int(is_first.sum())
    source.rows_kept = source.rows
    audit.rows_expanded += int((is_first[:-1] & ~is_first[1:]).sum())
    texts.close()
    repeats.add(number, texts)


def _runs(in_loss: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Return (runs, 2): where each run of tokens in the loss begins and ends."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], in_loss.view(np.int8), [0]])))
    return edges.reshape(-1, 2)


def _identity(ids: npt.NDArray[np.int32], prompt_end: int) -> Identity:
    """Return what an example is compared by; in its text a character stands for a token."""
    prompt = ids[:prompt_end]
    digest = hashlib.blake2b(prompt.tobytes(), digest_size=16).digest()
    return Identity(
        hashlib.blake2b(ids.tobytes(), digest_size=16).digest(),
        digest if len(prompt) else bytes(16),
        prompt.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass"),
    )


def _add_manifest(audit: Audit, folder: PreparedFolder, manifest: Mapping[str, Any]) -> None:
    """Take what only the manifest and ``rejected.jsonl`` know."""
    path = folder.named(MANIFEST_NAME)
    audit.rows_in, audit.rows_kept = manifest["rows_in"], manifest["rows_kept"]
    if "lost" in manifest:
        audit.lost = Lost(**manifest["lost"])
    for kind, count in manifest.get("findings", {}).items():
        if kind not in FOUND:
            raise bad_manifest(path, f"findings holds {kind!r}, which this version does not know")
        audit.findings[kind] = Tally(count, None)
    for reason, count in manifest.get("rejections", {}).items():
        if reason not in REASONS_KNOWN:
            raise bad_manifest(path, f"rejections holds {reason!r}, which is not known here")
        audit.rejections[reason] = Tally(count, count)
    if audit.rejections:
        _add_rejected(audit, folder)


def _add_rejected(audit: Audit, folder: PreparedFolder) -> None:
    try:
        lines = folder.read(REJECTED).splitlines()
    except OSError as error:
        raise PreparedDataError(
            f"{folder.named(REJECTED)} cannot be read: {error}. Prepare the data again.",
            reason="missing_rejected",
        ) from error
    for line in lines:
        record = json.loads(line)
        tally = audit.rejections[record["reason"]]
        if len(tally.instances) < SHOWN:
            index = record["message_index"]
            tally.instances.append(
                Instance(record["file"], record["line"], index, record["detail"])
            )


def _read_eval(folder: PreparedFolder, manifest: Mapping[str, Any], into: Repeats) -> None:
    own = read_manifest(folder)
    for key in ("path", "vocab_size"):
        ours, theirs = (each["tokenizer"].get(key) for each in (manifest, own))
        if ours != theirs:
            raise PreparedDataError(
                f"{folder.name} was made with another tokenizer: its {key} is {theirs!r}, not "
                f"{ours!r}. Ids can only be compared if they mean the same; audit the data files.",
                reason="other_tokenizer",
            )
    for number, part in enumerate(_parts(folder, own)):
        texts = RowTexts(WIDTH, SHORTEST)
        for k, (first, end) in enumerate(zip(part.starts[:-1], part.starts[1:], strict=True)):
            own_loss = part.columns["loss_weights"][first:end] != 0
            ids = part.columns["input_ids"][first:end]
            place = (part.where, -(part.first + k + 1))
            texts.add(*place, _identity(ids, int(_runs(own_loss)[-1, 0])))
        texts.close()
        into.add(number, texts)
