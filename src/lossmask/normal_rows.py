"""A row in the normal form -> its examples: conversations, weighted text, or ids.

In: what ``formats.to_normal`` returns. Out: examples, all under one policy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lossmask.errors import InputError, TokenizerError
from lossmask.example import Example, Finding, Span
from lossmask.pipeline import encode_conversation
from lossmask.renderers import for_conversation
from lossmask.setting import Setting
from lossmask.text_rows import encode_text
from lossmask.tokenizing import TextTokenizer
from lossmask.weighting import ignorable, in_float32

_SURROGATE = re.compile("[\ud800-\udfff]")


def encode_normal(row: Mapping[str, Any], setting: Setting) -> list[Example]:
    """Encode one row.

    Args:
        row: Has ``messages``, ``text`` or ``input_ids``.
        setting: Template, tokenizer, policy.

    Raises:
        LossmaskError: It cannot be encoded exactly, or nothing of it is in the loss.
    """
    if "messages" in row:
        return encode_conversation(
            row["messages"], row.get("tools"), for_conversation(setting), row.get("weight")
        )
    example = _of_text(row, setting) if "text" in row else _of_ids(row, setting)
    weights = in_float32(example.loss_weights, row.get("weight", 1))
    if not weights[1:].any():
        raise InputError(
            "no token that could be predicted is in the loss", reason="nothing_to_train"
        )
    found = ignorable(
        example.text, example.input_ids, example.offsets, example.spans, setting.policy
    )
    built = replace(example, loss_weights=weights, ignorable=found)
    if setting.record is not None:
        setting.record(built, None, None)
    return [built]


def _of_text(row: Mapping[str, Any], setting: Setting) -> Example:
    """Encode a text; where the model writes its end, with a stop token behind it."""
    if lone := _SURROGATE.search(row["text"]):
        raise InputError(
            f"the text holds half a character (a lone surrogate, {lone.group()!r}) at "
            f"{lone.start()}: it is not valid Unicode",
            reason="lone_surrogate",
        )
    tokenizer = _text_tokenizer(setting)
    text, ranges = row["text"], [dict(each) for each in row["weights"]]
    policy, stops = setting.policy, setting.stops
    in_float32(np.array([each["weight"] for each in ranges], np.float64))
    appends = policy.append_stop != "never" and policy.stop != "never"
    reaches_end = bool(ranges) and ranges[-1]["end"] == len(text) and ranges[-1]["weight"] != 0
    is_open = reaches_end and not text.rstrip().endswith(stops.texts)
    if not is_open or not appends or stops.eos is None:
        return encode_text(text, ranges, tokenizer, boundary=policy.boundary, stop_ids=stops.ids)
    text += stops.eos
    ranges[-1]["end"] = len(text)
    example = encode_text(text, ranges, tokenizer, boundary=policy.boundary, stop_ids=stops.ids)
    appended = Finding(
        "stop_appended",
        f"the text ends without a stop token; {stops.eos!r} is appended, the tokenizer's eos",
        len(ranges) - 1,
    )
    weights = example.loss_weights.astype(np.float64)
    weights[example.offsets[:, 0] >= len(row["text"])] *= policy.weight_of("stop")
    return replace(
        example, loss_weights=in_float32(weights), findings=(*example.findings, appended)
    )


def _of_ids(row: Mapping[str, Any], setting: Setting) -> Example:
    """Take ids and weights as they are; the text is for display only."""
    tokenizer = _text_tokenizer(setting).tokenizer
    ids = np.asarray(row["input_ids"], np.int64)
    if not len(ids):
        raise InputError("'input_ids' is empty", reason="nothing_to_train")
    if int(ids.max()) >= len(tokenizer):
        raise InputError(
            f"input_ids/{int(ids.argmax())} is {int(ids.max())}, but the tokenizer has only "
            f"{len(tokenizer)} tokens: was the row tokenized with another one?",
            reason="bad_ids",
        )
    weights = in_float32(np.asarray(row["loss_weights"], np.float64))
    pieces = tokenizer.batch_decode(ids[:, None], clean_up_tokenization_spaces=False)
    ends = np.cumsum([len(piece) for piece in pieces])
    offsets = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1).astype(np.int32)
    return Example(
        text="".join(pieces),
        input_ids=ids.astype(np.int32),
        offsets=offsets,
        loss_weights=weights,
        message_index=np.full(len(ids), -1, np.int32),
        spans=tuple(_runs(weights, offsets, ids.tolist(), setting, pieces)),
    )


def _runs(
    weights: Any, offsets: Any, ids: Sequence[int], setting: Setting, pieces: Sequence[str]
) -> list[Span]:
    """Return the runs of tokens in the loss."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], weights != 0, [0]]).astype(np.int8)))
    spans = []
    for number, (first, end) in enumerate(
        zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    ):
        stop = pieces[end - 1] if ids[end - 1] in setting.stops.ids else None
        start, stop_at = int(offsets[first, 0]), int(offsets[end - 1, 1])
        spans.append(Span(number, start, stop_at, first, end, stop))
    return spans


def _text_tokenizer(setting: Setting) -> TextTokenizer:
    if not isinstance(setting.tokenizer, TextTokenizer):
        raise TokenizerError(
            "a renderer of token ids encodes conversations only, no text and no ids",
            reason="no_tokenizer",
        )
    return setting.tokenizer
