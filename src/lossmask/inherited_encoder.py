"""The encoder that a fork server loads once, and every worker forked from it has at once.

In: an order, from the process that starts the fork server, which imports this module before it
forks; its environment says where. Out: an encoder, whose memory all workers share. In any other
process nothing happens here.

Only what starts no thread is done before a fork, for threads do not live on in the child: files are
read, no text is encoded and no template compiled. That is left to the workers, which may be lost.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")

VARIABLE = "LOSSMASK_FORK_SERVER_LOADS"

_IMPORTED_ONCE = (
    "lossmask.encoder",
    "lossmask.preparing",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.configuration_llama",  # most tokenizers come with a configuration
)
"""Modules that loading a tokenizer imports in seconds; a fork server hands them on in no time."""
_WITHOUT_TORCH = "without torch: "
_PARALLEL = "TOKENIZERS_PARALLELISM"

_without_torch = False
_inherited: tuple[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What a fork server is to load.

    Attributes:
        token: Of whom it is loaded for; nobody else may use it, for files change.
        load: Makes the encoder.
        expects_many: Whether to load what many rows need.
    """

    token: str
    load: Callable[[], Any]
    expects_many: bool

    def to_bytes(self) -> bytes:
        """Return it as bytes that can travel."""
        return pickle.dumps((self.token, self.load, self.expects_many))

    @classmethod
    def from_bytes(cls, data: bytes) -> Order:
        """Read it back."""
        return cls(*pickle.loads(data))


def place_of_order(process: int, pipe: int, *, without_torch: bool) -> str:
    """Return what the environment of a fork server says.

    Args:
        process: The one that will order.
        pipe: Its reading end of the pipe that the order will come through.
        without_torch: Whether nothing that this server will ever start needs torch.
    """
    return (_WITHOUT_TORCH if without_torch else "") + f"/proc/{process}/fd/{pipe}"


@dataclass(frozen=True, slots=True)
class Inherited(Generic[T]):
    """Gives the encoder that was loaded for ``token``, or loads one."""

    token: str
    load: Callable[[], T]

    def __call__(self) -> T:
        """Return the encoder."""
        if _inherited is not None and _inherited[0] == self.token:
            encoder: T = _inherited[1]
            return encoder
        return self.load()


def leave_torch_out() -> None:
    """Let the processes that encode for this one, and nothing else, do without torch.

    To transformers it is as if torch were not installed; where it is, loading a tokenizer imports
    it, in more than a second, though no tokenizer uses it. Only for a process whose fork server
    never starts what needs torch: a command, not a library.
    """
    global _without_torch
    _without_torch = True


def is_torch_left_out() -> bool:
    """Return whether the processes that encode for this one do without torch."""
    return _without_torch


def load_apart(load: Callable[[], T]) -> T:
    """Load an encoder in a process forked for nothing but encoding."""
    if _without_torch:
        _hide_torch()
    return load()


def _hide_torch() -> None:
    if "torch" not in sys.modules and "transformers" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]  # by which Python finds no module
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that torch is missing


def _carry_out(text: str) -> None:
    """Import what every encoder needs, then wait for the order, and load what it says."""
    global _inherited
    if text.startswith(_WITHOUT_TORCH):
        _hide_torch()
    try:
        for name in _IMPORTED_ONCE:
            import_module(name)
        data = Path(text.removeprefix(_WITHOUT_TORCH)).read_bytes()
        if not data:  # there is none, and none will come
            return
        order = Order.from_bytes(data)
        with _no_threads_of_tokenizers():
            encoder = order.load()
            if order.expects_many:
                encoder.load_ahead()
    except Exception:  # whatever it is, a worker that loads the encoder itself says it
        return
    _inherited = order.token, encoder
    gc.collect()
    gc.freeze()  # or the first collection in each worker would copy the pages that they share


@contextmanager
def _no_threads_of_tokenizers() -> Iterator[None]:
    before = os.environ.get(_PARALLEL)
    os.environ[_PARALLEL] = "false"
    try:
        yield
    finally:
        os.environ.pop(_PARALLEL)
        if before is not None:
            os.environ[_PARALLEL] = before


if place := os.environ.pop(VARIABLE, ""):
    _carry_out(place)
