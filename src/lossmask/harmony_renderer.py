"""The format of gpt-oss, rendered by OpenAI's own library ``openai-harmony``.

In: a conversation in the chat format. Out: harmony messages, and a renderer of them for
``Encoder.from_renderer``::

    system        -> developer, "# Instructions", with the tools
    user          -> user
    assistant     -> analysis   reasoning_content
                     commentary content beside tool calls
                     commentary to=functions.NAME, one per tool call
                     final      content
    tool          -> functions.NAME to=assistant

A prompt is what ``render_conversation_for_completion`` gives: it leaves out the analysis of turns
that were answered. A finished turn is that prompt, the rendered messages of the turn, and the token
that ends it. ``render_conversation_for_training`` is not used: of an answer after analysis it
leaves out the analysis, which the model has to generate.

Needs ``pip install lossmask[harmony]``, and the vocabulary: the library loads
``o200k_base.tiktoken`` from the folder that ``TIKTOKEN_ENCODINGS_BASE`` names, or downloads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from openai_harmony import (
    Author,
    Conversation,
    DeveloperContent,
    HarmonyEncoding,
    RenderConversationConfig,
    Role,
    SystemContent,
    TextContent,
    ToolDescription,
    load_harmony_encoding,
)
from openai_harmony import Message as HarmonyMessage

from lossmask.errors import ConversationError, TokenizerError
from lossmask.rendering import Message

_ENCODING = "HarmonyGptOss"
_CONSTRAINED = "<|constrain|>json"
_REASONING = ("reasoning_content", "reasoning", "thinking")


class HarmonyRenderer:
    """Render with ``openai-harmony``.

    Args:
        system: The system message that inference puts first (identity, date, reasoning effort);
            None: ``SystemContent.new()``, which has no date.
        auto_drop_analysis: As for ``render_conversation_for_completion``.
        encoding: Loaded by name if None.

    Raises:
        TokenizerError: The vocabulary cannot be loaded.
    """

    def __init__(
        self,
        system: SystemContent | None = None,
        *,
        auto_drop_analysis: bool = True,
        encoding: HarmonyEncoding | None = None,
    ) -> None:
        self._system = SystemContent.new() if system is None else system
        self._config = RenderConversationConfig(auto_drop_analysis=auto_drop_analysis)
        self._encoding = encoding = _load(_ENCODING) if encoding is None else encoding
        every_name = "".join(encoding.special_tokens_set)
        self.control_ids = frozenset(encoding.encode(every_name, allowed_special="all"))
        [self._return] = encoding.encode("<|return|>", allowed_special="all")
        self.stop_ids = frozenset(encoding.stop_tokens_for_assistant_actions())

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without the encoding, which cannot be."""
        drops = self._config.auto_drop_analysis
        return (_rebuild, (type(self), self._system, drops, self._encoding.name))

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
    ) -> list[int]:
        """Return the ids of a prompt, or of a conversation whose last answer is finished.

        Raises:
            ConversationError: A message cannot be said in harmony.
            Exception: Whatever ``openai-harmony`` raises.
        """
        *before, last = harmony_messages(messages, tools, self._system)
        if add_generation_prompt or messages[-1]["role"] != "assistant":
            return self._render([*before, last], add_generation_prompt)
        ids = self._render(before, False)
        for part in last:
            ids += self._encoding.render(part)
        if last[-1].channel == "final":
            ids[-1] = self._return
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token; a control token's name."""
        text: str = self._encoding.decode([token_id], errors="surrogateescape")
        return text.encode("utf-8", "surrogateescape")

    def _render(
        self, groups: Sequence[Sequence[HarmonyMessage]], add_generation_prompt: bool
    ) -> list[int]:
        conversation = Conversation.from_messages([part for group in groups for part in group])
        if add_generation_prompt:
            ids = self._encoding.render_conversation_for_completion(
                conversation, Role.ASSISTANT, self._config
            )
        else:
            ids = self._encoding.render_conversation(conversation, self._config)
        return list(ids)


def harmony_messages(
    messages: Sequence[Message], tools: Sequence[Any] | None, system: SystemContent
) -> list[list[HarmonyMessage]]:
    """Say a conversation of the chat format in harmony messages.

    Args:
        messages: n messages.
        tools: Tool schemas, or None.
        system: The system message.

    Returns:
        n + 1 lists: what comes first (the system message, the developer message with instructions
        and tools), then the harmony messages of each message. A system or developer message at the
        beginning has become the developer message, so its own list is empty.

    Raises:
        ConversationError: Names the message that cannot be said in harmony, and why.

    Example:
        >>> _, _, answer = harmony_messages(
        ...     [{"role": "user", "content": "2 + 2?"},
        ...      {"role": "assistant", "reasoning_content": "Easy.", "content": "4"}],
        ...     None, SystemContent.new())
        >>> [(part.channel, part.content[0].text) for part in answer]
        [('analysis', 'Easy.'), ('final', '4')]
    """
    first = [HarmonyMessage.from_role_and_content(Role.SYSTEM, system)]
    has_instructions = bool(messages) and messages[0]["role"] in ("system", "developer")
    if has_instructions or tools:
        developer = DeveloperContent.new()
        if has_instructions:
            developer = developer.with_instructions(_joined(messages[0], 0))
        if tools:
            developer = developer.with_function_tools([_tool(tool) for tool in tools])
        first.append(HarmonyMessage.from_role_and_content(Role.DEVELOPER, developer))
    groups = [first]
    for index in range(len(messages)):
        is_said = has_instructions and index == 0
        groups.append([] if is_said else _harmony_message(messages, index))
    return groups


