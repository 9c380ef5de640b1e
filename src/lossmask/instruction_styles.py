r"""Named prompt formats as chat templates: ``alpaca``, ``vicuna``, ``chatml`` and others.

In: a name. Out: the source of a Jinja template, which the encoder uses like any other, and which
can be saved with a model. Written from the documented formats:

=================  =============================================================================
style              one exchange after a system message, the answer in brackets
=================  =============================================================================
alpaca             ``SYSTEM\n\n### Instruction:\nUSER\n\n### Response:\n[ANSWER</s>]``; the system
                   message takes the place of the preamble; a user's content that holds
                   ``\n\n### Input:\n`` has an input, and another preamble
vicuna             ``SYSTEM USER: USER ASSISTANT:[ ANSWER</s>]`` (version 1.1), with its preamble
                   where there is no system message
human_assistant    ``SYSTEM\n### Human: USER\n### Assistant:[ ANSWER</s>]\n``
zephyr             ``<|system|>\nSYSTEM</s>\n<|user|>\nUSER</s>\n<|assistant|>\n[ANSWER</s>]\n``
chatml             ``<|im_start|>user\nUSER<|im_end|>\n<|im_start|>assistant\n[ANSWER<|im_end|>]\n``
phi                ``Instruct: USER\nOutput:[ ANSWER</s>]\n`` (Phi-2; no system message)
phi3               ``<|user|>\nUSER<|end|>\n<|assistant|>\n[ANSWER<|end|>]\n``
llama2             ``<s>[INST] <<SYS>>\nSYSTEM\n<</SYS>>\n\nUSER [/INST][ ANSWER </s>]``
mistral            ``<s>[INST] SYSTEM\n\nUSER [/INST][ ANSWER</s>]`` (7B Instruct 0.1 and 0.2)
=================  =============================================================================

``</s>`` stands for the tokenizer's eos token, ``<s>`` for its bos token. A style raises on what it
cannot show: other roles, tools, tool calls, a system message further down. No style alters the
messages: white space around them stays.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lossmask.errors import PolicyError
from lossmask.policy import nearest
from lossmask.rendering import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FOLDER = Path(__file__).parent / "assets" / "styles"


@dataclass(frozen=True, slots=True)
class _Style:
    """What there is to know of a style besides its template.

    Attributes:
        headers: What it writes besides messages that ``--special-tokens`` would make tokens.
        bos: Whether the format itself begins with the bos token, or leaves that to the tokenizer.
        writes_eos: Whether answers end with the eos token.
        end: The token of its own that ends an answer, if any; inference has to stop at it.
        shows_system: Whether it has system messages.
    """

    headers: tuple[str, ...]
    bos: Literal["always", "tokenizer"] = "tokenizer"
    writes_eos: bool = True
    end: str | None = None
    shows_system: bool = True


_STYLES = {
    "alpaca": _Style(("### Instruction:", "### Input:", "### Response:")),
    "chatml": _Style(("<|im_start|>", "<|im_end|>"), writes_eos=False, end="<|im_end|>"),
    "human_assistant": _Style(("### Human:", "### Assistant:")),
    "llama2": _Style(("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"), bos="always"),
    "mistral": _Style(("[INST]", "[/INST]"), bos="always"),
    "phi": _Style(("Instruct:", "Output:"), shows_system=False),
    "phi3": _Style(
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), writes_eos=False, end="<|end|>"
    ),
    "vicuna": _Style(("USER:", "ASSISTANT:")),
    "zephyr": _Style(("<|system|>", "<|user|>", "<|assistant|>")),
}
STYLES = tuple(_STYLES)
"""The names of all styles."""


@dataclass(frozen=True, slots=True)
class StyleCost:
    """What making tokens of a style's headers costs, and saves.

    Attributes:
        new_tokens: The headers that the tokenizer lacks as tokens.
        tokens_per_exchange: Tokens of headers, separators and stop token of one exchange (a user
            message and its answer) as the tokenizer is.
        tokens_per_exchange_after: The same once they are tokens.
    """

    new_tokens: tuple[str, ...]
    tokens_per_exchange: int
    tokens_per_exchange_after: int

    @property
    def new_rows(self) -> int:
        """Rows that the embedding, and an output layer of its own, would gain; all untrained."""
        return len(self.new_tokens)

    @property
    def saved_per_exchange(self) -> int:
        """Tokens that each exchange becomes shorter by."""
        return self.tokens_per_exchange - self.tokens_per_exchange_after


def is_style(name: str) -> bool:
    """Return whether there is a style of this name."""
    return name in _STYLES


def style_template(
    name: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    bos: bool | None = None,
    eos: bool | None = None,
) -> str:
    r"""Return the template of a style.

    Args:
        name: One of ``STYLES``.
        tokenizer: Tells whether the bos token begins the text where the format leaves that to the
            tokenizer: it does if the tokenizer itself puts it before a text. Without it: no.
        bos: Whether the bos token begins the text (of llama2: each exchange); None: as the format.
        eos: Whether the eos token ends each answer; None: as the format. Of zephyr: each message.

    Both are written into the template, and the template variables ``add_bos`` and ``add_eos``
    overrule them.

    Raises:
        PolicyError: There is no such style.

    Example:
        >>> from transformers import AutoTokenizer
        >>> from lossmask.embedded import DEMO_MODEL
        >>> tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
        >>> messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
        >>> tokenizer.apply_chat_template(
        ...     messages, chat_template=style_template("human_assistant"), tokenize=False)
        '### Human: Hi\n### Assistant: Ho<|im_end|>\n'
    """
    style = _style(name)
    if bos is None:
        bos = style.bos == "always" or (tokenizer is not None and puts_bos(tokenizer))
    if eos is None:
        eos = style.writes_eos
    roles = ["system", "user", "assistant"] if style.shows_system else ["user", "assistant"]
    chosen = (
        f"{{%- set style = {name!r} -%}}\n"
        f"{{%- set shown_roles = {roles!r} -%}}\n"
        f"{{%- set with_bos = add_bos if add_bos is defined else {str(bos).lower()} -%}}\n"
        f"{{%- set with_eos = add_eos if add_eos is defined else {str(eos).lower()} -%}}\n"
    )
    return chosen + _asset("_beginning") + _asset(name)


def input_separator(name: str) -> str:
    r"""Return what stands between an instruction and its input in the content of a user message.

    Raises:
        PolicyError: There is no such style.

    Example:
        >>> input_separator("alpaca"), input_separator("chatml")
        ('\n\n### Input:\n', '\n\n')
    """
    _style(name)
    return "\n\n### Input:\n" if name == "alpaca" else "\n\n"


def stop_token_of(name: str) -> str | None:
    """Return the token of its own that a style ends answers with; None where that is the eos token.

    An encoder needs it among its ``stop_tokens``.

    Raises:
        PolicyError: There is no such style.
    """
    return _style(name).end


def special_tokens_of(name: str) -> tuple[str, ...]:
    """Return the headers of a style that can be made tokens.

    Raises:
        PolicyError: There is no such style.
    """
    return _style(name).headers


def missing_tokens(tokenizer: PreTrainedTokenizerBase, name: str) -> tuple[str, ...]:
    """Return the headers of a style that are no added tokens of a tokenizer.

    Raises:
        PolicyError: There is no such style.
    """
    known = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    return tuple(header for header in special_tokens_of(name) if header not in known)


def cost_of(tokenizer: PreTrainedTokenizerBase, name: str) -> StyleCost:
    """Measure what making tokens of a style's headers costs and saves; changes nothing.

    Args:
        tokenizer: A transformers tokenizer.
        name: One of ``STYLES``.

    Raises:
        PolicyError: There is no such style.
    """
    missing = missing_tokens(tokenizer, name)
    extended = copy.deepcopy(tokenizer)
    extended.add_tokens(list(missing), special_tokens=True)
    return StyleCost(missing, _overhead(tokenizer, name), _overhead(extended, name))


def puts_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer puts its bos token before a text that it is given."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def _overhead(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    """Return how many tokens a further exchange takes, its two messages of one word left out."""
    word = "word"
    alone = len(tokenizer(word, add_special_tokens=False)["input_ids"])
    exchange: list[Message] = [
        {"role": "user", "content": word},
        {"role": "assistant", "content": word},
    ]
    once, twice = (_length(tokenizer, name, exchange * count) for count in (1, 2))
    return twice - once - 2 * alone


def _length(tokenizer: PreTrainedTokenizerBase, name: str, messages: Sequence[Message]) -> int:
    eos = None if tokenizer.eos_token else False  # what cannot be written costs nothing
    template = style_template(name, tokenizer=tokenizer, eos=eos)
    text: Any = tokenizer.apply_chat_template(
        list(messages), chat_template=template, tokenize=False
    )
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _style(name: str) -> _Style:
    if name not in _STYLES:
        raise PolicyError(f"there is no style {name!r}; {nearest(str(name), STYLES)}")
    return _STYLES[name]


@cache
def _asset(name: str) -> str:
    return (_FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
