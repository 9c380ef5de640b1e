"""``lossmask diff``: the same data in two ways, and which rows and tokens differ."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import TransferSpeedColumn

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
    name_and_value,
    read_policy,
)
from lossmask.confinement import Limits
from lossmask.data_diff import diff_data
from lossmask.data_files import check_files, total_bytes
from lossmask.diff_display import show_diff, show_legend, show_row
from lossmask.diff_page import diff_page
from lossmask.diff_words import Sides, diff_mapping
from lossmask.diffing import Diff
from lossmask.errors import LossmaskError, PolicyError
from lossmask.foreign_masks import TOOLS, ForeignSource, name_of, tool_named
from lossmask.prepared_diff import diff_prepared
from lossmask.prepared_manifest import is_prepared
from lossmask.preparing import EncoderSource
from lossmask.terminal import has_colour, progress_bar, show_error

DIFFERENT, TROUBLE = 1, 2
"""Exit codes, those of ``diff``."""


def diff_command(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="Data files, to be encoded in two ways; or two folders that `prepare` wrote.",
            show_default=False,
        ),
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            "-t",
            help="Tokenizer folder or hub id; of prepared folders the one to show text with.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            help="What another tool itself makes of the rows: trl (SFTTrainer with "
            "assistant_only_loss), trl-default (without), transformers "
            "(return_assistant_tokens_mask).",
        ),
    ] = None,
    against_template: Annotated[
        str | None, typer.Option("--against-template", help="B has this chat template, or style.")
    ] = None,
    against_tokenizer: Annotated[
        str | None, typer.Option("--against-tokenizer", help="B has this tokenizer.")
    ] = None,
    against_policy: Annotated[
        list[str] | None,
        typer.Option(
            "--against-policy",
            help="B has the policy of A with this changed: KEY=VALUE, or a YAML file; can be given "
            "again.",
        ),
    ] = None,
    against_var: Annotated[
        list[str] | None,
        typer.Option("--against-template-var", help="NAME=JSON for the template of B."),
    ] = None,
    row: Annotated[
        int | None,
        typer.Option("--row", "-n", min=0, help="Compare and draw this row only, from 0."),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Rows to draw of those that differ.")] = 3,
    json_output: Annotated[
        Path | None, typer.Option("--json", help="Write all of it to this file as JSON, too.")
    ] = None,
    html_output: Annotated[
        Path | None, typer.Option("--html", help="Write all of it as one HTML page, too.")
    ] = None,
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
    """Compare two templates, tokenizers, policies or tools on the same data, token by token.

    The options without `--against` make A; B is A with what `--against-…` changes, or what another
    tool makes of the rows. Every row is accounted for. Exit code 0 if nothing differs, 1 if
    something does, 2 in case of trouble, as of diff(1).
    """

    def compare() -> tuple[Diff, Sides]:
        if _are_prepared(data, tokenizer, [against, against_template, against_tokenizer]):
            return _of_folders(data[0], data[1], tokenizer, limit, row)
        if tokenizer is None:
            raise PolicyError(
                "there is no --tokenizer to encode the data with; or give two folders that "
                "`lossmask prepare` wrote",
                reason="no_tokenizer",
            )
        a = encoder_source(
            tokenizer,
            chat_template=chat_template,
            stop=stop,
            template_var=template_var,
            layout=layout,
            policy=policy,
            fit=fit,
            max_length=max_length,
            truncation=truncation,
            cut_reply=cut_reply,
            train_on=train_on,
            history=history,
            boundary=boundary,
            control_tokens=control_tokens,
            append_stop=append_stop,
        )
        b, changes = _other(
            a, against, against_template, against_tokenizer, against_policy or [], against_var or []
        )
        limits = Limits(max_seconds, max_memory)
        return _of_data(data, a, b, limits, limit, row, workers), _sides(a, b, changes)

    console = Console()
    try:
        diff, sides = compare()
        if json_output is not None:
            text = json.dumps(diff_mapping(diff, sides), indent=2, ensure_ascii=True)
            json_output.write_text(text + "\n", encoding="utf-8")
        if html_output is not None:
            html_output.write_text(diff_page(diff, sides), encoding="utf-8")
    except LossmaskError as error:
        Console(stderr=True).print(show_error(error))
        raise typer.Exit(TROUBLE) from None
    console.print(show_diff(diff, sides))
    for found in diff.shown:
        console.print()
        most = 40 if row is None else None
        colour, width = has_colour(console), console.width
        console.print(show_row(found, colour=colour, width=width, most_lines=most))
    if any(found.kinds for found in diff.shown):
        console.print(show_legend())
    if not diff.is_same:
        raise typer.Exit(DIFFERENT)


def _are_prepared(data: list[Path], tokenizer: str | None, against: list[str | None]) -> bool:
    """Return whether two prepared folders are to be compared.

    Raises:
        PolicyError: Two are given, and what only data can be compared against.
    """
    if not any(is_prepared(path) for path in data):
        return False
    if len(data) != 2 or not all(is_prepared(path) for path in data):
        listed = ", ".join(map(str, data))
        raise PolicyError(
            f"a prepared folder is compared with one other: {listed}", reason="not_two_folders"
        )
    if any(against):
        raise PolicyError(
            "two prepared folders are what they are: --against options encode data anew; name the "
            "data files instead",
            reason="nothing_to_encode",
        )
    return True


def _of_folders(
    a: Path, b: Path, tokenizer: str | None, limit: int, row: int | None
) -> tuple[Diff, Sides]:
    with progress_bar() as progress:
        task = progress.add_task("diff", total=None)

        def tell(done: int, of: int) -> None:
            progress.update(task, completed=done, total=of)

        diff = diff_prepared(a, b, tokenizer=tokenizer, limit=limit, row=row, progress=tell)
    return diff, Sides("A", "B", str(a), str(b))


def _of_data(
    data: list[Path],
    a: EncoderSource,
    b: EncoderSource | ForeignSource,
    limits: Limits,
    limit: int,
    row: int | None,
    workers: int,
) -> Diff:
    check_files(data)
    total = total_bytes(data)
    with progress_bar(TransferSpeedColumn()) as progress:
        task = progress.add_task("diff", total=total)
        advance: Callable[[int], None] = lambda done: progress.advance(task, done)  # noqa: E731
        diff = diff_data(
            data,
            a,
            b,
            limits=limits,
            limit=limit,
            row=row,
            workers=_workers(workers, total),
            progress=advance,
        )
        progress.update(task, total=total or 1, completed=total or 1)
    return diff


def _workers(asked: int, size: int | None) -> int:
    """Return how many processes of each side to use: one is enough for what takes seconds."""
    if asked:
        return asked
    return 1 if size is not None and size < 2_000_000 else max(1, (os.cpu_count() or 1) // 2)


def _other(
    a: EncoderSource,
    against: str | None,
    template: str | None,
    tokenizer: str | None,
    policy: list[str],
    variables: list[str],
) -> tuple[EncoderSource | ForeignSource, list[str]]:
    """Return B, and what of it differs from A, in words.

    Raises:
        PolicyError: Nothing is to differ, or another tool and something of ours; or a value is not
            what it should be.
    """
    changes = [
        *([f"chat template {template}"] if template else []),
        *([f"tokenizer {tokenizer}"] if tokenizer else []),
        *([f"policy {', '.join(policy)}"] if policy else []),
        *([f"template variables {', '.join(variables)}"] if variables else []),
    ]
    if against is not None:
        if changes:
            raise PolicyError(
                f"--against {against} compares with another tool, which has the tokenizer and "
                f"template of A; B cannot have another {changes[0].split()[0]} as well",
                reason="two_against",
            )
        return ForeignSource(a, tool_named(against)), []
    if not changes:
        raise PolicyError(
            "nothing to compare with: give --against trl, trl-default or transformers, or one of "
            "--against-template, --against-tokenizer, --against-policy, --against-template-var",
            reason="nothing_against",
        )
    return (
        replace(
            a,
            tokenizer=tokenizer or a.tokenizer,
            chat_template=template or a.chat_template,
            policy=read_policy(policy, {}, base=a.policy, option="--against-policy"),
            template_variables=(*a.template_variables, *map(name_and_value, variables)),
        ),
        changes,
    )


def _sides(a: EncoderSource, b: EncoderSource | ForeignSource, changes: list[str]) -> Sides:
    template = f"chat template {a.chat_template}" if a.chat_template else "its chat template"
    about = f"tokenizer {a.tokenizer}, {template}"
    if isinstance(b, ForeignSource):
        return Sides("lossmask", name_of(b.tool), about, TOOLS[b.tool])
    return Sides("A", "B", about, f"as A, but {'; '.join(changes)}")
