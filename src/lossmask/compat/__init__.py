"""Drop-ins for what people train with already; each module names what it stands in for.

They import torch when they make tensors, not before.
"""

from lossmask.compat.axolotl_policy import policy_keywords_from_axolotl
from lossmask.compat.completion_only import (
    DataCollatorForCompletionOnlyLM,
    DataCollatorWithIgnoredTokens,
)
from lossmask.compat.language_models_from_scratch import (
    DataSplit,
    InstructionDataset,
    custom_collate_fn,
    format_input,
    split_data,
)
from lossmask.compat.responses_only import train_on_responses_only

__all__ = [
    "DataCollatorForCompletionOnlyLM",
    "DataCollatorWithIgnoredTokens",
    "DataSplit",
    "InstructionDataset",
    "custom_collate_fn",
    "format_input",
    "policy_keywords_from_axolotl",
    "split_data",
    "train_on_responses_only",
]
