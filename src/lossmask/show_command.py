"""``lossmask show``: rows of data, or of a prepared folder -> their tokens on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lossmask.chosen_rows import ChosenRows
from lossmask.command_options import (
    AppendStopOption,
    BoundaryOption,
    ControlOption,
    CutReplyOption,
    FitOption,
    HistoryOption,
    LayoutOption,
    MaxLengthOption,
    MaxMemoryOption,
    MaxSecondsOption,
    PolicyOption,
    StopOption,
    TemplateOption,
    TrainOnOption,
    TruncationOption,
    VariableOption,
    encoder_source,
)
from lossmask.confinement import Limits
from lossmask.data_files import check_files
from lossmask.errors import PolicyError
from lossmask.formats import to_normal
from lossmask.prepared_display import PreparedDrawing
from lossmask.prepared_manifest import is_prepared
from lossmask.preparing import EncoderSource
from lossmask.terminal import has_colour, show_example, show_rejection
from lossmask.workers import encode_each


def show_command(
    data: Annotated[
        Path,
        typer.Argument(
            help="A data file, a data set of the hub, or a folder that `prepare` wrote.",
            show_default=False,
        ),
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            "-t",
            help="Tokenizer folder or hub id; of a prepared folder it is known.",
            show_default=False,
        ),
    ] = None,
    row: Annotated[
        list[int] | None,
        typer.Option(
            "--row", "-n", min=0, help="Row number, from 0 (default: 0); can be given again."
        ),
    ] = None,
    rows: Annotated[
        str | None, typer.Option("--rows", help="Several: 3,7-9, or 100- for all from there on.")
    ] = None,
    all_rows: Annotated[bool, typer.Option("--all", help="All rows, one after the other.")] = False,
    ids: Annotated[bool, typer.Option("--ids", help="Token ids below the tokens.")] = False,
    packed: Annotated[
        bool,
        typer.Option(
            "--packed",
            help="Packs of --max-length tokens of a prepared folder; --row and --rows number them.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the packs, as that of `train`.")] = 0,
    chat_template: TemplateOption = None,
    stop: StopOption = None,
    template_var: VariableOption = None,
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
    max_seconds: MaxSecondsOption = 60,
    max_memory: MaxMemoryOption = 4,
) -> None:
    """Show the tokens of some rows: trained (green), stop token (red), not trained (quiet).

    Exit code 1 if a row cannot be encoded; the reason is shown. docs/show.md tells how to read it.
    """
    chosen = ChosenRows.parse(row or [], "0-" if all_rows else rows)
    chosen = chosen if chosen.ranges else ChosenRows(((0, 1),))
    console = Console()
    if is_prepared(data):
        _refuse_options(
            {
                "--chat-template": chat_template,
                "--stop": stop,
                "--template-var": template_var,
                "--layout": layout,
                "--policy": policy,
                "--train-on": train_on,
                "--history": history,
                "--boundary": boundary,
                "--control-tokens": control_tokens,
                "--append-stop": append_stop,
                "--fit": fit,
                "--max-length": None if packed else max_length,
                "--truncation": truncation,
                "--cut-reply": cut_reply,
            }
        )
        drawing = PreparedDrawing(data, tokenizer, colour=has_colour(console), ids=ids)
        if packed and max_length is None:
            raise PolicyError("--packed needs --max-length: the tokens of a pack")
        pages = (
            drawing.packs(chosen, max_length, seed=seed)
            if packed and max_length is not None
            else drawing.examples(chosen)
        )
        for page in pages:
            console.print(page)
        return
    if packed:
        raise PolicyError(
            f"--packed shows packs of a folder that `prepare` wrote, and {data} is none"
        )
    if tokenizer is None:
        raise typer.BadParameter(
            "is missing: a folder or hub id, unless the data is a prepared folder",
            param_hint="--tokenizer",
        )
    source = encoder_source(
        tokenizer,
        chat_template=chat_template,
        stop=stop,
        template_var=template_var,
        layout=layout,
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
    check_files([data])
    if not _show_rows(console, data, chosen, source, Limits(max_seconds, max_memory), ids=ids):
        raise typer.Exit(1)


def _refuse_options(given: Mapping[str, object]) -> None:
    """Refuse options that a prepared folder would not obey."""
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise PolicyError(
            f"{', '.join(names)}: a prepared folder is shown as it was prepared; show the data "
            "that it was prepared from"
        )


def _show_rows(
    console: Console,
    data: Path,
    chosen: ChosenRows,
    source: EncoderSource,
    limits: Limits,
    *,
    ids: bool,
) -> bool:
    """Print rows one after the other; return whether all of them could be encoded."""
    is_fine = True
    for raw, outcome in encode_each(chosen.of([data]), source.load, limits):
        if outcome.rejection is not None:
            console.print(show_rejection(raw, outcome.rejection))
            is_fine = False
            continue
        normal = to_normal(raw.parse(), source.layout)
        messages = normal.get("messages") or [{"role": "text"}] * len(normal.get("weights", [0]))
        for number, example in enumerate(outcome.examples, start=1):
            console.print(
                show_example(
                    example,
                    messages,
                    number=number,
                    total=len(outcome.examples),
                    colour=has_colour(console),
                    ids=ids,
                    place=raw.place,
                )
            )
    return is_fine
