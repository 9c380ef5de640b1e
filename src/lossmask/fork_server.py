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
from contextlib import contextmanager
from typing import TypeVar

from lossmask.inherited_encoder import VARIABLE, Inherited, Order, is_torch_left_out

if sys.platform != "win32":
    from multiprocessing import forkserver, resource_tracker

T = TypeVar("T")

_IMPORTED_ONCE = (
    "lossmask.inherited_encoder",
    "lossmask.encoder",
    "lossmask.preparing",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.configuration_llama",  # most tokenizers come with a configuration
)
"""Modules that loading a tokenizer imports in seconds; a fork server hands them on in no time."""
_LONGEST_ORDER = 100_000  # characters of an environment variable; Linux takes 131,071


def start_fork_server(load: Callable[[], T], *, expects_many: bool) -> Callable[[], T]:
    """Let the fork server load what workers need while this process does something else.

    A server that is running already loads nothing more: it is older than the call, and so might be
    what it loaded.

    Args:
        load: Makes the encoder; picklable.
        expects_many: Whether the fast backend is worth its loading.

    Returns:
        What workers are to call instead of ``load``: it gives them the encoder that they inherited,
        or loads one where they did not.
    """
    if sys.platform == "win32":
        return load
    order = Order(secrets.token_hex(), load, expects_many, is_torch_left_out())
    text = order.to_text()
    _ensure_running(text if len(text) < _LONGEST_ORDER else "")
    return Inherited(order.token, load)


def start_empty_fork_server() -> None:
    """Let the fork server import what takes time while this process does something else."""
    if sys.platform != "win32":
        _ensure_running("")


def _ensure_running(order: str) -> None:
    multiprocessing.set_forkserver_preload(list(_IMPORTED_ONCE))
    with interrupts_held_back(), _environment(VARIABLE, order):
        forkserver.ensure_running()


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
