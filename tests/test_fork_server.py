"""What a fork server is told to load."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace

import pytest

from lossmask import fork_server, inherited_encoder
from lossmask.embedded import DEMO_MODEL
from lossmask.inherited_encoder import VARIABLE, Inherited, Order, leave_torch_out
from lossmask.preparing import EncoderSource

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork servers")

SOURCE = EncoderSource(str(DEMO_MODEL))


@dataclass
class Started:
    """What a fork server that was started, or would have been, would read."""

    places: list[str] = field(default_factory=list)
    pipe: int = -1

    def ensure_running(self) -> None:
        """Look at the environment, and open the pipe as the server would."""
        self.places.append(os.environ[VARIABLE])
        self.pipe = os.open(self.places[-1].split(": ")[-1], os.O_RDONLY)

    def order(self) -> bytes:
        """Return all that comes through the pipe; waits for its end."""
        with open(self.pipe, "rb") as stream:
            return stream.read()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """Let no fork server start."""
    server = Started()
    monkeypatch.setattr(fork_server, "forkserver", server)
    monkeypatch.setattr(inherited_encoder, "_without_torch", False)
    monkeypatch.setattr(fork_server, "_write_end", None)
    monkeypatch.setattr(fork_server, "_read_end", None)
    return server


def test_it_loads_the_encoder_for_whom_started_it(started: Started) -> None:
    load = fork_server.start_fork_server(SOURCE.load, expects_many=True)
    assert isinstance(load, Inherited)
    order = Order.from_bytes(started.order())
    assert (order.token, order.expects_many) == (load.token, True)
    assert order.load.__self__ == SOURCE  # type: ignore[attr-defined]
    assert VARIABLE not in os.environ
    again = fork_server.start_fork_server(SOURCE.load, expects_many=False)
    assert isinstance(again, Inherited)
    assert again.token != load.token
    assert Order.from_bytes(started.order()).token == again.token


def test_one_that_is_started_ahead_waits_for_its_order(started: Started) -> None:
    fork_server.start_ahead()
    fork_server.start_ahead()
    load = fork_server.start_fork_server(SOURCE.load, expects_many=True)
    assert len(started.places) == 1
    assert isinstance(load, Inherited)
    assert Order.from_bytes(started.order()).token == load.token


def test_it_leaves_torch_out_if_this_process_does(started: Started) -> None:
    fork_server.start_empty_fork_server()
    assert started.order() == b""
    leave_torch_out()
    fork_server.start_empty_fork_server()
    assert started.order() == b""
    with_torch, without = started.places
    assert with_torch.startswith("/proc/")
    assert without.startswith("without torch: /proc/")


def test_an_order_too_long_for_a_pipe_is_left_to_the_workers(started: Started) -> None:
    long = replace(SOURCE, chat_template="{{ 1 }}" * 20_000)
    load = fork_server.start_fork_server(long.load, expects_many=False)
    assert started.order() == b""
    assert load().chat_template() == long.chat_template
