"""Rows of one exchange (Alpaca, query/response, prompt/completion) -> the normal form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lossmask.chat_rows import chat_row, with_system
from lossmask.errors import ConversationError
from lossmask.layout import Layout
from lossmask.openai_rows import openai_row
from lossmask.row_values import Row, kind, parsed, shown, string
from lossmask.weight_keys import row_weight


def alpaca_row(row: Mapping[str, Any], layout: Layout) -> Row:
    r"""Read ``instruction``, ``input``, ``output``, perhaps ``system`` and ``history``.

    The user says the instruction, ``layout.input_separator`` and the input; where one of them is
    empty, only the other.

    Raises:
        ConversationError: A value is no string.

    Example:
        >>> row = {"instruction": "Add", "input": "1 2", "output": "3"}
        >>> alpaca_row(row, Layout())["messages"][0]
        {'role': 'user', 'content': 'Add\n\n1 2'}
    """
    said = [_optional(row, "instruction"), _optional(row, "input")]
    question = layout.input_separator.join(text for text in said if text)
    return _exchanges(row, [*_history(row), (question, string(row["output"], "output"))])


def query_response_row(row: Mapping[str, Any], layout: Layout) -> Row:
    """Read ``query``, ``response``, perhaps ``system`` and ``history``.

    Earlier answers of the history are trained like the last one.

    Raises:
        ConversationError: A value is no string.
    """
    last = (string(row["query"], "query"), string(row["response"], "response"))
    return _exchanges(row, [*_history(row), last])


def prompt_completion_row(row: Mapping[str, Any], layout: Layout) -> Row:
    """Read ``prompt`` and ``completion``: two strings, or two lists of messages.

    Strings become text, the completion in the loss. Messages of the prompt are out of the loss.

    Raises:
        ConversationError: They are of different kinds, or a message of the prompt has a weight.

    Example:
        >>> prompt_completion_row({"prompt": "1+1=", "completion": "2"}, Layout())
        {'text': '1+1=2', 'weights': [{'start': 4, 'end': 5, 'weight': 1.0}]}
    """
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        text = prompt + completion
        ranges = [{"start": len(prompt), "end": len(text), "weight": 1.0}] if completion else []
        return text_row(row, text, ranges)
    for key in ("prompt", "completion"):
        if not isinstance(row[key], list):
            raise ConversationError(
                "'prompt' and 'completion' must be two strings or two lists of messages, got "
                f"{kind(prompt)} and {kind(completion)}"
            )
    read = openai_row({**row, "messages": [*prompt, *completion]}, layout)
    end = len(openai_row({"messages": prompt, "system": row.get("system")}, layout)["messages"])
    if len(read["messages"]) != end + len(openai_row({"messages": completion}, layout)["messages"]):
        raise ConversationError(
            "the completion goes on with a tool call of the prompt's last message: put the call "
            "into one message, all in the completion"
        )
    for index, message in enumerate(read["messages"][:end]):
        if message.get("weight") or any(each["weight"] for each in message.get("weights", ())):
            raise ConversationError(
                "a message of 'prompt' is out of the loss, but it has "
                f"the weight {shown(message.get('weight', message.get('weights')))} of its own",
                reason="contradicting_weights",
                message_index=index,
            )
        message.pop("weights", None)
        message["weight"] = 0.0
    return read


def text_row(row: Mapping[str, Any], text: str, ranges: Sequence[Row]) -> Row:
    """Return the normal form of a text.

    Args:
        row: The row as it was read, for its sample weight.
        text: The text.
        ranges: What is in the loss, in order.
    """
    result: Row = {"text": text, "weights": list(ranges)}
    weight = row_weight(row)
    if weight is not None:
        result["weight"] = weight
    return result


def _exchanges(row: Mapping[str, Any], exchanges: Sequence[tuple[str, str]]) -> Row:
    messages = [
        {"role": role, "content": text}
        for exchange in exchanges
        for role, text in zip(("user", "assistant"), exchange, strict=True)
    ]
    return chat_row(row, with_system(row, messages))


def _optional(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return "" if value is None else string(value, key)


def _history(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    history = row.get("history")
    if history is None or history == "":
        return []
    history = parsed(history, "history")
    if not isinstance(history, list):
        raise ConversationError(f"'history' must be a list of pairs, got {kind(history)}")
    pairs = []
    for place, pair in enumerate(history):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ConversationError(
                f"'history' must be a list of [question, answer], got {kind(pair)} at {place}"
            )
        pairs.append((string(pair[0], "history"), string(pair[1], "history")))
    return pairs
