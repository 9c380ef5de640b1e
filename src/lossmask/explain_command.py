"""``lossmask explain``: one token of one row -> why it is, or is not, in the loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

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
    TokenizerOption,
    TrainOnOption,
    TruncationOption,
    VariableOption,
    encoder_source,
)
from lossmask.confinement import Limits
from lossmask.data_files import check_files, read_row
from lossmask.errors import PolicyError
from lossmask.explaining import Explained, Explanation
from lossmask.terminal import show_rejection
from lossmask.token_drawing import role_style, trained_style
from lossmask.visible_text import visible
from lossmask.workers import encode_apart

_AROUND = 24  # characters shown at either side of a token
_LIMIT = 20


def explain_command(
    data: Annotated[
        Path, typer.Argument(help="A data file, or a data set of the hub.", show_default=False)
    ],
    tokenizer: TokenizerOption,
    row: Annotated[int, typer.Option("--row", "-n", min=0, help="Row number, from 0.")] = 0,
    token: Annotated[
        list[int] | None,
        typer.Option(
            "--token",
            "-k",
            help="Index of a token, from 0, or from the end as -1; can be given again.",
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="The tokens of this text, wherever it occurs.")
    ] = None,
    example: Annotated[
        int | None,
        typer.Option(min=1, help="Which of the row's examples; default: the first, --text: all."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Tokens to explain where --text finds more.")
    ] = _LIMIT,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON: a list of explanations.")
    ] = False,
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
    """Explain why tokens of a row are in the loss, or are not.

    Says who wrote them, where, on which line of the chat template, and which rule decided. Exit
    code 1 if the row cannot be encoded; the reason is shown.
    """
    if (not token) == (text is None):
        raise PolicyError("give either --token NUMBER, or --text with what to look for")
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
    raw = read_row(data, row)
    console = Console()
    outcome = encode_apart(raw, source.load, Limits(max_seconds, max_memory))
    if outcome.rejection is not None:  # found out where a hostile template does no harm
        console.print(show_rejection(raw, outcome.rejection))
        raise typer.Exit(1)
    explained = Explained.of(source.load(), raw.parse())
    places = [((example or 1) - 1, number) for number in token or []]
    if text is not None:
        places = explained.find(text, example=None if example is None else example - 1)
    found = [explained.explain(number, example=which) for which, number in places[:limit]]
    if json_output:
        print(json.dumps([each.to_mapping() for each in found], indent=2, ensure_ascii=False))
        return
    for each in found:
        console.print(show_explanation(explained, each, place=raw.place))
    if len(places) > limit:
        rest = len(places) - limit
        console.print(Text(f"{rest:,} more tokens of that text: --limit {len(places)}", "dim"))


def show_explanation(explained: Explained, each: Explanation, *, place: str) -> RenderableType:
    """Draw why one token counts as much as it does."""
    examples = explained.row.outcome.examples
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("token", _token(each))
    table.add_row("in", _context(explained, each))
    table.add_row("written by", _author(each))
    if each.template_line is not None:
        line = f"line {each.template_line} of the chat template: "
        table.add_row(
            "on", Text.assemble(line, (visible((each.template_source or "").strip()), "cyan"))
        )
    style = trained_style(each.weight, 0) if each.is_trained else "bold"
    verdict = f" trained, weight {each.weight:g} " if each.is_trained else "not trained"
    table.add_row("in the loss", Text(verdict, style))
    table.add_row("because", Text(visible(each.reason)))
    part = "" if each.part is None else f", part {each.part}"
    table.add_row("rule", Text(f"{each.rule}{part}"))
    of = f" of example {each.example} of {len(examples)}" if len(examples) > 1 else ""
    title = f"{visible(place)}, token {each.token}{of}"
    return Group(Rule(Text(title), align="left"), table)


def _token(each: Explanation) -> Text:
    spelled = "" if each.spelled is None else f", bytes {each.spelled.hex(' ')}"
    return Text.assemble((visible(each.text), "bold"), f"  id {each.id}{spelled}")


def _context(explained: Explained, each: Explanation) -> Text:
    """Return the text around a token, which stands out."""
    text = explained.row.outcome.examples[each.example - 1].text
    first, last = max(each.start - _AROUND, 0), min(each.end + _AROUND, len(text))
    style = trained_style(each.weight, 0) if each.is_trained else "reverse"
    return Text.assemble(
        ("…" if first else "", "dim"),
        (visible(text[first : each.start]), "dim"),
        (visible(text[each.start : each.end]), style),
        (visible(text[each.end : last]), "dim"),
        ("…" if last < len(text) else "", "dim"),
    )


def _author(each: Explanation) -> Text:
    if each.field is None:
        return Text("the chat template", role_style(None))
    offset = "" if each.field_start is None else f", from character {each.field_start}"
    if each.message_index < 0:
        return Text(f"the row's {each.field}{offset}")
    role = "" if each.role is None else f" ({visible(each.role)})"
    name = f"message {each.message_index}{role}"
    return Text.assemble((name, role_style(each.role)), f", {visible(each.field)}{offset}")
