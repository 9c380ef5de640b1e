"""Mistral's own tokenizers, ``mistral-common``, as a renderer.

In: a ``MistralTokenizer``, or transformers' ``MistralCommonBackend`` around one. Out: a renderer
for ``Encoder.from_renderer``, whose ids are those that ``encode_chat_completion`` gives: prompts as
in serving, finished turns as in fine-tuning::

    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    tokenizer = MistralTokenizer.from_file("tekken.json")
    encoder = Encoder.from_renderer(MistralRenderer(tokenizer))

Needs ``pip install lossmask[mistral]``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from lossmask.errors import ConversationError, TokenizerError
from lossmask.rendering import Message

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_MODEL = "lossmask"  # serving wants the name of a model, and makes nothing of it
_REASONING = ("reasoning_content", "reasoning", "thinking")


class MistralRenderer:
    """Render with ``mistral-common``.

    Args:
        tokenizer: A ``MistralTokenizer`` that was loaded from a file, or what has one as its
            ``tokenizer`` (transformers' ``MistralCommonBackend``). Its file is loaded again, for
            serving and for fine-tuning; its own validation mode does not matter.

    Raises:
        TokenizerError: It is none of these.

    Example:
        >>> from lossmask import Encoder
        >>> encoder = Encoder.from_renderer(MistralRenderer(MistralTokenizer.v3()))
        >>> [example] = encoder.encode([
        ...     {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
        >>> example.text, example.supervised_text
        ('<s>[INST] Hi[/INST] Hello</s>', [' Hello</s>'])
    """

    def __init__(self, tokenizer: Any) -> None:
        mistral = getattr(tokenizer, "tokenizer", tokenizer)
        if not isinstance(mistral, MistralTokenizer):
            raise TokenizerError(
                f"expected a MistralTokenizer of mistral-common, got {type(tokenizer).__name__}: "
                "load it with MistralTokenizer.from_file"
            )
        path = mistral.instruct_tokenizer.tokenizer.file_path
        self._serving = MistralTokenizer.from_file(path, mode=ValidationMode.serving)
        self._finetuning = MistralTokenizer.from_file(path, mode=ValidationMode.finetuning)
        self._pieces = self._serving.instruct_tokenizer.tokenizer
        self.stop_ids = frozenset([int(self._pieces.eos_id)])
        self.control_ids = frozenset(map(int, self._pieces.special_ids))

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
    ) -> list[int]:
        """Return the ids of ``encode_chat_completion``.

        In fine-tuning mode if the last message is an answer that is not to be answered, else in
        serving mode; Mistral has no generation prompt.

        Raises:
            ConversationError: A message holds an image or audio.
            Exception: Whatever ``mistral-common`` raises.
        """
        is_finished = bool(messages) and messages[-1]["role"] == "assistant"
        as_trained = is_finished and not add_generation_prompt
        request: Any = ChatCompletionRequest.from_openai(
            [self._message(message) for message in messages],
            tools=None if tools is None else list(tools),
            model=_MODEL,
        )
        mistral = self._finetuning if as_trained else self._serving
        tokenized = mistral.encode_chat_completion(request)
        if tokenized.images or tokenized.audios:
            raise ConversationError(
                "the message holds an image or audio: an example is made of text alone",
                reason="not_text",
                message_index=next(
                    filter(partial(_has_media, messages), range(len(messages))), None
                ),
            )
        return [int(token_id) for token_id in tokenized.tokens]

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token; a control token's name."""
        if isinstance(self._pieces, Tekkenizer):
            return bytes(self._pieces.id_to_byte_piece(token_id, SpecialTokenPolicy.KEEP))
        piece = str(self._pieces.id_to_piece(token_id))
        byte = _BYTE_PIECE.fullmatch(piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()

    def _message(self, message: Message) -> Message:
        """Return the message without empty keys, reasoning as the chunk that Mistral knows.

        Tokenizers without think tokens get reasoning as it is: it is theirs to drop or to refuse.
        """
        kept = {key: value for key, value in message.items() if value is not None}
        reasoning = next((kept[field] for field in _REASONING if kept.get(field)), None)
        if (
            reasoning is None
            or getattr(self._serving.instruct_tokenizer, "BEGIN_THINK", None) is None
        ):
            return kept
        content = kept.get("content") or []
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        thought = {"type": "thinking", "thinking": reasoning}
        kept = {key: value for key, value in kept.items() if key not in _REASONING}
        return kept | {"content": [thought, *parts]}


def _has_media(messages: Sequence[Message], index: int) -> bool:
    content = messages[index].get("content")
    parts = content if isinstance(content, list) else []
    return any(part.get("type") not in ("text", "thinking") for part in parts)
