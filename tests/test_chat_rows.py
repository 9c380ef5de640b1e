import pytest

from lossmask.chat_rows import (
    chat_row,
    check_order,
    joined_to,
    renamed_keys,
    role_of,
    turns_key,
    with_system,
)
from lossmask.errors import ConversationError
from lossmask.layout import Layout


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("human", "user"),
        ("GPT", "assistant"),
        ("function-response", "tool"),
        ("model", "assistant"),
    ],
)
def test_roles_have_many_names(theirs: str, ours: str) -> None:
    assert role_of(theirs, Layout(), 0) == ours


def test_the_layout_names_roles_first() -> None:
    assert role_of("human", Layout(roles={"human": "assistant"}), 0) == "assistant"
    with pytest.raises(
        ConversationError, match="message 2: unknown role 'humann'; did you mean 'hu"
    ):
        role_of("humann", Layout(), 2)
    assert role_of("function-call", Layout(), 0, calls=True) == "tool_call"
    with pytest.raises(ConversationError, match="'tool_call' holds a tool call as JSON, which"):
        role_of("tool_call", Layout(), 0)
    with pytest.raises(ConversationError, match="unknown role 3; say what it stands for"):
        role_of(3, Layout(), 2)


def test_null_keys_are_dropped_but_for_content() -> None:
    message = {"role": "assistant", "content": None, "name": None, "tool_calls": [{"a": None}]}
    assert renamed_keys(message, Layout(), 0) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"a": None}],
    }


def test_keys_of_messages_are_renamed() -> None:
    layout = Layout(message_keys={"role": "speaker", "content": "utterance"})
    assert renamed_keys({"speaker": "user", "utterance": "hi"}, layout, 0) == {
        "role": "user",
        "content": "hi",
    }
    with pytest.raises(ConversationError, match="reads 'role' from 'speaker', but the message has"):
        renamed_keys({"speaker": "user", "role": "x"}, layout, 0)


def test_a_rows_system_comes_first_and_only_once() -> None:
    user = {"role": "user", "content": "hi"}
    system = {"role": "system", "content": "Be kind."}
    assert with_system({"system": "Be kind."}, [user]) == [system, user]
    assert with_system({"system": "Be kind."}, [system, user]) == [system, user]
    assert with_system({"system": ""}, [user]) == [user]
    with pytest.raises(ConversationError, match="begin with another system message"):
        with_system({"system": "Be rude."}, [system, user])


def test_the_finished_row() -> None:
    assert chat_row({"tools": "[]", "weight": 2, "id": 1}, []) == {"messages": [], "weight": 2.0}
    assert chat_row({"functions": [{"name": "f"}]}, [])["tools"] == [
        {"type": "function", "function": {"name": "f"}}
    ]
    with pytest.raises(ConversationError, match="both 'tools' and 'functions'"):
        chat_row({"functions": [{"name": "f"}], "tools": [{"name": "f"}]}, [])
    with pytest.raises(ConversationError, match="'chat_template_kwargs' of a row"):
        chat_row({"chat_template_kwargs": {"enable_thinking": False}}, [])
    assert chat_row({"chat_template_kwargs": {}}, []) == {"messages": []}


def test_a_row_has_its_turns_under_one_key() -> None:
    assert turns_key({"conversations": [], "messages": None}) == "conversations"
    with pytest.raises(ConversationError, match="found conversations, messages"):
        turns_key({"conversations": [], "messages": []})
    with pytest.raises(ConversationError, match="found none; keys: text"):
        turns_key({"text": ""})


@pytest.mark.parametrize(
    "blocks", [("text", "reasoning"), ("tool_call", "text"), ("reasoning", "reasoning")]
)
def test_interleaved_blocks_are_refused(blocks: tuple[str, ...]) -> None:
    check_order(["reasoning", "text", "text", "tool_call", "tool_call"], 0, "blocks")
    with pytest.raises(ConversationError, match="message 3: the blocks are") as caught:
        check_order(blocks, 3, "blocks")
    assert caught.value.reason == "interleaved_content"


def test_a_joined_call_must_have_the_same_loss_and_nothing_of_its_own() -> None:
    before = {"role": "assistant", "content": "a", "weight": 1.0}
    call = {"role": "assistant", "content": "", "tool_calls": [1], "weight": 0.0}
    with pytest.raises(ConversationError, match=r"different weights \(1.0 and 0.0\)"):
        joined_to(before, call, 1)
    with pytest.raises(ConversationError, match="keys of its own: name"):
        joined_to(before, {**call, "weight": 1.0, "name": "f"}, 1)
