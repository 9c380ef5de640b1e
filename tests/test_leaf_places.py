"""Each string is found where its characters stand, in a rendering and in its beginnings."""

from __future__ import annotations

import numpy as np

from lossmask.leaf_places import LeafPlaces, begin_alike
from lossmask.traced_rendering import Leaf, Rendering

LEAVES = (
    Leaf(0, "content"),
    Leaf(2, "name"),
    Leaf(2, "name", is_key=True),
    Leaf(2, "content"),
)
ORIGINS = np.array(  # "<ab>yx<cb": leaf 3 is written before leaf 1, and leaf 0 once more at the end
    [-1, 0, 1, -1, 3 << 32, 1 << 32, -1, (2 << 32) + 1, 1], np.int64
)
PLACES = LeafPlaces(ORIGINS, LEAVES)


def test_the_characters_of_a_string_are_found_in_any_beginning_of_the_text() -> None:
    assert [PLACES.positions(number, 9).tolist() for number in range(4)] == [
        [1, 2, 8],
        [5],
        [7],
        [4],
    ]
    assert PLACES.positions(0, 8).tolist() == [1, 2]
    assert PLACES.positions(0, 1).tolist() == []
    assert PLACES.positions(-1, 9).tolist() == PLACES.positions(4, 9).tolist() == []


def test_a_value_has_the_number_of_its_leaf_and_a_key_has_none() -> None:
    assert PLACES.number(2, "name") == 1
    assert PLACES.number(2, "content") == 3
    assert PLACES.number(1, "content") == -1
    assert list(PLACES.numbers(2)) == [1, 2, 3]
    assert list(PLACES.numbers(1)) == []
    assert PLACES.message_of_leaf.tolist() == [0, 2, 2, 2]


def test_a_message_reaches_from_its_first_character_to_its_last() -> None:
    assert (PLACES.begin_of_message(2, 9), PLACES.end_of_message(2, 9)) == (4, 8)
    assert (PLACES.begin_of_message(2, 7), PLACES.end_of_message(2, 7)) == (4, 6)
    assert (PLACES.begin_of_message(2, 4), PLACES.end_of_message(2, 4)) == (4, 0)
    assert (PLACES.begin_of_message(1, 9), PLACES.end_of_message(1, 9)) == (9, 0)


def test_only_the_beginning_in_the_same_memory_is_a_beginning() -> None:
    assert PLACES.are_of(ORIGINS[:3])
    assert not PLACES.are_of(ORIGINS[1:])
    assert not PLACES.are_of(ORIGINS.copy())
    assert not PLACES.are_of(ORIGINS[::2])
    assert not begin_alike(ORIGINS, ORIGINS[:3])


def test_a_rendering_of_other_origins_does_not_keep_the_places_it_is_given() -> None:
    rendering = Rendering("<ab>yx<cb", ORIGINS, LEAVES, (), places=PLACES)
    assert rendering.places is PLACES
    other = Rendering("<ab>", ORIGINS[:4][::-1], LEAVES, (), places=PLACES)
    assert other.places.positions(0, 4).tolist() == [1, 2]
    assert other.message_index().tolist() == [-1, 0, 0, -1]


def test_an_empty_rendering_has_no_places() -> None:
    nothing = LeafPlaces(np.zeros(0, np.int64), ())
    assert nothing.positions(0, 0).tolist() == []
    assert nothing.message_of_leaf.tolist() == [-1]
