"""One warm process that answers what the live page asks, and may be lost at any question.

In: how to make what answers, and what a question may cost. Out: answers, or why there is none.

A process loads the tokenizer once and then only waits. A fork of it answers; when a template hangs
or eats memory, the limits end the fork, and another one is there at once, the tokenizer loaded::

    server  ── question ──▶  fork of …        … process with the tokenizer
            ◀── answer ───                     tells when the fork ended, and forks again

Where processes are not forked (macOS, Windows) that process itself answers, and is started anew.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn, Protocol

from lossmask.confinement import (
    OUT_OF_MEMORY,
    Limits,
    confined,
    make_disposable,
    name_of_exit,
    ran_out_of_time,
)
from lossmask.errors import LossmaskError
from lossmask.fork_server import interrupts_held_back, start_empty_fork_server, starting_method

_GRACE = 20.0  # seconds on the clock beyond the processor time, for a machine that is busy
SLOW = ("origins", "doctor")
"""Questions that may take longer, as nobody types against them."""
_PATIENCE = {"start": 30.0, "origins": 5.0, "doctor": 15.0}  # times the limit


class Answering(Protocol):
    """What answers in the process."""

    def answer(self, question: Any, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return JSON values."""


class LiveWorker:
    """A process that answers one question at a time; use as a context manager.

    Args:
        load: Makes what answers, in the process.
        limits: What a question may cost.
        method: How the process starts: as :func:`starting_method` says, or ``fork``, which is quick
            and right for a process without threads that use locks.
    """

    def __init__(
        self, load: Callable[[], Answering], limits: Limits, *, method: str | None = None
    ) -> None:
        self._load = load
        self._limits = limits
        self._method = method or starting_method()
        self._process: Any = None
        self._pipe: Any = None
        self._lock = threading.Lock()
        if self._method == "forkserver":
            start_empty_fork_server()

    def __enter__(self) -> LiveWorker:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def ask(self, question: str, given: Mapping[str, Any]) -> bytes:
        """Return the answer as JSON; one that costs too much is a refusal with that reason.

        Raises:
            LossmaskError: What answers could not be made, or said that the question is none.
            RuntimeError: The process failed in a way that it should not.
        """
        with self._lock:
            if self._process is None:
                self._start()
            limits = Limits(
                self._limits.seconds * _PATIENCE.get(question, 1.0), self._limits.gibibytes
            )
            kind, value = self._exchange((question, given, limits))
        if kind == "answer":
            answer: bytes = value
            return answer
        if kind == "ended":
            return json.dumps({"examples": [], "refusal": refusal_after(value, limits)}).encode()
        if isinstance(value, LossmaskError):
            raise value
        raise RuntimeError(f"the process that encodes failed:\n{value}")

    def _exchange(self, message: tuple[str, Mapping[str, Any], Limits]) -> tuple[str, Any]:
        try:
            self._pipe.send(message)
            if not self._pipe.poll(message[2].seconds * 4 + _GRACE):
                self._end()
                return "ended", -9
            received: tuple[str, Any] = self._pipe.recv()
        except (EOFError, OSError):  # the process itself is gone
            return "ended", self._end()
        if received[0] == "failed" and isinstance(received[1], str):
            self._end()
        return received

    def _start(self) -> None:
        context: Any = multiprocessing.get_context(self._method)
        self._pipe, theirs = context.Pipe()
        inherited = self._pipe if self._method == "fork" else None
        self._process = context.Process(
            target=_keep, args=(theirs, inherited, self._load, os.getcwd()), daemon=True
        )
        with interrupts_held_back(), warnings.catch_warnings():
            # Python 3.12 warns of any thread; those of numpy and torch hold nothing while they idle
            warnings.filterwarnings("ignore", r".*multi-threaded.*fork\(\)", DeprecationWarning)
            self._process.start()
        theirs.close()

    def _end(self) -> int:
        """End the process; a fork of it ends by itself once nobody listens."""
        if self._process is None:
            return 0
        self._pipe.close()
        self._process.join(1)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        exit_code: int = self._process.exitcode
        self._process.close()
        self._process = None
        return exit_code


def refusal_after(exit_code: int, limits: Limits) -> dict[str, Any]:
    """Return why a question has no answer that ended its process."""
    if ran_out_of_time(exit_code):
        detail = (
            f"it takes more than {limits.seconds:g} s of processor time: the chat template hangs "
            "on it, or it is very long; allow more with --max-seconds"
        )
    elif exit_code == OUT_OF_MEMORY:
        detail = (
            f"it takes more than {limits.gibibytes:g} GiB of memory: the chat template blows it "
            "up, or it is very long; allow more with --max-memory"
        )
    else:
        detail = (
            f"it ends the process that encodes it ({name_of_exit(exit_code)}): native code "
            "crashes on it, or memory runs out"
        )
    return {
        "where": "template",
        "line": None,
        "message": None,
        "reason": "template_limits",
        "detail": detail,
    }


def _keep(pipe: Any, inherited: Any, load: Callable[[], Answering], folder: str) -> None:
    """Be the process: make what answers, and keep a fork that does until the pipe is closed."""
    if inherited is not None:
        inherited.close()  # or this process would itself keep the pipe open that it waits for
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who waits for this process ends it
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.chdir(folder)
    make_disposable()
    with suppress(BrokenPipeError, ConnectionResetError):  # nobody listens any more
        try:
            answering = load()
        except LossmaskError as error:
            pipe.recv()
            pipe.send(("failed", error))
            return
        gc.freeze()  # what is loaded stays: no collection has to go through it at a keystroke
        if sys.platform != "linux":
            _answer_all(pipe, answering)
        while True:
            fork = os.fork()
            if fork == 0:
                _answer_all(pipe, answering)
            exit_code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
            if exit_code == 0:
                return
            pipe.send(("ended", exit_code))


def _answer_all(pipe: Any, answering: Answering) -> NoReturn:
    """Answer until the pipe is closed, then end the process."""
    try:
        while True:
            question, given, limits = pipe.recv()
            try:
                with confined(limits) as begin:
                    begin(0)
                    answer = json.dumps(answering.answer(question, given)).encode()
            except LossmaskError as error:
                pipe.send(("failed", error))
            else:
                pipe.send(("answer", answer))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except (EOFError, ConnectionResetError, BrokenPipeError):
        os._exit(0)
    except BaseException:  # told there, where it is seen
        with suppress(OSError):
            pipe.send(("failed", traceback.format_exc()))
        os._exit(0)
