"""The product: ids, and for each of them whether and how much it counts.

``Example`` has one writer for the loss: ``loss_weights``. Labels and mask are derived from it, so
the three cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IGNORE_INDEX = -100


@dataclass(frozen=True, slots=True)
class Finding:
    """Something worth knowing about an example that is nevertheless exact.

    Attributes:
        kind: Stable slug that summaries count by: ``no_stop_token``, ``boundary_straddle``, ….
        detail: One sentence for a person.
        message_index: The message concerned.
    """

    kind: str
    detail: str
    message_index: int


@dataclass(frozen=True, slots=True)
class Span:
    """One supervised run: what the model generates for one message.

    Both intervals are half-open. ``stop`` is the text of the stop token at the end, or None.
    """

    message_index: int
    start: int
    end: int
    token_start: int
    token_end: int
    stop: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    r"""One training example of n tokens.

    Draws as (``^`` = in the loss)::

        <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello<|im_end|>\\n
                                                              ^^^^^^^^^^^^^^^

    Attributes:
        text: The rendered text.
        input_ids: int32 (n,).
        offsets: int32 (n, 2), half-open character interval of each token in ``text``.
        loss_weights: float32 (n,), 0 = out of the loss; negative = away from this token.
        message_index: int32 (n,), which message wrote the token's text, -1 = template scaffolding.
        spans: The supervised runs, ascending.
        findings: What was noticed on the way.
        ignorable: bool (n,), tokens that ``Policy.ignore`` leaves out of the loss by chance when a
            batch is made, or None if it names none.
        parts: int8 (n,), what each token is part of, an index into ``policy.PARTS``; None where
            only the weights are known: rows of text or ids.

    Raises:
        ValueError: Lengths differ, or a weight is not finite.
    """

    text: str
    input_ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int32]
    loss_weights: npt.NDArray[np.float32]
    message_index: npt.NDArray[np.int32]
    spans: tuple[Span, ...]
    findings: tuple[Finding, ...] = ()
    ignorable: npt.NDArray[np.bool_] | None = None
    parts: npt.NDArray[np.int8] | None = None

    def __post_init__(self) -> None:
        n = len(self.input_ids)
        shapes = {
            "input_ids": (self.input_ids.shape, (n,)),
            "offsets": (self.offsets.shape, (n, 2)),
            "loss_weights": (self.loss_weights.shape, (n,)),
            "message_index": (self.message_index.shape, (n,)),
        }
        if self.ignorable is not None:
            shapes["ignorable"] = (self.ignorable.shape, (n,))
        if self.parts is not None:
            shapes["parts"] = (self.parts.shape, (n,))
        for name, (shape, expected) in shapes.items():
            if shape != expected:
                raise ValueError(f"{name} has shape {shape}, expected {expected}")
        if not np.isfinite(self.loss_weights).all():
            raise ValueError("loss_weights must be finite")

    def __len__(self) -> int:
        return len(self.input_ids)

    def _repr_html_(self) -> str:
        """Draw the example in a notebook."""
        from lossmask.example_html import example_html  # which imports this module

        return example_html(self)

    @property
    def loss_mask(self) -> npt.NDArray[np.bool_]:
        """Bool (n,), True = in the loss."""
        mask: npt.NDArray[np.bool_] = self.loss_weights != 0
        return mask

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """int32 (n,): the token itself where it is in the loss, else -100; unshifted."""
        return np.where(self.loss_mask, self.input_ids, np.int32(IGNORE_INDEX))

    @property
    def supervised_text(self) -> list[str]:
        """The text of each supervised run, stop token included."""
        return [self.text[span.start : span.end] for span in self.spans]

    @property
    def supervised_count(self) -> int:
        """Number of tokens in the loss."""
        return int(self.loss_mask.sum())
