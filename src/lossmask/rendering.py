"""Conversation -> text, with the message and field behind every character.

In: messages (and tools) as ``tokenizer.apply_chat_template`` takes them. Out: a :class:`Rendering`,
whose text is byte-identical to what ``apply_chat_template(tokenize=False)`` returns; anything else
is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import TemplateSyntaxError, nodes

from lossmask.errors import TemplateError, TokenizerError
from lossmask.look_ahead import WatchedMessages
from lossmask.sampling import is_sampled
from lossmask.sealed_environment import SealedEnvironment
from lossmask.sealed_reading import SealedText
from lossmask.sealed_rendering import rendered_sealed
from lossmask.template_environment import TracedMessage, TracingEnvironment
from lossmask.traced_rendering import Leaf, Rendering
from lossmask.traced_text import (
    MIXED,
    OF_TOOLS,
    Mark,
    TracedText,
    leaf_text,
    marks_of,
    origins_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]
_COMPARED_AT_FIRST = 16  # renderings of a template
_ONE_IN = 251  # of those that come later
_UNTRACED_KEYS = frozenset({"role"})  # the role is scaffolding: a header names it, nobody wrote it


class ChatTemplate:
    """A tokenizer's chat template, compiled once, at its first rendering, to render with origins.

    Making one reads the template and runs nothing of it: compiling already computes constants, and
    ``{{ 'a' * 10**10 }}`` is one.

    Args:
        tokenizer: Any transformers tokenizer that renders a Jinja template.
        chat_template: Template source to use instead of the tokenizer's own.
        trace_tools: Give the text of tool schemas an origin, too. Takes time.

    Raises:
        TokenizerError: The tokenizer does not render Jinja templates.
        TemplateError: There is no template, or its syntax is wrong.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        *,
        trace_tools: bool = False,
    ) -> None:
        from transformers import PreTrainedTokenizerBase  # slow to import

        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise TokenizerError(
                f"expected a transformers tokenizer, got {type(tokenizer).__name__}: load it with "
                "AutoTokenizer.from_pretrained"
            )
        if type(tokenizer).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template:
            raise TokenizerError(
                f"{type(tokenizer).__name__} renders conversations by its own code, not by a Jinja "
                "chat template; use the model's Hugging Face tokenizer instead",
                reason="no_jinja_template",
            )
        self.tokenizer = tokenizer
        self.given = chat_template
        self.trace_tools = trace_tools
        self._compiled: dict[str, tuple[TracingEnvironment, Any]] = {}
        self._sealed: dict[str, tuple[SealedEnvironment, Any]] = {}
        self._rendered = 0
        self._invitations: dict[tuple[str, str], str] = {}  # generation prompts that are constant
        if chat_template is None and not tokenizer.chat_template:
            raise no_chat_template(f"the tokenizer {tokenizer.name_or_path!r}")
        source = self.source()
        self._parsed = {source: _parsed(source)}  # till it is compiled

    def source(self, tools: Sequence[Any] | None = None) -> str:
        """Return the template source used with these tools, as transformers picks it."""
        try:
            source: str = self.tokenizer.get_chat_template(self.given, tools)
        except ValueError as error:
            raise TemplateError(str(error), reason="no_chat_template") from error
        return source

    def render_text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
        template_variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Return what ``apply_chat_template(tokenize=False)`` returns.

        Raises:
            TemplateError: The template raised; the error names the message it was rendering.
        """
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages),
                tools=tools,
                chat_template=self.given,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                **(template_variables or {}),
            )
        except MemoryError:  # not the template's word: the limit of the process
            raise
        except Exception as error:  # a template is a program: it may raise anything
            index = self._message_at_failure(
                messages, tools, add_generation_prompt, template_variables
            )
            raise TemplateError(
                f"the chat template raised {type(error).__name__}: {error}", message_index=index
            ) from error
        return text

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
        template_variables: Mapping[str, Any] | None = None,
    ) -> Rendering:
        """Render with origins.

        Args:
            messages: Conversation in the OpenAI / Hugging Face chat format.
            tools: Tool schemas, as for ``apply_chat_template``.
            add_generation_prompt: Append what invites the model to answer.
            template_variables: Further variables the template reads (``enable_thinking`` …).

        Raises:
            TemplateError: The template raised, or the traced text differs from transformers' text.
        """
        options: dict[str, Any] = {
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
            "template_variables": template_variables,
        }
        try:
            text, leaves = self._trace(messages, tools, add_generation_prompt, template_variables)
        except MemoryError:
            raise
        except Exception as error:
            self.render_text(messages, **options)  # raises if it is the template's own error
            raise TemplateError(
                f"the template renders, but cannot be traced: {type(error).__name__}: {error}",
                reason="cannot_trace",
            ) from error
        environment = self._compiled[self.source(tools)][0]
        if environment.is_unproven or self.is_due(text):
            self._compare(text, self.render_text(messages, **options))
        ends = (
            {}
            if add_generation_prompt
            else _proven_ends(environment, marks_of(text), len(text), len(messages))
        )
        plain = str.__str__(text)
        return _checked(Rendering(plain, origins_of(text), leaves, marks_of(text), ends))

    def render_prompt(
        self,
        messages: Sequence[Message],
        whole: Rendering,
        *,
        tools: Sequence[Any] | None = None,
        template_variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Render with generation prompt the messages that a whole conversation begins with.

        Args:
            messages: The first messages.
            whole: The conversation, rendered without generation prompt. Where it proves how they
                end, only the generation prompt has to be known, which is the same each time.
            tools: As for ``whole``.
            template_variables: As for ``whole``.

        Raises:
            TemplateError: The template raised, or it does not what was proven.
        """
        options: dict[str, Any] = {"tools": tools, "template_variables": template_variables}
        end = whole.ends.get(len(messages))
        if end is None:
            return self.render_text(messages, add_generation_prompt=True, **options)
        invitation = self.invitation(tools, template_variables)
        begins = whole.text[:end]
        if invitation is None or self.is_due(begins):
            expected = self.render_text(messages, add_generation_prompt=True, **options)
            if invitation is None and expected.startswith(begins):
                invitation = expected[end:]
                self._invitations[self.source(tools), repr(template_variables or {})] = invitation
            self._compare(begins + (invitation or ""), expected)
            return expected
        return begins + invitation

    def invitation(
        self, tools: Sequence[Any] | None, template_variables: Mapping[str, Any] | None
    ) -> str | None:
        """Return the constant generation prompt, None if none was needed yet."""
        return self._invitations.get((self.source(tools), repr(template_variables or {})))

    def render_sealed(
        self, messages: Sequence[dict[str, str]], variables: Mapping[str, Any]
    ) -> SealedText | None:
        """Render messages of strings alone, without generation prompt.

        Args:
            messages: Of role and content.
            variables: All other variables of the template, as of ``seen_variables``.

        Returns:
            The text and what it depends on; ``ends`` without generation prompt only. None if the
            template raises, computes anything by another code than transformers', or looks at a
            content in a way that cannot be asked for again.
        """
        try:
            environment, compiled = self._compile_sealed(self.source(None))
        except MemoryError:
            raise
        except Exception:  # whatever it is, the whole way says it
            return None
        return rendered_sealed(environment, compiled, messages, variables)

    def seen_variables(self, template_variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a template sees besides messages, without tools and generation prompt."""
        probe = [{"role": "user", "content": ""}]
        seen = self._seen_by_template(probe, None, template_variables)
        del seen["messages"]
        return {"documents": None, **seen, "add_generation_prompt": False}

    def is_due(self, text: str) -> bool:
        """Return whether a text is to be held against transformers' own, whatever is proven.

        The first ones of a template are, and some later.
        """
        self._rendered += 1
        return self._rendered <= _COMPARED_AT_FIRST or is_sampled(text, _ONE_IN)

    def _compare(self, text: str, expected: str) -> None:
        if text == expected:
            return
        at = shared_length(text, expected)
        raise TemplateError(
            f"the traced text differs from transformers' at character {at}: "
            f"{text[at : at + 20]!r} instead of {expected[at : at + 20]!r}",
            reason="cannot_trace",
        )

    def _trace(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None,
        add_generation_prompt: bool,
        template_variables: Mapping[str, Any] | None,
    ) -> tuple[str, tuple[Leaf, ...]]:
        environment, compiled = self._compile(self.source(tools))
        environment.begin(len(messages))
        seen = self._seen_by_template(messages, tools, template_variables or {})
        seen.setdefault("documents", None)
        traced, leaves = trace_messages(seen.pop("messages"))
        if self.trace_tools:
            seen["tools"] = _of_tools(seen.get("tools"))
        text: str = compiled.render(
            messages=WatchedMessages(traced, environment.watch),
            add_generation_prompt=add_generation_prompt,
            **seen,
        )
        return text, leaves

    def _seen_by_template(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None,
        template_variables: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return the variables a template is given, as transformers prepares them.

        transformers drops keys, adds aliases of the reasoning field and makes everything plain,
        more so with each version. A template that prints its own variables tells what they are.
        """
        names = {"messages", "tools", *self.tokenizer.special_tokens_map, *template_variables}
        listing = ", ".join(f"{json.dumps(name)}: {name}" for name in sorted(names))
        printed = self.tokenizer.apply_chat_template(
            list(messages),
            tools=tools,
            chat_template="{{ {" + listing + "} | tojson }}",
            tokenize=False,
            **template_variables,
        )
        seen: dict[str, Any] = json.loads(printed)
        return seen

    def _compile(self, source: str) -> tuple[TracingEnvironment, Any]:
        if source not in self._compiled:
            if source not in self._parsed:  # the template for tools
                self._parsed[source] = _parsed(source)
            environment, parsed = self._parsed.pop(source)
            self._compiled[source] = (environment, environment.from_string(parsed))
        return self._compiled[source]

    def _compile_sealed(self, source: str) -> tuple[SealedEnvironment, Any]:
        if source not in self._sealed:
            environment = SealedEnvironment()
            self._sealed[source] = (environment, environment.from_string(source))
        return self._sealed[source]

    def _message_at_failure(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None,
        add_generation_prompt: bool,
        template_variables: Mapping[str, Any] | None,
    ) -> int | None:
        """Render again, traced, and return the message whose loop body was entered last."""
        try:
            self._trace(messages, tools, add_generation_prompt, template_variables)
        except Exception:  # the same failure as the caller's, which reports it
            compiled = self._compiled.get(self.source(tools))
            return None if compiled is None else compiled[0].current_message
        return None


def no_chat_template(owner: str) -> TemplateError:
    """Return the error for messages without a template to render them."""
    return TemplateError(
        f"{owner} has no chat template: pass one with chat_template= (--chat-template FILE, or the "
        "name of a style such as alpaca), or use the tokenizer of the instruction-tuned model",
        reason="no_chat_template",
    )


def _parsed(source: str) -> tuple[TracingEnvironment, nodes.Template]:
    """Parse a template.

    Raises:
        TemplateError: Its syntax is wrong.
    """
    environment = TracingEnvironment()
    try:
        return environment, environment.parse(source)
    except TemplateSyntaxError as error:
        raise TemplateError(
            f"the chat template does not compile: line {error.lineno}: {error.message}",
            reason="template_syntax",
        ) from error
    except RecursionError as error:
        raise TemplateError(
            "the chat template does not compile: it is nested too deeply", reason="template_syntax"
        ) from error
    except ValueError as error:  # a number of more digits than Python converts
        raise TemplateError(
            f"the chat template does not compile: {error}", reason="template_syntax"
        ) from error


def shared_length(a: str, b: str) -> int:
    """Return the length of the longest common prefix."""
    alike, limit = 0, min(len(a), len(b))
    if a.startswith(b) or b.startswith(a):
        return limit
    while limit - alike > 1:  # the first difference lies in between
        middle = (alike + limit) // 2
        if a[alike:middle] == b[alike:middle]:
            alike = middle
        else:
            limit = middle
    return alike


def trace_messages(messages: Sequence[Message]) -> tuple[list[Message], tuple[Leaf, ...]]:
    """Copy a conversation with every string but the roles traced."""
    leaves: list[Leaf] = []
    traced: list[Message] = []
    for index, message in enumerate(messages):
        items = {
            key: value if key in _UNTRACED_KEYS else _traced(value, index, key, leaves)
            for key, value in message.items()
        }
        traced.append(TracedMessage(items, index))
    return traced, tuple(leaves)


def _traced(
    value: Any, message_index: int, path: str, leaves: list[Leaf], *, is_key: bool = False
) -> Any:
    if isinstance(value, str):
        leaves.append(Leaf(message_index, path, is_key))
        return leaf_text(value, len(leaves) - 1)
    if isinstance(value, dict):
        items = {}
        for key, item in value.items():
            inner = f"{path}/{key}"
            traced_key = _traced(key, message_index, inner, leaves, is_key=True)
            items[traced_key] = _traced(item, message_index, inner, leaves)
        return items
    if isinstance(value, (list, tuple)):
        return [_traced(v, message_index, f"{path}/{k}", leaves) for k, v in enumerate(value)]
    return value


def _of_tools(value: Any) -> Any:
    """Copy tool schemas with every string marked as theirs."""
    if isinstance(value, str):
        return TracedText(value, np.full(len(value), OF_TOOLS))
    if isinstance(value, dict):
        return {_of_tools(key): _of_tools(item) for key, item in value.items()}
    return [_of_tools(item) for item in value] if isinstance(value, list) else value


def _proven_ends(
    environment: TracingEnvironment, marks: Iterable[tuple[int, Mark]], length: int, count: int
) -> dict[int, int]:
    """Return where each beginning of a conversation ends that is proven to render alike.

    Args:
        environment: As the rendering left it.
        marks: Of the rendering, which is one without generation prompt.
        length: Of the rendering.
        count: Number of messages.
    """
    if not environment.marking_loops <= environment.constant_tails:
        return {}
    holds = environment.watch.holds
    ends: dict[int, int] = {}
    index, end, is_inside = -1, -1, False
    for at, mark in marks:
        if mark.kind == "start":
            if is_inside or (index >= 0 and mark.message_index != index):
                return {}
            if index < 0 and mark.message_index and holds(mark.message_index):
                ends[mark.message_index] = at
            index, is_inside = mark.message_index, True
        elif mark.kind == "end":
            if not is_inside or mark.message_index != index:
                return {}
            index, end, is_inside = index + 1, at, False
            if holds(index):
                ends[index] = end
    is_whole = index == count and not is_inside and end == length  # no text behind the loop
    return ends if is_whole else {}


def _checked(rendering: Rendering) -> Rendering:
    mixed = np.flatnonzero(rendering.origins == MIXED)
    if mixed.size:
        at = int(mixed[0])
        raise TemplateError(
            f"the template blends several strings into one at {rendering.text[at : at + 30]!r}, so "
            "who wrote which character cannot be told",
            reason="cannot_trace",
        )
    return rendering
