"""All that stays the same from row to row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lossmask.fit import Fit
from lossmask.policy import Policy
from lossmask.protocols import AnyTemplate, AnyTokenizer
from lossmask.stops import Stops

Proving = Literal["template", "rows", "off"]
"""What is held against perturbation: each template once, on conversations made for it; every row of
data, too; or nothing."""


@dataclass(frozen=True, slots=True)
class Setting:
    """All that stays the same from row to row.

    Attributes:
        template: The chat template, or another renderer.
        tokenizer: The tokenizer that the model is trained with.
        policy: What to train on.
        stops: Where inference ends a turn.
        template_variables: Further variables the template reads (``enable_thinking`` …).
        proof: What is held against perturbation.
        fit: How long an example may be.
    """

    template: AnyTemplate
    tokenizer: AnyTokenizer
    policy: Policy
    stops: Stops
    template_variables: Mapping[str, Any]
    proof: Proving = "template"
    fit: Fit = field(default_factory=Fit)
