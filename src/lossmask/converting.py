"""A row in the normal form -> a row in another layout, and what that layout cannot say.

``openai`` is the normal form of conversations itself. The others lose what they have no words for:
each loss is reported, and a row without losses reads back as exactly the row it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from lossmask.anthropic_target import anthropic_row_of
from lossmask.conversion_losses import (
    Loss,
    Losses,
    as_json,
    functions_of,
    plain_text,
    yes_or_no_of,
)
from lossmask.errors import ConversationError
from lossmask.layout import nearest_name
from lossmask.row_values import Row
from lossmask.tokenized_rows import OUT

_SWIFT_ROLES = {"tool": "tool_response", "function": "tool_response", "developer": "system"}
_SHAREGPT_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "human",
    "assistant": "gpt",
    "tool": "observation",
    "function": "observation",
}


def convert_row(row: Mapping[str, Any], to: str) -> tuple[Row, list[Loss]]:
    """Convert a row.

    Args:
        row: A row in the normal form, as ``to_normal`` returns it; it is not changed.
        to: One of :data:`TARGETS`.

    Returns:
        The row, and what it could not keep: none means that ``to_normal`` of it is ``row``.

    Raises:
        ConversationError: The target is unknown, or has no place for anything of the row (text or
            tokens where only conversations can be said).

    Example:
        >>> row = {"messages": [{"role": "assistant", "content": "hi", "weight": 0.5}]}
        >>> convert_row(row, "axolotl")[1]
        [(0, 'weight 0.5 becomes train: true')]
    """
    if to not in TARGETS:
        hint = nearest_name(to, TARGETS)
        raise ConversationError(
            f"cannot convert to {to!r}; {hint + ' ' if hint else ''}known: {', '.join(TARGETS)}"
        )
    losses = Losses(TARGETS[to])
    copied = copy.deepcopy(dict(row))
    if "messages" in copied:
        return _WRITERS[to](copied, losses), losses.found
    if to != "axolotl":
        raise ConversationError(
            f"a row of {'text' if 'text' in copied else 'tokens'} cannot be said in the format "
            f"{to!r}, which holds conversations; 'axolotl' has a form for it"
        )
    read = _segments if "text" in copied else _labels
    return read(copied, losses), losses.found


def _openai(row: Row, losses: Losses) -> Row:
    return row


def _rest(row: Row, losses: Losses, *known: str) -> Row:
    """Return what of the row's own keys the target has; reports the sample weight where not."""
    if "weight" in row and "weight" not in known:
        losses.add(None, f"the sample weight {row['weight']:g} is left out")
    return {key: row[key] for key in known if key in row}


def _axolotl(row: Row, losses: Losses) -> Row:
    messages = []
    for index, message in enumerate(row["messages"]):
        kept = {k: v for k, v in message.items() if k not in ("weight", "weights", "prefill")}
        if "prefill" in message:
            losses.add(index, "'prefill' is left out")
        if "weight" in message:
            kept["train"] = yes_or_no_of(message["weight"], "train", index, losses)
        messages.append(kept | _train_detail(message, index, losses))
    return {"messages": messages, **_rest(row, losses, "tools")}


def _train_detail(message: Row, index: int, losses: Losses) -> Row:
    """Return Axolotl's ``train_detail``: for each character of the content, if it is trained.

    Axolotl takes characters that no entry names out of the loss.
    """
    content, weight = message.get("content"), message.get("weight")
    ranges = []
    for each in message.get("weights", ()):
        if each.get("path", "content") == "content" and isinstance(content, str):
            ranges.append(each)
        else:
            losses.add(index, f"the weights of {each['path']} are left out")
    if not ranges or not isinstance(content, str):
        return {}
    outside = message["role"] == "assistant" if weight is None else weight > 0
    if weight is None:
        said = as_json(outside)
        losses.add(index, f"the characters outside the ranges become train: {said} for any policy")
    if not outside or any(each["weight"] for each in ranges):
        losses.add(index, "the weights of ranges become train: true or false")
    details: list[Row] = []
    for start, end, is_trained in _runs(ranges, len(content), outside):
        details.append({"begin_offset": start, "end_offset": end - 1, "train": is_trained})
    is_trained = outside or any(each["train"] for each in details)
    return {"train": is_trained, "train_detail": details}


def _runs(ranges: list[Row], length: int, outside: bool) -> list[tuple[int, int, bool]]:
    """Return runs of characters that cover a string: start, end, in the loss."""
    runs, end = [], 0
    for each in ranges:
        runs.append((end, each["start"], outside))
        runs.append((each["start"], each["end"], each["weight"] > 0))
        end = each["end"]
    runs.append((end, length, outside))
    return [run for run in runs if run[0] < run[1]]


