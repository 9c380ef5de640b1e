"""Options that the data commands share: tokenizer, template, policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from lossmask.errors import PolicyError
from lossmask.policy import Policy
from lossmask.preparing import EncoderSource

Data = Annotated[
    list[Path],
    typer.Argument(
        help='JSON Lines files, one conversation a line: {"messages": [...]}.', show_default=False
    ),
]
TokenizerOption = Annotated[
    str, typer.Option("--tokenizer", "-t", help="Tokenizer folder or hub id.", show_default=False)
]
TemplateOption = Annotated[
    str | None,
    typer.Option("--chat-template", help="File of a Jinja chat template to use instead."),
]
StopOption = Annotated[
    list[str] | None,
    typer.Option("--stop", help="A further stop token, as text; can be given again."),
]
VariableOption = Annotated[
    list[str] | None,
    typer.Option("--template-var", help="NAME=JSON for the template, as enable_thinking=false."),
]
TrainOnOption = Annotated[str, typer.Option("--train-on", help="all_assistant or last_assistant.")]
HistoryOption = Annotated[
    str,
    typer.Option(
        "--history",
        help="Turns the template rewrites later: expand (an example each), last, as_rendered, "
        "error.",
    ),
]
ControlOption = Annotated[
    str,
    typer.Option(
        "--control-tokens", help="Control tokens typed in a message: error, escape or allow."
    ),
]
BoundaryOption = Annotated[
    str,
    typer.Option(
        "--boundary",
        help="A token across the end of the prompt: inference (split), include, exclude, error.",
    ),
]
AppendStopOption = Annotated[
    str,
    typer.Option(
        "--append-stop",
        help="A turn the template ends without stop token: history (as shown later), eos, never.",
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
    **policy: str,
) -> EncoderSource:
    """Put the options of a data command together.

    Raises:
        PolicyError: A policy value or a template variable is not what it should be.
    """
    variables = tuple(name_and_value(text) for text in template_var or [])
    return EncoderSource(
        tokenizer, Policy.from_mapping(policy), chat_template, tuple(stop or []), variables
    )


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
