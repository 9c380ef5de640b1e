"""Examples out of a batch are those that the whole way builds."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoTokenizer

from lossmask import Encoder
from lossmask.embedded import DEMO_MODEL
from lossmask.example import Span
from lossmask.plain_examples import consecutive, plain_examples
from lossmask.plain_tokens import FlatTokens
from lossmask.policy import PARTS
from lossmask.skeletons import PlainLayout
from tests.both_ways import check_both_ways, contents, ready
from tests.scenarios import assistant, system, user


def flat(texts: list[list[str]], in_loss: list[list[int]], *, exact: list[bool]) -> FlatTokens:
    """Return tokens that spell texts, their ids counted through."""
    lengths = [len(text) for text in texts]
    bounds = np.cumsum([0, *(len(token.encode("latin-1")) for text in texts for token in text)])
    total = sum(lengths)
    weights = np.array([weight for each in in_loss for weight in each], np.float32)
    ids = np.arange(total, dtype=np.int32)
    return FlatTokens(
        np.cumsum([0, *lengths]),
        ids,
        np.where(weights > 0, ids, np.int32(-100)),
        weights,
        np.arange(total, dtype=np.int32) % 3 - 1,
        [int(sum(each)) for each in in_loss],
        bounds.astype(np.int64),
        np.array(exact),
        np.isin(ids, [5]),
    )


ASCII = PlainLayout.of("Q a b.!", [(0, 2, 3), (1, 4, 5)], [(1, 4, 6)])
TOKENS = ["Q", " a", " ", "b", ".", "!"]


def test_an_example_has_its_part_of_every_column() -> None:
    tokens = flat([["x"], TOKENS], [[0], [0, 0, 0, 1, 1, 0]], exact=[True, True])
    [example] = plain_examples([ASCII], tokens, range(1, 2))
    assert example.input_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert example.offsets.tolist() == [[0, 1], [1, 3], [3, 4], [4, 5], [5, 6], [6, 7]]
    assert example.labels.tolist() == [-100, -100, -100, 4, 5, -100]
    assert example.message_index.tolist() == [0, 1, -1, 0, 1, -1]
    assert example.spans == (Span(1, 4, 6, 3, 5, "."),)
    assert example.supervised_text == ["b."]
    assert (example.findings, example.ignorable) == ((), None)
    assert example.parts is not None
    assert [PARTS[part] for part in example.parts] == [
        *("prompt", "prompt", "scaffold", "content", "content", "scaffold")  # 5: a message wrote it
    ]
    assert type(example.spans[0].token_start) is int


def test_tokens_of_one_character_each_have_all_of_it() -> None:
    text = "é🙂x"
    layout = PlainLayout.of(text, [(0, 0, 2)], [(0, 0, 3)])
    pieces = [
        piece.decode("latin-1") for piece in (b"\xc3", b"\xa9\xf0", b"\x9f", b"\x99\x82", b"x")
    ]
    [example] = plain_examples([layout], flat([pieces], [[1] * 5], exact=[True]), range(1))
    assert example.offsets.tolist() == [[0, 1], [0, 2], [1, 2], [1, 2], [2, 3]]
    assert str(example.offsets.dtype) == "int32"
    assert example.spans == (Span(0, 0, 3, 0, 5, "x"),)


def test_the_examples_of_a_row_follow_one_another() -> None:
    assert [*consecutive(["ab", "", "c"])] == [range(2), range(2, 2), range(2, 3)]
    tokens = flat([TOKENS, TOKENS], [[0, 0, 0, 1, 1, 0]] * 2, exact=[False, True])
    first, second = plain_examples([ASCII, ASCII], tokens, range(2))
    assert first.input_ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert second.input_ids.tolist() == [6, 7, 8, 9, 10, 11]
    assert not tokens.are_exact(range(2))
    assert tokens.are_exact(range(1, 2))


@pytest.mark.parametrize(
    "messages",
    [
        [user("Hi"), assistant("Yes.")],
        [system("🙂"), user(""), assistant("世界 é"), user(" \n"), assistant("\n\nx\n")],
        [user("e\u0301\u0323"), assistant("\u0301x"), assistant("y")],
    ],
)
def test_an_example_is_that_of_the_whole_way(messages: list[dict[str, str]]) -> None:
    encoder = ready(Encoder(AutoTokenizer.from_pretrained(DEMO_MODEL), fast=False))
    row = {"messages": messages}
    assert check_both_ways(encoder, [row]) == 1
    [outcome] = encoder.encode_batch([row])
    assert contents(outcome.examples[0]) == contents(encoder.encode(messages)[0])
