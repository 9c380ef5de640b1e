"""Every name for a loss in the data -> ``weight`` and ``weights``.

In: a message (or row) with ``train``, ``loss``, ``masked``, ``train_detail``, parts with ``train``
and so on. Out: the same message with at most two loss keys left::

    weight    float: absent = the policy decides; 0 = out of the loss
    weights   [{"path", "start", "end", "weight"}]: half-open ranges of characters of one string
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lossmask.errors import ConversationError
from lossmask.row_values import kind, number, shown, yes_or_no

NUMBERS = ("weight", "loss_weight", "loss_scale")
"""A number: how much the message counts."""

YES_OR_NO = ("train", "trainable", "training", "loss_mask", "masked")
"""In the loss or not; ``masked`` says the opposite."""

EITHER = ("loss",)
"""true and false, or a number."""

DETAILS = ("train_detail", "training_detail")
"""Axolotl: ``[{"begin_offset", "end_offset", "train"}]``, the end offset inclusive."""

MESSAGE_LOSS_KEYS = (*NUMBERS, *YES_OR_NO, *EITHER, *DETAILS, "weights")
_OF_MESSAGES_ONLY = ("loss_scale", "loss_mask", "loss_weights", "trainable", "masked", *DETAILS)
_OF_MESSAGES_IF_BOOL = ("train", "training", "loss")  # numbers and texts may be metadata
ROW_WEIGHTS = ("weight", "sample_weight", "loss_weight")
_RANGE_KEYS = {"path", "start", "end", "weight"}


def with_weights(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return a message with ``weight`` and ``weights`` as its only loss keys.

    Raises:
        ConversationError: A value has the wrong kind or two keys disagree; names both, with values.

    Example:
        >>> with_weights({"role": "user", "content": "hi", "masked": True}, 0)
        {'role': 'user', 'content': 'hi', 'weight': 0.0}
    """
    kept = {key: value for key, value in message.items() if key not in MESSAGE_LOSS_KEYS}
    parts, part_ranges = _weights_of_parts(kept.get("content"), index)
    if parts is not None:
        kept["content"] = parts
    weight = one_weight(message, (*NUMBERS, *YES_OR_NO, *EITHER), index)
    weight, detail_ranges = _with_details(message, weight, index)
    ranges = read_ranges(message.get("weights"), kept, index) + part_ranges + detail_ranges
    if weight is not None:
        kept["weight"] = weight
    if ranges:
        kept["weights"] = sorted_ranges(ranges, index)
    return kept


def one_weight(values: Mapping[str, Any], keys: tuple[str, ...], index: int | None) -> float | None:
    """Return the weight that all the keys agree on, None where there is none.

    Numbers must be equal; a true or false must agree with them about zero.

    Raises:
        ConversationError: Two keys disagree; names both, with values.
    """
    said = {key: values[key] for key in keys if values.get(key) is not None}
    decided: tuple[str, float, bool] | None = None
    for key, value in said.items():
        is_number = key in NUMBERS or key in ROW_WEIGHTS
        if key in EITHER:
            is_number = not isinstance(value, bool)
        if is_number:
            weight = number(value, key, index)
        else:
            weight = float(yes_or_no(value, key, index) != (key == "masked"))
        if decided is None:
            decided = (key, weight, is_number)
            continue
        other, decided_weight, was_number = decided
        agree = bool(weight) == bool(decided_weight)
        if is_number and was_number:
            agree = weight == decided_weight
        if not agree:
            raise ConversationError(
                f"{other!r} is {shown(said[other])} but {key!r} is {shown(value)}: they contradict "
                "each other",
                reason="contradicting_weights",
                message_index=index,
            )
        if is_number and not was_number:
            decided = (key, weight, True)
    return None if decided is None else decided[1]


def row_weight(row: Mapping[str, Any]) -> float | None:
    """Return the sample weight of a row, None where there is none.

    Raises:
        ConversationError: It is no number, or two keys disagree.
    """
    return one_weight(row, ROW_WEIGHTS, None)


def check_no_stray_loss(row: Mapping[str, Any]) -> None:
    """Check that a row of messages or text has no loss key that only messages can have.

    Raises:
        ConversationError: It has one, which nothing would obey.
    """
    stray = [key for key in _OF_MESSAGES_ONLY if row.get(key) is not None]
    stray += [key for key in _OF_MESSAGES_IF_BOOL if isinstance(row.get(key), bool)]
    if stray:
        raise ConversationError(
            f"the row has {stray[0]!r}, which is read on messages only: put it there, or take the "
            "column away (the weight of a whole row is 'weight')",
            reason="stray_loss_key",
        )


def string_at(message: Mapping[str, Any], path: str) -> str | None:
    """Return the string that lies at a path such as ``tool_calls/0/function/arguments``."""
    value: Any = message
    for name in path.split("/"):
        if isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, Mapping) and name in value:
            value = value[name]
        else:
            return None
    return value if isinstance(value, str) else None


def read_ranges(value: object, message: Mapping[str, Any], index: int) -> list[dict[str, Any]]:
    """Return a message's ``weights``, each range checked against the string it is about.

    Raises:
        ConversationError: A key is unknown, the string is missing, an offset lies outside it.
    """
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        raise ConversationError(
            "'weights' must be a list of objects with 'start', 'end' and 'weight'",
            message_index=index,
        )
    ranges = []
    for each in value:
        unknown = set(each) - _RANGE_KEYS
        if unknown or not {"start", "end", "weight"} <= set(each):
            raise ConversationError(
                f"a range of 'weights' has 'start', 'end', 'weight' and perhaps 'path', got "
                f"{', '.join(map(str, each)) or 'no keys'}",
                message_index=index,
            )
        path = "content" if each.get("path") is None else each["path"]
        text = string_at(message, path) if isinstance(path, str) else None
        if text is None:
            raise ConversationError(
                f"'weights' name the path {shown(path)}, where the message has no string",
                message_index=index,
            )
        start, end = checked_range(each["start"], each["end"], len(text), "weights", index)
        weight = number(each["weight"], "weight", index)
        ranges.append({"path": path, "start": start, "end": end, "weight": weight})
    return ranges


