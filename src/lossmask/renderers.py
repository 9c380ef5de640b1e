"""Renderers that are not Jinja templates: any function from messages to text or to token ids.

In: an object with a ``render`` method, the user's own or an adapter (``mistral_renderer``,
``harmony_renderer``). Out: what the pipeline takes for a chat template, :class:`ObservedTemplate`,
and for a tokenizer, ``rendered_tokens.RenderedTokens``.

Nothing is known about how a renderer works. Who wrote which character is found out from outside,
by ``perturbation``; where it returns ids, those are never tokenized anew: an example consists of
ids that the renderer gave, prompt and completion each as it gave them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, runtime_checkable

from lossmask.errors import (
    LossmaskError,
    ParityError,
    PolicyError,
    TemplateError,
    TokenizerError,
)
from lossmask.observed_json import string_at, with_json
from lossmask.perturbation import observe
from lossmask.policy import Policy
from lossmask.rendered_tokens import RenderedTokens, Vocabulary
from lossmask.rendering import Message
from lossmask.setting import Setting
from lossmask.stops import Stops
from lossmask.tokenizing import TextTokenizer
from lossmask.traced_rendering import Leaf, Rendering

_VISIBLE = re.compile(  # what a model reads; names of keys, types and ids of calls are not
    r"(?:content|reasoning_content|reasoning|thinking)(?:/\d+(?:/(?:text|thinking))?)?"
    r"|tool_calls/\d+/(?:function/)?(?:name|arguments(?:/.+)?)"
)


@runtime_checkable
class Renderer(Protocol):
    """Whatever turns messages into what the model reads.

    A renderer that returns text is used beside a transformers tokenizer, which reads that text at
    inference. One that returns ids is a :class:`TokenRenderer`.
    """

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
    ) -> str | Sequence[int]:
        """Render the beginning of a conversation, exactly as inference does.

        The same arguments must always give the same result, and must not be changed.

        Args:
            messages: In the OpenAI / Hugging Face chat format; at least one.
            tools: Tool schemas, or None.
            add_generation_prompt: True: the prompt that the model answers with the next assistant
                message. False: the messages as training shows them, the last answer with the token
                that ends it.

        Raises:
            Exception: Anything, if these messages cannot be rendered; the conversation is refused
                with its words.
        """
        ...


@runtime_checkable
class TokenRenderer(Protocol):
    """A renderer that returns token ids, and knows how they are spelled."""

    @property
    def stop_ids(self) -> Collection[int]:
        """Ids at which inference ends a turn."""
        ...

    @property
    def control_ids(self) -> Collection[int]:
        """Ids that stand for more than their text (``[INST]``), the stop ids included."""
        ...

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
    ) -> Sequence[int]:
        """Render to ids; see :meth:`Renderer.render`."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Return the UTF-8 bytes of one token, at least one; control tokens have a name."""
        ...


def renderer_setting(
    renderer: Renderer | TokenRenderer,
    policy: Policy,
    *,
    text_tokenizer: TextTokenizer | None,
    stops: Stops | None,
    stop_tokens: Sequence[str | int],
) -> Setting:
    """Put a renderer in the place of a chat template.

    Args:
        renderer: The renderer.
        policy: What to train on.
        text_tokenizer: Reads the text of a renderer of text, None for a renderer of ids.
        stops: The stop tokens of that tokenizer.
        stop_tokens: Further stop tokens of a renderer of ids.

    Raises:
        TokenizerError: Renderer and tokenizer do not go together, or tokens cannot be spelled.
        PolicyError: The policy asks for what a renderer of ids decides itself.
    """
    name = type(renderer).__name__
    if not isinstance(renderer, TokenRenderer):
        if not callable(getattr(renderer, "render", None)):
            raise TokenizerError(f"{name} has no method render(messages)", reason="bad_renderer")
        if text_tokenizer is None or stops is None:
            raise TokenizerError(
                f"{name} renders text: pass the transformers tokenizer that reads it at inference, "
                "tokenizer=…; a renderer of ids has token_bytes, stop_ids and control_ids too",
                reason="no_tokenizer",
            )
        return Setting(ObservedTemplate(renderer), text_tokenizer, policy, stops, {}, "off")
    if text_tokenizer is not None:
        raise TokenizerError(
            f"{name} renders ids itself: leave the tokenizer out", reason="bad_renderer"
        )
    if policy.control_tokens == "escape":
        raise PolicyError(
            f'control_tokens="escape" is not for {name}: a renderer of ids decides itself what '
            'becomes a control token; use "error" or "allow"'
        )
    tokens = RenderedTokens(Vocabulary(renderer, stop_tokens))
    stops = tokens.vocabulary.stops
    return Setting(ObservedTemplate(renderer, tokens), tokens, policy, stops, {}, "off")


def for_conversation(setting: Setting) -> Setting:
    """Return the setting for one conversation, with no renderings of another one remembered."""
    template, tokenizer = setting.template, setting.tokenizer
    if not isinstance(template, ObservedTemplate) or not isinstance(tokenizer, RenderedTokens):
        return setting
    tokens = RenderedTokens(tokenizer.vocabulary)
    return replace(setting, template=ObservedTemplate(template.renderer, tokens), tokenizer=tokens)


