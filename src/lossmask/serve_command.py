"""``lossmask serve``: a local page that shows tokens and masks while one types."""

from __future__ import annotations

import secrets
import socket
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from lossmask.command_options import (
    AppendStopOption,
    BoundaryOption,
    ControlOption,
    CutReplyOption,
    FitOption,
    HistoryOption,
    LayoutOption,
    MaxLengthOption,
    PolicyOption,
    StopOption,
    TemplateOption,
    TrainOnOption,
    TruncationOption,
    VariableOption,
    encoder_source,
)
from lossmask.confinement import Limits
from lossmask.embedded import DEMO_MODEL
from lossmask.errors import LossmaskError, PolicyError
from lossmask.live_encoding import LiveEncoding
from lossmask.live_worker import LiveWorker
from lossmask.row_picker import RowPicker
from lossmask.terminal import visible


def serve_command(
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Data files, whose rows the page goes through; or none.", show_default=False
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            "-t",
            help="Tokenizer folder or hub id. Default: that of the embedded model.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 = any that is free.")] = 8765,
    host: Annotated[
        str,
        typer.Option(help="Address to listen at; others than this machine's own need the next."),
    ] = "127.0.0.1",
    allow_remote: Annotated[
        bool,
        typer.Option(
            "--allow-remote",
            help="Let other machines ask, unencrypted: whoever sees the address that is printed, "
            "or the traffic, reads the data and runs templates on this machine.",
        ),
    ] = False,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the page in a browser.")
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
    max_seconds: Annotated[
        float,
        typer.Option(
            "--max-seconds", min=1, help="Processor time that tokens may take at a keystroke."
        ),
    ] = 2,
    max_memory: Annotated[
        float, typer.Option("--max-memory", min=0.1, help="GiB of memory that they may take.")
    ] = 1,
) -> None:
    """Edit a conversation, its template and policy, and see tokens and masks as you type.

    The page is for this machine only, and needs nothing from anywhere else. Ctrl-C ends it.
    """
    try:
        import uvicorn

        from lossmask.serving import is_loopback, live_app
    except ModuleNotFoundError as error:
        raise PolicyError(
            f'serve needs packages that are not installed ({error}): pip install "lossmask[serve]"',
            reason="missing_extra",
        ) from None
    if not is_loopback(host) and not allow_remote:
        raise PolicyError(
            f"--host {host} lets other machines read the data and run templates on this one, "
            "unencrypted; add --allow-remote if that is meant, or reach this machine's own address "
            f"through ssh -L {port}:127.0.0.1:{port}",
            reason="remote_not_allowed",
        )
    source = encoder_source(
        tokenizer or str(DEMO_MODEL),
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
    rows = RowPicker(data) if data else None
    load, limits = partial(LiveEncoding, source), Limits(max_seconds, max_memory)
    console, token = Console(), secrets.token_urlsafe(24)
    with (
        _listening(host, port) as listener,
        LiveWorker(load, limits) as worker,
        LiveWorker(load, limits) as slow_worker,
    ):
        with console.status("loading the tokenizer"):
            worker.ask("start", {})
        name = socket.gethostname() if host in ("0.0.0.0", "::") else host
        shown = f"[{name}]" if ":" in name else name
        address = f"http://{shown}:{listener.getsockname()[1]}/#{token}"
        if not is_loopback(host):
            console.print(
                "[bold yellow]Other machines can open this page:[/] whoever sees the address, or "
                "the traffic, which is not encrypted, reads the data and runs templates here."
            )
        console.print(f"[bold]{escape(visible(address))}[/]\nCtrl-C ends it.", soft_wrap=True)
        if open_browser:
            typer.launch(address)
        app = live_app(worker, slow_worker, token, rows=rows, is_remote=not is_loopback(host))
        settings = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
        )
        uvicorn.Server(settings).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        LossmaskError: The port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise LossmaskError(
            f"cannot listen at {host}, port {port}: {error.strerror}; --port 0 takes any that is "
            "free",
            reason="cannot_listen",
        ) from error
    return listener
