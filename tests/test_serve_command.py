import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from lossmask.cli import app
from lossmask.errors import InputError, LossmaskError, PolicyError


def test_another_address_needs_a_flag_that_says_what_it_means() -> None:
    result = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0"])
    assert isinstance(result.exception, PolicyError)
    assert str(result.exception) == (
        "--host 0.0.0.0 lets other machines read the data and run templates on this one, "
        "unencrypted; add --allow-remote if that is meant, or reach this machine's own address "
        "through ssh -L 8765:127.0.0.1:8765"
    )


def test_a_port_that_is_taken_is_told_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["serve", "--port", str(port)])
    assert isinstance(result.exception, LossmaskError)
    assert str(result.exception).startswith(f"cannot listen at 127.0.0.1, port {port}: Address")


def test_data_that_is_missing_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["serve", str(tmp_path / "missing.jsonl")])
    assert isinstance(result.exception, InputError)


def _heeding_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell lets what it runs behind ignore them


def test_the_command_prints_an_address_with_a_new_secret_and_ends_by_ctrl_c() -> None:
    command = [sys.executable, "-m", "lossmask.cli", "serve", "--port", "0"]
    environment = {**os.environ, "COLUMNS": "60"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=_heeding_interrupts,
    ) as run:
        assert run.stdout is not None
        address = run.stdout.readline()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#[\w-]{32}\n", address)
        assert run.stdout.readline() == "Ctrl-C ends it.\n"
        run.send_signal(signal.SIGINT)
        try:
            out, err = run.communicate(timeout=60)
        finally:
            run.kill()
    assert (out, err) == ("", "")
    assert run.returncode in (0, 130, -signal.SIGINT)
