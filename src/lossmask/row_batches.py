"""Rows of data -> their tokens, many at a time where that is provably the same.

In: rows. Out: for each a laid-out conversation, or None; for those laid out, their tokens end to
end. Everything else, and whatever turns out not to be plain after all, goes the whole way through
``Encoder.encode_row``. Both ways give the same examples.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lossmask.layout import Layout
from lossmask.plain_conversations import PlainConversations
from lossmask.plain_tokens import FlatTokens, PlainTokens, cuts_at_added_tokens
from lossmask.setting import Setting
from lossmask.skeletons import PlainLayout
from lossmask.tokenizing import TextTokenizer
from lossmask.vocabulary_bytes import VocabularyBytes

BATCH_SIZE = 256
"""Rows that are tokenized together."""
_ROWS_BEFORE_FAST = 64


@contextmanager
def collection_paused() -> Iterator[None]:
    """Let no garbage be collected in between: all that a batch makes lives until its end."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class RowBatches:
    """Encodes plain conversations under one setting.

    Making one is cheap; the vocabulary is read for the first row that can be laid out, and the fast
    backend is loaded once there have been some rows, for it takes a second.

    Args:
        setting: Template, tokenizer, policy.
        layout: How rows are laid out.
        use_fast: Whether ids may come from the fast backend.
    """

    def __init__(self, setting: Setting, layout: Layout, *, use_fast: bool = True) -> None:
        self._setting = setting
        self._use_fast = use_fast
        self._conversations = PlainConversations(setting, layout)
        self._vocabulary: VocabularyBytes | None = None
        self._tokens: PlainTokens | None = None
        self._is_possible = self._conversations.is_possible
        self._rows = 0

    def lay_out(self, row: Mapping[str, Any]) -> list[PlainLayout] | None:
        """Lay out one row; None if it has to go the whole way."""
        self._rows += 1
        if self._rows == _ROWS_BEFORE_FAST:
            self.expect_many()
        if self._tokens is None and self._is_possible:
            prompt_end = self._conversations.prompt_end()
            self._tokens = None if prompt_end is None else self._plain_tokens(prompt_end)
            self._is_possible = self._tokens is not None
        return self._conversations.lay_out(row) if self._is_possible else None

    def expect_many(self) -> None:
        """Load the fast backend now, if it may be used and has not been loaded."""
        tokenizer = self._setting.tokenizer
        if self._use_fast and isinstance(tokenizer, TextTokenizer):
            tokenizer.use_fast_backend()
            self._use_fast = False

    def tokenize(self, layouts: Sequence[PlainLayout]) -> FlatTokens:
        """Tokenize what was laid out."""
        assert self._tokens is not None
        return self._tokens.encode(layouts)

    def check_backend(self) -> None:
        """Make sure that no text that was encoded so far had other ids than the tokenizer gives.

        Raises:
            BackendDiffers: One had, of those that were looked at. From there on the tokenizer
                itself gave the ids; what was encoded before has to be encoded again.
        """
        tokenizer = self._setting.tokenizer
        if isinstance(tokenizer, TextTokenizer) and tokenizer.backend_error is not None:
            raise tokenizer.backend_error

    def _plain_tokens(self, prompt_end: str) -> PlainTokens | None:
        self.load_vocabulary()
        if self._vocabulary is None:
            return None
        tokens = PlainTokens(self._setting, self._vocabulary, prompt_end)
        return tokens if tokens.is_possible else None

    def load_vocabulary(self) -> None:
        """Read off the tokenizer what its tokens spell, if rows can be tokenized together."""
        tokenizer = self._setting.tokenizer
        if not self._is_possible or not isinstance(tokenizer, TextTokenizer):
            return
        if self._vocabulary is None and cuts_at_added_tokens(tokenizer.tokenizer):
            self._vocabulary = VocabularyBytes.of(tokenizer.tokenizer)
