"""What transformers and TRL themselves put into the loss, of the same rows.

In: rows, a tokenizer, a template. Out: outcomes as lossmask gives them, made of the ids and masks
that the other tool's own code returned. Nothing of it is rebuilt here: ``transformers`` is
``apply_chat_template(return_assistant_tokens_mask=True)``, ``trl`` a real ``SFTTrainer`` whose data
preparation is given each row by itself. Where the other tool raises, the row is rejected in its
words. ``trl`` imports torch.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, get_args

import numpy as np

from lossmask.conversation import read_conversation
from lossmask.encoder import Encoder
from lossmask.errors import InputError, LossmaskError, PolicyError
from lossmask.example import IGNORE_INDEX, Example
from lossmask.formats import to_normal
from lossmask.outcome import Outcome, Rejection
from lossmask.policy import nearest
from lossmask.preparing import EncoderSource
from lossmask.spelled_ids import example_of_ids
from lossmask.tokenizing import TextTokenizer

__all__ = ["TOOLS", "ForeignEncoder", "ForeignSource", "Tool", "name_of", "tool_named"]

Tool = Literal["transformers", "trl", "trl-default"]
TOOLS: Mapping[Tool, str] = {
    "transformers": "apply_chat_template(return_assistant_tokens_mask=True)",
    "trl": "SFTTrainer, assistant_only_loss=True, max_length=None",
    "trl-default": "SFTTrainer with the defaults of SFTConfig",
}
"""Every tool, with what of it is called."""


def tool_named(name: str) -> Tool:
    """Return the tool of a name.

    Raises:
        PolicyError: There is none.
    """
    for tool in get_args(Tool):
        if tool == name:
            found: Tool = tool
            return found
    raise PolicyError(f"--against {name!r}; {nearest(name, get_args(Tool))}")


def name_of(tool: Tool) -> str:
    """Return the name and version of a tool, as installed.

    Raises:
        PolicyError: It is not installed.
    """
    if tool == "transformers":
        return f"transformers {version('transformers')}"
    with _needs_trl():
        import trl
    return f"TRL {trl.__version__}"


@dataclass(frozen=True, slots=True)
class ForeignSource:
    """How to make a :class:`ForeignEncoder`, in this process or another one.

    Attributes:
        source: Tokenizer, template and layout; of the policy nothing is asked.
        tool: Whose masks.
    """

    source: EncoderSource
    tool: Tool

    def load(self) -> ForeignEncoder:
        """Load tokenizer and template."""
        return ForeignEncoder(
            self.source.load(),
            self.tool,
            sets_template=self.source.chat_template is not None,
            template_variables=dict(self.source.template_variables),
        )


class ForeignEncoder:
    """Encodes rows as another tool does, one by one.

    Args:
        encoder: Has the tokenizer, the template and the layout.
        tool: Whose masks.
        sets_template: Whether the encoder's template takes the place of the tokenizer's own.
        template_variables: Further variables for the template.

    Raises:
        PolicyError: The tool is not installed.
    """

    def __init__(
        self,
        encoder: Encoder,
        tool: Tool,
        *,
        sets_template: bool = False,
        template_variables: Mapping[str, Any] | None = None,
    ) -> None:
        self._encoder = encoder
        self._tool = tool
        self._variables = dict(template_variables or {})
        self._spelling = TextTokenizer(encoder.tokenizer)
        self._trainers: dict[tuple[bool, ...], Any] = {}
        if sets_template:
            encoder.tokenizer.chat_template = encoder.chat_template()
        if tool != "transformers":
            with _needs_trl():
                import trl.trainer.sft_trainer  # noqa: F401  # takes seconds: before any row does

    @property
    def row_batches(self) -> OneByOne:
        """What other tools do with many rows at once: the same as with each."""
        return OneByOne()

    def encode_row(self, row: Mapping[str, Any]) -> Outcome:
        """Encode one row; never raises on bad data."""
        encode = self._by_transformers if self._tool == "transformers" else self._by_trl
        try:
            example = encode(row)
        except LossmaskError as error:
            return Outcome(rejection=Rejection.from_error(error))
        except MemoryError:
            raise
        except Exception as error:  # whatever it raises is what a user of the tool gets to see
            detail = f"{type(error).__name__}: {error}"
            return Outcome(rejection=Rejection(f"{self._tool}_raises", detail, None))
        return Outcome((example,))

    def _by_transformers(self, row: Mapping[str, Any]) -> Example:
        normal = to_normal(row, self._encoder.layout)
        if "messages" not in normal:
            raise InputError(
                "apply_chat_template takes messages, and this row holds none",
                reason="transformers_takes_messages",
            )
        given = read_conversation(normal["messages"], normal.get("tools"))
        with _silence():
            encoded = self._encoder.tokenizer.apply_chat_template(
                list(given.messages),
                tools=given.tools,
                return_dict=True,
                return_assistant_tokens_mask=True,
                **self._variables,
            )
        mask = np.asarray(encoded["assistant_masks"], np.float32)
        return example_of_ids(encoded["input_ids"], mask, self._spelling)

    def _by_trl(self, row: Mapping[str, Any]) -> Example:
        if self._variables:
            row = {**row, "chat_template_kwargs": self._variables}
        with _silence():
            trainer = self._trainer(row)
            found = list(
                trainer._prepare_dataset(
                    _data_set(row), self._encoder.tokenizer, trainer.args, False, None, "train"
                )
            )
        if not found:
            raise InputError(
                f"TRL drops the row: no label is left in its first {trainer.args.max_length} "
                "tokens (SFTConfig.max_length)",
                reason="trl_drops",
            )
        [encoded] = found
        labels = np.asarray(encoded["labels"])
        weights = (labels != IGNORE_INDEX).astype(np.float32)
        return example_of_ids(encoded["input_ids"], weights, self._spelling)

    def _trainer(self, row: Mapping[str, Any]) -> Any:
        """Return a trainer for rows like this one: it decides by the columns of the first."""
        talks = _is_conversational(row)
        columns = ("messages", "conversations", "prompt", "completion", "image", "images")
        key = (talks, *(name in row for name in columns))
        if key not in self._trainers:
            options: dict[str, Any] = {}
            if self._tool == "trl":
                options = {"assistant_only_loss": talks, "max_length": None}
            try:
                self._trainers[key] = _new_trainer(self._encoder.tokenizer, row, options)
            except Exception as error:  # of every row like this one, and it takes a while
                self._trainers[key] = error
        if isinstance(found := self._trainers[key], Exception):
            raise found
        return found


def _new_trainer(tokenizer: Any, row: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Make a trainer of the smallest model there is, which is never run."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    sizes = dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size"), 8)
    counts = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    no_ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = LlamaConfig(**sizes, **dict.fromkeys(counts, 1), **no_ids)
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            folder, report_to="none", use_cpu=True, bf16=False, max_steps=1, **options
        )
        return SFTTrainer(
            LlamaForCausalLM(config),
            settings,
            train_dataset=_data_set(row),
            processing_class=tokenizer,
        )


class OneByOne:
    """Lays out no rows together, so that each is encoded by itself (see ``row_batches``)."""

    size = 32

    def lay_out(self, row: Mapping[str, Any]) -> None:
        """Lay out nothing."""

    def expect_many(self) -> None:
        """Do nothing."""

    def tokenize(self, layouts: Sequence[Any]) -> Any:
        """Be asked for nothing, as nothing is laid out."""
        raise AssertionError("no row is laid out")

    def check_backend(self) -> None:
        """Do nothing: there is no backend."""


def _is_conversational(row: Mapping[str, Any]) -> bool:
    """Return whether a row is what TRL calls conversational, before or after its conversion."""
    from trl.data_utils import is_conversational, is_conversational_from_value

    given = dict(row)
    return bool(is_conversational(given) or is_conversational_from_value(given))


def _data_set(row: Mapping[str, Any]) -> Any:
    """Return a data set of one row that stays as it is: Arrow would fill in what others have."""
    from datasets import IterableDataset

    return IterableDataset.from_generator(_rows, gen_kwargs={"row": dict(row)})


def _rows(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield row


@contextmanager
def _silence() -> Iterator[None]:
    """Keep warnings of the other tool, which would come once a process, off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class _needs_trl:
    """Say how to install TRL where it is missing."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None and issubclass(kind, ImportError):
            raise PolicyError(
                f"--against trl calls TRL, which is not installed ({error}): "
                'pip install "trl>=1.16" torch',
                reason="missing_extra",
            ) from None
