"""What a tokenizer makes of the text: control tokens typed by a user, bos, and what it all costs.

In: trials, a setting. Out: facts; only of use with the tokenizer of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from lossmask.control_tokens import control_tokens_of
from lossmask.diagnosis import Evidence, Fact, Rendered
from lossmask.encoder import Encoder
from lossmask.errors import LossmaskError
from lossmask.layout import Layout
from lossmask.plain_conversations import PlainConversations
from lossmask.policy import Policy
from lossmask.rendering import ChatTemplate, Message
from lossmask.setting import Setting
from lossmask.trial_renderings import (
    ASKED,
    ASKED_AGAIN,
    SAID_AGAIN,
    Trials,
    assistant,
    user,
)
from lossmask.written import THINK_PAIRS

_MOST = 24  # control tokens that are tried, those first that the template itself writes


def facts_of_injection(trials: Trials, setting: Setting) -> Iterator[Fact]:
    """Yield which control tokens a user can type into a message so that a model reads them."""
    control = control_tokens_of(setting.tokenizer, setting.stops)
    trials.render([user(), assistant()])
    written = "".join(each.text or "" for each in trials.made.values())
    known = [(text, token_id) for token_id, text in control.texts.items() if text]
    known.sort(key=lambda item: (item[0] not in written, item[1]))
    tried = known[:_MOST]
    harmless = trials.render([_typed("zq")])
    if harmless.text is None or not tried:
        return
    read: dict[str, Rendered] = {}
    for text, token_id in tried:
        rendered = trials.render([_typed(text)])
        if rendered.text is not None and _count(setting, rendered.text, token_id) > _count(
            setting, harmless.text, token_id
        ):
            read[text] = rendered
    if not read:
        yield Fact(
            "tokens",
            "injection_blocked",
            "ok",
            f"None of {len(tried)} control tokens typed into a message becomes one.",
            tuple(text for text, _ in tried),
        )
        return
    own = [text for text in read if text in written]
    yield Fact(
        "tokens",
        "injection",
        "note",
        f"Of {len(tried)} control tokens typed into a message {len(read)} become control tokens, "
        f"{len(own)} of them such that the template itself writes: lossmask refuses such rows, or "
        "escapes them (--control-tokens).",
        tuple(read),
        tuple(Evidence(each) for each in list(read.values())[:1]),
    )


def _typed(text: str) -> Message:
    return {"role": "user", "content": f"Where is {text} {ASKED}?"}


def _count(setting: Setting, text: str, token_id: int) -> int:
    return _ids(setting, text).count(token_id)


def _ids(setting: Setting, text: str, *, special: bool = False) -> list[int]:
    tokenizer = setting.tokenizer.tokenizer
    ids: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
    return ids


def facts_of_special_tokens(trials: Trials, setting: Setting) -> Iterator[Fact]:
    """Yield who writes the token that begins a sequence, and whether it may come twice."""
    rendered = trials.render([user(), assistant()])
    tokenizer = setting.tokenizer.tokenizer
    if rendered.text is None:
        return
    bare, added = _ids(setting, rendered.text), _ids(setting, rendered.text, special=True)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    by_template = bos is not None and bare[:1] == [bos]
    by_tokenizer = bos is not None and added[:2] == [bos, *bare[:1]]
    begin = Evidence(rendered, 0, 40)
    if by_template and by_tokenizer:
        yield Fact(
            "tokens",
            "bos_doubled",
            "warning",
            f"The template writes {tokenizer.bos_token!r}, and the tokenizer adds another to any "
            "text: tokenizing a rendering needs add_special_tokens=False, as lossmask has it.",
            (str(tokenizer.bos_token),),
            (begin,),
        )
    elif by_template:
        yield Fact(
            "tokens",
            "bos_once",
            "ok",
            f"The template writes {tokenizer.bos_token!r}; the tokenizer adds none.",
            (str(tokenizer.bos_token),),
            (begin,),
        )
    elif by_tokenizer:
        yield Fact(
            "tokens",
            "bos_not_in_template",
            "note",
            f"The tokenizer adds {tokenizer.bos_token!r} to a text, the template does not write "
            "it: apply_chat_template(tokenize=True) gives none, and lossmask neither.",
            (str(tokenizer.bos_token),),
            (begin,),
        )
    else:
        yield Fact("tokens", "no_bos", "ok", "Neither template nor tokenizer writes a bos token.")
    if eos is not None and len(added) > len(bare) and added[-1:] == [eos] != bare[-1:]:
        yield Fact(
            "tokens",
            "eos_added",
            "note",
            f"The tokenizer ends any text with {tokenizer.eos_token!r}; lossmask tokenizes "
            "renderings without that.",
            (str(tokenizer.eos_token),),
        )


def facts_of_cost(trials: Trials, encoder: Encoder) -> Iterator[Fact]:
    """Yield how many tokens the template adds, and whether plain conversations go the fast way."""
    setting = encoder._setting
    once = [user(), assistant()]
    twice = [*once, user(ASKED_AGAIN), assistant(SAID_AGAIN)]
    first, second = trials.render(once).text, trials.render(twice).text
    if first is not None and second is not None:
        own = [str(message["content"]) for message in twice]
        counts = [len(_ids(setting, text)) for text in own]
        before = len(_ids(setting, first)) - sum(counts[:2])
        more = len(_ids(setting, second)) - sum(counts) - before
        yield Fact(
            "cost",
            "overhead",
            "ok",
            f"The template adds about {before} tokens to a first exchange, {more} to each further.",
            (str(before), str(more)),
        )
    yield _fast_way(encoder)


def _fast_way(encoder: Encoder) -> Fact:
    """Return whether rows of plain messages are provably encoded many at a time."""
    template, variables = encoder._setting.template, encoder._setting.template_variables
    assert isinstance(template, ChatTemplate)
    messages = [user(), assistant(), user(ASKED_AGAIN), assistant(SAID_AGAIN)]
    setting = replace(encoder._setting, policy=Policy(), proof="template")
    plain = PlainConversations(setting, Layout())
    laid_out = [plain.lay_out({"messages": messages}) for _ in range(2)]  # the first time may learn
    if laid_out[-1] is not None:
        return Fact(
            "cost",
            "fast",
            "ok",
            "What the template writes around plain messages is known for any contents: many "
            "conversations are encoded at a time.",
        )
    return Fact(
        "cost",
        "not_fast",
        "note",
        "Plain conversations are encoded one by one: "
        f"{_why_not(plain, template, messages, variables)}.",
    )


def _why_not(
    plain: PlainConversations,
    template: ChatTemplate,
    messages: list[Message],
    variables: Mapping[str, Any],
) -> str:
    try:
        template.render_text(messages, template_variables=variables)
    except LossmaskError:
        return "the template does not render them"
    if any(opening in plain.invitation for opening, _ in THINK_PAIRS):
        return "the generation prompt opens a think block"
    if template.render_sealed(messages, template.seen_variables(variables)) is None:
        return "the template looks at contents in a way that cannot be asked of other contents"
    return "a turn is not its prompt, the answer as given, and a stop token"
