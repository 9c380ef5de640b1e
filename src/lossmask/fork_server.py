"""How worker processes start: forked from a server that has loaded what they need, if there is one.

Imports nothing that takes time, so that the server can be started before all else is imported. It
is the one that ``multiprocessing`` has: of all processes that this one starts.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from lossmask.inherited_encoder import (
    VARIABLE,
    Inherited,
    Order,
    is_torch_left_out,
    place_of_order,
)

if sys.platform != "win32":
    from multiprocessing import forkserver, resource_tracker

T = TypeVar("T")

_LONGEST_ORDER = 1 << 16  # bytes that a pipe takes before anybody reads it

_read_end: int | None = None
"""Of the last pipe for an order; the server opens it when it gets to it."""
_write_end: int | None = None
"""The same, while a server that was started ahead waits for the order."""


def start_ahead() -> None:
    """Start the fork server before it is known what it is to load: importing takes it a second."""
    global _read_end, _write_end
    if starting_method() != "forkserver" or _write_end is not None:
        return
    if _read_end is not None:
        os.close(_read_end)
    _read_end, _write_end = os.pipe()
    multiprocessing.set_forkserver_preload(["lossmask.inherited_encoder"])
    text = place_of_order(os.getpid(), _read_end, without_torch=is_torch_left_out())
    with interrupts_held_back(), _environment(VARIABLE, text):
        forkserver.ensure_running()


def start_fork_server(load: Callable[[], T], *, expects_many: bool) -> Callable[[], T]:
    """Let the fork server load what workers need while this process does something else.

    A server that is running already, other than one started ahead, loads nothing more: it is older
    than the call, and so might be what it loaded.

    Args:
        load: Makes the encoder; picklable.
        expects_many: Whether the fast backend is worth its loading.

    Returns:
        What workers are to call instead of ``load``: it gives them the encoder that they inherited,
        or loads one where they did not.
    """
    order = Order(secrets.token_hex(), load, expects_many)
    _give_order(order.to_bytes())
    return Inherited(order.token, load)


def start_empty_fork_server() -> None:
    """Let the fork server import what takes time while this process does something else."""
    _give_order(b"")


def _give_order(order: bytes) -> None:
    """Start the server, if none is running, and tell it what to load: nothing if it is empty."""
    global _write_end
    start_ahead()
    if _write_end is None:  # another system: each worker loads it
        return
    os.set_blocking(_write_end, False)  # of a server that runs already, nobody reads it
    if len(order) <= _LONGEST_ORDER:  # else, or if half of it arrives, each worker loads it
        with suppress(BlockingIOError):
            os.write(_write_end, order)
    os.close(_write_end)
    _write_end = None


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, not even while they start."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # starting it later would let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def starting_method() -> str:
    """Return how to start processes: quickly where there are fork servers, else from scratch."""
    fits_a_socket_address = len(os.fsencode(tempfile.gettempdir())) < 70
    return "forkserver" if sys.platform == "linux" and fits_a_socket_address else "spawn"
