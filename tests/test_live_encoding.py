import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from lossmask import Encoder, Policy
from lossmask.embedded import DEMO_MODEL
from lossmask.errors import InputError
from lossmask.instruction_styles import style_template
from lossmask.live_encoding import LiveEncoding
from lossmask.preparing import EncoderSource

ROW = {
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello 👋"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "See you"},
    ]
}


@pytest.fixture(scope="module")
def live() -> LiveEncoding:
    return LiveEncoding(EncoderSource(str(DEMO_MODEL)))


def state(row: object = ROW, **others: Any) -> dict[str, Any]:
    return {"row": row if isinstance(row, str) else json.dumps(row), **others}


def ids_of(example: Mapping[str, Any]) -> list[int]:
    entries = [example["table"][number][1] for number in example["pieces"]]
    return [id for entry in entries for id in (entry if isinstance(entry, list) else [entry])]


def weights_of(example: Mapping[str, Any]) -> list[float]:
    return [weight for count, weight in example["weights"] for _ in range(count)]


@pytest.mark.parametrize("question", ["tokens", "origins"])
@pytest.mark.parametrize("policy", ["", "train_on: last_assistant", "weights:\n  prompt: 0.5"])
def test_ids_and_weights_are_those_of_the_encoder(
    live: LiveEncoding, question: Any, policy: str
) -> None:
    values = {"train_on: last_assistant": {"train_on": "last_assistant"}, "": {}}
    mapping: Any = values.get(policy, {"weights": {"prompt": 0.5}})
    encoder = Encoder.from_pretrained(DEMO_MODEL, Policy.from_mapping(mapping))
    [expected] = encoder.encode_row(ROW).examples
    [found] = live.answer(question, state(policy=policy))["examples"]
    assert ids_of(found) == expected.input_ids.tolist()
    assert weights_of(found) == expected.loss_weights.tolist()


def test_origins_tell_field_and_template_line(live: LiveEncoding) -> None:
    template = live.answer("start", {})["template"]
    moved = "{#\n\n#}" + template
    [example] = live.answer("origins", state(template=moved))["examples"]
    assert example["authors"]["fields"] == ["content"]
    [first, second, *_] = example["authors"]["runs"]
    assert first[1] == -1
    assert second[1:4] == [0, 0, 0]
    assert second[4] == 4


def test_origins_tell_what_decided_about_each_token(live: LiveEncoding) -> None:
    [example] = live.answer("origins", state())["examples"]
    assert sum(count for count, _ in example["reasons"]) == example["tokens"]
    reasons = [reason for count, reason in example["reasons"] for _ in range(count)]
    stops = [reasons[token] for token in example["stops"]]
    assert stops == [
        f"it is the stop token of message {k}: train_on=all_assistant trains that message"
        for k in (1, 3)
    ]


def test_the_doctor_tells_what_the_template_does_the_gravest_first(live: LiveEncoding) -> None:
    answer = live.answer("doctor", state())
    grave = ("error", "warning", "note", "ok")
    places = [grave.index(fact["verdict"]) for fact in answer["facts"]]
    assert places == sorted(places)
    assert {"Parity with inference", "End of a turn"} <= {fact["topic"] for fact in answer["facts"]}
    refused = live.answer("doctor", state(template="{% if %}"))["refusal"]
    assert refused["line"] == 1


def test_a_template_without_braces_is_its_text_and_no_file(live: LiveEncoding) -> None:
    answer = live.answer("tokens", state(template="/etc/hostname"))
    assert answer["refusal"]["reason"] == "content_dropped"
    assert live.answer("tokens", state(template="alpaca"))["refusal"] == answer["refusal"]


def test_a_style_with_its_stop_token_gives_what_its_name_gives(live: LiveEncoding) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    source = style_template("vicuna", tokenizer=tokenizer)
    [expected] = (
        Encoder.from_pretrained(DEMO_MODEL, chat_template="vicuna").encode_row(ROW).examples
    )
    [found] = live.answer("tokens", state(template=source))["examples"]
    assert ids_of(found) == expected.input_ids.tolist()
    assert weights_of(found) == expected.loss_weights.tolist()


