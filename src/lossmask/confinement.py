"""What one row may cost: limits of time and memory on the process that encodes it.

A chat template is a program that comes with a tokenizer. It can loop for ever or ask for all
memory, and Jinja's sandbox stops neither. The limits here are those of the operating system and end
the process, so they also hold where native code never comes back to Python; ``workers`` keeps the
processes that may end so. In: limits. Out: rows that are encoded or end their process, and what
that end says about the row.

* time: processor time, not time on the clock, so neither other processes nor a pause of the machine
  count. At its end the kernel sends SIGXCPU.
* memory: address space beyond what the process has when the row begins. An allocation beyond it is
  a ``MemoryError``, or an abort where native code made it.

Linux has both, macOS time alone, Windows neither; a row that crashes is found out on all of them.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lossmask.errors import PolicyError
from lossmask.outcome import Rejection

if sys.platform != "win32":
    import resource

REASON = "template_limits"
GIBIBYTE = 1 << 30
OUT_OF_MEMORY = 77
"""Exit code of a process in which a row raised ``MemoryError``."""

_ADDRESS_SPACE = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one row may cost.

    Attributes:
        seconds: Processor time in seconds, besides one second per message: a long conversation is
            rendered once per turn.
        gibibytes: Memory beyond that of the loaded tokenizer, in GiB.

    Raises:
        PolicyError: A limit is not a positive finite number.
    """

    seconds: float = 60.0
    gibibytes: float = 4.0

    def __post_init__(self) -> None:
        for name in ("seconds", "gibibytes"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise PolicyError(
                    f"the limit of {name} per row is {value!r}; expected a positive number"
                )

    def __str__(self) -> str:
        return (
            f"{self.seconds:g} s of processor time, 1 s more per message, "
            f"{self.gibibytes:g} GiB of memory"
        )


@contextmanager
def confined(limits: Limits) -> Iterator[Callable[[int], None]]:
    """Let this process end, or raise ``MemoryError``, if a row goes beyond the limits.

    Only for a process that may be lost. The kernel counts whole seconds of processor time, so a row
    may take up to one more than it is allowed. Memory is counted from the beginning of the block.

    Args:
        limits: What each row may cost.

    Yields:
        To be called when a row begins, with its number of messages.
    """
    if sys.platform == "win32":
        yield lambda messages: None
        return
    allowed = [resource.RLIMIT_CPU]
    if _ADDRESS_SPACE.exists():
        allowed.append(resource.RLIMIT_AS)
    before = {kind: resource.getrlimit(kind) for kind in allowed}
    if resource.RLIMIT_AS in before:
        used = int(_ADDRESS_SPACE.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        _lower(resource.RLIMIT_AS, used + int(limits.gibibytes * GIBIBYTE))
    soft, hard = before[resource.RLIMIT_CPU]
    most = min((each for each in (soft, hard) if each != resource.RLIM_INFINITY), default=None)
    armed = 0

    def begin_row(messages: int) -> None:
        nonlocal armed
        seconds = math.ceil(time.process_time() + limits.seconds + messages)
        if seconds != armed:
            armed = seconds if most is None else min(seconds, most)
            resource.setrlimit(resource.RLIMIT_CPU, (armed, hard))

    try:
        yield begin_row
    finally:
        for kind, both in before.items():
            resource.setrlimit(kind, both)


def make_disposable() -> None:
    """Let the limits end this process at once and leave nothing behind."""
    if sys.platform != "win32":
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        _lower(resource.RLIMIT_CORE, 0)  # a crash is an answer here, nobody reads its memory


def ran_out_of_time(exit_code: int) -> bool:
    """Return whether a process ended because its row took too long."""
    return sys.platform != "win32" and exit_code == -signal.SIGXCPU


def rejection_after(exit_code: int, limits: Limits) -> Rejection:
    """Return why a row is not kept that ended the process encoding it.

    Args:
        exit_code: Of the process; minus the signal that ended it.
        limits: That it ran under.
    """
    if ran_out_of_time(exit_code):
        detail = (
            f"it takes more than {limits.seconds:g} s of processor time (and 1 s per message): the "
            "chat template hangs on it, or it is very long; allow more with --max-seconds"
        )
    elif exit_code == OUT_OF_MEMORY:
        detail = (
            f"it takes more than {limits.gibibytes:g} GiB of memory: the chat template blows it "
            "up, or it is very long; allow more with --max-memory"
        )
    else:
        detail = (
            f"it ends the process that encodes it ({name_of_exit(exit_code)}), also when nothing "
            "else runs: native code crashes on it, or memory runs out"
        )
    return Rejection(REASON, detail, None)


def name_of_exit(exit_code: int) -> str:
    """Return how a process ended, in words.

    Example:
        >>> name_of_exit(3)
        'exit code 3'
    """
    names = {-int(known): known.name for known in signal.Signals}
    return names.get(exit_code, f"exit code {exit_code}")


def _lower(kind: int, limit: int) -> None:
    """Lower a soft limit; one that is lower already stays."""
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(kind)
        known = [value for value in (soft, hard) if value != resource.RLIM_INFINITY]
        resource.setrlimit(kind, (min([limit, *known]), hard))
