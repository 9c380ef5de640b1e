"""Examples of a prepared folder, and packs of them, as rich text.

In: a prepared folder and the tokenizer that its ids are of. Out: renderables. A folder keeps no
text: it is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from lossmask.chosen_rows import ChosenRows
from lossmask.encoder import load_tokenizer
from lossmask.errors import TokenizerError
from lossmask.example import Example, Span
from lossmask.output_folder import REJECTED
from lossmask.pack_command import show_pack
from lossmask.packed_examples import pack_examples
from lossmask.prepared import PreparedDataset, load_prepared
from lossmask.spelled_ids import example_of_ids
from lossmask.terminal import show_example
from lossmask.token_drawing import TokenDrawing
from lossmask.tokenizing import TextTokenizer


class PreparedDrawing:
    """Draws what lies in a prepared folder.

    Args:
        folder: The folder.
        tokenizer: Of its ids; None: the one that its manifest names.
        colour: False marks supervised runs with brackets instead.
        ids: Whether token ids stand below the tokens.

    Raises:
        PreparedDataError: The folder is not whole.
        TokenizerError: The tokenizer cannot be loaded.
    """

    def __init__(
        self, folder: Path, tokenizer: str | None, *, colour: bool, ids: bool = False
    ) -> None:
        self.folder = folder
        self.data: PreparedDataset = load_prepared(folder)
        named = tokenizer or str(self.data.tokenizer["path"])
        try:
            self._tokenizer = TextTokenizer(load_tokenizer(named))
        except TokenizerError as error:
            raise TokenizerError(
                f"the text of {folder} cannot be shown: {error.detail}. Name the tokenizer with "
                "--tokenizer",
                reason=error.reason,
            ) from error
        self._stop_ids = np.array(self.data.tokenizer["stop_ids"], np.int32)
        self._colour, self._ids = colour, ids

    def examples(self, chosen: ChosenRows) -> Iterator[RenderableType]:
        """Yield the examples of some rows of the data that was prepared, drawn.

        Raises:
            InputError: There are fewer rows; what is there has been yielded.
        """
        numbers_of: dict[int, list[int]] = {}
        for number, row in enumerate(self.data.rows.tolist()):
            numbers_of.setdefault(row, []).append(number)
        rows_in = int(self.data.manifest["rows_in"])
        for row in filter(chosen.__contains__, range(rows_in)):
            numbers = numbers_of.get(row, [])
            if not numbers:
                yield Text(f"row {row} gave no example: see {REJECTED} of the folder", "yellow")
            for place, number in enumerate(numbers, start=1):
                yield show_example(
                    self._example(number),
                    (),
                    number=place,
                    total=len(numbers),
                    colour=self._colour,
                    ids=self._ids,
                    place=f"row {row}",
                )
        chosen.require(rows_in, str(self.folder))

    def packs(
        self, chosen: ChosenRows, max_length: int, *, seed: int = 0
    ) -> Iterator[RenderableType]:
        """Yield some packs, drawn: what lies in them, and the tokens of each example in its place.

        Raises:
            InputError: An example is longer than a pack, or there are fewer packs; what is there
                has been yielded.
        """
        packs = pack_examples(self.data, max_length, seed=seed).packs
        for number in range(len(packs)):
            if number in chosen:
                yield show_pack(self.data, packs, number)
                start = 0
                for member in packs[number].tolist():
                    example = self._example(member)
                    yield self._document(example, member, start)
                    start += len(example)
                yield Rule(Text(f"end of pack {number:,}, position {start - 1:,}"), align="left")
        chosen.require(len(packs), str(self.folder), "pack")

    def _document(self, example: Example, member: int, start: int) -> RenderableType:
        """Draw one example of a pack below its border."""
        border = (
            f"positions {start:,} to {start + len(example) - 1:,} of the pack, 0 to "
            f"{len(example) - 1:,} of the document: example {member:,} "
            f"(row {int(self.data.rows[member]):,})"
        )
        drawing = TokenDrawing(example, (), colour=self._colour, ids=self._ids)
        return Group(Text(), Rule(Text(border), align="left"), drawing)

    def _example(self, number: int) -> Example:
        """Return an example with its text, and the runs of its tokens in the loss as spans."""
        columns = self.data[number]
        example = example_of_ids(
            columns["input_ids"], columns["loss_weights"], self._tokenizer, columns["message_index"]
        )
        return replace(example, spans=tuple(self._spans(example)))

    def _spans(self, example: Example) -> Iterator[Span]:
        mask = np.concatenate([[False], example.loss_mask, [False]])
        edges = np.flatnonzero(mask[1:] != mask[:-1]).tolist()
        for first, end in zip(edges[::2], edges[1::2], strict=True):
            start, behind = int(example.offsets[first, 0]), int(example.offsets[end - 1, 1])
            is_stopped = example.input_ids[end - 1] in self._stop_ids
            stop = example.text[int(example.offsets[end - 1, 0]) : behind] if is_stopped else None
            owner = int(example.message_index[first:end].max())
            yield Span(owner, start, behind, first, end, stop)
