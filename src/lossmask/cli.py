"""The command ``lossmask``: which commands there are, and where.

A command's file is imported when the command runs, not before: ``lossmask --help`` imports none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from lossmask import __version__
from lossmask.fork_server import start_ahead
from lossmask.inherited_encoder import leave_torch_out

if TYPE_CHECKING:
    from lossmask.errors import LossmaskError


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        name: What it is called.
        place: Module of lossmask and the function in it.
        summary: The first line of that function's docstring, which says what the command does.
        example: What may follow ``lossmask`` on the command line.
        needs_torch: Whether it, or a process that it starts, may import torch.
        has_workers: Whether it encodes in several processes.
    """

    name: str
    place: str
    summary: str
    example: str
    needs_torch: bool = True
    has_workers: bool = False

    def function(self) -> Callable[..., None]:
        """Import the function that runs it."""
        module, name = self.place.split(":")
        function: Callable[..., None] = getattr(import_module(f"lossmask.{module}"), name)
        return function


COMMANDS = (
    Command(
        "prepare",
        "prepare_command:prepare_command",
        "Encode conversations into Parquet shards, a manifest, and rejected.jsonl.",
        "prepare chats.jsonl --tokenizer Qwen/Qwen3-0.6B -o prepared",
        needs_torch=False,
        has_workers=True,
    ),
    Command(
        "show",
        "show_command:show_command",
        "Show the tokens of some rows: trained (green), stop token (red), not trained (quiet).",
        "show chats.jsonl --tokenizer Qwen/Qwen3-0.6B --rows 3,7-9",
        needs_torch=False,
    ),
    Command(
        "audit",
        "audit_command:audit_command",
        "Look at every row without training on it: what is kept, lost, altered, repeated, leaked.",
        "audit chats.jsonl --tokenizer Qwen/Qwen3-0.6B --prove",
        needs_torch=False,
        has_workers=True,
    ),
    Command(
        "explain",
        "explain_command:explain_command",
        "Explain why tokens of a row are in the loss, or are not.",
        "explain chats.jsonl -t Qwen/Qwen3-0.6B --text '<|im_end|>'",
        needs_torch=False,
    ),
    Command(
        "report",
        "report_command:report_command",
        "Write one HTML file: figures, findings, rejected rows, and examples token by token.",
        "report chats.jsonl --tokenizer Qwen/Qwen3-0.6B -o report.html",
        needs_torch=False,
    ),
    Command(
        "diff",
        "diff_command:diff_command",
        "Compare two templates, tokenizers, policies or tools on the same data, token by token.",
        "diff chats.jsonl --tokenizer Qwen/Qwen3-0.6B --against trl",
    ),
    Command(
        "serve",
        "serve_command:serve_command",
        "Edit a conversation, its template and policy, and see tokens and masks as you type.",
        "serve chats.jsonl --tokenizer Qwen/Qwen3-0.6B",
        needs_torch=False,
    ),
    Command(
        "convert",
        "convert_command:convert_command",
        "Convert data into another tool's layout; whatever it cannot say is reported.",
        "convert chats.json -o alpaca.jsonl --to alpaca",
    ),
    Command(
        "doctor",
        "doctor_command:doctor_command",
        "Find out what a chat template does, by running it on small conversations.",
        "doctor Qwen/Qwen3-0.6B --fail-on warning",
        needs_torch=False,
    ),
    Command(
        "pack",
        "pack_command:pack_command",
        "Show how well prepared examples pack, and which lie in a pack. Writes nothing.",
        "pack prepared --max-length 4096 --show 0",
    ),
    Command(
        "probe",
        "probe_command:probe_command",
        "Show what a model predicts at each token: loss, rank, the likeliest tokens.",
        "probe prepared --model Qwen/Qwen3-0.6B --html probe.html",
    ),
    Command(
        "train",
        "train_command:train_command",
        "Fine-tune a model on a prepared folder with transformers.Trainer.",
        "train prepared --model Qwen/Qwen3-0.6B -o tuned --lora",
    ),
    Command(
        "demo",
        "train_command:demo_command",
        "Fine-tune the embedded model two ways and see what masking does.",
        "demo",
    ),
)


class _ImportedWhenRun(TyperGroup):
    """Commands that are known by name and summary until one of them runs."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments name, with its options."""
        name, stub, rest = super().resolve_command(ctx, args)
        found = [command for command in COMMANDS if command.name == name]
        return name, get_command(_alone(found[0])) if found else stub, rest


def _app(**options: Any) -> typer.Typer:
    return typer.Typer(
        add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False, **options
    )


def _alone(command: Command) -> typer.Typer:
    """Return an app of one command, with its options."""
    one = _app()
    epilog = f"Example: lossmask {command.example}"
    one.command(command.name, epilog=epilog)(command.function())
    return one


app = _app(
    name="lossmask",
    help="Fine-tuning examples whose loss falls on exactly the tokens the model has to generate.",
    no_args_is_help=True,
    cls=_ImportedWhenRun,
)
for _command in COMMANDS:
    app.command(_command.name, help=_command.summary)(lambda: None)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"lossmask {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take the options that belong to no command."""


def main() -> None:
    """Run the command; an error that lossmask raises on purpose is one line, exit code 1."""
    from lossmask.errors import LossmaskError

    try:
        app()
    except LossmaskError as error:
        _show_error(error)
        sys.exit(1)


def _show_error(error: LossmaskError) -> None:
    from rich.console import Console

    from lossmask.terminal import show_error

    Console(stderr=True).print(show_error(error))


def run() -> None:
    """Be the command: this process and those that it starts do nothing else."""
    name = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    asked = next((command for command in COMMANDS if command.name == name), None)
    if asked is not None and not asked.needs_torch:
        leave_torch_out()
    if asked is not None and asked.has_workers and "--help" not in sys.argv:
        start_ahead()
    main()


if __name__ == "__main__":
    run()
