"""``lossmask prepare``, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import TransferSpeedColumn

from lossmask.command_options import (
    AppendStopOption,
    BoundaryOption,
    ControlOption,
    CutReplyOption,
    Data,
    FitOption,
    HistoryOption,
    LayoutOption,
    MaxLengthOption,
    MaxMemoryOption,
    MaxSecondsOption,
    PolicyOption,
    StopOption,
    TemplateOption,
    TokenizerOption,
    TrainOnOption,
    TruncationOption,
    VariableOption,
    encoder_source,
    worker_count,
)
from lossmask.confinement import Limits
from lossmask.data_files import check_files, total_bytes
from lossmask.encoder import load_tokenizer
from lossmask.instruction_styles import cost_of, is_style
from lossmask.max_rejected import MaxRejected
from lossmask.preparing import Engine, prepare
from lossmask.terminal import progress_bar, show_cost, summary


def prepare_command(
    data: Data,
    tokenizer: TokenizerOption,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder to write. Default: a folder of the cache, so that the same is prepared "
            "once.",
            show_default=False,
        ),
    ] = None,
    chat_template: TemplateOption = None,
    stop: StopOption = None,
    template_var: VariableOption = None,
    special_tokens: Annotated[
        bool,
        typer.Option(
            "--special-tokens",
            help="Make tokens of the headers of the style that --template names; the tokenizer is "
            "saved in the output, and `train` gives them embeddings.",
        ),
    ] = False,
    layout: LayoutOption = None,
    policy: PolicyOption = None,
    train_on: TrainOnOption = None,
    history: HistoryOption = None,
    boundary: BoundaryOption = None,
    control_tokens: ControlOption = None,
    append_stop: AppendStopOption = None,
    fit: FitOption = None,
    max_length: MaxLengthOption = None,
    truncation: TruncationOption = None,
    cut_reply: CutReplyOption = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes; 0 = one per core. The result is the same.")
    ] = 0,
    engine: Annotated[
        str,
        typer.Option(help="local, or ray: processes on the nodes of a Ray cluster. Same result."),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            help="Of the Ray cluster, as auto or 10.0.0.1:6379. Default: RAY_ADDRESS, else Ray is "
            "started on this machine.",
            show_default=False,
        ),
    ] = None,
    max_rejected: Annotated[
        str | None,
        typer.Option(
            "--max-rejected",
            help="Fail if more rows than this are rejected: a number, or a share such as 1%.",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace a folder prepared from something else, once the new one is whole.",
        ),
    ] = False,
    max_seconds: MaxSecondsOption = 60,
    max_memory: MaxMemoryOption = 4,
) -> None:
    """Encode conversations into Parquet shards, a manifest, and rejected.jsonl.

    Every row is accounted for: rows in = kept + rejected. A run that was killed is continued by
    the same command. A row at which the chat template hangs or eats memory is rejected too.
    Exit code 1 if no row was kept.
    """
    source = encoder_source(
        tokenizer,
        chat_template=chat_template,
        stop=stop,
        template_var=template_var,
        layout=layout,
        special_tokens=special_tokens,
        policy=policy,
        train_on=train_on,
        history=history,
        boundary=boundary,
        control_tokens=control_tokens,
        append_stop=append_stop,
        fit=fit,
        max_length=max_length,
        truncation=truncation,
        cut_reply=cut_reply,
    )
    if special_tokens and is_style(str(chat_template)):
        Console().print(show_cost(cost_of(load_tokenizer(tokenizer), str(chat_template))))
    most = None if max_rejected is None else MaxRejected.parse(max_rejected)
    check_files(data)
    total = total_bytes(data)
    with progress_bar(TransferSpeedColumn()) as progress:
        task = progress.add_task("prepare", total=total)
        prepared = prepare(
            data,
            source,
            output,
            workers=worker_count(workers, total) if engine == "local" else workers,
            limits=Limits(max_seconds, max_memory),
            engine=cast(Engine, engine),  # which refuses others
            ray_address=ray_address,
            max_rejected=most,
            overwrite=overwrite,
            progress=lambda done: progress.advance(task, done),
            notice=lambda text: progress.console.print(f"[yellow]{escape(text)}"),
        )
        progress.update(task, total=total or 1, completed=total or 1)
    counts = prepared.counts
    Console().print(summary(counts, str(prepared.folder)))
    if not counts.rows_kept:
        raise typer.Exit(1)
