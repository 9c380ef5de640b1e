"""In the place of a chat template, where rows of text or ids are encoded only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lossmask.rendering import Message, no_chat_template
from lossmask.traced_rendering import Rendering


class NoTemplate:
    """In the place of a chat template where rows of text or ids are encoded only."""

    given: str | None = None

    def source(self, tools: Sequence[Any] | None = None) -> str:
        """Return nothing."""
        return ""

    def render_text(self, messages: Sequence[Message], **options: Any) -> str:
        """Raise.

        Raises:
            TemplateError: Always.
        """
        raise no_chat_template("the tokenizer")

    def render_prompt(self, messages: Sequence[Message], whole: Rendering, **options: Any) -> str:
        """Raise.

        Raises:
            TemplateError: Always.
        """
        raise no_chat_template("the tokenizer")

    def render(self, messages: Sequence[Message], **options: Any) -> Rendering:
        """Raise.

        Raises:
            TemplateError: Always.
        """
        raise no_chat_template("the tokenizer")
