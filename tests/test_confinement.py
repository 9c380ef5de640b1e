"""A block stays inside its limits or ends its process, and what ended it is told apart."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from lossmask import PolicyError
from lossmask.confinement import (
    GIBIBYTE,
    OUT_OF_MEMORY,
    Limits,
    confined,
    make_disposable,
    name_of_exit,
    ran_out_of_time,
    rejection_after,
)

if sys.platform != "win32":
    import resource

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux only")
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")


def exit_code_of(function: Any, *arguments: Any) -> int:
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def spin(limits: Limits, messages: int) -> None:
    make_disposable()
    with confined(limits) as begin_row:
        begin_row(messages)
        while True:
            pass


def compare_in_native_code(limits: Limits) -> None:
    """Compare two lists of 2**60 leaves, which never comes back to Python to be interrupted."""
    make_disposable()
    left: list[Any] = [1]
    right: list[Any] = [1]
    for _ in range(60):
        left, right = [left, left], [right, right]
    with confined(limits) as begin_row:
        begin_row(0)
        assert left == right


@posix
@pytest.mark.parametrize("work", [lambda limits: spin(limits, 0), compare_in_native_code])
def test_processor_time_ends_the_process_also_in_native_code(work: Any) -> None:
    assert exit_code_of(work, Limits(0.1, 4)) == -signal.SIGXCPU


@posix
def test_each_message_gives_a_second_more() -> None:
    def children() -> float:
        times = os.times()
        return times.children_user + times.children_system

    before = children()
    assert exit_code_of(spin, Limits(0.1, 4), 1) == -signal.SIGXCPU
    assert 1.1 < children() - before < 3


@linux
def test_memory_beyond_the_limit_is_refused_and_the_limit_ends_with_the_block() -> None:
    with confined(Limits(60, 0.25)) as begin_row:
        begin_row(0)
        assert len(bytearray(GIBIBYTE // 8)) == GIBIBYTE // 8
        with pytest.raises(MemoryError):
            bytearray(GIBIBYTE // 2)
    assert len(bytearray(GIBIBYTE // 2)) == GIBIBYTE // 2


@posix
def test_the_limits_before_are_back_after_an_error() -> None:
    kinds = (resource.RLIMIT_AS, resource.RLIMIT_CPU)
    before = [resource.getrlimit(kind) for kind in kinds]

    def fail(begin_row: Callable[[int], None]) -> None:
        begin_row(0)
        assert resource.getrlimit(resource.RLIMIT_CPU)[0] != resource.RLIM_INFINITY
        raise KeyError

    with pytest.raises(KeyError), confined(Limits()) as begin_row:
        fail(begin_row)
    assert [resource.getrlimit(kind) for kind in kinds] == before


@linux
def test_a_limit_that_is_lower_already_stays() -> None:
    before = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (100_000, before[1]))
    try:
        with confined(Limits(1_000_000)) as begin_row:
            begin_row(0)
            assert resource.getrlimit(resource.RLIMIT_CPU)[0] == 100_000
        with confined(Limits(50)) as begin_row:
            begin_row(0)
            assert resource.getrlimit(resource.RLIMIT_CPU)[0] < 100_000
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, before)


@posix
def test_why_a_row_is_rejected_names_the_limit_and_its_option() -> None:
    limits = Limits(2.5, 0.5)
    details = {
        code: rejection_after(code, limits).detail
        for code in (-signal.SIGXCPU, OUT_OF_MEMORY, -signal.SIGSEGV, 3)
    }
    assert details == {
        -signal.SIGXCPU: (
            "it takes more than 2.5 s of processor time (and 1 s per message): the chat template "
            "hangs on it, or it is very long; allow more with --max-seconds"
        ),
        OUT_OF_MEMORY: (
            "it takes more than 0.5 GiB of memory: the chat template blows it up, or it is very "
            "long; allow more with --max-memory"
        ),
        -signal.SIGSEGV: (
            "it ends the process that encodes it (SIGSEGV), also when nothing else runs: native "
            "code crashes on it, or memory runs out"
        ),
        3: (
            "it ends the process that encodes it (exit code 3), also when nothing else runs: "
            "native code crashes on it, or memory runs out"
        ),
    }
    assert {rejection_after(code, limits).reason for code in details} == {"template_limits"}
    assert [code for code in details if ran_out_of_time(code)] == [-signal.SIGXCPU]
    assert name_of_exit(-signal.SIGKILL) == "SIGKILL"


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan])
def test_a_limit_that_is_no_positive_number_is_refused(value: float) -> None:
    with pytest.raises(PolicyError, match="the limit of seconds per row is"):
        Limits(seconds=value)
    with pytest.raises(PolicyError, match="the limit of gibibytes per row is"):
        Limits(gibibytes=value)


def test_limits_say_what_they_are() -> None:
    assert str(Limits()) == "60 s of processor time, 1 s more per message, 4 GiB of memory"
