"""Rows -> which of them repeat others, or what a model is to be evaluated on.

A row's conversation is all of its messages; its prompt is what precedes the last answer, system
messages aside. Two are the same if they are equal to the character, prompts nearly the same if
their texts are alike (``near_duplicates``), in lower case and with white space as one space.

In: rows in the normal form, a chunk at a time, in any process: :class:`RowTexts`. Out of them all,
in one process: :class:`Repeats`. Texts wait in a file that is deleted; 500 bytes a row in memory.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from lossmask.near_duplicates import COLUMNS, Keys, alike, band_keys, earlier_alike

WIDTH = 5
"""Characters of a shingle of text."""
SHORTEST = 32
"""Characters of the shortest prompt that is compared with others for being nearly the same."""

Digests = npt.NDArray[np.uint64]
"""uint64 (n, 2): equal for equal texts only."""

_SYSTEM = ("system", "developer")
_NO_DIGEST = bytes(16)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a row is compared with others by.

    Attributes:
        conversation: Digest of all of it.
        prompt: Digest of what precedes its last answer, zeros if nothing does.
        text: The same, in lower case and with white space as one space.
    """

    conversation: bytes
    prompt: bytes
    text: str


def identity_of(row: Mapping[str, Any]) -> Identity:
    """Return what a row in the normal form is compared by."""
    if "messages" in row:
        return _of_messages(row["messages"], row.get("tools"))
    if "text" in row:
        ranges = row["weights"]
        prompt = row["text"][: ranges[-1]["start"]] if ranges else ""
        return Identity(_digest("text " + row["text"]), _digest(prompt), plain_text(prompt))
    ids, weights = row["input_ids"], row["loss_weights"]
    end = max((k for k, weight in enumerate(weights) if weight), default=0)
    while end and weights[end - 1]:
        end -= 1
    return Identity(_digest(f"ids {list(ids)}"), _digest(str(list(ids[:end]))), "")


def _of_messages(messages: Sequence[Mapping[str, Any]], tools: object) -> Identity:
    answers = [k for k, message in enumerate(messages) if message.get("role") == "assistant"]
    last = answers[-1] if answers else len(messages) - 1
    written = [_written(message) for message in messages]
    chosen = [k for k in range(max(last, 0)) if messages[k].get("role") not in _SYSTEM]
    before = [messages[k] for k in chosen]
    return Identity(
        _digest((_json(tools) if tools else "") + "".join(written)),
        _digest("".join(written[k] for k in chosen)),
        plain_text("\n".join(_text_of(message.get("content")) for message in before)),
    )


def plain_text(text: str) -> str:
    r"""Return a text in lower case, with white space as one space.

    Example:
        >>> plain_text(" What\n IS it? ")
        'what is it?'
    """
    return " ".join(text.casefold().split())


def _written(message: Mapping[str, Any]) -> str:
    """Return a message as a text that no other message has."""
    content = message.get("content")
    if len(message) == 2 and isinstance(content, str):
        return f"{message.get('role')} {len(content)} {content}"
    return _json({key: value for key, value in message.items() if value is not None})


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    return "" if content is None else _json(content)


def _digest(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16).digest() if text else _NO_DIGEST


