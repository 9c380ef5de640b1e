"""Whatever is done to a traced string, its text is that of ``str`` and its origins hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lossmask.traced_text import COARSE, LITERAL, MIXED, concat, leaf_text, origins_of

TEXT = st.text(alphabet="ab ,\n\tßΣİǆ\u2028\u3000é😀", max_size=12)
SHORT = st.text(alphabet="ab ,\n", max_size=2)
SEPARATOR = st.text(alphabet="ab ,\n", min_size=1, max_size=2)
NUMBER = st.integers(-14, 14)

Operation = tuple[str, Callable[[Any], Any]]


def method(name: str, *arguments: Any) -> Operation:
    return (f"{name}{arguments}", lambda text: getattr(text, name)(*arguments))


LOCATED = st.one_of(
    st.builds(lambda a, b: ("slice", lambda t: t[a:b]), NUMBER, NUMBER),
    st.builds(
        lambda a, b, c: ("step", lambda t: t[a : b : c or None]), NUMBER, NUMBER, st.integers(-3, 3)
    ),
    st.builds(method, st.sampled_from(["strip", "lstrip", "rstrip"]), st.none() | SHORT),
    st.builds(method, st.sampled_from(["removeprefix", "removesuffix"]), SHORT),
    st.builds(
        lambda name, s, n: method(name, s, n),
        st.sampled_from(["split", "rsplit"]),
        st.none() | SEPARATOR,
        st.integers(-1, 3),
    ),
    st.builds(method, st.just("splitlines"), st.booleans()),
    st.builds(method, st.sampled_from(["partition", "rpartition"]), SEPARATOR),
    st.builds(lambda o, n, c: method("replace", o, n, c), SEPARATOR, SHORT, st.integers(-1, 3)),
    st.builds(
        method, st.sampled_from(["center", "ljust", "rjust"]), NUMBER, st.sampled_from("a *")
    ),
    st.builds(lambda s: ("add", lambda t: t + s), SHORT),
    st.builds(lambda s: ("radd", lambda t: s + t), SHORT),
    st.builds(lambda n: ("mul", lambda t: t * n), st.integers(-1, 3)),
    st.just(("list", list)),
)
CHANGING = st.sampled_from(
    [
        *(method(n) for n in ("upper", "lower", "casefold", "swapcase", "title", "capitalize")),
        method("replace", "", "-"),
        method("zfill", 9),
        method("expandtabs", 3),
    ]
)


def flattened(result: Any) -> list[str]:
    return [result] if isinstance(result, str) else list(result)


def apply(operations: list[Operation], text: str) -> list[str]:
    """Apply operations one after the other, each to the first piece the one before left."""
    pieces = [text]
    for _, operation in operations:
        pieces = flattened(operation(pieces[0])) or [""]
    return pieces


def located(text: str, leaves: list[str]) -> list[str]:
    """Return the leaf character behind each located character of ``text``."""
    return [
        leaves[origin >> 32][origin & COARSE] if origin >= 0 else character
        for origin, character in zip(origins_of(text).tolist(), text, strict=True)
    ]


@given(st.lists(TEXT, min_size=1, max_size=3), st.lists(LOCATED, max_size=4))
@settings(max_examples=400, deadline=None)
def test_located_characters_are_the_characters_of_their_leaf(
    leaves: list[str], operations: list[Operation]
) -> None:
    traced = concat([leaf_text(text, leaf) for leaf, text in enumerate(leaves)])
    expected = apply(operations, "".join(leaves))
    results = apply(operations, traced)
    assert results == expected
    for result in results:
        assert len(origins_of(result)) == len(result)
        assert MIXED not in origins_of(result)
        assert located(result, leaves) == list(result)


@given(st.lists(TEXT, min_size=1, max_size=3), st.lists(LOCATED | CHANGING, max_size=4))
@settings(max_examples=400, deadline=None)
def test_any_operation_gives_the_text_of_str_and_one_origin_per_character(
    leaves: list[str], operations: list[Operation]
) -> None:
    traced = concat([leaf_text(text, leaf) for leaf, text in enumerate(leaves)])
    results = apply(operations, traced)
    assert results == apply(operations, "".join(leaves))
    for result in results:
        origins = origins_of(result)
        assert origins.shape == (len(result),)
        for origin in origins.tolist():
            offset = origin & COARSE
            assert (
                origin in (LITERAL, MIXED) or offset == COARSE or offset < len(leaves[origin >> 32])
            )


@given(st.lists(TEXT, min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_splitting_what_was_joined_gives_back_texts_and_origins(leaves: list[str]) -> None:
    words = [leaf_text(text, leaf) for leaf, text in enumerate(leaves)]
    pieces = leaf_text("|", 9).join(words).split("|")  # in no leaf
    assert pieces == leaves
    for piece, word in zip(pieces, words, strict=True):
        assert origins_of(piece).tolist() == origins_of(word).tolist()


@given(TEXT, st.sampled_from(["upper", "lower", "casefold", "swapcase"]))
@settings(max_examples=200, deadline=None)
def test_case_changes_of_one_leaf_never_leave_it(text: str, name: str) -> None:
    changed = getattr(leaf_text(text, 5), name)()
    assert changed == getattr(text, name)()
    assert all(origin >> 32 == 5 for origin in origins_of(changed).tolist())
