"""Fine-tuning examples whose loss falls on exactly the tokens the model has to generate.

>>> from lossmask import Encoder, Policy

Each name is imported where it is first asked for, so that the command starts at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lossmask.encoder import Encoder
    from lossmask.errors import (
        BackendDiffers,
        ConversationError,
        InputError,
        LossmaskError,
        ParityError,
        PolicyError,
        PreparedDataError,
        TemplateError,
        TokenizerError,
    )
    from lossmask.example import Example, Finding, Span
    from lossmask.fit import Fit
    from lossmask.outcome import Lost, Outcome, Rejection
    from lossmask.policy import Policy
    from lossmask.renderers import Renderer, TokenRenderer

__version__ = "0.1.0.dev0"

__all__ = [
    "BackendDiffers",
    "ConversationError",
    "Encoder",
    "Example",
    "Finding",
    "Fit",
    "InputError",
    "LossmaskError",
    "Lost",
    "Outcome",
    "ParityError",
    "Policy",
    "PolicyError",
    "PreparedDataError",
    "Rejection",
    "Renderer",
    "Span",
    "TemplateError",
    "TokenRenderer",
    "TokenizerError",
    "__version__",
]

_NAMES_OF = {
    "encoder": ("Encoder",),
    "errors": (
        "BackendDiffers",
        "ConversationError",
        "InputError",
        "LossmaskError",
        "ParityError",
        "PolicyError",
        "PreparedDataError",
        "TemplateError",
        "TokenizerError",
    ),
    "example": ("Example", "Finding", "Span"),
    "fit": ("Fit",),
    "outcome": ("Lost", "Outcome", "Rejection"),
    "policy": ("Policy",),
    "renderers": ("Renderer", "TokenRenderer"),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}


if not TYPE_CHECKING:  # a type checker is to know which names there are

    def __getattr__(name: str) -> object:
        """Import a public name."""
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'lossmask' has no attribute {name!r}")
        value: object = getattr(import_module(f"lossmask.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Return all names, those not imported yet included."""
    return sorted({*globals(), *__all__})