def checked_range(
    start: object, end: object, length: int, key: str, index: int | None
) -> tuple[int, int]:
    """Return a half-open range that lies inside a string.

    Raises:
        ConversationError: It is empty, or not inside.
    """
    if type(start) is int and type(end) is int and 0 <= start < end <= length:
        return start, end
    raise ConversationError(
        f"{key!r}: the range from {shown(start)} to {shown(end)} does not lie inside the "
        f"{length} characters of its string",
        message_index=index,
    )


def sorted_ranges(ranges: list[dict[str, Any]], index: int | None) -> list[dict[str, Any]]:
    """Return ranges in order, touching ones of the same weight as one.

    Raises:
        ConversationError: Two ranges overlap; names both.
    """
    result: list[dict[str, Any]] = []
    for each in sorted(ranges, key=lambda one: (one.get("path", ""), one["start"], one["end"])):
        last = result[-1] if result else None
        if last is None or last.get("path") != each.get("path") or each["start"] > last["end"]:
            result.append(dict(each))
            continue
        if each["start"] < last["end"]:
            raise ConversationError(
                f"two ranges of weights overlap: {last['start']} to {last['end']} with weight "
                f"{last['weight']:g}, {each['start']} to {each['end']} with weight "
                f"{each['weight']:g}",
                reason="contradicting_weights",
                message_index=index,
            )
        if each["weight"] == last["weight"]:
            last["end"] = each["end"]
        else:
            result.append(dict(each))
    return result


def _weights_of_parts(content: object, index: int) -> tuple[list[Any] | None, list[dict[str, Any]]]:
    """Return the parts without loss keys, and what those said as ranges."""
    if not isinstance(content, list):
        return None, []
    keys = (*NUMBERS, *YES_OR_NO, *EITHER)
    parts, ranges = [], []
    for place, part in enumerate(content):
        if not isinstance(part, Mapping) or not any(key in part for key in keys):
            parts.append(part)
            continue
        plain = {key: value for key, value in part.items() if key not in keys}
        parts.append(plain)
        weight = one_weight(part, keys, index)
        if weight is None:
            continue
        text = plain.get("text")
        if not isinstance(text, str):
            raise ConversationError(
                f"part {place} of 'content' has a weight but no 'text'", message_index=index
            )
        if text:
            path = f"content/{place}/text"
            ranges.append({"path": path, "start": 0, "end": len(text), "weight": weight})
    return parts, ranges


def _with_details(
    message: Mapping[str, Any], weight: float | None, index: int
) -> tuple[float | None, list[dict[str, Any]]]:
    """Return weight and ranges as Axolotl reads ``train_detail``.

    A detail without ``train`` puts its message in the loss; characters that no entry trains are
    out of it.
    """
    found = [key for key in DETAILS if message.get(key) is not None]
    if not found:
        return weight, []
    if len(found) > 1:
        raise ConversationError(
            f"{found[0]!r} and {found[1]!r} say the same thing twice", message_index=index
        )
    trained = _trained_characters(message[found[0]], message.get("content"), found[0], index)
    if weight is None:
        weight = float(trained is not None)
    if trained is None:
        return weight, []
    if not weight and any(trained):
        raise ConversationError(
            f"the message is out of the loss, but {found[0]!r} has a range with 'train' true",
            reason="contradicting_weights",
            message_index=index,
        )
    if not weight:
        return weight, []
    return weight, [
        {"path": "content", "start": start, "end": end, "weight": 0.0}
        for start, end in _untrained_runs(trained)
    ]


def _trained_characters(
    details: object, content: object, key: str, index: int
) -> list[bool] | None:
    """Return per character whether it is trained; None where there is no entry."""
    if not isinstance(details, list) or not all(isinstance(each, Mapping) for each in details):
        raise ConversationError(
            f"{key!r} must be a list of objects, got {kind(details)}", message_index=index
        )
    if not details:
        return None
    if not isinstance(content, str):
        raise ConversationError(
            f"{key!r} counts the characters of 'content', which must be a string, got "
            f"{kind(content)}",
            message_index=index,
        )
    ranges = []
    for each in details:
        if set(each) != {"begin_offset", "end_offset", "train"}:
            raise ConversationError(
                f"an entry of {key!r} has 'begin_offset', 'end_offset' and 'train', got "
                f"{', '.join(map(str, each)) or 'no keys'}",
                message_index=index,
            )
        last = each["end_offset"]
        end = last + 1 if type(last) is int else last  # Axolotl's end offset is inclusive
        start, end = checked_range(each["begin_offset"], end, len(content), key, index)
        weight = float(yes_or_no(each["train"], "train", index))
        ranges.append({"start": start, "end": end, "weight": weight})
    trained = [False] * len(content)
    for each in sorted_ranges(ranges, index):
        trained[each["start"] : each["end"]] = [bool(each["weight"])] * (
            each["end"] - each["start"]
        )
    return trained


def _untrained_runs(trained: list[bool]) -> list[tuple[int, int]]:
    runs, start = [], None
    for place, is_trained in enumerate([*trained, True]):
        if start is None and not is_trained:
            start = place
        elif start is not None and is_trained:
            runs.append((start, place))
            start = None
    return runs
