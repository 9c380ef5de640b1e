"""Facts that were expensive to find out, remembered on disk.

One JSON file per fact, under ``$LOSSMASK_CACHE``, ``$XDG_CACHE_HOME/lossmask`` or
``~/.cache/lossmask``. The key of a fact is a hash of all that it depends on. A file that cannot be
read or written only means that the fact is found out again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def recall(kind: str, key: str) -> dict[str, Any] | None:
    """Return a remembered fact, None if there is none or the file is not what was written."""
    try:
        content = json.loads((folder(kind) / f"{key}.json").read_text(encoding="utf-8"))
        if content.pop("key") != key:
            return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    fact: dict[str, Any] = content
    return fact


def remember(kind: str, key: str, fact: Mapping[str, Any]) -> None:
    """Remember a fact where possible; whole, or not at all."""
    path = folder(kind) / f"{key}.json"
    unfinished = path.with_name(f"{path.stem}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps({"key": key, **fact}), encoding="utf-8")
        unfinished.replace(path)
    except OSError:  # read-only or full: the next process finds it out again
        with suppress(OSError):
            unfinished.unlink()


def folder(kind: str) -> Path:
    """Return the folder of one kind of facts, whether or not it exists."""
    own = os.environ.get("LOSSMASK_CACHE")
    if own:
        return Path(own) / kind
    shared = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(shared) / "lossmask" / kind
