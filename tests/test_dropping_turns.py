"""A conversation without its oldest exchanges is encoded as if they had never been there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lossmask import Encoder, Example, Fit, Lost, Outcome, Policy
from lossmask.dropping_turns import exchanges, fewest
from lossmask.embedded import DEMO_MODEL
from lossmask.encoder import load_tokenizer
from tests.byte_renderers import Bytes
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.parity import check
from tests.scenarios import Message, assistant, call, system, tool, user

TOKENIZER = load_tokenizer(DEMO_MODEL)
REWRITING = FIXTURE_TEMPLATES["reasoning kept after the last user turn only"]
CALLING = FIXTURE_TEMPLATES["chatml with tools"]
CONVERSATION = [
    system("S0."),
    user("Q1 one"),
    assistant("", tool_calls=[call("weather", {"city": "Rome"})]),
    tool("T3 rain"),
    assistant("A4 four"),
    user("Q5"),
    user("Q6 and more"),
    assistant("A7 seven"),
    user("Q8"),
    assistant("A9", train=False),
    user("Q10"),
    assistant("A11 👍🏽"),
]
STARTS = (1, 5, 8, 10)


def encoder(fit: Fit | None = None, **options: Any) -> Encoder:
    return Encoder(TOKENIZER, fit=fit, **{"chat_template": CALLING, **options})


def fitted(messages: list[Message], length: int, **options: Any) -> Outcome:
    return encoder(Fit(length, "drop_turns"), **options).encode_row({"messages": messages})


def without(messages: list[Message], starts: tuple[int, ...], dropped: int) -> list[Message]:
    return [*messages[: starts[0]], *messages[starts[dropped] :]]


def kinds(example: Example) -> list[tuple[str, int]]:
    return [(finding.kind, finding.message_index) for finding in example.findings]


def test_exchanges_begin_with_questions_and_hold_their_tool_calls() -> None:
    assert exchanges([message["role"] for message in CONVERSATION]) == STARTS
    assert exchanges(["assistant", "user", "assistant"]) == (0, 1)
    assert exchanges(["system", "developer", "user", "system", "user"]) == (2, 4)
    assert exchanges(["system"]) == (1,)


def test_the_largest_number_of_exchanges_that_fits_is_encoded_as_if_it_were_all() -> None:
    plain = encoder()
    [source] = plain.encode(CONVERSATION)
    shortened = [without(CONVERSATION, STARTS, dropped) for dropped in range(len(STARTS))]
    expected = [plain.encode(messages)[0] for messages in shortened]
    assert all(check(plain, messages).status == "exact" for messages in shortened)
    for length in range(len(expected[-1]), len(source)):
        dropped = next(k for k in range(1, len(STARTS)) if len(expected[k]) <= length)
        outcome = fitted(CONVERSATION, length)
        [kept] = outcome.examples
        shift = STARTS[dropped] - STARTS[0]
        for name in ("input_ids", "offsets", "loss_weights"):
            assert np.array_equal(getattr(kept, name), getattr(expected[dropped], name))
        index = expected[dropped].message_index
        assert np.array_equal(kept.message_index, np.where(index > 0, index + shift, index))
        assert kept.text == expected[dropped].text
        assert [(s.message_index, s.start, s.end, s.stop) for s in kept.spans] == [
            (s.message_index + shift, s.start, s.end, s.stop) for s in expected[dropped].spans
        ]
        assert ("turns_dropped", 1) in kinds(kept)
        assert outcome.lost == Lost(
            tokens=len(source) - len(kept),
            supervised_tokens=source.supervised_count - kept.supervised_count,
            turns=len(source.spans) - len(kept.spans),
        )


def test_the_finding_says_which_messages_are_dropped() -> None:
    [source] = encoder().encode(CONVERSATION)
    [kept] = fitted(CONVERSATION, len(source) - 1).examples
    details = {finding.kind: finding.detail for finding in kept.findings}
    assert details["turns_dropped"] == (
        f"the oldest exchanges are dropped, 1 of 4 (messages 1 to 4, {len(source) - len(kept)} "
        f"tokens): max_length {len(source) - 1}"
    )


def test_a_last_exchange_that_does_not_fit_rejects_the_row() -> None:
    [shortest] = encoder().encode(without(CONVERSATION, STARTS, 3))
    outcome = fitted(CONVERSATION, len(shortest) - 1)
    assert outcome.rejection is not None
    assert (outcome.rejection.reason, outcome.rejection.message_index) == ("too_long", 11)
    assert "too long even when all exchanges before that of its last" in outcome.rejection.detail


def test_the_exchange_of_the_last_trained_message_is_never_dropped() -> None:
    messages = [user("Q0"), assistant("A1"), user("Q2"), assistant("A3", train=False)]
    [source] = encoder().encode(messages)
    outcome = fitted(messages, len(source) - 1)
    assert outcome.rejection is not None
    assert (outcome.rejection.reason, outcome.rejection.message_index) == ("too_long", 1)


def test_weights_ranges_and_prefills_stay_with_their_messages() -> None:
    last = [
        {**user("Q2"), "weight": 0.5},
        assistant(
            "A3 three",
            prefill="A3",
            weight=2,
            weights=[{"start": 3, "end": 5, "weight": 3}],
        ),
    ]
    messages = [user("Q0"), assistant("A1", weights=[{"start": 0, "end": 1, "weight": 7}]), *last]
    [expected] = encoder().encode(last)
    [source] = encoder().encode(messages)
    [kept] = fitted(messages, len(source) - 1).examples
    assert np.array_equal(kept.loss_weights, expected.loss_weights)
    assert set(kept.loss_weights.tolist()) == {0, 0.5, 2, 3}
    assert [s.message_index for s in kept.spans] == [2, 3]
    assert kept.text == expected.text
    assert kinds(kept) == [("role_trained", 2), ("turns_dropped", 0)]


def details(example: Example) -> str:
    return " ".join(finding.detail for finding in example.findings)


REASONED = [
    system("S0"),
    user(" Q1 "),
    assistant("A2", reasoning_content="R2"),
    user("Q3"),
    assistant("A4", reasoning_content="R4"),
    user("Q5"),
    assistant("A6", reasoning_content="R6 " * 20),
]


def test_each_example_that_is_too_long_is_shortened_on_its_own() -> None:
    template = REWRITING.replace("{{ m.content }}", "{{ m.content | trim }}")
    plain = encoder(chat_template=template)
    sources = plain.encode(REASONED)
    assert [[s.message_index for s in e.spans] for e in sources] == [[6], [4], [2]]
    assert kinds(sources[0]) == [("text_trimmed", 1)]
    [shortest, *_] = plain.encode([REASONED[0], *REASONED[5:]])
    length = len(shortest)
    assert len(sources[1]) <= length < len(sources[0])
    outcome = fitted(REASONED, length, chat_template=template)
    assert [e.supervised_text for e in outcome.examples] == [e.supervised_text for e in sources]
    first, *others = outcome.examples
    assert np.array_equal(first.input_ids, shortest.input_ids)
    assert kinds(first) == [("text_trimmed", 1), ("turns_dropped", 1)]  # the others show it
    for kept, source in zip(others, sources[1:], strict=True):
        assert np.array_equal(kept.input_ids, source.input_ids)
        assert np.array_equal(kept.loss_weights, source.loss_weights)
    assert outcome.lost == Lost(tokens=len(sources[0]) - length)


def test_what_other_examples_train_is_not_trained_twice() -> None:
    plain = encoder(chat_template=REWRITING)
    more = "and so on " * 9
    messages = [*REASONED, user("Q7" + more), assistant("A8" + more, reasoning_content="R8")]
    messages[4] = assistant("A4", reasoning_content=more)
    sources = plain.encode(messages)
    shortest = len(plain.encode([messages[0], *messages[7:]])[0])
    for length in range(max(shortest, len(sources[2])), len(sources[0])):
        outcome = fitted(messages, length, chat_template=REWRITING)
        trained = [[s.message_index for s in e.spans] for e in outcome.examples]
        assert trained == [[8], [6], [4], [2]]
        found = [kind for example in outcome.examples for kind, _ in kinds(example)]
        assert set(found) == {"turns_dropped"}


def test_only_the_first_example_of_a_row_trains_the_last_stop_token() -> None:
    policy = Policy(stop="last")
    messages = [*REASONED[:4], assistant("A4", reasoning_content="R4 " * 40), *REASONED[5:]]
    messages[-1] = assistant("A6", reasoning_content="R6 " * 60)
    sources = encoder(chat_template=REWRITING).encode(messages)
    length = len(sources[1]) - 1
    outcome = fitted(messages, length, chat_template=REWRITING, policy=policy)
    assert [[s.message_index for s in e.spans] for e in outcome.examples] == [[4], [2]]
    assert kinds(outcome.examples[0])[-2:] == [("turns_dropped", 1), ("example_dropped", 6)]
    stops = [bool(e.loss_mask[e.spans[-1].token_end - 1]) for e in outcome.examples]
    assert stops == [False, False]


def test_an_example_that_trains_no_reply_is_left_out() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.reasoning_content and loop.index0 >= messages | length - 3 %}<think>"
        "{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    policy = Policy(weights={"prompt": 1, "content": 0, "reasoning": 0, "stop": 0})
    messages = [
        user("Q0"),
        assistant("A1", reasoning_content="R1 " * 40),
        user("Q2"),
        assistant("A3", reasoning_content="R3"),
        user("Q4"),
        assistant("A5", reasoning_content="R5"),
    ]
    sources = encoder(chat_template=template, policy=policy).encode(messages)
    assert [len(example.spans) for example in sources] == [0, 0]
    outcome = fitted(messages, len(sources[0]), chat_template=template, policy=policy)
    [kept] = outcome.examples
    assert np.array_equal(kept.input_ids, sources[0].input_ids)
    assert "and it trains no reply" in details(kept)


def test_a_later_example_is_shortened_with_what_it_trains_and_nothing_else() -> None:
    messages = [*REASONED[:4], assistant("A4", reasoning_content="R4 " * 40), *REASONED[5:]]
    plain = encoder(chat_template=REWRITING)
    sources = plain.encode(messages)
    outcome = fitted(messages, len(sources[1]) - 1, chat_template=REWRITING)
    assert [e.supervised_text for e in outcome.examples] == [e.supervised_text for e in sources]
    [expected] = plain.encode([messages[0], *messages[3:5]])
    kept = outcome.examples[1]
    assert np.array_equal(kept.input_ids, expected.input_ids)
    assert np.array_equal(kept.loss_weights, expected.loss_weights)
    assert kept.message_index.max() == 4
    assert f"1 of 2 (messages 1 to 2, {len(sources[1]) - len(kept)} tokens)" in details(kept)
    assert kinds(kept) == [("turns_dropped", 1)]
    for number in (0, 2):
        assert np.array_equal(outcome.examples[number].input_ids, sources[number].input_ids)


def test_only_the_last_stop_token_is_trained_in_later_examples_neither() -> None:
    policy = Policy(stop="last")
    plain = encoder(chat_template=REWRITING, policy=policy)
    messages = [*REASONED[:4], assistant("A4", reasoning_content="R4 " * 40), *REASONED[5:]]
    sources = plain.encode(messages)
    assert [bool(e.loss_mask[e.spans[-1].token_end - 1]) for e in sources] == [True, False, False]
    outcome = fitted(messages, len(sources[1]) - 1, chat_template=REWRITING, policy=policy)
    stops = [bool(e.loss_mask[e.spans[-1].token_end - 1]) for e in outcome.examples]
    assert stops == [True, False, False]


def test_an_example_that_cannot_be_shortened_leaves_the_others() -> None:
    plain = encoder(chat_template=REWRITING)
    sources = plain.encode(REASONED)
    outcome = fitted(REASONED, len(sources[1]), chat_template=REWRITING)
    assert [e.supervised_text for e in outcome.examples] == [e.supervised_text for e in sources[1:]]
    assert ("example_dropped", 6) in kinds(outcome.examples[0])
    assert outcome.lost == Lost(len(sources[0]), sources[0].supervised_count, turns=1, examples=1)


def test_a_template_that_refuses_the_shorter_conversation_is_quoted() -> None:
    template = (
        "{% if messages[0].content != 'Q0' %}{{ raise_exception('no greeting') }}{% endif %}"
        + CALLING
    )
    messages = [user("Q0"), assistant("A1"), user("Q2"), assistant("A3")]
    [source] = encoder(chat_template=template).encode(messages)
    outcome = fitted(messages, len(source) - 1, chat_template=template)
    assert outcome.rejection is not None
    assert outcome.rejection.reason == "template_error"
    assert "without its oldest exchanges: the chat template raised" in outcome.rejection.detail
    assert "no greeting" in outcome.rejection.detail
    assert outcome.lost.tokens == len(source)


def test_an_error_about_the_shorter_conversation_names_the_message_of_the_row() -> None:
    template = CALLING.replace(
        "{{ m.content or '' }}",
        "{% if m.content == 'Q2' and loop.first %}{{ raise_exception('x') }}{% endif %}"
        "{{ m.content or '' }}",
    )
    messages = [user("Q0"), assistant("A1"), user("Q2"), assistant("A3")]
    [source] = encoder(chat_template=template).encode(messages)
    outcome = fitted(messages, len(source) - 1, chat_template=template)
    assert outcome.rejection is not None
    assert (outcome.rejection.reason, outcome.rejection.message_index) == ("template_error", 2)


def test_a_last_message_without_weight_is_not_what_is_left() -> None:
    policy = Policy(loss_scale={"zzz": [0], "A3": [0], "<|im_end|>": [0]}, stop="never")
    messages = [user("Q0"), assistant("A1"), user("Q2"), assistant("A3")]
    [source] = encoder(policy=policy).encode(messages)
    assert source.supervised_text == ["A1<|im_end|>"]
    outcome = fitted(messages, len(source) - 1, policy=policy)
    assert outcome.rejection is not None
    assert (outcome.rejection.reason, outcome.rejection.message_index) == ("too_long", 1)


def test_renderers_of_ids_drop_turns_too() -> None:
    messages = [user("Q0"), assistant("A1"), user("Q2"), assistant("A3")]
    [source] = Encoder.from_renderer(Bytes()).encode(messages)
    [expected] = Encoder.from_renderer(Bytes()).encode(messages[2:])
    fit = Fit(len(source) - 1, "drop_turns")
    [kept] = Encoder.from_renderer(Bytes(), fit=fit).encode(messages)
    assert np.array_equal(kept.input_ids, expected.input_ids)
    assert np.array_equal(kept.loss_weights, expected.loss_weights)
    assert [span.message_index for span in kept.spans] == [3]


@pytest.mark.parametrize("most", [1, 2, 3, 17])
def test_the_search_asks_twice_after_a_good_guess_and_seldom_after_a_bad_one(most: int) -> None:
    for answer in range(1, most + 2):
        for guess in range(most + 2):
            asked: list[int] = []

            def fits(dropped: int, asked: list[int] = asked, answer: int = answer) -> bool:
                asked.append(dropped)
                return dropped >= answer

            found = fewest(fits, guess=guess, most=most)
            assert found == (answer if answer <= most else None)
            assert len(asked) <= (2 if guess == answer else 7)
            assert len(set(asked)) == len(asked)


def test_no_exchange_to_drop_is_never_asked_for() -> None:
    assert fewest(lambda dropped: True, guess=0, most=0) is None
