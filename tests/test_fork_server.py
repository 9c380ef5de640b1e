"""What a fork server is told to load."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import pytest

from lossmask import fork_server, inherited_encoder
from lossmask.embedded import DEMO_MODEL
from lossmask.inherited_encoder import VARIABLE, Inherited, Order, leave_torch_out
from lossmask.preparing import EncoderSource

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork servers")

SOURCE = EncoderSource(str(DEMO_MODEL))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is in the environment when the fork server starts, which it does not."""
    texts: list[str] = []
    running = type("Running", (), {"ensure_running": lambda: texts.append(os.environ[VARIABLE])})
    monkeypatch.setattr(fork_server, "forkserver", running)
    monkeypatch.setattr(inherited_encoder, "_without_torch", False)
    return texts


def test_it_loads_the_encoder_for_whom_started_it(told: list[str]) -> None:
    load = fork_server.start_fork_server(SOURCE.load, expects_many=True)
    assert isinstance(load, Inherited)
    order = Order.from_text(told[0])
    assert (order.token, order.expects_many, order.without_torch) == (load.token, True, False)
    assert order.load.__self__ == SOURCE  # type: ignore[attr-defined]
    assert VARIABLE not in os.environ
    again = fork_server.start_fork_server(SOURCE.load, expects_many=False)
    assert isinstance(again, Inherited)
    assert again.token != load.token


def test_it_leaves_torch_out_if_this_process_does(told: list[str]) -> None:
    leave_torch_out()
    fork_server.start_fork_server(SOURCE.load, expects_many=False)
    assert Order.from_text(told[0]).without_torch


def test_an_order_too_long_for_an_environment_is_left_to_the_workers(told: list[str]) -> None:
    long = replace(SOURCE, chat_template="{{ 1 }}" * 20_000)
    load = fork_server.start_fork_server(long.load, expects_many=False)
    assert told == [""]
    assert load().chat_template() == long.chat_template
