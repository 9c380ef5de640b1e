"""All that stays the same from row to row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossmask.policy import Policy
from lossmask.rendering import ChatTemplate
from lossmask.stops import Stops
from lossmask.tokenizing import TextTokenizer


@dataclass(frozen=True, slots=True)
class Setting:
    """All that stays the same from row to row.

    Attributes:
        template: The chat template.
        tokenizer: The tokenizer that the model is trained with.
        policy: What to train on.
        stops: Where inference ends a turn.
        template_variables: Further variables the template reads (``enable_thinking`` …).
    """

    template: ChatTemplate
    tokenizer: TextTokenizer
    policy: Policy
    stops: Stops
    template_variables: Mapping[str, Any]
