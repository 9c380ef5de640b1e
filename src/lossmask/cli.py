"""The command ``lossmask``: prepare, show, audit, train, demo.

Torch is imported by ``train`` and ``demo`` only, inside their functions.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from lossmask.audit_display import show_audit
from lossmask.auditing import audit
from lossmask.command_options import (
    AppendStopOption,
    BoundaryOption,
    ControlOption,
    Data,
    HistoryOption,
    StopOption,
    TemplateOption,
    TokenizerOption,
    TrainOnOption,
    VariableOption,
    encoder_source,
    name_and_value,
)
from lossmask.confinement import Limits
from lossmask.data_files import check_files, read_row
from lossmask.errors import LossmaskError, PolicyError
from lossmask.preparing import prepare
from lossmask.terminal import has_colour, show_example, show_rejection, summary, visible
from lossmask.workers import encode_apart

app = typer.Typer(
    name="lossmask",
    help="Fine-tuning examples whose loss falls on exactly the tokens the model has to generate.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


MaxSecondsOption = Annotated[
    float,
    typer.Option(
        "--max-seconds",
        min=1,
        help="Processor time that one row may take, besides 1 s per message; one that takes more "
        "is rejected.",
    ),
]
MaxMemoryOption = Annotated[
    float,
    typer.Option(
        "--max-memory",
        min=0.1,
        help="GiB of memory that one row may take; one that takes more is rejected.",
    ),
]


@app.command(
    "prepare",
    epilog="Example: lossmask prepare chats.jsonl --tokenizer Qwen/Qwen3-0.6B -o prepared",
)
def prepare_command(
    data: Data,
    tokenizer: TokenizerOption,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)
    ],
    chat_template: TemplateOption = None,
    stop: StopOption = None,
    template_var: VariableOption = None,
    train_on: TrainOnOption = "all_assistant",
    history: HistoryOption = "expand",
    boundary: BoundaryOption = "inference",
    control_tokens: ControlOption = "error",
    append_stop: AppendStopOption = "history",
    workers: Annotated[
        int, typer.Option(min=0, help="Processes; 0 = one per core. The result is the same.")
    ] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a folder prepared from something else.")
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
        train_on=train_on,
        history=history,
        boundary=boundary,
        control_tokens=control_tokens,
        append_stop=append_stop,
    )
    check_files(data)
    total = sum(path.stat().st_size for path in data)
    with _progress(TransferSpeedColumn()) as progress:
        task = progress.add_task("prepare", total=total)
        counts = prepare(
            data,
            source,
            output,
            workers=_workers(workers, total),
            limits=Limits(max_seconds, max_memory),
            overwrite=overwrite,
            progress=lambda done: progress.advance(task, done),
        )
        progress.update(task, completed=total)
    Console().print(summary(counts, str(output)))
    if not counts.rows_kept:
        raise typer.Exit(1)


def _workers(asked: int, total_bytes: int) -> int:
    """Return how many processes to use: one is enough for what takes seconds."""
    if asked:
        return asked
    return 1 if total_bytes < 2_000_000 else os.cpu_count() or 1


@app.command(
    "show", epilog="Example: lossmask show chats.jsonl --tokenizer Qwen/Qwen3-0.6B --row 3"
)
def show_command(
    data: Annotated[Path, typer.Argument(help="A JSON Lines file.", show_default=False)],
    tokenizer: TokenizerOption,
    row: Annotated[int, typer.Option("--row", "-n", min=0, help="Row number, from 0.")] = 0,
    chat_template: TemplateOption = None,
    stop: StopOption = None,
    template_var: VariableOption = None,
    train_on: TrainOnOption = "all_assistant",
    history: HistoryOption = "expand",
    boundary: BoundaryOption = "inference",
    control_tokens: ControlOption = "error",
    append_stop: AppendStopOption = "history",
    max_seconds: MaxSecondsOption = 60,
    max_memory: MaxMemoryOption = 4,
) -> None:
    """Show the tokens of one row: trained (green), stop token (red), not trained (dim).

    Exit code 1 if the row cannot be encoded; the reason is shown.
    """
    source = encoder_source(
        tokenizer,
        chat_template=chat_template,
        stop=stop,
        template_var=template_var,
        train_on=train_on,
        history=history,
        boundary=boundary,
        control_tokens=control_tokens,
        append_stop=append_stop,
    )
    check_files([data])
    raw = read_row(data, row)
    console = Console()
    outcome = encode_apart(raw, source.load, Limits(max_seconds, max_memory))
    if outcome.rejection is not None:
        console.print(show_rejection(raw, outcome.rejection))
        raise typer.Exit(1)
    messages = raw.parse()["messages"]
    for number, example in enumerate(outcome.examples, start=1):
        console.print(
            show_example(
                example,
                messages,
                number=number,
                total=len(outcome.examples),
                colour=has_colour(console),
            )
        )


@app.command(
    "audit",
    epilog="Example: lossmask audit chats.jsonl --tokenizer Qwen/Qwen3-0.6B --prove",
)
def audit_command(
    data: Data,
    tokenizer: TokenizerOption,
    chat_template: TemplateOption = None,
    stop: StopOption = None,
    template_var: VariableOption = None,
    train_on: TrainOnOption = "all_assistant",
    history: HistoryOption = "expand",
    boundary: BoundaryOption = "inference",
    control_tokens: ControlOption = "error",
    append_stop: AppendStopOption = "history",
    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="Derive who wrote which character a second time, by perturbing every string of "
            "every row, and reject rows where the two disagree. Slower.",
        ),
    ] = False,
    json_output: Annotated[
        Path | None, typer.Option("--json", help="Write the audit to this file as JSON, too.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes; 0 = one per core. The result is the same.")
    ] = 0,
    max_seconds: MaxSecondsOption = 60,
    max_memory: MaxMemoryOption = 4,
) -> None:
    """Look at every row without writing anything: what is kept, lost, altered, repeated.

    Exit code 1 if any row is rejected.
    """
    source = encoder_source(
        tokenizer,
        chat_template=chat_template,
        stop=stop,
        template_var=template_var,
        train_on=train_on,
        history=history,
        boundary=boundary,
        control_tokens=control_tokens,
        append_stop=append_stop,
    )
    if prove:
        source = replace(source, proof="rows")
    check_files(data)
    total = sum(path.stat().st_size for path in data)
    with _progress(TransferSpeedColumn()) as progress:
        task = progress.add_task("audit", total=total)
        found = audit(
            data,
            source,
            limits=Limits(max_seconds, max_memory),
            workers=_workers(workers, total),
            progress=lambda done: progress.advance(task, done),
        )
        progress.update(task, completed=total)
    Console().print(show_audit(found, is_proved=prove))
    if json_output is not None:
        text = json.dumps(found.to_mapping(), indent=2, ensure_ascii=False)
        json_output.write_text(text + "\n", encoding="utf-8")
    if found.rows_rejected:
        raise typer.Exit(1)


@app.command(
    "train", epilog="Example: lossmask train prepared --model Qwen/Qwen3-0.6B -o tuned --lora"
)
def train_command(
    prepared: Annotated[
        Path, typer.Argument(help="Folder that `prepare` wrote.", show_default=False)
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model folder or hub id.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for checkpoints and the model.")
    ] = Path("trained"),
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 3.0,
    max_steps: Annotated[int | None, typer.Option(help="Stop after this many updates.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Default: 2e-5, with --lora 2e-4.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples a forward pass.")] = 8,
    gradient_accumulation: Annotated[int, typer.Option(min=1, help="Passes an update.")] = 1,
    lora: Annotated[bool, typer.Option("--lora", help="Train low-rank adapters (PEFT).")] = False,
    lora_rank: Annotated[int, typer.Option(min=1, help="Rank of the adapters.")] = 16,
    eval_data: Annotated[Path | None, typer.Option(help="Prepared folder to evaluate on.")] = None,
    eval_share: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of the rows to evaluate on instead.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of order, dropout and adapters.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the output folder.")
    ] = False,
    argument: Annotated[
        list[str] | None,
        typer.Option(
            "--arg", help="NAME=JSON of transformers.TrainingArguments, as save_steps=50."
        ),
    ] = None,
) -> None:
    """Fine-tune a model on a prepared folder with transformers.Trainer.

    The loss falls on supervised tokens only. Checkpoints allow --resume.
    """
    with _needs_train_extra():
        from lossmask.training import LoraSettings, train
        from lossmask.training_progress import RichProgress
    with _progress(MofNCompleteColumn(), TextColumn("{task.fields[logged]}")) as progress:
        result = train(
            prepared,
            model,
            output,
            epochs=epochs,
            max_steps=max_steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            gradient_accumulation=gradient_accumulation,
            lora=LoraSettings(rank=lora_rank, alpha=2 * lora_rank) if lora else None,
            eval_folder=eval_data,
            eval_share=eval_share,
            seed=seed,
            resume=resume,
            callbacks=[RichProgress(progress)],
            training_arguments=dict(name_and_value(text) for text in argument or []),
        )
    console = Console()
    loss = "-" if result.train_loss is None else f"{result.train_loss:.4f}"
    console.print(
        f"[bold]{result.steps}[/] steps, {result.supervised_tokens:,} supervised of "
        f"{result.tokens:,} tokens, mean loss {loss}"
    )
    for name in sorted(result.metrics):
        if not name.endswith(("_runtime", "_per_second", "epoch")):
            console.print(f"  {name:<24} {result.metrics[name]:,.4g}")
    console.print(f"model in [bold]{escape(str(result.output_dir))}")


@app.command("demo")
def demo_command(
    seed: Annotated[int, typer.Option(help="Seed of the order of the data.")] = 0,
) -> None:
    """Fine-tune the embedded model two ways and see what masking does.

    Takes about two minutes and no network. Prepares conversations that come with lossmask, shows
    one, trains on completions only and on the full sequence, and prints what the model answers to
    held-out prompts before and after.
    """
    with _needs_train_extra():
        from lossmask.demo import run_demo
    run_demo(Console(), seed=seed)


class _needs_train_extra:
    """Say how to install torch where it is missing."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None and issubclass(kind, ModuleNotFoundError):
            raise PolicyError(
                f"training needs packages that are not installed ({error}): "
                'pip install "lossmask[train]"',
                reason="missing_extra",
            ) from None


def _progress(*columns: Any) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def main() -> None:
    """Run the command; an error that lossmask raises on purpose is one line, exit code 1."""
    try:
        app()
    except LossmaskError as error:
        Console(stderr=True).print(
            f"[bold red]error[/] ({error.reason}): {escape(visible(str(error)))}"
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
