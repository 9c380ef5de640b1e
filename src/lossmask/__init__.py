"""Fine-tuning examples whose loss falls on exactly the tokens the model has to generate.

>>> from lossmask import Encoder, Policy
"""

from lossmask.encoder import Encoder
from lossmask.errors import (
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
