"""Data sets of the Hugging Face hub -> rows, streamed.

In: ``org/name``, ``org/name:config/split``, either with ``@revision`` behind the name. Out: rows,
all of one commit: a branch is looked up once, and what is read is what the fingerprint tells.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lossmask.dataset_rows import records_of
from lossmask.errors import InputError
from lossmask.raw_rows import Record

_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_ID = re.compile(
    rf"(?P<name>{_WORD}/{_WORD})(?:@(?P<revision>[^:@\s]+))?"
    r"(?::(?P<config>[^:/\s]+)/(?P<split>[^:/\s]+))?"
)
_LOOKS_LIKE_AN_ID = re.compile(rf"{_WORD}/{_WORD}[:@]")


@dataclass(frozen=True, slots=True)
class HubId:
    """The name of a data set of the hub.

    Attributes:
        name: ``org/name``.
        revision: Branch, tag or commit; None is the main branch.
        config: None where there is only one.
        split: None where there is only one.
    """

    name: str
    revision: str | None = None
    config: str | None = None
    split: str | None = None


def read_hub_id(text: str) -> HubId | None:
    """Read an id; None if a text is none.

    Raises:
        InputError: It can only be an id, but is not written as one.

    Example:
        >>> read_hub_id("org/name:default/train")
        HubId(name='org/name', revision=None, config='default', split='train')
    """
    if found := _ID.fullmatch(text):
        return HubId(**found.groupdict())
    if _LOOKS_LIKE_AN_ID.match(text):
        raise InputError(
            f"{text!r} is no data set of the hub: expected org/name, org/name:config/split or "
            "org/name@revision:config/split (the config of most is 'default')",
            reason="no_such_path",
        )
    return None


def check_hub(hub_id: HubId) -> None:
    """Check that a data set can be opened.

    Raises:
        InputError: `datasets` is missing, there is no such data set, or it has several splits.
    """
    _opened(hub_id)


def read_hub(hub_id: HubId) -> Iterator[Record]:
    """Yield the rows of a data set as they are downloaded.

    Raises:
        InputError: As :func:`check_hub`, or the connection is lost.
    """
    dataset, _ = _opened(hub_id)
    try:
        yield from records_of(dataset)
    except (OSError, ValueError) as error:
        raise InputError(
            f"reading {hub_id.name} from the hub failed: {error}", reason="no_connection"
        ) from error


def hub_fingerprint(hub_id: HubId) -> str:
    """Return a hash of the name of a data set and of its commit.

    Raises:
        InputError: As :func:`check_hub`.
    """
    _, commit = _opened(hub_id)
    parts = [hub_id.name, hub_id.config or "", hub_id.split or "", commit]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@lru_cache(maxsize=32)
def _opened(hub_id: HubId) -> tuple[Any, str]:
    """Return a data set that streams, and its commit."""
    try:
        import datasets
        from huggingface_hub import HfApi
    except ImportError as error:
        raise InputError(
            f"{hub_id.name} is read from the hub with the package `datasets`, which is missing: "
            "pip install datasets",
            reason="no_datasets",
        ) from error
    try:
        commit = str(HfApi().dataset_info(hub_id.name, revision=hub_id.revision).sha)
        found = datasets.load_dataset(
            hub_id.name, hub_id.config, split=hub_id.split, revision=commit, streaming=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"there is no file {hub_id.name}, and no such data set of the hub can be opened: "
            f"{next(iter(str(error).splitlines()), type(error).__name__)}",
            reason="no_such_path",
        ) from error
    return _only_split(found, hub_id), commit


def _only_split(found: Any, hub_id: HubId) -> Any:
    if not isinstance(found, Mapping):
        return found
    if len(found) == 1:
        return next(iter(found.values()))
    config = hub_id.config or "default"
    names = ", ".join(f"{hub_id.name}:{config}/{split}" for split in found)
    raise InputError(f"{hub_id.name} has several splits, name one: {names}", reason="no_split")
