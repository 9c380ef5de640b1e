"""``lossmask train`` and ``lossmask demo``: they alone import torch, and only when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, TextColumn

from lossmask.command_options import name_and_value
from lossmask.terminal import progress_bar
from lossmask.train_extra import needs_train_extra


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
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Examples a forward pass, default 8; with --packing packs, default 1."
        ),
    ] = None,
    gradient_accumulation: Annotated[int, typer.Option(min=1, help="Passes an update.")] = 1,
    packing: Annotated[
        int | None,
        typer.Option(min=1, help="Train on packs of this many tokens instead of padded batches."),
    ] = None,
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
    with needs_train_extra():
        from lossmask.training import LoraSettings, train
        from lossmask.training_progress import RichProgress
    with progress_bar(MofNCompleteColumn(), TextColumn("{task.fields[logged]}")) as progress:
        result = train(
            prepared,
            model,
            output,
            epochs=epochs,
            max_steps=max_steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            gradient_accumulation=gradient_accumulation,
            packing=packing,
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
    if result.packing_efficiency is not None:
        console.print(f"packs {result.packing_efficiency:.2%} filled")
    for name in sorted(result.metrics):
        if not name.endswith(("_runtime", "_per_second", "epoch")):
            console.print(f"  {name:<24} {result.metrics[name]:,.4g}")
    console.print(f"model in [bold]{escape(str(result.output_dir))}")


def demo_command(
    seed: Annotated[int, typer.Option(help="Seed of the order of the data.")] = 0,
) -> None:
    """Fine-tune the embedded model two ways and see what masking does.

    Takes about two minutes and no network. Prepares conversations that come with lossmask, shows
    one, trains on completions only and on the full sequence, and prints what the model answers to
    held-out prompts before and after.
    """
    with needs_train_extra():
        from lossmask.demo import run_demo
    run_demo(Console(), seed=seed)