class ObservedTemplate:
    """A renderer in the place of a chat template.

    Args:
        renderer: The renderer.
        tokens: Remembers what is rendered, for one conversation; None if the renderer returns text.
    """

    given: str | None = None

    def __init__(
        self, renderer: Renderer | TokenRenderer, tokens: RenderedTokens | None = None
    ) -> None:
        self.renderer = renderer
        self._tokens = tokens

    def source(self, tools: Sequence[Any] | None = None) -> str:
        """Raise: there is no template source.

        Raises:
            TemplateError: Always.
        """
        raise TemplateError(
            f"{type(self.renderer).__name__} renders conversations by its own code: there is no "
            "chat template",
            reason="no_chat_template",
        )

    def render_text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
        template_variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Render to text: that of the renderer, or that which its tokens spell.

        Raises:
            TemplateError: The renderer raised, or its result is of the wrong kind.
        """
        self._refuse_variables(template_variables)
        output = self._run(messages, tools, add_generation_prompt)
        return self._text(output, remember_as="prompt" if add_generation_prompt else None)

    def render_prompt(
        self,
        messages: Sequence[Message],
        whole: Rendering,
        *,
        tools: Sequence[Any] | None = None,
        template_variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Render messages with generation prompt; nothing is known from the whole conversation."""
        return self.render_text(
            messages,
            tools=tools,
            add_generation_prompt=True,
            template_variables=template_variables,
        )

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
        template_variables: Mapping[str, Any] | None = None,
    ) -> Rendering:
        """Render with origins, by leaf perturbation.

        Raises:
            TemplateError: The renderer raised, or its result is of the wrong kind.
            ParityError: It cannot be told where the text of some message went.
        """
        self._refuse_variables(template_variables)
        output = self._run(messages, tools, add_generation_prompt)
        text = self._text(output, remember_as="prompt" if add_generation_prompt else "full")

        def text_of(changed: Sequence[Message]) -> str:
            other = self.renderer.render(
                list(changed), tools=tools, add_generation_prompt=add_generation_prompt
            )
            other_text = self._text(other)
            if other_text == text and list(other) != list(output):
                raise ParityError(
                    "the renderer gives other token ids for the same text from one rendering to "
                    "the next",
                    reason="ambiguous_tokens",
                )
            return other_text

        observation = with_json(observe(text_of, messages), text_of, messages)
        leaves = observation.rendering.leaves
        rendering = observation.require(leaf for leaf in leaves if _is_visible(leaf, messages))
        if rendering.text != text:
            raise ParityError(
                "the text changes from one rendering to the next", reason="cannot_observe"
            )
        return rendering

    def _run(
        self, messages: Sequence[Message], tools: Sequence[Any] | None, add_generation_prompt: bool
    ) -> str | Sequence[int]:
        try:
            return self.renderer.render(
                list(messages), tools=tools, add_generation_prompt=add_generation_prompt
            )
        except LossmaskError:  # an adapter's own, which names the message
            raise
        except Exception as error:  # a renderer is a program: it may raise anything
            raise TemplateError(
                f"the renderer raised {type(error).__name__}: {error}",
                message_index=self._message_at_failure(messages, tools, error),
            ) from error

    def _message_at_failure(
        self, messages: Sequence[Message], tools: Sequence[Any] | None, error: Exception
    ) -> int | None:
        """Return the last message of the shortest beginning that fails alike, None if all do."""

        def fails_alike(beginning: Sequence[Message]) -> bool:
            try:
                self.renderer.render(list(beginning), tools=tools)
            except Exception as other:  # the renderer's, as above
                return type(other) is type(error) and str(other) == str(error)
            return False

        if fails_alike([{"role": "user", "content": "."}]):  # it is the tools, or the renderer
            return None
        counts = range(1, len(messages) + 1)
        return next((count - 1 for count in counts if fails_alike(messages[:count])), None)

    def _text(self, output: object, *, remember_as: Literal["prompt", "full"] | None = None) -> str:
        if self._tokens is not None:
            spelled = self._tokens.spell(output)
            if remember_as is not None:
                self._tokens.add(spelled, is_prompt=remember_as == "prompt")
            return spelled.text
        if not isinstance(output, str):
            raise TemplateError(
                f"{type(self.renderer).__name__}.render returned {type(output).__name__}, not "
                "text; a renderer of ids has token_bytes, stop_ids and control_ids too",
                reason="bad_renderer",
            )
        return output

    def _refuse_variables(self, template_variables: Mapping[str, Any] | None) -> None:
        if template_variables:
            raise TemplateError(
                f"a renderer takes no template variables, got {', '.join(template_variables)}",
                reason="no_chat_template",
            )


def _is_visible(leaf: Leaf, messages: Sequence[Message]) -> bool:
    """Return whether a model reads the leaf; what is blank shows nothing."""
    if leaf.is_key and "/arguments/" not in leaf.path:
        return False
    text = string_at(leaf, messages)
    return _VISIBLE.fullmatch(leaf.path) is not None and (text is None or bool(text.strip()))
