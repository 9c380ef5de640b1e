"""``lossmask audit``: every row of data, or of a prepared folder, looked at before training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, TransferSpeedColumn

from lossmask.audit_data import audit
from lossmask.audit_display import show_audit
from lossmask.audit_prepared import audit_prepared
from lossmask.auditing import Audit
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
    worker_count,
)
from lossmask.confinement import Limits
from lossmask.data_files import check_files, total_bytes
from lossmask.diagnosis import Diagnosis
from lossmask.doctor_command import diagnose_apart
from lossmask.errors import LossmaskError, PolicyError
from lossmask.policy import nearest
from lossmask.prepared_manifest import PreparedFolder, is_prepared, read_manifest
from lossmask.preparing import EncoderSource
from lossmask.severities import SEVERITIES
from lossmask.terminal import progress_bar

_FAIL_ON = ("error", "warning", "never")


def audit_command(
    data: Annotated[
        list[Path],
        typer.Argument(
            help="Data files, or a data set of the hub, as for prepare; or one folder that "
            "prepare wrote.",
            show_default=False,
        ),
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            "-t",
            help="Tokenizer folder or hub id; a prepared folder needs none.",
            show_default=False,
        ),
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
    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="Derive who wrote which character a second time, by perturbing every string of "
            "every row, and reject rows where the two disagree. Slower.",
        ),
    ] = False,
    eval_data: Annotated[
        list[Path] | None,
        typer.Option(
            "--eval",
            help="Data to evaluate on, of the same kind: find what of it is in the training data; "
            "can be given again.",
        ),
    ] = None,
    fail_on: Annotated[
        str,
        typer.Option("--fail-on", help="Exit code 1 at this severity: error, warning, never."),
    ] = "error",
    json_output: Annotated[
        Path | None, typer.Option("--json", help="Write the audit to this file as JSON, too.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes; 0 = one per core. The result is the same.")
    ] = 0,
    max_seconds: MaxSecondsOption = 60,
    max_memory: MaxMemoryOption = 4,
) -> None:
    """Look at every row without training on it: what is kept, lost, altered, repeated, leaked.

    Exit code 1 if any row is rejected, or anything else is an error (--fail-on).
    """
    if fail_on not in _FAIL_ON:
        raise PolicyError(f"--fail-on {fail_on!r}; {nearest(fail_on, _FAIL_ON)}")
    template: Diagnosis | None = None
    if any(map(is_prepared, data)):
        _refuse_options(
            {
                "--tokenizer": tokenizer,
                "--chat-template": chat_template,
                "--stop": stop,
                "--template-var": template_var,
                "--layout": layout,
                "--policy": policy,
                "--train-on": train_on,
                "--history": history,
                "--boundary": boundary,
                "--control-tokens": control_tokens,
                "--append-stop": append_stop,
                "--fit": fit,
                "--max-length": max_length,
                "--truncation": truncation,
                "--cut-reply": cut_reply,
                "--prove": prove or None,
            }
        )
        found = _prepared(data, eval_data or [])
    else:
        if tokenizer is None:
            raise PolicyError("data files need --tokenizer: a folder, or a hub id")
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
        limits = Limits(max_seconds, max_memory)
        proved = replace(source, proof="rows") if prove else source
        found = _data(data, proved, limits, workers, eval_data or [])
        template, untold = _template(source, limits)
        found.not_told += untold
    Console().print(show_audit(found, is_proved=prove, template=template))
    if json_output is not None:
        text = json.dumps(as_json(found, template), indent=2, ensure_ascii=False)
        json_output.write_text(text + "\n", encoding="utf-8")
    if is_failure(found, fail_on):
        raise typer.Exit(1)


def is_failure(audit: Audit, fail_on: str) -> bool:
    """Return whether something of this severity, or worse, was found."""
    if fail_on == "never" or audit.worst is None:
        return False
    return SEVERITIES.index(audit.worst) <= _FAIL_ON.index(fail_on)


def as_json(audit: Audit, template: Diagnosis | None) -> dict[str, Any]:
    """Return an audit and what is known of the template as plain data: see ``docs/audit.md``."""
    facts = None
    if template is not None:
        facts = [
            {key: value for key, value in fact.to_mapping().items() if key != "evidence"}
            for fact in template.facts
        ]
    return {**audit.to_mapping(), "template": facts}


def _data(
    data: Sequence[Path],
    source: EncoderSource,
    limits: Limits,
    workers: int,
    eval_data: Sequence[Path],
) -> Audit:
    for path in filter(is_prepared, eval_data):
        raise PolicyError(
            f"--eval {path} is a prepared folder, and the data is not: give the data files that "
            "it was made from"
        )
    check_files([*data, *eval_data])
    total = total_bytes(data)
    with progress_bar(TransferSpeedColumn()) as progress:
        task = progress.add_task("audit", total=total)
        found = audit(
            data,
            source,
            limits=limits,
            workers=worker_count(workers, total),
            eval_paths=eval_data,
            progress=lambda done: progress.advance(task, done),
        )
        progress.update(task, total=total or 1, completed=total or 1)
    return found


def _refuse_options(given: Mapping[str, object]) -> None:
    """Refuse options that would change nothing: a folder was prepared with its own."""
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise PolicyError(
            f"a prepared folder is audited as it was prepared, {', '.join(names)} would change "
            "nothing: audit the data files, or leave it out"
        )


def _prepared(data: Sequence[Path], eval_data: Sequence[Path]) -> Audit:
    if len(data) > 1 or len(eval_data) > 1 or not all(map(is_prepared, eval_data)):
        raise PolicyError(
            "a prepared folder is audited by itself, with --eval another prepared folder: the two "
            "are compared by their ids"
        )
    [folder] = data
    total = read_manifest(PreparedFolder.at(folder))["examples"]
    with progress_bar(MofNCompleteColumn()) as progress:
        task = progress.add_task("audit", total=total)
        return audit_prepared(
            folder,
            eval_folder=eval_data[0] if eval_data else None,
            progress=lambda done: progress.advance(task, done),
        )


def _template(source: EncoderSource, limits: Limits) -> tuple[Diagnosis | None, tuple[str, ...]]:
    """Return what the template in use does, or why that is not told."""
    try:
        return diagnose_apart(source.load, limits), ()
    except LossmaskError as error:
        return None, (f"What the template does: {error.detail}.",)
