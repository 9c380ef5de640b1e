"""The public object: a tokenizer, its template and a policy, ready to encode conversations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from lossmask.added_tokens import with_headers
from lossmask.errors import (
    InputError,
    LossmaskError,
    PolicyError,
    TemplateError,
    TokenizerError,
)
from lossmask.example import Example
from lossmask.fit import Fit
from lossmask.formats import to_normal
from lossmask.instruction_styles import (
    STYLES,
    input_separator,
    is_style,
    stop_token_of,
    style_template,
)
from lossmask.layout import Layout
from lossmask.no_template import NoTemplate
from lossmask.outcome import Outcome, Rejection
from lossmask.plain_examples import consecutive, plain_examples
from lossmask.policy import Policy, nearest
from lossmask.renderers import (
    ObservedTemplate,
    Renderer,
    TokenRenderer,
    renderer_setting,
)
from lossmask.rendering import ChatTemplate, Message
from lossmask.row_batches import BATCH_SIZE, RowBatches, collection_paused
from lossmask.setting import Proving, Setting
from lossmask.stops import Stops
from lossmask.tokenizing import TextTokenizer
from lossmask.truncating import encode_to_fit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WITHOUT_MESSAGES = ("text", "segments", "tokens", "prompt_completion")


class Encoder:
    """Encode conversations into examples whose loss falls on what the model has to generate.

    Args:
        tokenizer: A transformers tokenizer; the ids are exactly those it gives.
        policy: What to train on; default: every assistant message.
        chat_template: Template source, path of a file that holds it, or name of a style
            (``alpaca``, see ``instruction_styles``), instead of the tokenizer's.
        stop_tokens: Texts or ids of further stop tokens, besides the tokenizer's eos.
        template_variables: Further variables for the template (``{"enable_thinking": False}``).
        layout: How the rows of ``encode_row`` are laid out; by default each row tells its format.
        proof: ``template``: the first conversation has the template proved, by perturbation, on
            conversations made for that (about 0.1 s, remembered on disk). ``rows``: every
            conversation as well. ``off``: nothing.
        fit: How long an example may be, and what happens to a longer one; default: any length.
        fast: Whether ``encode_batch`` may compute ids by ``fastokens`` where that is installed and
            proven to give the tokenizer's own (see ``fast_backend``).

    Raises:
        TokenizerError: Not a tokenizer that renders Jinja templates, or a stop token it does not
            have.
        TemplateError: There is no chat template, and the layout is not one of text or ids.
        PolicyError: ``proof`` is none of the three.

    Example:
        >>> from lossmask import Encoder
        >>> from lossmask.embedded import DEMO_MODEL
        >>> encoder = Encoder.from_pretrained(DEMO_MODEL)
        >>> [example] = encoder.encode([
        ...     {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
        >>> example.supervised_text
        ['Hello<|im_end|>']
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        policy: Policy | None = None,
        *,
        chat_template: str | Path | None = None,
        stop_tokens: Sequence[str | int] = (),
        template_variables: Mapping[str, Any] | None = None,
        layout: Layout | None = None,
        proof: Proving = "template",
        fit: Fit | None = None,
        fast: bool = True,
    ) -> None:
        if proof not in get_args(Proving):
            raise PolicyError(f"proof is {proof!r}; {nearest(str(proof), get_args(Proving))}")
        self.policy = policy or Policy()
        style = str(chat_template) if is_style(str(chat_template)) else None
        self.layout = _layout_of(layout or Layout(), style)
        self.added_pieces: dict[str, list[int]] = {}
        own_stop = None if style is None else stop_token_of(style)
        self._tokenizer: PreTrainedTokenizerBase | None = tokenizer
        self._fast = fast
        self._row_batches: RowBatches | None = None
        self._setting = Setting(
            _template(tokenizer, chat_template, self.policy, self.layout),
            TextTokenizer(tokenizer),
            self.policy,
            _stops(tokenizer, [*stop_tokens, *([own_stop] if own_stop else [])]),
            dict(template_variables or {}),
            proof,
            fit or Fit(),
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        policy: Policy | None = None,
        *,
        chat_template: str | Path | None = None,
        stop_tokens: Sequence[str | int] = (),
        template_variables: Mapping[str, Any] | None = None,
        layout: Layout | None = None,
        special_tokens: bool = False,
        proof: Proving = "template",
        fit: Fit | None = None,
        fast: bool = True,
    ) -> Encoder:
        """Load tokenizer and stop tokens from a folder or hub id.

        The stop tokens are the tokenizer's eos, those of ``generation_config.json`` where there is
        one, and the ones given. With ``special_tokens`` the headers of the style that
        ``chat_template`` names become tokens of the tokenizer (``added_pieces`` says which).

        Raises:
            PolicyError: ``special_tokens`` without a style.
            TokenizerError: Nothing loadable there.
            TemplateError: The tokenizer has no chat template and none is given.
        """
        tokenizer = load_tokenizer(path)
        stops = [*generation_stop_ids(path), *stop_tokens]
        pieces: dict[str, list[int]] = {}
        if special_tokens:
            if not is_style(str(chat_template)):
                raise PolicyError(
                    f"special_tokens makes tokens of a style's headers; {chat_template!r} is none; "
                    f"{nearest(str(chat_template), STYLES)}"
                )
            tokenizer, pieces = with_headers(tokenizer, str(chat_template))
        encoder = cls(
            tokenizer,
            policy,
            chat_template=chat_template,
            stop_tokens=stops,
            template_variables=template_variables,
            layout=layout,
            proof=proof,
            fit=fit,
            fast=fast,
        )
        encoder.added_pieces = pieces
        return encoder

    @classmethod
    def from_renderer(
        cls,
        renderer: Renderer | TokenRenderer,
        policy: Policy | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        stop_tokens: Sequence[str | int] = (),
        fit: Fit | None = None,
    ) -> Encoder:
        """Encode with any Python renderer instead of a Jinja template.

        Args:
            renderer: Turns messages into text or token ids; see ``renderers``.
            policy: What to train on; default: every assistant message.
            tokenizer: Reads the text of a renderer of text; None for a renderer of ids.
            stop_tokens: Texts or ids of further stop tokens, besides the renderer's or the
                tokenizer's eos.
            fit: How long an example may be; default: any length.

        Raises:
            TokenizerError: A renderer of text without a tokenizer, or one of ids with one; or its
                tokens cannot be spelled.
            PolicyError: ``control_tokens="escape"`` with a renderer of ids, whose own affair it is.
        """
        encoder = cls.__new__(cls)
        encoder._tokenizer, encoder.policy = tokenizer, policy or Policy()
        encoder._fast = False
        encoder._row_batches = None
        encoder.layout, encoder.added_pieces = Layout(), {}
        setting = renderer_setting(
            renderer,
            encoder.policy,
            text_tokenizer=None if tokenizer is None else TextTokenizer(tokenizer),
            stops=None if tokenizer is None else _stops(tokenizer, stop_tokens),
            stop_tokens=stop_tokens,
        )
        encoder._setting = replace(setting, fit=fit or Fit())
        return encoder

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The transformers tokenizer.

        Raises:
            TokenizerError: The encoder was made from a renderer of ids, which needs none.
        """
        if self._tokenizer is None:
            raise TokenizerError(
                "this encoder was made from a renderer of token ids: there is no transformers "
                "tokenizer",
                reason="no_tokenizer",
            )
        return self._tokenizer

    @property
    def setting(self) -> Setting:
        """What the pipeline works with."""
        return self._setting

    @property
    def fit(self) -> Fit:
        """How long an example may be."""
        return self._setting.fit

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids at which inference ends a turn."""
        return self._setting.stops.ids

    def chat_template(self, tools: Sequence[Any] | None = None) -> str:
        """Return the source of the template in use."""
        return self._setting.template.source(tools)

    def fingerprint(self) -> str:
        """Return a hash of all that decides over the result: tokenizer, template, policy, fit.

        Raises:
            TokenizerError: The encoder was made from a renderer, whose code cannot be hashed.
        """
        setting = self._setting
        if isinstance(setting.template, ObservedTemplate):
            raise TokenizerError(
                "an encoder made from a renderer has no fingerprint: what the renderer's code does "
                "cannot be hashed",
                reason="no_fingerprint",
            )
        templates = self.tokenizer.chat_template
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        parts = {
            "tokenizer": backend.to_str() if backend else repr(sorted(self.tokenizer.get_vocab())),
            "added": {i: repr(t) for i, t in self.tokenizer.added_tokens_decoder.items()},
            "special": self.tokenizer.special_tokens_map,
            "template": [setting.template.given, templates],
            "policy": self.policy.to_mapping(),
            "fit": self.fit.to_mapping(),
            "layout": self.layout.to_mapping(),
            "stops": sorted(setting.stops.ids),
            "variables": setting.template_variables,
        }
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def encode(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        *,
        weight: float | None = None,
        **template_kwargs: Any,
    ) -> list[Example]:
        """Encode one conversation.

        Args:
            messages: In the OpenAI / Hugging Face chat format; ``train`` (bool), ``weight`` (float)
                or ``weights`` (of ranges of characters) on a message set its loss.
            tools: Tool schemas for the template.
            weight: Multiplies the weight of every token.
            template_kwargs: Further variables for the template, for this conversation, as
                ``apply_chat_template`` takes them (``enable_thinking=False``).

        Returns:
            One example, or more where the template rewrites history.

        Raises:
            LossmaskError: It cannot be encoded exactly, or not to fit; the error names the message
                and why.
        """
        setting = self._setting
        if template_kwargs:
            variables = {**setting.template_variables, **template_kwargs}
            setting = replace(setting, template_variables=variables)
        row = {"messages": messages, "tools": tools, "weight": weight}
        outcome = encode_to_fit(row, setting)
        if (rejection := outcome.rejection) is not None:
            raise InputError(
                rejection.detail, reason=rejection.reason, message_index=rejection.message_index
            )
        return list(outcome.examples)

    def encode_row(self, row: Mapping[str, Any]) -> Outcome:
        """Encode one row in any layout (see ``formats``); never raises on bad data.

        Raises:
            MemoryError: There is too little memory, which says nothing about the row.
        """
        try:
            return encode_to_fit(to_normal(row, self.layout), self._setting)
        except LossmaskError as error:
            return Outcome(rejection=Rejection.from_error(error))

    def map_batch(
        self,
        batch: Mapping[str, Sequence[Any]],
        indices: Sequence[int] | None = None,
        *,
        on_reject: Literal["error", "record"] = "error",
    ) -> dict[str, list[Any]]:
        """Encode a batch of columns, for ``datasets.map(encoder.map_batch, batched=True)``.

        See ``datasets_mapping.map_batch``.
        """
        from lossmask.datasets_mapping import map_batch  # which imports this module

        return map_batch(self, batch, indices, on_reject=on_reject)

    def encode_batch(self, rows: Iterable[Mapping[str, Any]]) -> list[Outcome]:
        """Encode rows of data; one outcome per row, in order.

        As ``encode_row`` does for each, but for plain conversations many times faster.

        Raises:
            BackendDiffers: The fast backend turned out not to be exact: ``fast=False``.
            MemoryError: There is too little memory, which says nothing about a row.
        """
        batches, outcomes = self.row_batches, list[Outcome]()
        given = iter(rows)
        while batch := list(islice(given, BATCH_SIZE)):
            with collection_paused():
                laid_out = [batches.lay_out(row) or [] for row in batch]
            plain = [*chain.from_iterable(laid_out)]
            tokens = batches.tokenize(plain) if plain else None
            for row, layouts, numbers in zip(batch, laid_out, consecutive(laid_out), strict=True):
                if tokens is not None and layouts and tokens.are_exact(numbers):
                    outcomes.append(Outcome(plain_examples(layouts, tokens, numbers)))
                else:
                    outcomes.append(self.encode_row(row))
            batches.check_backend()
        return outcomes

    def load_ahead(self) -> None:
        """Load what many rows need: the vocabulary, the fast backend if it is known to be exact.

        No thread that it starts lives on: what is not known yet is found out when ids are first
        needed.
        """
        tokenizer = self._setting.tokenizer
        if not isinstance(tokenizer, TextTokenizer):
            return
        with ThreadPoolExecutor(1) as thread:  # native code, which lets others run meanwhile
            loading = thread.submit(tokenizer.use_fast_backend, prove=False) if self._fast else None
            self.row_batches.load_vocabulary()
            if loading is not None:
                loading.result()

    @property
    def row_batches(self) -> RowBatches:
        """What encodes plain conversations many at a time, with the fast backend where proven."""
        if self._row_batches is None:
            self._row_batches = RowBatches(self._setting, self.layout, use_fast=self._fast)
        return self._row_batches


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or hub id, running none of its code.

    Raises:
        TokenizerError: The path does not exist or holds no tokenizer.
    """
    from transformers import AutoTokenizer  # importing it loads torch where torch is installed

    name = str(path)
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local and not Path(name).expanduser().exists():
        raise TokenizerError(f"no such tokenizer folder: {name}", reason="no_such_path")
    try:
        return AutoTokenizer.from_pretrained(Path(name).expanduser() if looks_local else name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise TokenizerError(
            f"cannot load a tokenizer from {name!r}: {str(error).splitlines()[0]}; expected a "
            "folder with tokenizer.json or a hub id"
        ) from error


def generation_stop_ids(path: str | Path) -> list[int]:
    """Return the eos ids of ``generation_config.json``, none if there is no such file.

    Raises:
        TokenizerError: The file is broken, or it cannot be told whether there is one.
    """
    from transformers.utils import cached_file  # slow to import

    name = "generation_config.json"
    try:
        found = cached_file(str(path), name, _raise_exceptions_for_missing_entries=False)
        if found is None:
            return []
        eos = json.loads(Path(found).read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError) as error:
        raise TokenizerError(
            f"cannot read {name} of {str(path)!r}, which may name stop tokens: {error}"
        ) from error
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)


def _stops(tokenizer: PreTrainedTokenizerBase, stop_tokens: Sequence[str | int]) -> Stops:
    eos = tokenizer.eos_token_id
    ids = {_stop_id(tokenizer, stop) for stop in stop_tokens} | (
        {eos} if eos is not None else set()
    )
    added = tokenizer.added_tokens_decoder
    texts = [str(added[i]) if i in added else tokenizer.decode([i]) for i in sorted(ids)]
    return Stops(frozenset(ids), tuple(texts), None if eos is None else str(tokenizer.eos_token))


def _stop_id(tokenizer: PreTrainedTokenizerBase, stop: str | int) -> int:
    """Return the id of a stop token given as text or id."""
    if isinstance(stop, int) and not isinstance(stop, bool):
        ids = [stop] if 0 <= stop < len(tokenizer) else []
    elif isinstance(stop, str):
        ids = tokenizer(stop, add_special_tokens=False)["input_ids"]
    else:
        ids = []
    if len(ids) != 1:
        raise TokenizerError(
            f"the stop token {stop!r} is not a token of this tokenizer", reason="unknown_stop"
        )
    return int(ids[0])


def _template(
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | Path | None,
    policy: Policy,
    layout: Layout,
) -> ChatTemplate | NoTemplate:
    """Return the chat template, none where rows hold no messages and there is none."""
    from transformers import PreTrainedTokenizerBase  # slow to import

    source = _template_source(chat_template, tokenizer)
    is_text = layout.format in _WITHOUT_MESSAGES or layout.response_template is not None
    has_none = isinstance(tokenizer, PreTrainedTokenizerBase) and not tokenizer.chat_template
    if source is None and has_none and is_text:
        return NoTemplate()
    return ChatTemplate(tokenizer, source, trace_tools=policy.control_tokens == "escape")


def _layout_of(layout: Layout, style: str | None) -> Layout:
    """Return a layout with the separator that a style asks for between instruction and input."""
    if style is None or layout.input_separator != Layout().input_separator:
        return layout
    return replace(layout, input_separator=input_separator(style))


def _template_source(
    chat_template: str | Path | None, tokenizer: PreTrainedTokenizerBase
) -> str | None:
    """Return template source, read from a file if a path is given, of a style if its name is."""
    if chat_template is None:
        return None
    text = str(chat_template)
    if is_style(text):
        return style_template(text, tokenizer=tokenizer)
    if isinstance(chat_template, str) and ("{" in text or "\n" in text):
        return chat_template
    path = Path(text).expanduser()
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, ValueError) as error:
        raise TemplateError(
            f"cannot read the chat template {text!r}: {error}", reason="no_such_path"
        ) from error