def _swift(row: Row, losses: Losses) -> Row:
    messages: list[Row] = []
    for index, message in enumerate(row["messages"]):
        role, content, loss = message["role"], plain_text(message, index, losses), {}
        _report_of_turn(message, index, losses)
        if "weight" in message:
            loss["loss"] = yes_or_no_of(message["weight"], "loss", index, losses)
            if role != "assistant" and loss["loss"]:
                losses.add(index, f"ms-swift trains no message of the role {role}")
        calls = functions_of(message, index, losses)
        before = messages[-1] if messages else {"role": ""}
        if calls and not content and before["role"] in ("assistant", "tool_call"):
            losses.add(index, "the tool calls become part of the message before")
            if before.get("loss") != loss.get("loss"):
                raise ConversationError(
                    "ms-swift joins a tool call to the answer before it, and their losses differ",
                    reason="contradicting_weights",
                    message_index=index,
                )
        if content or not calls:
            messages.append({"role": _SWIFT_ROLES.get(role, role), "content": content, **loss})
        messages += [{"role": "tool_call", "content": as_json(call), **loss} for call in calls]
    return {"messages": messages, **_tools_as_json(row), **_rest(row, losses)}


def _sharegpt(row: Row, losses: Losses) -> Row:
    turns: list[Row] = []
    for index, message in enumerate(row["messages"]):
        role, content = message["role"], plain_text(message, index, losses)
        _report_of_turn(message, index, losses)
        weight = {"weight": message["weight"]} if "weight" in message else {}
        calls = functions_of(message, index, losses)
        if content and calls:
            losses.add(index, "text and tool calls become two messages")
        if content or not calls:
            turns.append({"from": _SHAREGPT_ROLES[role], "value": content, **weight})
        if calls:
            value = as_json(calls[0] if len(calls) == 1 else calls)
            turns.append({"from": "function_call", "value": value, **weight})
    if any("function" not in tool and "name" in tool for tool in row.get("tools", ())):
        losses.add(None, "tools without 'type' and 'function' are read as functions")
    return {"conversations": turns, **_tools_as_json(row), **_rest(row, losses, "weight")}


def _report_of_turn(message: Row, index: int, losses: Losses) -> None:
    """Report what neither ShareGPT nor ms-swift has."""
    role = message["role"]
    if role in ("function", "developer"):
        losses.add(index, f"the role {role} becomes {'tool' if role == 'function' else 'system'}")
    if "weights" in message:
        losses.add(index, "the weights of ranges are left out")
    losses.leave_out(message, index, ("role", "content", "tool_calls", "weight", "weights"))


def _tools_as_json(row: Row) -> Row:
    return {"tools": as_json(row["tools"])} if "tools" in row else {}


def _alpaca(row: Row, losses: Losses) -> Row:
    """Return instruction, output and, for what came before, system and history."""
    if "tools" in row:
        losses.add(None, "the tools are left out: Alpaca has none")
    said: list[tuple[int, str, str]] = []
    for index, message in enumerate(row["messages"]):
        losses.leave_out(message, index, ("role", "content"))
        if message["role"] in ("system", "user", "assistant"):
            said.append((index, message["role"], plain_text(message, index, losses)))
        else:
            losses.add(index, f"the message of the role {message['role']} is left out")
    result = _rest(row, losses, "weight")
    if said and said[0][1] == "system":
        index, _, text = said.pop(0)
        if text:
            result["system"] = text
        else:
            losses.add(index, "an empty system message is left out")
    exchanges: list[tuple[str, str]] = []
    question: str | None = None
    for index, role, text in said:
        if role == "user" and question is None:
            question = text
        elif role == "assistant" and question is not None:
            exchanges.append((question, text))
            question = None
        else:
            losses.add(index, f"a message of the role {role} is left out: turns do not alternate")
    if question is not None:
        losses.add(len(row["messages"]) - 1, "the last question has no answer and is left out")
    if not exchanges:
        raise ConversationError("Alpaca needs a question of the user and an answer to it")
    if exchanges[:-1]:
        result["history"] = [list(exchange) for exchange in exchanges[:-1]]
    return {"instruction": exchanges[-1][0], "input": "", "output": exchanges[-1][1], **result}


def _segments(row: Row, losses: Losses) -> Row:
    """Return a text as Axolotl's segments."""
    text = row["text"]
    for each in row["weights"]:
        yes_or_no_of(each["weight"], "label", None, losses)
        if each["weight"] == 0.0:
            losses.add(None, "a range of weight 0 is no longer named: it is out of the loss")
    runs = _runs(row["weights"], len(text), outside=False)
    segments = [{"label": label, "text": text[start:end]} for start, end, label in runs]
    return {"segments": segments, **_rest(row, losses)}


def _labels(row: Row, losses: Losses) -> Row:
    """Return ids with labels, as Axolotl reads tokenized rows."""
    for weight in sorted(set(row["loss_weights"]) - {0.0, 1.0}):
        where = "in" if weight > 0 else "out of"
        losses.add(None, f"weight {weight:g} becomes a label {where} the loss")
    pairs = zip(row["input_ids"], row["loss_weights"], strict=True)
    return {
        "input_ids": row["input_ids"],
        "labels": [token if weight > 0 else OUT for token, weight in pairs],
        "attention_mask": [1] * len(row["input_ids"]),
        **_rest(row, losses),
    }


_WRITERS: dict[str, Callable[[Row, Losses], Row]] = {
    "openai": _openai,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "anthropic": anthropic_row_of,
    "axolotl": _axolotl,
    "swift": _swift,
}

TARGETS = {
    "openai": "OpenAI",
    "sharegpt": "ShareGPT",
    "alpaca": "Alpaca",
    "anthropic": "Anthropic",
    "axolotl": "Axolotl",
    "swift": "ms-swift",
}
"""The formats that can be written, and what sentences call them."""
