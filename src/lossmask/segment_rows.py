"""Rows of finished text -> the normal form.

``{"segments": [{"label": true, "text": ...}]}`` (Axolotl's ``input_output``) and ``{"text": ...}``,
all of it in the loss where no markers and no ranges say otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lossmask.errors import ConversationError
from lossmask.instruction_rows import text_row
from lossmask.layout import Layout
from lossmask.markers import ranges as marked_ranges
from lossmask.row_values import Row, kind, number, objects, string, yes_or_no
from lossmask.weight_keys import checked_range, sorted_ranges


def segments_row(row: Mapping[str, Any], layout: Layout) -> Row:
    """Read Axolotl's segments: their texts joined, those labelled true in the loss.

    Raises:
        ConversationError: A segment has other keys, or values of the wrong kind.

    Example:
        >>> row = {"segments": [{"label": False, "text": "Q"}, {"label": True, "text": "A"}]}
        >>> segments_row(row, Layout())
        {'text': 'QA', 'weights': [{'start': 1, 'end': 2, 'weight': 1.0}]}
    """
    text, ranges = "", []
    for index, segment in enumerate(objects(row["segments"], "segments")):
        if set(segment) != {"label", "text"}:
            raise ConversationError(
                "a segment has 'label' and 'text', got "
                f"{', '.join(map(str, segment)) or 'no keys'}",
                message_index=index,
            )
        start = len(text)
        text += string(segment["text"], "text", index)
        if yes_or_no(segment["label"], "label", index) and start < len(text):
            ranges.append({"start": start, "end": len(text), "weight": 1.0})
    return text_row(row, text, sorted_ranges(ranges, None))


def plain_text_row(row: Mapping[str, Any], layout: Layout) -> Row:
    """Read a text: ranges of its own, else those that the layout's markers find, else all of it.

    Raises:
        ConversationError: A range does not fit the text.

    Example:
        >>> plain_text_row({"text": "abc"}, Layout())
        {'text': 'abc', 'weights': [{'start': 0, 'end': 3, 'weight': 1.0}]}
    """
    text = string(row["text"], "text")
    if row.get("weights") is not None:
        return text_row(row, text, sorted_ranges(_own_ranges(row["weights"], text), None))
    if layout.response_template is not None:
        return text_row(
            row, text, marked_ranges(text, layout.response_template, layout.instruction_template)
        )
    if layout.instruction_template is not None:
        raise ConversationError(
            "the layout has an instruction_template but no response_template: what the model says "
            "cannot be told from the rest"
        )
    return text_row(row, text, [{"start": 0, "end": len(text), "weight": 1.0}] if text else [])


def _own_ranges(value: object, text: str) -> list[Row]:
    if not isinstance(value, list):
        raise ConversationError(f"'weights' must be a list of ranges, got {kind(value)}")
    ranges = []
    for each in objects(value, "weights"):
        if set(each) != {"start", "end", "weight"}:
            raise ConversationError(
                "a range of 'weights' has 'start', 'end' and 'weight', got "
                f"{', '.join(map(str, each)) or 'no keys'}"
            )
        start, end = checked_range(each["start"], each["end"], len(text), "weights", None)
        ranges.append({"start": start, "end": end, "weight": number(each["weight"], "weight")})
    return ranges
