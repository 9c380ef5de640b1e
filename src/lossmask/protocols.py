"""What the pipeline asks of a chat template and of a tokenizer, whichever kind they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lossmask.rendering import Message
from lossmask.tokenizing import Tokens
from lossmask.traced_rendering import Rendering
from lossmask.traced_text import Origins


class AnyTemplate(Protocol):
    """What renders messages: ``ChatTemplate``, or ``ObservedTemplate`` for other renderers."""

    given: str | None

    def source(self, tools: Sequence[Any] | None = None) -> str:
        """Return the template source used with these tools."""
        ...

    def render_text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
        template_variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Render without origins."""
        ...

    def render_prompt(
        self,
        messages: Sequence[Message],
        whole: Rendering,
        *,
        tools: Sequence[Any] | None = None,
        template_variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Render with generation prompt the messages that a whole conversation begins with."""
        ...

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
        template_variables: Mapping[str, Any] | None = None,
    ) -> Rendering:
        """Render with origins."""
        ...


class AnyTokenizer(Protocol):
    """What gives ids for rendered text: ``TextTokenizer``, or ``RenderedTokens``."""

    tokenizer: Any

    def __hash__(self) -> int: ...

    def control_tokens(self) -> tuple[str, ...]:
        """Return the texts that become one token marked special, longest first."""
        ...

    def added_tokens(self) -> tuple[str, ...]:
        """Return the texts of all added tokens, longest first."""
        ...

    def encode(
        self, texts: Sequence[str], origins: Sequence[Origins] | None = None
    ) -> list[Tokens]:
        """Return the tokens of each text."""
        ...

    def continuation(self, prompt: str, text: str, origins: Origins | None = None) -> Tokens:
        """Return the tokens of text that follows a prompt."""
        ...
