"""A content answers what can be asked of another one, and refuses to be looked at otherwise."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from typing import Any

import pytest

from lossmask.sealed_text import Asked, Inspected, Questions, Sealed, sealed_sum


def sealed(*contents: str) -> tuple[Questions, Any]:
    questions = Questions(contents)
    return questions, questions.sealed(0)


def test_answers_are_noted() -> None:
    questions, text = sealed("So, no.")
    assert ("So" in text, "x" in text, text == "So, no.", text != "x") == (True, False, True, True)
    assert text.ask("startswith", "no") is False
    assert text.ask("find", "no") == 4
    assert text.ask("strip") is text
    assert text.ask("replace", "x", "y") is text
    assert text.ask("split", "x") == [text]
    assert questions.asked == {
        (0, str.__contains__, ("So",)): True,
        (0, str.__contains__, ("x",)): False,
        (0, str.__eq__, ("So, no.",)): True,
        (0, str.__eq__, ("x",)): False,
        (0, str.startswith, ("no",)): False,
        (0, str.find, ("no",)): 4,
        (0, str.strip, ()): None,
        (0, str.replace, ("x", "y")): None,
        (0, str.split, ("x",)): None,
    }
    assert not questions.is_broken


def test_what_is_measured_is_compared_only() -> None:
    questions, text = sealed("So, no.")
    length = text.measured(len)
    assert (length > 7, length >= 7, length < 8, length <= 6) == (False, True, True, False)
    assert length - 1 == 6
    assert length + 1 != 7
    assert bool(length - 7) is False
    assert text[:2] == "So"
    assert text[-1] == "."
    assert text[length - 1 :] == "."
    assert all(method(questions._contents[0], *a) is v for (_, method, a), v in answers(questions))
    assert not questions.is_broken


def answers(questions: Questions) -> list[Any]:
    return [*questions.asked.items()]


def test_empty_contents_are_plain() -> None:
    assert Questions(["", "a"]).sealed(0) == ""
    assert type(Questions(["", "a"]).sealed(0)) is str
    assert bool(Questions(["", "a"]).sealed(1)) is True


def test_sums_hold_contents_whole() -> None:
    questions = Questions(["a", "b"])
    one, two = questions.sealed(0), questions.sealed(1)
    assert ("[" + one + "," + two + "]").parts == ("[", 0, ",", 1, "]")  # type: ignore[union-attr]
    assert sealed_sum(["x", one]).parts == ("x", 0)
    with pytest.raises(TypeError, match="no text: int"):
        sealed_sum([one, 1])


@pytest.mark.parametrize(
    ("parts", "method", "stripped"),
    [
        ((" [", 0, "] "), "strip", ("[", 0, "]")),
        ((" ", 0, "\n"), "strip", (0,)),
        ((" ", 0, "\n"), "lstrip", (0, "\n")),
        ((" ", 0, "\n"), "rstrip", (" ", 0)),
        ((" ", "\n x ", 0), "lstrip", ("x ", 0)),
    ],
)
def test_literals_around_contents_are_stripped(
    parts: tuple[Any, ...], method: str, stripped: tuple[Any, ...]
) -> None:
    questions = Questions(["a"])
    assert Sealed(parts, questions).ask(method).parts == stripped
    has_asked = (stripped[0] == 0, stripped[-1] == 0)
    expected: Asked = {}
    if has_asked[0] and method != "rstrip":
        expected[0, str.lstrip, ()] = None
    if has_asked[1] and method != "lstrip":
        expected[0, str.rstrip, ()] = None
    assert questions.asked == expected


REFUSED: dict[str, Callable[[Any], Any]] = {
    "its text": str,
    "its repr": repr,
    "formatted": lambda text: f"{text}",
    "formatted by %": lambda text: "%s" % text,  # noqa: UP031
    "its length": len,
    "its characters": list,
    "reversed": reversed,
    "hashed": hash,
    "as a key": lambda text: {text: 1},
    "as a number": int,
    "as a float": float,
    "as an index": lambda text: "abc"[text],
    "called": lambda text: text(),
    "an attribute": lambda text: text.upper,
    "its HTML": lambda text: text.__html__(),
    "more than": lambda text: text > "a",
    "times two": lambda text: text * 2,
    "two times": lambda text: 2 * text,
    "modulo": lambda text: text % 2,
    "another content": lambda text: text == Sealed((1,), text.questions),
    "a stripped content that changes": lambda text: text.ask("strip"),
    "its upper case": lambda text: text.ask("upper"),
    "a method with a content": lambda text: text.ask("startswith", text),
    "a method that raises": lambda text: text.ask("split", ""),
    "of a sum": lambda text: "a" in (text + "b"),
    "the length of a sum": lambda text: (text + "b").measured(len),
    "its first character beyond the end": lambda text: text[20] == "a",
    "a length, printed": lambda text: str(text.measured(len)),
    "a length, times two": lambda text: text.measured(len) * 2,
    "a length as an index": lambda text: operator.index(text.measured(len)),
    "a length plus text": lambda text: text.measured(len) + "a",
    "a length, compared with a length": lambda text: text.measured(len) == text.measured(len),
    "a slice of a slice": lambda text: text[:2][:1],
}


@pytest.mark.parametrize("name", REFUSED)
def test_all_else_is_refused(name: str) -> None:
    questions, text = sealed(" So, no.")
    with pytest.raises(Inspected):
        REFUSED[name](text)
    assert questions.is_broken


@pytest.mark.parametrize(
    "unseen",
    [
        lambda text: "".join(["a", text]),
        lambda text: text in "abc",
        lambda text: "abc".startswith(text),
        lambda text: "abc".replace("a", text),
        json.dumps,
    ],
)
def test_what_strings_do_unseen_fails(unseen: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError):
        unseen(sealed("a")[1])
