"""Data files -> their audit: every row is encoded, nothing is written.

The parts of an :class:`~lossmask.auditing.Audit` are collected in ``workers``, merged here in the
order of the data, and rows that repeat others, or what is evaluated on, are found at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from lossmask.auditing import Audit, Checks
from lossmask.confinement import Limits
from lossmask.data_files import RawRow, check_files, in_chunks, read_rows, total_bytes
from lossmask.encoder import Encoder
from lossmask.errors import BackendDiffers, InputError, LossmaskError
from lossmask.formats import to_normal
from lossmask.layout import Layout
from lossmask.preparing import EncoderSource
from lossmask.repeated_rows import Identity, Repeats, RowTable, RowTexts, identity_of
from lossmask.tallies import line_of
from lossmask.worker import Chunk, Progress
from lossmask.workers import Workers

ROWS_PER_CHUNK = 500
_LARGE = 2_000_000  # bytes of data for which it pays to load the fast backend at once


def audit(
    paths: Sequence[Path],
    source: EncoderSource,
    *,
    limits: Limits,
    workers: int = 1,
    eval_paths: Sequence[Path] = (),
    progress: Progress = lambda done: None,
) -> Audit:
    """Encode every row of data files and count what comes of it; nothing is written.

    Args:
        paths: Data files, in any format that ``data_files`` and ``formats`` read.
        source: Tokenizer, template and policy.
        limits: What one row may cost.
        workers: Processes; the result is the same for any number.
        eval_paths: Data that the model is to be evaluated on: none of it should be in the others.
        progress: Told the bytes of input done.

    Raises:
        InputError: A file is missing or no data, there is no row, or a row of the evaluation data
            cannot be read.
        TemplateError: The first rows all reach the limits.
    """
    check_files([*paths, *eval_paths])
    try:
        return _audit(paths, source, limits, workers, eval_paths, progress)
    except BackendDiffers:  # seldom, and told by `prepare`: an audit is only done again
        exact = replace(source, fast=False)
        return _audit(paths, exact, limits, workers, eval_paths, progress)


def _audit(
    paths: Sequence[Path],
    source: EncoderSource,
    limits: Limits,
    workers: int,
    eval_paths: Sequence[Path],
    progress: Progress,
) -> Audit:
    is_large = (total_bytes(paths) or _LARGE) >= _LARGE
    with Workers(source.load, limits, expects_many=is_large) as pool, Repeats() as repeats:
        pool.start(workers)
        checks, layout, pad, padding = pool.ask(_about)
        pool.try_template(islice(read_rows(paths), ROWS_PER_CHUNK), workers)
        whole = _collected(pool, paths, checks, workers, repeats, progress)
        if not whole.rows_in:
            raise InputError(f"no rows in {', '.join(map(str, paths))}", reason="no_rows")
        table = repeats.table()
        add_repeats_within(whole, table)
        if eval_paths:
            with Repeats() as others:
                _read_eval(eval_paths, layout, others)
                add_leaks(whole, table, others.table())
    add_about_tokens(whole, pad=pad, stops=checks.stop_ids, name=padding)
    return whole


def _about(encoder: Encoder) -> tuple[Checks, Layout, int | None, str]:
    """Return what an audit asks of an encoder: checks, layout, padding token and its text."""
    tokenizer = encoder.tokenizer
    return Checks.of(encoder), encoder.layout, tokenizer.pad_token_id, str(tokenizer.pad_token)


def _collected(
    pool: Workers,
    paths: Sequence[Path],
    checks: Checks,
    workers: int,
    repeats: Repeats,
    progress: Progress,
) -> Audit:
    """Encode all rows and add up what came of them, in the order of the data."""
    rows = in_chunks(read_rows(paths), ROWS_PER_CHUNK)
    chunks = (Chunk(number, chunk, Audit(checks)) for number, chunk in enumerate(rows))
    whole, waiting = Audit(checks), dict[int, Audit]()
    next_number = 0
    for chunk in pool.encode(chunks, workers, progress):
        repeats.add(chunk.number, chunk.results.texts)
        waiting[chunk.number] = chunk.results
        while next_number in waiting:
            whole.merge(waiting.pop(next_number))
            next_number += 1
    return whole


def add_repeats_within(audit: Audit, table: RowTable) -> None:
    """Add what is found of rows that repeat others of the same data."""
    audit.add_repeats("duplicate_conversation", table.same_conversations(), "the same as")
    audit.add_repeats("duplicate_prompt", table.same_prompts(), "another answer to the prompt of")
    audit.add_repeats("near_duplicate_prompt", table.near_prompts(), "the prompt of")


def add_leaks(audit: Audit, table: RowTable, evaluated: RowTable) -> None:
    """Add what is found of rows that the model is to be evaluated on."""
    audit.add_repeats("eval_leak", table.prompts_of(evaluated), "the prompt of")
    audit.add_repeats("near_eval_leak", table.near_prompts_of(evaluated), "the prompt of")


def add_about_tokens(
    audit: Audit, *, pad: int | None, stops: Sequence[int], name: str | None = None
) -> None:
    """Add what is found of all of the data: of padding and stop tokens.

    Args:
        audit: Of all rows.
        pad: Id of the padding token, None if there is none.
        stops: Ids of the stop tokens.
        name: Text of the padding token, for the message.
    """
    if not audit.rows_kept:
        return
    if pad is None:
        audit.add_about_all("no_pad_token", "the tokenizer names no padding token")
    elif pad in stops:
        shown = f"{pad}" if name is None else f"{name!r} ({pad})"
        audit.add_about_all("pad_is_stop", f"{shown} pads, and ends turns as well")
    if audit.turns and not audit.statistics.stops_trained:
        detail = f"none of {audit.turns:,} turns ends with a stop token in the loss"
        audit.add_about_all("stop_never_trained", detail)


def _read_eval(paths: Sequence[Path], layout: Layout, into: Repeats) -> None:
    """Read what evaluation data is compared by; it is not encoded.

    Raises:
        InputError: There is no row, or one cannot be read.
    """
    count = 0
    for number, rows in enumerate(in_chunks(read_rows(paths), ROWS_PER_CHUNK)):
        texts = RowTexts()
        for raw in rows:
            texts.add(raw.file, line_of(raw), _identity(raw, layout))
            count += 1
        texts.close()
        into.add(number, texts)
    if not count:
        raise InputError(f"no rows in {', '.join(map(str, paths))}", reason="no_rows")


def _identity(raw: RawRow, layout: Layout) -> Identity:
    try:
        return identity_of(to_normal(raw.parse(), layout))
    except LossmaskError as error:
        raise InputError(
            f"{raw.place} of the evaluation data cannot be read: {error.detail}. Correct or remove "
            "it: what cannot be read cannot be looked for",
            reason=error.reason,
        ) from error