@pytest.mark.parametrize(
    ("given", "where", "line", "detail"),
    [
        ({"row": '{\n"messages": [}'}, "row", 2, "not JSON: Expecting value: line 2 column 14"),
        ({"row": "[1]"}, "row", None, "expected an object with the key 'messages', got list"),
        ({"policy": "stop: last\nstopp: 1"}, "policy", 2, "policy has no key 'stopp'; did you"),
        ({"policy": "stop: last\nhistory: [a"}, "policy", 2, "not YAML: expected ',' or ']'"),
        ({"policy": "\n- a"}, "policy", 1, "expected a policy as keys and values, got list"),
        ({"template": "a\n\n{% if %}"}, "template", 3, "the chat template does not compile: line"),
        (
            {"template": "\n{{ messages[9].x }}"},
            "template",
            2,
            "the chat template raised Undefined",
        ),
        (
            {"template": "{% for m in messages %}\n{{ raise_exception(m.role) }}{% endfor %}"},
            "template",
            2,
            "the chat template raised TemplateError: user",
        ),
        ({"stops": ["no token"]}, "stops", None, "the stop token 'no token' is not a token"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    live: LiveEncoding, given: dict[str, Any], where: str, line: int | None, detail: str
) -> None:
    answer = live.answer("tokens", {**state(), **given})
    refusal = answer["refusal"]
    assert (refusal["where"], refusal["line"]) == (where, line)
    assert refusal["detail"].startswith(detail)
    assert answer["examples"] == []


def test_a_refused_message_is_named(live: LiveEncoding) -> None:
    row = {"messages": [*ROW["messages"][:3], {"role": "robot", "content": "x"}]}
    refusal = live.answer("tokens", state(row))["refusal"]
    assert (refusal["where"], refusal["message"]) == ("conversation", 3)
    assert "unknown role 'robot'" in refusal["detail"]


def test_a_template_on_which_the_derivations_disagree_is_refused_when_it_is_proven(
    live: LiveEncoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lossmask import live_encoding
    from lossmask.errors import ParityError

    def disagree(*_: object) -> None:
        raise ParityError("they disagree")

    monkeypatch.setattr(live_encoding, "prove_once", disagree)
    assert "refusal" not in live.answer("tokens", state())
    assert live.answer("origins", state())["refusal"]["detail"] == "they disagree"


def test_the_python_that_is_copied_gives_the_same_example(live: LiveEncoding) -> None:
    template = live.answer("start", {})["template"] + "{# '''\\ \" #}\n"
    given = state(template=template, policy="weights: {prompt: 0.5}", stops=["."])
    answer = live.answer("copies", given)
    assert json.loads(answer["row"]) == ROW
    assert "\n" not in answer["row"]
    found: dict[str, Any] = {}
    exec(answer["python"], found)
    [example] = found["outcome"].examples
    [shown] = live.answer("tokens", given)["examples"]
    assert example.input_ids.tolist() == ids_of(shown)
    assert example.loss_weights.tolist() == weights_of(shown)


def test_the_page_begins_with_the_template_policy_and_a_row_shown_whole() -> None:
    policy = Policy(train_on=("assistant", "tool"), weights={"prompt": 0.1})
    start = LiveEncoding(EncoderSource(str(DEMO_MODEL), policy)).answer("start", {})
    assert start["policy"] == "train_on:\n- assistant\n- tool\nweights:\n  prompt: 0.1\n"
    assert start["template"] == Encoder.from_pretrained(DEMO_MODEL).chat_template()
    assert "umbrella" in start["row"]
    assert (
        next(each["stop"] for each in start["styles"] if each["name"] == "chatml") == "<|im_end|>"
    )


def test_every_policy_to_begin_with_is_one(live: LiveEncoding) -> None:
    for each in live.answer("start", {})["policies"]:
        answer = live.answer("tokens", state(policy=each["text"]))
        assert answer.get("refusal", {}).get("where") != "policy", each


def test_a_tokenizer_without_template_begins_with_an_empty_one(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    live = LiveEncoding(EncoderSource(str(tmp_path)))
    assert live.answer("start", {})["template"] == ""
    assert live.answer("tokens", state(template="{{ messages[1].content }}"))["refusal"]
    assert live.answer("tokens", state())["refusal"]["reason"] == "no_chat_template"


def test_an_encoder_is_kept_per_template_and_policy(live: LiveEncoding) -> None:
    kept = live._encoders
    kept.clear()
    for k in range(12):
        live.answer("tokens", state(policy=f"ignore: [{k}]"))
        live.answer("tokens", state({"messages": ROW["messages"][:2]}, policy=f"ignore: [{k}]"))
    assert [key[1] for key in kept] == [f"ignore: [{k}]" for k in range(4, 12)]


@pytest.mark.parametrize(
    "given",
    [{}, {"row": 3}, {"row": "", "stops": "a"}, {"row": "", "x": 1}, {"row": "", "stops": [1]}],
)
def test_questions_of_another_form_are_refused(live: LiveEncoding, given: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        live.answer("tokens", given)
    with pytest.raises(InputError, match="there is no question 'shell'"):
        live.answer("shell", state())  # type: ignore[arg-type]


def test_half_a_character_does_not_stop_the_page(live: LiveEncoding) -> None:
    row = '{"messages": [{"role": "user", "content": "\\ud800"}]}'
    assert live.answer("tokens", state(row))["refusal"]["where"] == "conversation"
    assert live.answer("tokens", state('{"a": "\ud800"}'))["refusal"]["where"] == "row"
