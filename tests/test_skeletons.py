"""Conversations without their contents take others."""

from __future__ import annotations

from lossmask.sealed_text import Asked, Questions, Sealed
from lossmask.skeletons import PlainLayout, Skeleton, Skeletons

LAYOUT = PlainLayout.of("[u]Hi[/u][a]\nHello[/a][u][/u]", [(0, 3, 5), (2, 13, 18)], [(2, 12, 22)])


def test_a_skeleton_takes_other_contents() -> None:
    skeleton = Skeleton.of([LAYOUT], {})
    filled = skeleton.filled(["Why?", "", "No", ""])
    assert filled is not None
    [layout] = filled
    assert layout.text == "[u]Why?[/u][a]\nNo[/a][u][/u]"
    assert layout.written == [(0, 3, 7), (2, 15, 17)]
    assert layout.completions == [(2, 14, 21)]
    assert layout.text[14:21] == "\nNo[/a]"
    assert LAYOUT.text[12:22] == "\nHello[/a]"


def test_every_example_of_a_conversation_is_filled() -> None:
    short = PlainLayout.of("[u]Hi", [(0, 3, 5)], [])
    skeleton = Skeleton.of([LAYOUT, short], {})
    assert skeleton.size == 3
    filled = skeleton.filled(["Why?", "", "No"])
    assert filled is not None
    assert [layout.text for layout in filled] == ["[u]Why?[/u][a]\nNo[/a][u][/u]", "[u]Why?"]


def test_other_answers_do_not_fit() -> None:
    asked: Asked = {
        (0, str.__contains__, ("x",)): False,
        (2, str.strip, ()): None,
        (2, str.split, ("y",)): None,
    }
    skeleton = Skeleton.of([LAYOUT], asked)
    assert skeleton.filled(["a", "", "b"]) is not None
    assert skeleton.filled(["x", "", "b"]) is None
    assert skeleton.filled(["a", "", " b"]) is None
    assert skeleton.filled(["a", "", "y"]) is None


def test_a_question_that_cannot_be_asked_of_a_content_does_not_fit() -> None:
    questions = Questions(["abc"])
    assert Sealed((0,), questions)[2] == "c"
    layout = PlainLayout.of("[abc]", [(0, 1, 4)], [])
    skeleton = Skeleton.of([layout], questions.asked)
    assert skeleton.filled(["xyc"]) is not None
    assert skeleton.filled(["xyz"]) is None
    assert skeleton.filled(["x"]) is None  # it has no third character


def test_skeletons_are_found_by_shape() -> None:
    skeletons = Skeletons()
    asked = {(0, str.__contains__, ("x",)): True}
    skeletons.add("shape", Skeleton.of([LAYOUT], asked))
    assert skeletons.filled("other", ["x", "", "b"]) is None
    assert skeletons.filled("shape", ["y", "", "b"]) is None
    skeletons.add("shape", Skeleton.of([LAYOUT], {}))
    for first in ("x", "y"):
        assert skeletons.filled("shape", [first, "", "b"]) is not None


def test_there_are_only_so_many_skeletons() -> None:
    skeletons = Skeletons()
    for number in range(20):
        asked = {(0, str.__eq__, (str(number),)): True}
        skeletons.add("shape", Skeleton.of([LAYOUT], asked))
    found = [number for number in range(20) if skeletons.filled("shape", [str(number), "", "b"])]
    assert found == list(range(12, 20))
    skeletons._messages = 199_999
    skeletons.add("other", Skeleton.of([LAYOUT], {}))
    assert skeletons.filled("shape", ["19", "", "b"]) is None
    assert skeletons.filled("other", ["19", "", "b"]) is not None
