"""A row in any layout -> the row in the normal form.

    chat     {"messages": [...], "tools"?: [...], "weight"?: float}
    text     {"text": str, "weights": [{"start", "end", "weight"}], "weight"?: float}
    tokens   {"input_ids": [...], "loss_weights": [...], "weight"?: float}

Nothing after this stage knows another layout. Where the layout is ``auto``, the keys of each row
tell its format, and its values where the keys do not; a row that fits none or several is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lossmask.anthropic_rows import anthropic_row
from lossmask.chat_rows import renamed_keys, turns_key
from lossmask.errors import ConversationError
from lossmask.harmony_rows import harmony_row
from lossmask.instruction_rows import alpaca_row, prompt_completion_row, query_response_row
from lossmask.layout import FORMATS, Layout, nearest_name
from lossmask.llamafactory_rows import llamafactory_row
from lossmask.openai_rows import openai_row
from lossmask.row_values import Row, kind, objects
from lossmask.segment_rows import plain_text_row, segments_row
from lossmask.sharegpt_rows import sharegpt_row
from lossmask.tokenized_rows import tokens_row
from lossmask.weight_keys import check_no_stray_loss

__all__ = ["FORMATS", "format_of", "to_normal", "without_filled_none"]

_READERS: dict[str, Callable[[Mapping[str, Any], Layout], Row]] = {
    "openai": openai_row,
    "anthropic": anthropic_row,
    "harmony": harmony_row,
    "llamafactory": llamafactory_row,
    "sharegpt": sharegpt_row,
    "alpaca": alpaca_row,
    "prompt_completion": prompt_completion_row,
    "query_response": query_response_row,
    "segments": segments_row,
    "text": plain_text_row,
    "tokens": tokens_row,
}

_NEEDED = {
    "alpaca": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
    "query_response": ("query", "response"),
    "segments": ("segments",),
    "text": ("text",),
    "tokens": ("input_ids",),
}

_ANTHROPIC_BLOCKS = ("tool_use", "tool_result", "redacted_thinking", "server_tool_use")
_MESSAGES = ("messages", "conversations", "conversation")


def to_normal(row: Mapping[str, Any], layout: Layout | None = None) -> Row:
    """Return a row in the normal form. Pure: the row given is not changed.

    Args:
        row: A row in any of :data:`FORMATS`; keys that no format reads are left out.
        layout: How the rows are laid out; each row tells its own format by default.

    Raises:
        ConversationError: The format cannot be told, or the row is not what its format asks for;
            names keys and message, what was expected and what was found.

    Example:
        >>> to_normal({"segments": [{"label": True, "text": "hi"}], "id": 7})
        {'text': 'hi', 'weights': [{'start': 0, 'end': 2, 'weight': 1.0}]}
    """
    layout = layout or Layout()
    if not isinstance(row, Mapping):
        raise ConversationError(f"a row must be an object, got {kind(row)}")
    renamed = _with_our_columns(row, layout)
    name = format_of(renamed, layout) if layout.format == "auto" else layout.format
    missing = [key for key in _NEEDED.get(name, ()) if renamed.get(key) is None]
    if missing:
        raise ConversationError(
            f"a row of the format {name!r} needs {_listed(missing)}; keys found: "
            f"{', '.join(map(str, row)) or 'none'}",
            reason="missing_key",
        )
    if name != "tokens":
        check_no_stray_loss(renamed)
    return _READERS[name](renamed, layout)


def format_of(row: Mapping[str, Any], layout: Layout | None = None) -> str:
    """Return the format of a row that has our names of columns.

    Raises:
        ConversationError: The row fits no format or several; names the keys.

    Example:
        >>> format_of({"prompt": "1+1=", "completion": "2"})
        'prompt_completion'
    """
    present = [key for key in row if row[key] is not None]
    found = [name for name, keys in _NEEDED.items() if all(key in present for key in keys)]
    turns = [key for key in _MESSAGES if key in present]
    if len(turns) + len(found) > 1:
        listed = [f"{_listed(_NEEDED[name])} ({name})" for name in found]
        raise ConversationError(
            "the format of the row is not certain, it has "
            f"{' and '.join([*map(repr, turns), *listed])}: name it in the layout's 'format'",
            reason="unknown_format",
        )
    if turns:
        return _kind_of_messages(row, layout or Layout())
    if found:
        return found[0]
    raise _unknown_format(present)


def without_filled_none(row: Mapping[str, Any]) -> Row:
    """Return a row of Arrow or Parquet without the keys that Arrow filled with null.

    A column of structs has every key that any row has, null where a row had none: tool-call
    arguments and schemas get the keys of other tools. Only readers that know the row to be from
    Arrow may call this: in JSON, null is a value. Arrow itself does not tell an argument that was
    null from one that was absent.

    Example:
        >>> without_filled_none({"messages": [{"role": "user", "tool_calls": None}], "x": [None]})
        {'messages': [{'role': 'user'}], 'x': [None]}
    """
    return {key: _repaired(value) for key, value in row.items() if value is not None}


def _repaired(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_filled_none(value)
    if isinstance(value, list):
        return [_repaired(item) for item in value]
    return value


def _with_our_columns(row: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    theirs_to_ours = {theirs: ours for ours, theirs in layout.columns.items() if theirs in row}
    result = {key: value for key, value in row.items() if key not in theirs_to_ours}
    for theirs, ours in theirs_to_ours.items():
        if result.get(ours) is not None:
            raise ConversationError(
                f"the layout reads {ours!r} from {theirs!r}, but the row has both"
            )
        result[ours] = row[theirs]
    return result


def _kind_of_messages(row: Mapping[str, Any], layout: Layout) -> str:
    """Tell the formats apart whose rows hold a list of messages, by what the messages hold."""
    key = turns_key(row)
    marks = set()
    for index, message in enumerate(objects(row[key], key)):
        marks |= _marks(renamed_keys(message, layout, index))
    tools = row.get("tools")
    if isinstance(tools, list) and any(
        "input_schema" in t for t in tools if isinstance(t, Mapping)
    ):
        marks.add("anthropic")
    if isinstance(row.get("system"), list):
        marks.add("anthropic")
    if len(marks) > 1:
        raise ConversationError(
            f"the messages mix what only different formats have ({', '.join(sorted(marks))}): name "
            "the format in the layout's 'format'",
            reason="unknown_format",
        )
    return marks.pop() if marks else "openai"


def _marks(message: Mapping[str, Any]) -> set[str]:
    """Return the formats that alone have a key or part of this message."""
    marks = set()
    if "tool_calls" in message or "function_call" in message:
        marks.add("openai")
    if any(key in message for key in ("channel", "recipient", "author")):
        marks.add("harmony")
    if not any(key in message for key in ("role", "author", "content")):
        marks.add("sharegpt")
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, Mapping):
            continue
        name = part.get("type")
        if name in ("system_content", "developer_content"):
            marks.add("harmony")
        elif "value" in part and "text" not in part:
            marks.add("llamafactory")
        elif _is_anthropic(part, message.get("role")):
            marks.add("anthropic")
    return marks


def _is_anthropic(part: Mapping[str, Any], role: object) -> bool:
    name = part.get("type")
    if name == "thinking":  # Mistral's templates read such a part in a system message
        return role == "assistant"
    return name in _ANTHROPIC_BLOCKS


def _unknown_format(present: list[str]) -> ConversationError:
    near = [f"{key!r}: {hint}" for key in present if (hint := nearest_name(str(key), _TELLING))]
    return ConversationError(
        f"no format reads the keys {', '.join(map(str, present)) or '(none)'}; expected: "
        f"{', or '.join([*map(repr, _MESSAGES), *(_listed(keys) for keys in _NEEDED.values())])}. "
        f"{' '.join(near) + ' ' if near else ''}"
        "Other names of columns go in the layout's 'columns'",
        reason="unknown_format",
    )


def _listed(keys: tuple[str, ...] | list[str]) -> str:
    return " and ".join(repr(key) for key in keys)


_TELLING = (*_MESSAGES, *(key for keys in _NEEDED.values() for key in keys))
