"""What each token is called, in and out of completions."""

from __future__ import annotations

from lossmask import Encoder, Span
from lossmask.embedded import DEMO_MODEL
from lossmask.token_places import places_of
from tests.hand_made import made
from tests.scenarios import assistant, system, user


def test_every_token_of_a_conversation_has_its_name() -> None:
    messages = [system("Be."), user("A"), assistant("B")]
    [example] = Encoder.from_pretrained(DEMO_MODEL).encode(messages)
    named = dict.fromkeys(
        (place, example.text[start:end])
        for place, (start, end) in zip(
            places_of(example, messages), example.offsets.tolist(), strict=True
        )
        if place != "template"
    )
    assert list(named) == [
        ("system message", "B"),
        ("system message", "e"),
        ("system message", "."),
        ("user message", "A"),
        ("answer", "B"),
        ("stop token", "<|im_end|>"),
    ]


def test_what_the_template_writes_in_an_answer_and_roles_that_are_not_known() -> None:
    example = made(
        "u|H|<think>|x|</s>|\n",
        owners=[0, -1, -1, 1, -1, -1],
        spans=[Span(1, 2, 14, 2, 5, "</s>")],
    )
    named = ["message", "template", "template in answer", "answer", "stop token", "template"]
    assert places_of(example, None) == named
    without = made("a|b", owners=[0, 1], spans=[Span(1, 1, 2, 1, 2, None)])
    assert places_of(without, [{"role": "user"}]) == ["user message", "answer"]
