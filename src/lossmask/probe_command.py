"""``lossmask probe``: a prepared folder and a model -> what the model predicts at each token."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import ProgressColumn, Task
from rich.text import Text
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lossmask.encoder import load_tokenizer
from lossmask.errors import InputError, PreparedDataError, TokenizerError
from lossmask.example import Example
from lossmask.learned_tokens import Learned, by_difficulty, find_learned, ignore_setting
from lossmask.prepared import PreparedDataset, load_prepared
from lossmask.probe_display import (
    show_findings,
    show_probed_example,
    show_spread,
    show_surprises,
)
from lossmask.probe_page import probe_page
from lossmask.probed_tokens import ProbedTokens
from lossmask.spelled_examples import spelled_example, token_parts
from lossmask.terminal import has_colour, progress_bar
from lossmask.token_text import TokenTexts
from lossmask.train_extra import needs_train_extra

_DRAWN = 2
_LEARNED = Learned()


def probe_command(
    prepared: Annotated[
        Path, typer.Argument(help="Folder that `prepare` wrote.", show_default=False)
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model folder or hub id.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for all tokens as Parquet. A run that was killed goes on in it.",
            show_default=False,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            "-t",
            help="Where the tokenizer of the data is now. Default: where it was.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Look at the first so many examples only.")
    ] = None,
    all_tokens: Annotated[
        bool, typer.Option("--all-tokens", help="Look at every token, not only those in the loss.")
    ] = False,
    top_k: Annotated[
        int, typer.Option("--top-k", min=1, help="How many predictions to keep for each token.")
    ] = 5,
    show: Annotated[
        list[int] | None,
        typer.Option(
            "--show",
            min=0,
            help="Number of an example to draw; can be given again. Default: the "
            "two of the greatest mean loss.",
            show_default=False,
        ),
    ] = None,
    learned_loss: Annotated[
        float, typer.Option(help="A token is learned at once below this mean loss, in nats,")
    ] = _LEARNED.mean_loss,
    learned_first: Annotated[
        float, typer.Option(help="if the model ranks it first in this share of its places,")
    ] = _LEARNED.first,
    learned_count: Annotated[
        int, typer.Option(help="and there are so many of them.")
    ] = _LEARNED.count,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Examples of a batch at most. The result is the same.")
    ] = 16,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Positions of a batch at most, padding counted.")
    ] = 8192,
    device: Annotated[str, typer.Option(help="auto: a GPU if there is one; or cpu, cuda:1.")] = (
        "auto"
    ),
    dtype: Annotated[
        str, typer.Option(help="auto: that of the checkpoint; or float32, bfloat16, float16.")
    ] = "auto",
    against: Annotated[
        str | None,
        typer.Option(
            "--against", help="Another model to compare with, such as the one before training."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write what was found to this file as a web page.")
    ] = None,
    json_output: Annotated[
        Path | None, typer.Option("--json", help="Write what was found to this file as JSON, too.")
    ] = None,
) -> None:
    """Show what a model predicts at each token: loss, rank, the likeliest tokens.

    One forward pass tells which tokens the model has learned already (to be ignored), and which
    carry the loss.
    """
    with needs_train_extra():
        from lossmask.probing import probe
    data = load_prepared(prepared)
    criterion = Learned(mean_loss=learned_loss, first=learned_first, count=learned_count)
    count = len(data) if limit is None else min(limit, len(data))
    for number in show or ():
        _check_number(number, count)
    spelling = _tokenizer_of(data, tokenizer)
    models = [model] if against is None else [model, against]
    for each in models:
        check_vocabulary(data, spelling, each)
    folders = [output, None if output is None else output / "before"]
    runs = []
    with without_progress_bars(), progress_bar(_TokensPerSecond()) as progress:
        for each, folder in zip(models, folders, strict=False):
            task = progress.add_task(Path(each).name, total=int(data.lengths[:count].sum()))
            probed = probe(
                data,
                each,
                output=folder,
                limit=limit,
                batch_size=batch_size,
                max_tokens=max_tokens,
                top_k=top_k,
                all_tokens=all_tokens,
                device=device,
                dtype=dtype,
                progress=partial(progress.advance, task),
            )
            runs.append(probed)
    probed = runs[0]
    texts = TokenTexts(spelling)
    stop_ids = data.tokenizer["stop_ids"]

    def spelled(number: int) -> Example:
        return spelled_example(data[number], texts, stop_ids)

    parts = parts_of(probed, spelled, stop_ids)
    found = [
        find_learned(each, criterion=criterion, stop_ids=stop_ids, parts=parts) for each in runs
    ]
    findings, earlier = found[0], None if against is None else found[1]
    policy = data.manifest.get("policy", {})
    console = Console()
    colour = has_colour(console)
    console.print(show_spread(probed, width=console.width, colour=colour))
    console.print(show_findings(findings, texts, policy, before=earlier))
    console.print(show_surprises(probed, spelled, texts))
    for number in show or by_difficulty(probed)[:_DRAWN]:
        drawn = show_probed_example(
            spelled(number),
            probed.of_example(number),
            number=number,
            row=int(data.rows[number]),
            width=console.width,
            colour=colour,
        )
        console.print(drawn)
    if json_output is not None:
        plain: dict[str, Any] = findings.to_mapping(texts.text_of)
        plain["policy"] = ignore_setting(findings.learned, policy)
        plain["before"] = None if earlier is None else earlier.to_mapping(texts.text_of)
        text = json.dumps(plain, indent=2, ensure_ascii=False)
        json_output.write_text(text + "\n", encoding="utf-8")
    if html is not None:
        page = probe_page(
            data,
            probed,
            findings,
            model=model,
            spelled=spelled,
            texts=texts,
            before=None if against is None else (against, runs[1], found[1]),
        )
        html.write_text(page, encoding="utf-8")
        console.print(f"page in [bold]{escape(str(html))}", highlight=False)
    if output is not None:
        console.print(f"all {len(probed):,} tokens in [bold]{escape(str(output))}", highlight=False)


def parts_of(
    probed: ProbedTokens, spelled: Callable[[int], Example], stop_ids: Collection[int]
) -> npt.NDArray[np.str_]:
    """Return what each probed token is part of.

    Args:
        probed: n tokens.
        spelled: The number of an example -> the example with its text.
        stop_ids: Tokens at which inference ends a turn.

    Returns:
        (n,) str, names of ``spelled_examples.PARTS``.
    """
    names = []
    for number in np.unique(probed.example).tolist():
        positions = probed.of_example(number).position
        names.append(token_parts(spelled(number), stop_ids)[positions])
    return np.concatenate(names)


def check_vocabulary(data: PreparedDataset, tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    """Check that the tokens of the data mean the same to a model.

    Args:
        data: The data.
        tokenizer: What made it.
        model: Its folder or hub id; if there is no tokenizer, nothing can be told.

    Raises:
        PreparedDataError: A token of the data has another name in the model's tokenizer.
    """
    try:
        own = _names(load_tokenizer(model))
    except TokenizerError:
        return
    names = _names(tokenizer)
    for token in np.unique(data.columns["input_ids"]).tolist():
        if names.get(token) != own.get(token):
            raise PreparedDataError(
                f"token id {token} of {data.folder} is {names.get(token)!r} to the tokenizer that "
                f"made it and {own.get(token)!r} to that of the model {model}, which was trained "
                "on other ids. Prepare the data with the model's own tokenizer.",
                reason="other_vocabulary",
            )


def _names(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {number: name for name, number in tokenizer.get_vocab().items()}


def _tokenizer_of(data: PreparedDataset, given: str | None) -> PreTrainedTokenizerBase:
    """Load the tokenizer that made the data.

    Raises:
        TokenizerError: It is not where it was, or another one.
    """
    entry = data.tokenizer
    try:
        tokenizer = load_tokenizer(given or entry["path"])
    except TokenizerError as error:
        if given is not None:
            raise
        raise TokenizerError(
            f"{error} The data in {data.folder} was made with it, and its tokens are drawn with it:"
            " say where it is now (--tokenizer).",
            reason=error.reason,
        ) from error
    if len(tokenizer) != entry.get("vocab_size"):
        raise TokenizerError(
            f"the tokenizer {given or entry['path']} has {len(tokenizer):,} tokens, and the one "
            f"that made {data.folder} had {entry.get('vocab_size'):,}: it is another one.",
            reason="other_tokenizer",
        )
    return tokenizer


def _check_number(number: int, count: int) -> None:
    if number >= count:
        raise InputError(
            f"there is no example {number}: the {count:,} that are looked at are numbered from 0 "
            f"to {count - 1}.",
            reason="no_such_example",
        )


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars of its own over ours."""
    was_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            transformers_logging.enable_progress_bar()


class _TokensPerSecond(ProgressColumn):
    """The speed of a bar that counts tokens."""

    def render(self, task: Task) -> Text:
        seconds = task.finished_time or task.elapsed
        return Text(f"{task.completed / seconds:,.0f} tokens/s" if seconds else "", "cyan")
