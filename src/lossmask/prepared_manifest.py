"""Where a prepared folder lies, and what its manifest claims: a path or URL in, both out, checked.

Files are read through fsspec, whole, so that a local path, ``memory://``, ``s3://`` and the like
are the same to whoever reads a prepared folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt

from lossmask.errors import PreparedDataError

__all__ = ["MANIFEST_NAME", "PreparedFolder", "bad_manifest", "is_prepared", "read_manifest"]

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = 1

_COUNTS = ("rows_in", "rows_kept", "rows_rejected", "examples", "tokens", "supervised_tokens")


def is_prepared(path: str | Path) -> bool:
    """Return whether a path is a folder with a manifest, whole or not, or a URL, which may be."""
    return "://" in str(path) or (Path(path) / MANIFEST_NAME).is_file()


@dataclass(frozen=True, slots=True)
class PreparedFolder:
    """A folder on this machine or in an object store."""

    name: str
    """As the user gave it, for messages."""
    files: Any
    """The fsspec file system."""
    path: str
    """Of the folder in it."""

    @classmethod
    def at(cls, folder: str | Path) -> PreparedFolder:
        """Find the file system of a path or URL.

        Raises:
            PreparedDataError: The URL names a kind of storage that fsspec does not know, or whose
                package is not installed.
        """
        try:
            files, path = fsspec.core.url_to_fs(str(folder))
        except (ValueError, ImportError) as error:
            raise PreparedDataError(
                f"{folder} cannot be opened: {error}. Give a path, or a URL of fsspec such as "
                "s3://bucket/prepared with the package that it needs installed.",
                reason="unknown_storage",
            ) from error
        return cls(str(folder), files, path)

    def named(self, file: str) -> str:
        """Return the name of one of its files, for messages."""
        return f"{self.name.rstrip('/')}/{file}"

    def read(self, file: str) -> bytes:
        """Return the bytes of one of its files.

        Raises:
            OSError: It is not there or cannot be read.
        """
        data: bytes = self.files.cat_file(f"{self.path.rstrip('/')}/{file}")
        return data

    def identity(self, manifest: Mapping[str, Any]) -> str:
        """Return what the bytes of a folder are known by: its manifest, sizes and times of files.

        Args:
            manifest: Of this folder.
        """
        listed = self.files.ls(self.path, detail=True)
        known = {PurePosixPath(entry["name"]).name: entry for entry in listed}
        shards = [str(known.get(entry["file"])) for entry in manifest["shards"]]
        text = json.dumps([manifest, shards], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: PreparedFolder) -> dict[str, Any]:
    """Read and check the manifest.

    Raises:
        PreparedDataError: The folder or its manifest is missing, unfinished or damaged.
    """
    path = folder.named(MANIFEST_NAME)
    try:
        text = folder.read(MANIFEST_NAME)
    except FileNotFoundError as error:
        if not folder.files.isdir(folder.path):
            raise PreparedDataError(
                f"there is no prepared folder at {folder.name}. Make one with `lossmask prepare`.",
                reason="missing_folder",
            ) from error
        raise PreparedDataError(
            f"{folder.name} has no {MANIFEST_NAME}: it is not a prepared folder, or `lossmask "
            "prepare` did not finish. Run `lossmask prepare` again; it continues where it stopped.",
            reason="missing_manifest",
        ) from error
    except OSError as error:
        raise PreparedDataError(f"{path} cannot be read: {error}", reason="bad_manifest") from error
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise PreparedDataError(
            f"{path} is not JSON ({error}). Delete the folder and run `lossmask prepare` again.",
            reason="bad_manifest",
        ) from error
    _check_manifest(path, manifest)
    checked: dict[str, Any] = manifest
    return checked


def shard_starts(manifest: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Return (shards + 1,) int64: the number of each shard's first example, and of all."""
    return np.cumsum([0, *(entry["examples"] for entry in manifest["shards"])], dtype=np.int64)


def _check_manifest(path: str, manifest: object) -> None:
    if not isinstance(manifest, dict):
        raise bad_manifest(path, f"a JSON object was expected, it is {type(manifest).__name__}")
    if manifest.get("format") != MANIFEST_FORMAT:
        raise bad_manifest(
            path, f"format is {manifest.get('format')!r}, this version reads {MANIFEST_FORMAT}"
        )
    if manifest.get("complete") is not True:
        raise PreparedDataError(
            f"{path} says that the preparation is not complete. Run the same `lossmask prepare` "
            "again; it continues where it stopped.",
            reason="incomplete",
        )
    for key in _COUNTS:
        if not _is_count(manifest.get(key)):
            raise bad_manifest(path, f"{key} is {manifest.get(key)!r}, not a number of things")
    if manifest["rows_in"] != manifest["rows_kept"] + manifest["rows_rejected"]:
        raise bad_manifest(
            path,
            f"rows_in {manifest['rows_in']} is not rows_kept {manifest['rows_kept']} + "
            f"rows_rejected {manifest['rows_rejected']}",
        )
    _check_entries(path, manifest)


def _check_entries(path: str, manifest: dict[str, Any]) -> None:
    shards, tokenizer = manifest.get("shards"), manifest.get("tokenizer")
    if not isinstance(shards, list):
        raise bad_manifest(path, "shards is not a list")
    for entry in shards:
        named = isinstance(entry, dict) and isinstance(entry.get("file"), str)
        if not named or not _is_count(entry.get("examples")):
            raise bad_manifest(path, f"shards holds {entry!r}, not a file with its examples")
        if Path(entry["file"]).name != entry["file"]:
            raise bad_manifest(path, f"shard {entry['file']!r} is not a file of this folder")
    if not isinstance(manifest.get("chat_template"), str):
        raise bad_manifest(path, "chat_template is not the source of a template")
    if not isinstance(tokenizer, dict):
        raise bad_manifest(path, "tokenizer is not an object")
    stop_ids = tokenizer.get("stop_ids")
    if not isinstance(stop_ids, list) or not all(_is_count(token) for token in stop_ids):
        raise bad_manifest(path, f"tokenizer.stop_ids is {stop_ids!r}, not a list of token ids")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def bad_manifest(path: str, what: str) -> PreparedDataError:
    """Return the error for a manifest that is not true."""
    return PreparedDataError(
        f"{path}: {what}. Prepare the data again with this version of lossmask.",
        reason="bad_manifest",
    )
