"""``lossmask doctor``: what a chat template does, on one page.

A template is a program that comes with a model; it is run in a process of its own, which it may
end.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from lossmask.command_options import (
    MaxMemoryOption,
    MaxSecondsOption,
    StopOption,
    TemplateOption,
    VariableOption,
    encoder_source,
)
from lossmask.confinement import (
    OUT_OF_MEMORY,
    Limits,
    confined,
    make_disposable,
    rejection_after,
)
from lossmask.diagnosis import VERDICTS, Diagnosis, Verdict
from lossmask.doctor import diagnose
from lossmask.doctor_display import show_diagnosis
from lossmask.embedded import DEMO_MODEL
from lossmask.encoder import Encoder
from lossmask.errors import LossmaskError, PolicyError, TemplateError
from lossmask.fork_server import starting_method
from lossmask.instruction_styles import is_style
from lossmask.policy import nearest

_NEVER = "never"


def doctor_command(
    target: Annotated[
        str,
        typer.Argument(
            help="A file with a Jinja chat template, the name of a style (alpaca), or a tokenizer: "
            "its folder or hub id.",
            show_default=False,
        ),
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            "-t",
            help="Tokenizer of a template that is a file or a style: folder or hub id. Without "
            "one nothing is said of tokens.",
            show_default=False,
        ),
    ] = None,
    chat_template: TemplateOption = None,
    stop: StopOption = None,
    template_var: VariableOption = None,
    json_output: Annotated[
        str | None,
        typer.Option("--json", help="Write all facts with their evidence to this file; - prints."),
    ] = None,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Show the renderings behind every fact.")
    ] = False,
    fail_on: Annotated[
        str, typer.Option("--fail-on", help="Exit code 1 at this verdict: error, warning, never.")
    ] = "error",
    max_seconds: MaxSecondsOption = 60,
    max_memory: MaxMemoryOption = 4,
) -> None:
    """Find out what a chat template does, by running it on small conversations.

    Does every prompt begin the finished conversation, what is shown differently later, what is
    left out, which token ends a turn, how tools, system prompts and orders of roles are treated.
    """
    if fail_on not in (*VERDICTS[2:], _NEVER):
        raise PolicyError(f"--fail-on {fail_on!r}; {nearest(fail_on, (*VERDICTS[2:], _NEVER))}")
    asked = what_is_asked(target, tokenizer, chat_template)
    source = encoder_source(
        asked.tokenizer,
        chat_template=asked.chat_template,
        stop=stop,
        template_var=template_var,
        layout=None,
        policy=None,
    )
    limits = Limits(max_seconds, max_memory)
    found = diagnose_apart(source.load, limits, is_stand_in=asked.is_stand_in)
    if json_output is not None:
        text = json.dumps(
            {"target": target, **found.to_mapping()}, indent=2, ensure_ascii=json_output == "-"
        )
        if json_output == "-":
            typer.echo(text)
        else:
            Path(json_output).write_text(text + "\n", encoding="utf-8")
    if json_output != "-":
        Console().print(show_diagnosis(found, name=target, evidence=evidence))
    if fail_on != _NEVER and found.at_least(cast(Verdict, fail_on)):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Asked:
    """Which tokenizer and template a target stands for.

    Attributes:
        tokenizer: Folder or hub id.
        chat_template: File or style; None: the tokenizer's own.
        is_stand_in: Whether the tokenizer is only there because there has to be one.
    """

    tokenizer: str
    chat_template: str | None
    is_stand_in: bool


def what_is_asked(target: str, tokenizer: str | None, chat_template: str | None) -> Asked:
    """Tell whether a target is a template or a tokenizer.

    Raises:
        PolicyError: It is a tokenizer, and ``--tokenizer`` names another, or a template, and
            ``--chat-template`` names another.
    """
    if not (is_style(target) or Path(target).expanduser().is_file()):
        if tokenizer is not None:
            raise PolicyError(
                f"{target!r} is no template file, so it is taken for a tokenizer, and --tokenizer "
                "names another: give the template's file, or leave --tokenizer out"
            )
        return Asked(target, chat_template, False)
    if chat_template is not None:
        raise PolicyError(f"{target!r} is a template, and --chat-template names another: which?")
    return Asked(tokenizer or str(DEMO_MODEL), target, tokenizer is None)


def diagnose_apart(
    load: Callable[[], Encoder], limits: Limits, *, is_stand_in: bool = False
) -> Diagnosis:
    """Diagnose in a process of its own, which may be lost.

    Args:
        load: Makes the encoder.
        limits: What all renderings together may cost.
        is_stand_in: As for ``diagnose``.

    Raises:
        LossmaskError: The encoder cannot be loaded, or the template ends the process.
    """
    method = "fork" if sys.platform == "linux" else starting_method()
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    arguments = theirs, load, limits, is_stand_in
    process = context.Process(target=_work, args=arguments, daemon=True)
    with warnings.catch_warnings():  # of threads, which hold nothing here while they idle
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        answer = None
    process.join()
    if isinstance(answer, LossmaskError):
        raise answer
    if not isinstance(answer, Diagnosis):
        rejection = rejection_after(process.exitcode or 0, limits)
        raise TemplateError(
            f"the template cannot be diagnosed: {rejection.detail}", reason=rejection.reason
        )
    return answer


def _work(pipe: Connection, load: Callable[[], Encoder], limits: Limits, is_stand_in: bool) -> None:
    try:
        encoder = load()
        make_disposable()
        with confined(limits) as begin:
            begin(0)
            answer: Diagnosis | LossmaskError = diagnose(encoder, is_stand_in=is_stand_in)
    except LossmaskError as error:
        answer = error
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    pipe.send(answer)