@dataclass(slots=True)
class RowTexts:
    """What rows of one chunk are compared by.

    Attributes:
        width: Characters of a shingle.
        shortest: Characters of the shortest text that is compared.
        places: Index into ``files``, and line, of each row; a record's number is negative. An
            array, int64 (n, 2), once it is closed.
        files: Their names.
        identities: Of each row; none once the rest is made, by :meth:`close`.
        conversations: Digests.
        prompts: Digests, zeros where there is none.
        keys: Zeros where a text is too short.
        texts: UTF-8, end to end.
        ends: int64 (n,), where each text ends.
    """

    width: int = WIDTH
    shortest: int = SHORTEST
    places: Any = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    identities: list[Identity] = field(default_factory=list)
    conversations: Digests = field(default_factory=lambda: np.zeros((0, 2), np.uint64))
    prompts: Digests = field(default_factory=lambda: np.zeros((0, 2), np.uint64))
    keys: Keys = field(default_factory=lambda: np.zeros((0, COLUMNS), np.uint64))
    texts: bytes = b""
    ends: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, file: str, line: int, identity: Identity) -> None:
        """Take the next row."""
        if not self.files or self.files[-1] != file:
            self.files.append(file)
        self.places.append((len(self.files) - 1, line))
        self.identities.append(identity)

    def close(self) -> None:
        """Compute digests and keys of all rows at once."""
        rows, self.identities = self.identities, []
        self.places = np.array(self.places, np.int64).reshape(-1, 2)
        self.conversations = _array([row.conversation for row in rows])
        self.prompts = _array([row.prompt for row in rows])
        texts = [row.text if len(row.text) >= self.shortest else "" for row in rows]
        self.keys = np.zeros((len(rows), COLUMNS), np.uint64)
        chosen = [k for k, text in enumerate(texts) if text]
        self.keys[chosen] = band_keys([texts[k] for k in chosen], self.width)
        data = [text.encode("utf-8", "surrogatepass") for text in texts]
        self.ends = np.cumsum([len(each) for each in data], dtype=np.int64)
        self.texts = b"".join(data)


def _array(digests: Sequence[bytes]) -> Digests:
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class Repeated:
    """A row that repeats another one.

    Attributes:
        file: Where it is.
        line: Its line; a record's number is negative.
        other: ``file:line`` or ``file#record`` of what it repeats.
        similarity: Of the prompts, 1 if they are the same.
    """

    file: str
    line: int
    other: str
    similarity: float = 1.0


