"""Options that the data commands share: tokenizer, template, policy, fit."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from lossmask.errors import PolicyError
from lossmask.fit import Fit
from lossmask.layout import Layout
from lossmask.policy import Policy, read_yaml
from lossmask.preparing import EncoderSource

Data = Annotated[
    list[Path],
    typer.Argument(
        help="JSON Lines, JSON, CSV, Parquet or Arrow files, a saved data set, or one of the hub: "
        "org/name:config/split.",
        show_default=False,
    ),
]
LayoutOption = Annotated[
    list[str] | None,
    typer.Option(
        "--layout",
        "-l",
        help="How rows are laid out, where they do not tell: a YAML file, or KEY=VALUE such as "
        "format=sharegpt, columns.messages=dialog, roles.customer=user, "
        "response_template='### Assistant:'; can be given again.",
    ),
]
TokenizerOption = Annotated[
    str, typer.Option("--tokenizer", "-t", help="Tokenizer folder or hub id.", show_default=False)
]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        "--chat-template",
        "--template",
        help="File of a Jinja chat template to use instead, or a style: alpaca, vicuna, "
        "human_assistant, zephyr, chatml, llama2, phi, phi3, mistral.",
    ),
]
StopOption = Annotated[
    list[str] | None,
    typer.Option("--stop", help="A further stop token, as text; can be given again."),
]
VariableOption = Annotated[
    list[str] | None,
    typer.Option("--template-var", help="NAME=JSON for the template, as enable_thinking=false."),
]
PolicyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        "-p",
        help="What to train on: a YAML file, or KEY=VALUE such as weights.prompt=0.1, stop=last, "
        "ignore=['Yes','No']; can be given again, later ones win.",
    ),
]
TrainOnOption = Annotated[
    str | None,
    typer.Option(
        "--train-on",
        help="all_assistant (default), last_assistant, last_turn, all, or roles: assistant,tool.",
    ),
]
HistoryOption = Annotated[
    str | None,
    typer.Option(
        "--history",
        help="Turns the template rewrites later: expand (default: an example each), last, "
        "as_rendered, error.",
    ),
]
ControlOption = Annotated[
    str | None,
    typer.Option(
        "--control-tokens",
        help="Control tokens typed in a message: error (default), escape or allow.",
    ),
]
BoundaryOption = Annotated[
    str | None,
    typer.Option(
        "--boundary",
        help="A token across the end of the prompt: inference (default: split), include, "
        "exclude, error.",
    ),
]
AppendStopOption = Annotated[
    str | None,
    typer.Option(
        "--append-stop",
        help="A turn the template ends without stop token: history (default: as shown later), "
        "eos, never.",
    ),
]
FitOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fit",
        help="How long an example may be: a YAML file, or KEY=VALUE such as max_length=2048; can "
        "be given again, later ones win.",
    ),
]
MaxLengthOption = Annotated[
    int | None,
    typer.Option("--max-length", help="Tokens of the longest example (default: any length)."),
]
TruncationOption = Annotated[
    str | None,
    typer.Option(
        "--truncation",
        help="An example of more tokens: error (default: its row is rejected), drop, drop_turns "
        "(the oldest exchanges), keep_start, keep_end.",
    ),
]
CutReplyOption = Annotated[
    str | None,
    typer.Option(
        "--cut-reply",
        help="A reply that keep_start or keep_end cut through: mask (default: not trained), drop "
        "the example, train what is left.",
    ),
]
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


def encoder_source(
    tokenizer: str,
    *,
    chat_template: str | None,
    stop: list[str] | None,
    template_var: list[str] | None,
    layout: list[str] | None,
    policy: list[str] | None,
    special_tokens: bool = False,
    fit: list[str] | None = None,
    max_length: int | None = None,
    truncation: str | None = None,
    cut_reply: str | None = None,
    **flags: str | None,
) -> EncoderSource:
    """Put the options of a data command together.

    Raises:
        PolicyError: A value of policy or fit, or a template variable is not what it should be.
    """
    variables = tuple(name_and_value(text) for text in template_var or [])
    return EncoderSource(
        tokenizer,
        read_policy(policy or [], flags),
        chat_template,
        tuple(stop or []),
        variables,
        read_layout(layout or []),
        special_tokens,
        fit=read_fit(
            fit or [],
            {"max_length": max_length, "truncation": truncation, "cut_reply": cut_reply},
        ),
    )


def read_layout(given: Sequence[str]) -> Layout:
    """Put a layout together: files and ``KEY=VALUE`` in their order.

    Raises:
        PolicyError: A file cannot be read, or a value is not YAML.
        InputError: A key or value is unknown.
    """
    return Layout.from_mapping(_read_values("--layout", given))


def read_policy(given: Sequence[str], flags: Mapping[str, str | None]) -> Policy:
    """Put a policy together: files and ``KEY=VALUE`` in their order, then flags of their own.

    Raises:
        PolicyError: A file cannot be read, or a key or value is unknown.
    """
    values = _read_values("--policy", given)
    values |= {name: value for name, value in flags.items() if value is not None}
    if "," in str(values.get("train_on", "")) and isinstance(values["train_on"], str):
        values["train_on"] = [role.strip() for role in values["train_on"].split(",")]
    return Policy.from_mapping(values)


def read_fit(given: Sequence[str], flags: Mapping[str, int | str | None]) -> Fit:
    """Put a fit together: files and ``KEY=VALUE`` in their order, then flags of their own.

    Raises:
        PolicyError: A file cannot be read, or a key or value is unknown.
    """
    values = _read_values("--fit", given)
    return Fit.from_mapping(
        values | {name: value for name, value in flags.items() if value is not None}
    )


def _read_values(option: str, given: Sequence[str]) -> dict[str, Any]:
    """Read YAML files and ``KEY=VALUE``, later ones over earlier ones."""
    values: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            values |= read_yaml(Path(text))
            continue
        name, dot, inner = key.partition(".")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise PolicyError(f"{option} {text!r}: the value is not YAML: {error}") from error
        if not dot:
            values[name] = parsed
            continue
        outer = values.get(name, {})
        if not isinstance(outer, Mapping):
            raise PolicyError(f"{option} {text!r}: {name} is {outer!r} already, not a mapping")
        values[name] = {**outer, inner: parsed}
    return values


def name_and_value(text: str) -> tuple[str, Any]:
    """Read ``NAME=JSON``.

    Raises:
        PolicyError: It is not of that form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise PolicyError(f"--template-var {text!r}: expected NAME=JSON")
    try:
        return name, json.loads(value)
    except ValueError as error:
        raise PolicyError(
            f"--template-var {text!r}: the value is not JSON (put strings in quotes)"
        ) from error


def worker_count(asked: int, size: int | None) -> int:
    """Return how many processes to use: one is enough for what takes seconds.

    Args:
        asked: By the user; 0 = as many as are useful.
        size: Bytes of the data, None if unknown.
    """
    if asked:
        return asked
    return 1 if size is not None and size < 2_000_000 else os.cpu_count() or 1