def _harmony_message(messages: Sequence[Message], index: int) -> list[HarmonyMessage]:
    message = messages[index]
    match message["role"]:
        case "user":
            return [HarmonyMessage.from_role_and_contents(Role.USER, _texts(message, index))]
        case "assistant":
            return _assistant(message, index)
        case "tool":
            author = Author.new(Role.TOOL, f"functions.{_name_of_tool(messages, index)}")
            result = HarmonyMessage(author=author, content=_texts(message, index))
            return [result.with_recipient("assistant").with_channel("commentary")]
        case "system" | "developer":
            developer = DeveloperContent.new().with_instructions(_joined(message, index))
            return [HarmonyMessage.from_role_and_content(Role.DEVELOPER, developer)]
        case role:
            raise _cannot_say(index, f"it has no role {role!r}")


def _assistant(message: Message, index: int) -> list[HarmonyMessage]:
    calls = message.get("tool_calls") or []
    reasoning = next((message[field] for field in _REASONING if message.get(field)), "")
    if not isinstance(reasoning, str):
        raise _cannot_say(index, f"the reasoning is {type(reasoning).__name__}, not text")
    said = []
    if reasoning.strip():
        said.append(_from_assistant([TextContent(text=reasoning)], "analysis"))
    content = _texts(message, index)
    if calls and any(text.text.strip() for text in content):
        said.append(_from_assistant(content, "commentary"))
    elif not calls and message.get("content") is not None:
        said.append(_from_assistant(content, "final"))
    for call in calls:
        function = call.get("function", call)
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments or {}, ensure_ascii=False)
        called = _from_assistant([TextContent(text=arguments)], "commentary")
        recipient = f"functions.{function['name']}"
        said.append(called.with_recipient(recipient).with_content_type(_CONSTRAINED))
    if not said:
        raise _cannot_say(index, "there is nothing in this message")
    return said


def _from_assistant(content: Sequence[TextContent], channel: str) -> HarmonyMessage:
    return HarmonyMessage.from_role_and_contents(Role.ASSISTANT, content).with_channel(channel)


def _texts(message: Message, index: int) -> list[TextContent]:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return [TextContent(text=content or "")]
    texts = []
    for number, part in enumerate(content):
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise _cannot_say(index, f"part {number} of its content is {kind!r}, not text")
        texts.append(TextContent(text=text))
    return texts


def _joined(message: Message, index: int) -> str:
    return "".join(text.text for text in _texts(message, index))


def _name_of_tool(messages: Sequence[Message], index: int) -> str:
    """Return the name of the tool that gave a result.

    It says so itself, or the call with its id does, or the only call that it can answer.
    """
    message = messages[index]
    if isinstance(message.get("name"), str):
        return str(message["name"])
    answered = message.get("tool_call_id")
    for earlier in reversed(messages[:index]):
        calls = earlier.get("tool_calls") or []
        for call in calls:
            if call.get("id") == answered if answered is not None else len(calls) == 1:
                return str(call.get("function", call)["name"])
        if answered is None and earlier["role"] != "tool":
            break
    raise _cannot_say(
        index, f"it has no 'name', and its 'tool_call_id' {answered!r} is that of no single call"
    )


def _tool(tool: Mapping[str, Any]) -> ToolDescription:
    function = tool.get("function", tool)
    return ToolDescription.new(
        function["name"], function.get("description") or "", function.get("parameters")
    )


def _cannot_say(index: int, why: str) -> ConversationError:
    return ConversationError(
        f"harmony cannot say this message: {why}",
        reason="not_in_harmony",
        message_index=index,
    )


def _load(name: str) -> HarmonyEncoding:
    try:
        return load_harmony_encoding(name)
    except Exception as error:  # the library's error is a plain RuntimeError
        raise TokenizerError(
            f"openai-harmony cannot load its vocabulary: {error}; put o200k_base.tiktoken into a "
            "folder and name that in the environment variable TIKTOKEN_ENCODINGS_BASE",
            reason="no_vocabulary",
        ) from error


def _rebuild(
    kind: type[HarmonyRenderer], system: SystemContent, drops: bool, encoding: str
) -> HarmonyRenderer:
    return kind(system, auto_drop_analysis=drops, encoding=_load(encoding))
