"""``lossmask report``: data -> one HTML file that shows what training on it would be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

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
    TrainOnOption,
    TruncationOption,
    VariableOption,
    encoder_source,
    name_and_value,
    worker_count,
)
from lossmask.confinement import Limits
from lossmask.data_files import check_files, total_bytes
from lossmask.errors import PolicyError
from lossmask.html_page import html_page
from lossmask.prepared_manifest import is_prepared
from lossmask.prepared_source import prepared_source
from lossmask.reporting import report
from lossmask.terminal import progress_bar, visible

SCRIPTS = ("tokens.js", "report.js")
STYLES = ("tokens.css", "report.css")


def report_command(
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path(
        "report.html"
    ),
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            "-t",
            help="Tokenizer folder or hub id; of a folder that `prepare` wrote it is known.",
            show_default=False,
        ),
    ] = None,
    examples: Annotated[
        int,
        typer.Option(
            min=0,
            help="How many to show: those that findings name, the others evenly spaced. All "
            "figures are of every row.",
        ),
    ] = 200,
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
    workers: Annotated[
        int, typer.Option(min=0, help="Processes; 0 = one per core. The result is the same.")
    ] = 0,
    max_seconds: MaxSecondsOption = 60,
    max_memory: MaxMemoryOption = 4,
) -> None:
    """Write one HTML file: figures, findings, rejected rows, and examples token by token.

    The file needs no network and nothing beside it. Of a folder that `prepare` wrote, data,
    tokenizer and policy are those of its manifest.
    """
    _check_output(output)
    options: dict[str, Any] = {
        "chat_template": chat_template,
        "stop": stop,
        "layout": layout,
        "policy": policy,
        "train_on": train_on,
        "history": history,
        "boundary": boundary,
        "control_tokens": control_tokens,
        "append_stop": append_stop,
        "fit": fit,
        "max_length": max_length,
        "truncation": truncation,
        "cut_reply": cut_reply,
    }
    prepared = None
    if len(data) == 1 and is_prepared(data[0]):
        _require_none(data[0], {"tokenizer": tokenizer, **options})
        prepared = prepared_source(data[0], tuple(map(name_and_value, template_var or [])))
        data, source, limits = prepared.data, prepared.source, prepared.limits
    elif tokenizer is None:
        raise PolicyError("give --tokenizer, a folder or hub id", reason="no_tokenizer")
    else:
        limits = Limits(max_seconds, max_memory)
        source = encoder_source(tokenizer, template_var=template_var, **options)
    check_files(data)
    total = total_bytes(data)
    with progress_bar() as progress:
        task = progress.add_task("count every row", total=total)
        trace = progress.add_task("trace those shown", total=None, visible=False)
        found = report(
            data,
            source,
            limits=limits,
            examples=examples,
            workers=worker_count(workers, total),
            progress=lambda done: progress.advance(task, done),
            shown=lambda done, count: progress.update(
                trace, completed=done, total=count, visible=True
            ),
        )
        progress.update(task, total=total or 1, completed=total or 1)
    if prepared is not None:
        prepared.check(found["audit"])
    page = html_page(f"lossmask: {found['title']}", found, scripts=SCRIPTS, styles=STYLES)
    output.write_text(page, encoding="utf-8")
    Console().print(
        f"{escape(visible(str(output)))}: {len(page.encode()) / 1e6:.1f} MB, "
        f"{len(found['examples'])} of {found['audit']['examples']:,} examples"
    )


def _check_output(output: Path) -> None:
    """Refuse what cannot be written before anything takes time.

    Raises:
        PolicyError: It is a folder, or in none.
    """
    if output.is_dir() or not output.parent.is_dir():
        what = "is a folder" if output.is_dir() else f"cannot be: there is no {output.parent}"
        raise PolicyError(f"--output {output} {what}; name an HTML file", reason="bad_output")


def _require_none(folder: Path, options: Mapping[str, object]) -> None:
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise PolicyError(
            f"{folder} is prepared already, with options of its own; leave out "
            f"{', '.join(given)}, or give the data files instead",
            reason="prepared_already",
        )
