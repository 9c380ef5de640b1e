"""The public object: a tokenizer, its template and a policy, ready to encode conversations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from lossmask.errors import (
    InputError,
    LossmaskError,
    PolicyError,
    TemplateError,
    TokenizerError,
)
from lossmask.example import Example
from lossmask.outcome import Outcome, Rejection
from lossmask.pipeline import encode_conversation
from lossmask.policy import Policy, nearest
from lossmask.renderers import (
    ObservedTemplate,
    Renderer,
    TokenRenderer,
    for_conversation,
    renderer_setting,
)
from lossmask.rendering import ChatTemplate, Message
from lossmask.setting import Proving, Setting
from lossmask.stops import Stops
from lossmask.tokenizing import TextTokenizer


class Encoder:
    """Encode conversations into examples whose loss falls on what the model has to generate.

    Args:
        tokenizer: A transformers tokenizer; the ids are exactly those it gives.
        policy: What to train on; default: every assistant message.
        chat_template: Template source, or path of a file that holds it, instead of the tokenizer's.
        stop_tokens: Texts or ids of further stop tokens, besides the tokenizer's eos.
        template_variables: Further variables for the template (``{"enable_thinking": False}``).
        proof: ``template``: the first conversation has the template proved, by perturbation, on
            conversations made for that (about 0.1 s, remembered on disk). ``rows``: every
            conversation as well. ``off``: nothing.

    Raises:
        TokenizerError: Not a tokenizer that renders Jinja templates, or a stop token it does not
            have.
        TemplateError: There is no chat template.
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
        proof: Proving = "template",
    ) -> None:
        if proof not in get_args(Proving):
            raise PolicyError(f"proof is {proof!r}; {nearest(str(proof), get_args(Proving))}")
        policy = policy or Policy()
        template = ChatTemplate(
            tokenizer,
            _template_source(chat_template),
            trace_tools=policy.control_tokens == "escape",
        )
        self._tokenizer: PreTrainedTokenizerBase | None = tokenizer
        self.policy = policy
        self._setting = Setting(
            template,
            TextTokenizer(tokenizer),
            self.policy,
            _stops(tokenizer, stop_tokens),
            dict(template_variables or {}),
            proof,
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
        proof: Proving = "template",
    ) -> Encoder:
        """Load tokenizer and stop tokens from a folder or hub id.

        The stop tokens are the tokenizer's eos, those of ``generation_config.json`` where there is
        one, and the ones given.

        Raises:
            TokenizerError: Nothing loadable there.
            TemplateError: The tokenizer has no chat template and none is given.
        """
        tokenizer = load_tokenizer(path)
        stops = [*generation_stop_ids(path), *stop_tokens]
        return cls(
            tokenizer,
            policy,
            chat_template=chat_template,
            stop_tokens=stops,
            template_variables=template_variables,
            proof=proof,
        )

    @classmethod
    def from_renderer(
        cls,
        renderer: Renderer | TokenRenderer,
        policy: Policy | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        stop_tokens: Sequence[str | int] = (),
    ) -> Encoder:
        """Encode with any Python renderer instead of a Jinja template.

        Args:
            renderer: Turns messages into text or token ids; see ``renderers``.
            policy: What to train on; default: every assistant message.
            tokenizer: Reads the text of a renderer of text; None for a renderer of ids.
            stop_tokens: Texts or ids of further stop tokens, besides the renderer's or the
                tokenizer's eos.

        Raises:
            TokenizerError: A renderer of text without a tokenizer, or one of ids with one; or its
                tokens cannot be spelled.
            PolicyError: ``control_tokens="escape"`` with a renderer of ids, whose own affair it is.
        """
        encoder = cls.__new__(cls)
        encoder._tokenizer, encoder.policy = tokenizer, policy or Policy()
        encoder._setting = renderer_setting(
            renderer,
            encoder.policy,
            text_tokenizer=None if tokenizer is None else TextTokenizer(tokenizer),
            stops=None if tokenizer is None else _stops(tokenizer, stop_tokens),
            stop_tokens=stop_tokens,
        )
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
    def stop_ids(self) -> frozenset[int]:
        """Ids at which inference ends a turn."""
        return self._setting.stops.ids

    def chat_template(self, tools: Sequence[Any] | None = None) -> str:
        """Return the source of the template in use."""
        return self._setting.template.source(tools)

    def fingerprint(self) -> str:
        """Return a hash of all that decides over the result: tokenizer, template, policy, stops.

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
            LossmaskError: It cannot be encoded exactly; the error names the message and why.
        """
        setting = for_conversation(self._setting)
        if template_kwargs:
            variables = {**setting.template_variables, **template_kwargs}
            setting = replace(setting, template_variables=variables)
        return encode_conversation(messages, tools, setting, weight)

    def encode_row(self, row: Mapping[str, Any]) -> Outcome:
        """Encode one row, ``{"messages": [...], "tools": [...]}``; never raises on bad data.

        Raises:
            MemoryError: There is too little memory, which says nothing about the row.
        """
        try:
            if not isinstance(row, Mapping):
                raise InputError(f"expected an object with 'messages', got {type(row).__name__}")
            if "messages" not in row:
                found = ", ".join(map(str, row)) or "none"
                raise InputError(
                    f"the key 'messages' is missing; keys found: {found}",
                    reason="missing_key",
                )
            examples = self.encode(row["messages"], row.get("tools"), weight=row.get("weight"))
            return Outcome(tuple(examples))
        except LossmaskError as error:
            return Outcome(rejection=Rejection.from_error(error))

    def encode_batch(self, rows: Iterable[Mapping[str, Any]]) -> list[Outcome]:
        """Encode rows of data; one outcome per row, in order."""
        return [self.encode_row(row) for row in rows]


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


def _template_source(chat_template: str | Path | None) -> str | None:
    """Return template source, read from a file if a path is given."""
    if chat_template is None:
        return None
    text = str(chat_template)
    if isinstance(chat_template, str) and ("{" in text or "\n" in text):
        return chat_template
    path = Path(text).expanduser()
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, ValueError) as error:
        raise TemplateError(
            f"cannot read the chat template {text!r}: {error}", reason="no_such_path"
        ) from error
