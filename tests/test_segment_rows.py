from typing import Any

import pytest

from lossmask.errors import ConversationError
from lossmask.layout import Layout
from lossmask.segment_rows import plain_text_row, segments_row


def test_segments_are_joined_and_the_labelled_ones_trained() -> None:
    segments = [
        {"label": True, "text": "<s>Hello\n"},
        {"label": True, "text": "hi there!"},
        {"label": False, "text": "goodbye "},
        {"label": True, "text": ""},
        {"label": 1, "text": "farewell</s>"},
    ]
    row = segments_row({"segments": segments, "weight": 0.5}, Layout())
    assert row == {
        "text": "<s>Hello\nhi there!goodbye farewell</s>",
        "weights": [
            {"start": 0, "end": 18, "weight": 1.0},
            {"start": 26, "end": 38, "weight": 1.0},
        ],
        "weight": 0.5,
    }
    assert [row["text"][each["start"] : each["end"]] for each in row["weights"]] == [
        "<s>Hello\nhi there!",
        "farewell</s>",
    ]


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        ({"text": "a"}, "message 0: a segment has 'label' and 'text', got text"),
        ({"label": "yes", "text": "a"}, "'label' must be true or false, got a string"),
        ({"label": True, "text": None}, "'text' must be a string, got null"),
    ],
)
def test_segments_that_cannot_be_read(segment: dict[str, Any], message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        segments_row({"segments": [segment]}, Layout())


def test_text_is_all_in_the_loss() -> None:
    assert plain_text_row({"text": ""}, Layout()) == {"text": "", "weights": []}
    with pytest.raises(ConversationError, match="'text' must be a string, got int 3"):
        plain_text_row({"text": 3}, Layout())


def test_text_may_bring_its_own_ranges() -> None:
    ranges = [{"start": 1, "end": 2, "weight": -1}, {"start": 0, "end": 1, "weight": 0.5}]
    assert plain_text_row({"text": "abc", "weights": ranges}, Layout())["weights"] == [
        {"start": 0, "end": 1, "weight": 0.5},
        {"start": 1, "end": 2, "weight": -1.0},
    ]
    with pytest.raises(ConversationError, match="from 0 to 4 does not lie inside the 3"):
        plain_text_row({"text": "abc", "weights": [{"start": 0, "end": 4, "weight": 1}]}, Layout())
    with pytest.raises(ConversationError, match="a range of 'weights' has"):
        plain_text_row({"text": "abc", "weights": [{"start": 0}]}, Layout())


def test_markers_tell_what_is_in_the_loss() -> None:
    layout = Layout(instruction_template="Q:", response_template="A:")
    row = plain_text_row({"text": "Q: 1 A: 2 Q: 3 A: 4"}, layout)
    assert [row["text"][each["start"] : each["end"]] for each in row["weights"]] == [" 2 ", " 4"]
    with pytest.raises(ConversationError, match="instruction_template but no response_template"):
        plain_text_row({"text": "Q:"}, Layout(instruction_template="Q:"))
