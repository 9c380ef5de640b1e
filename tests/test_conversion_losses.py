import pytest

from lossmask.conversion_losses import Losses, as_json, functions_of, plain_text, yes_or_no_of
from lossmask.errors import ConversationError


def test_a_loss_is_reported_once_in_order() -> None:
    losses = Losses("Alpaca")
    losses.add(1, "b")
    losses.add(None, "a")
    losses.add(1, "b")
    assert losses.found == [(1, "b"), (None, "a")]


def test_content_becomes_one_string() -> None:
    losses = Losses("Alpaca")
    assert plain_text({"content": "a"}, 0, losses) == "a"
    assert losses.found == []
    assert plain_text({"content": None}, 0, losses) == ""
    assert plain_text({}, 1, losses) == ""
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    assert plain_text({"content": parts}, 2, losses) == "ab"
    assert losses.found == [
        (0, "null content becomes an empty string"),
        (1, "absent content becomes an empty string"),
        (2, "the parts of 'content' become one string: Alpaca has none"),
        (2, "parts that are not text are left out"),
    ]


def test_calls_are_their_functions() -> None:
    losses = Losses("Alpaca")
    function = {"name": "f", "arguments": {}}
    call = {"id": "c", "type": "function", "function": function}
    message = {"role": "assistant", "tool_calls": [call, function]}
    assert functions_of(message, 0, losses) == [function, function]
    assert losses.found == [
        (0, "the ids of tool calls are left out"),
        (0, "tool calls of another shape become plain ones"),
    ]
    kept = Losses("Anthropic")
    assert functions_of({**message, "tool_calls": [call]}, 0, kept, keeps_ids=True) == [function]
    assert functions_of({"role": "assistant", "tool_calls": []}, 1, kept) == []
    assert kept.found == [(1, "an empty list of tool calls is left out")]
    with pytest.raises(ConversationError, match=r"must have the name of a function, got \{\}"):
        functions_of({"role": "assistant", "tool_calls": [{}]}, 0, losses)


def test_only_zero_and_one_are_yes_or_no() -> None:
    losses = Losses("Axolotl")
    assert [yes_or_no_of(weight, "train", 0, losses) for weight in (0.0, 1.0)] == [False, True]
    assert losses.found == []
    assert [yes_or_no_of(weight, "train", 0, losses) for weight in (0.5, -1.0)] == [True, False]
    assert losses.found == [
        (0, "weight 0.5 becomes train: true"),
        (0, "weight -1 becomes train: false"),
    ]


def test_json_keeps_every_character_readable() -> None:
    assert as_json({"q": "Zürich 日本"}) == '{"q": "Zürich 日本"}'