class Repeats:
    """All rows of some data, to find those that repeat others.

    Use as a context manager: the file that the texts are in is gone at its end.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, tuple[RowTexts, int]] = {}
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by __exit__
        self._written = 0
        self._reading = Lock()

    def __enter__(self) -> Repeats:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, number: int, rows: RowTexts) -> None:
        """Take the rows of a chunk, which is closed; chunks may come in any order."""
        self._file.seek(self._written)
        self._file.write(rows.texts)
        self._chunks[number] = (rows, self._written)
        self._written += len(rows.texts)
        rows.texts = b""

    def table(self) -> RowTable:
        """Return what is to be compared of all rows, in the order of the chunks."""
        ordered = [self._chunks[number] for number in sorted(self._chunks)] or [(RowTexts(), 0)]
        names = list(dict.fromkeys(file for rows, _ in ordered for file in rows.files))
        number_of = {name: number for number, name in enumerate(names)}
        places = [np.zeros((0, 2), np.int64)]
        for rows, _ in ordered:
            numbers = np.array([number_of[name] for name in rows.files] or [0], np.int64)
            files, lines = np.asarray(rows.places, np.int64).reshape(-1, 2).T
            places.append(np.stack([numbers[files], lines], axis=1))
        begins = [np.append(0, rows.ends[:-1]) + at for rows, at in ordered if len(rows.ends)]
        ends = [rows.ends + at for rows, at in ordered if len(rows.ends)]
        return RowTable(
            names,
            np.concatenate(places),
            np.concatenate([rows.conversations for rows, _ in ordered]),
            np.concatenate([rows.prompts for rows, _ in ordered]),
            np.concatenate([rows.keys for rows, _ in ordered]),
            np.concatenate(begins or [np.zeros(0, np.int64)]),
            np.concatenate(ends or [np.zeros(0, np.int64)]),
            ordered[0][0].width,
            self._read,
        )

    def _read(self, begin: int, end: int) -> str:
        with self._reading:
            self._file.seek(begin)
            text = self._file.read(end - begin)
        return text.decode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True, eq=False)
class RowTable:
    """What is to be compared of n rows, and the way to their texts.

    Attributes:
        files: Names of files.
        places: int64 (n, 2): index of the file, and line; a record's number is negative.
        conversations: uint64 (n, 2).
        prompts: uint64 (n, 2), zeros where there is none.
        keys: uint64 (n, COLUMNS).
        begins: int64 (n,), where each text begins; it is empty where that is its end.
        ends: int64 (n,).
        width: Characters of a shingle.
        read: Gives the text between two places, in any thread.
    """

    files: list[str]
    places: npt.NDArray[np.int64]
    conversations: Digests
    prompts: Digests
    keys: Keys
    begins: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    width: int
    read: Callable[[int, int], str]

    def place(self, row: int) -> str:
        """Return ``file:line`` of a row, ``file#record`` where it is no line."""
        file, line = self.places[row].tolist()
        return f"{self.files[file]}{'#' if line < 0 else ':'}{abs(line)}"

    def same_conversations(self) -> list[Repeated]:
        """Return rows whose conversation an earlier row has, too."""
        first = _first_of_same(self.conversations)
        return [self._repeated(row, self.place(int(first[row]))) for row in _later(first)]

    def same_prompts(self) -> list[Repeated]:
        """Return rows whose prompt an earlier row has, with another answer."""
        first, of_all = _first_of_same(self.prompts), _first_of_same(self.conversations)
        rows = [r for r in _later(first) if self._has_prompt[r] and of_all[r] == r]
        return [self._repeated(row, self.place(int(first[row]))) for row in rows]

    def near_prompts(self) -> list[Repeated]:
        """Return rows whose prompt is nearly that of an earlier row."""
        chosen = self._compared
        return [
            self._repeated(int(chosen[row]), self.place(int(chosen[other])), similarity)
            for row, other, similarity in earlier_alike(
                self.keys[chosen], lambda row: self._text(int(chosen[row])), self.width
            )
        ]

    def prompts_of(self, other: RowTable) -> list[Repeated]:
        """Return rows whose prompt is one of other data."""
        first_there = _first_of_same(np.concatenate([other.prompts, self.prompts]))
        n = len(other.prompts)
        found = np.flatnonzero((first_there[n:] < n) & self._has_prompt)
        return [self._repeated(r, other.place(int(first_there[n + r]))) for r in found.tolist()]

    def near_prompts_of(self, other: RowTable) -> list[Repeated]:
        """Return rows whose prompt is nearly one of other data, and none of it."""
        same = {(each.file, each.line) for each in self.prompts_of(other)}
        theirs = other._compared
        has_text = np.flatnonzero(self.ends > self.begins)
        found = (
            self._repeated(int(has_text[row]), other.place(int(theirs[there])), similarity)
            for row, there, similarity in alike(
                self.keys[has_text],
                lambda row: self._text(int(has_text[row])),
                other.keys[theirs],
                lambda there: other._text(int(theirs[there])),
                self.width,
            )
        )
        return [each for each in found if (each.file, each.line) not in same]

    @property
    def _has_prompt(self) -> npt.NDArray[np.bool_]:
        has_one: npt.NDArray[np.bool_] = (self.prompts[:, 0] != 0) | (self.prompts[:, 1] != 0)
        return has_one

    @property
    def _compared(self) -> npt.NDArray[np.int64]:
        """The rows that have a text to compare, the first one of each prompt only."""
        first = _first_of_same(self.prompts)
        is_first = first == np.arange(len(first))
        return np.flatnonzero((self.ends > self.begins) & is_first)

    def _text(self, row: int) -> str:
        return self.read(int(self.begins[row]), int(self.ends[row]))

    def _repeated(self, row: int, other: str, similarity: float = 1.0) -> Repeated:
        file, line = self.places[row].tolist()
        return Repeated(self.files[file], line, other, similarity)


def _first_of_same(digests: Digests) -> npt.NDArray[np.int64]:
    """Return int64 (n,): the number of the first row of the same digest, its own if it is that."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal ones stay ascending
    ordered = digests[order]
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    begins = np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))
    first = np.empty(len(order), np.int64)
    first[order] = order[begins]
    return first


def _later(first: npt.NDArray[np.int64]) -> Iterator[int]:
    yield from np.flatnonzero(first != np.arange(len(first))).tolist()
