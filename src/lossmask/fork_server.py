"""How worker processes start: from a server that has imported what they need, where there is one.

Imports nothing that takes time, so that the server can be started before anything else is imported.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

if sys.platform != "win32":
    from multiprocessing import forkserver, resource_tracker

_IMPORTED_ONCE = (
    "lossmask.preparing",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.configuration_llama",  # any configuration: they import torch
)
"""Modules that loading a tokenizer imports in seconds; a fork server hands them on in no time."""


def start_fork_server() -> None:
    """Let the fork server import what workers need while this process does something else."""
    if sys.platform != "win32":
        multiprocessing.set_forkserver_preload(list(_IMPORTED_ONCE))
        with interrupts_held_back():
            forkserver.ensure_running()


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
