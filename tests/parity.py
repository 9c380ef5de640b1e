"""The oracle: is an example what inference would have?

Told by transformers and the tokenizer alone: nothing here calls lossmask's rendering or alignment.
Prompts and full texts come from ``apply_chat_template``, ids from the tokenizer. ``check`` encodes
one conversation and compares.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from lossmask import Encoder, Example, LossmaskError, Span
from tests.scenarios import Message

NOTHING_TO_TRAIN = {"no_prompt", "nothing_generated", "content_dropped", "arguments_torn"}
MISMATCHES = {"generation_prompt_mismatch", "context_differs", "header_respelled"}
TAG = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Z_]{1,40}\]")
MARKER = re.compile(r"\b[QASRT]\d+\b")
_OUR_KEYS = ("train", "weight", "loss", "prefill")
_NO_TEXT = ("role", "type", "id")


class Case(NamedTuple):
    """What one conversation came to.

    ``status`` is ``exact``, ``refused``, ``wrong``; ``raises`` where transformers itself cannot
    render the conversation; or ``no completion`` where it was refused and the oracle finds, too,
    that inference cannot be asked for any trained turn as it stands (the template drops it, or
    opens a think block that it never closes). ``detail`` says why; ``findings`` are those of the
    examples.
    """

    status: str
    detail: str = ""
    findings: tuple[str, ...] = ()


class Wrong(AssertionError):
    """An example that inference would not have."""


def check(encoder: Encoder, messages: list[Message], tools: list[Any] | None = None) -> Case:
    """Encode a conversation under the default policy and hold it against inference."""
    return Oracle(encoder, messages, tools).case()


class Oracle:
    """Renders and tokenizes as an inference engine would."""

    def __init__(self, encoder: Encoder, messages: list[Message], tools: list[Any] | None) -> None:
        self.encode = functools.partial(encoder.encode, messages, tools)
        self.tokenizer: PreTrainedTokenizerBase = encoder.tokenizer
        self.template = encoder.chat_template(tools)
        self.messages = [
            {key: value for key, value in message.items() if key not in _OUR_KEYS}
            for message in messages
        ]
        self.prefills = {
            index: message["prefill"]
            for index, message in enumerate(messages)
            if message.get("prefill")
        }
        self.trained = {
            index
            for index, message in enumerate(messages)
            if message["role"] == "assistant"
            and message.get("train", True)
            and message.get("weight", 1)
            and message.get("loss", True)
        }
        self.tools = tools
        self.eos = self.tokenizer.eos_token
        self.boundary = encoder.policy.boundary
        self.stops = self.tokenizer.convert_ids_to_tokens(sorted(encoder.stop_ids))

    def case(self) -> Case:
        """Encode the conversation and hold it against inference."""
        try:
            whole = self.render(len(self.messages), prompt=False)
        except Exception as error:  # whatever the template raises: there is nothing to compare
            return Case("raises", f"{type(error).__name__}: {error}")
        try:
            examples = self.encode()
        except LossmaskError as error:
            status = "no completion" if self.finds_no_completion(error) else "refused"
            return Case(status, f"{error.reason}: {error}")
        try:
            self.check_examples(examples, whole)
        except Wrong as error:
            return Case("wrong", str(error))
        kinds = sorted({finding.kind for example in examples for finding in example.findings})
        return Case("exact", findings=tuple(kinds))

    def render(self, count: int, *, prompt: bool) -> str:
        if prompt and count in self.prefills:
            begun = {"role": "assistant", "content": self.prefills[count]}
            return self._apply([*self.messages[:count], begun], continue_final_message=True)
        return self._apply(self.messages[:count], add_generation_prompt=prompt)

    def _apply(self, messages: Sequence[Message], **options: bool) -> str:
        text: str = self.tokenizer.apply_chat_template(
            list(messages),
            tools=self.tools,
            chat_template=self.template,
            tokenize=False,
            **options,
        )
        return text

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def check_examples(self, examples: Sequence[Example], whole: str) -> None:
        spans = [span.message_index for example in examples for span in example.spans]
        left_out = {
            finding.message_index: finding.kind
            for finding in (f for example in examples for f in example.findings)
            if finding.kind in NOTHING_TO_TRAIN
        }
        require(sorted([*spans, *left_out]) == sorted(self.trained), f"trained turns {spans}")
        for index, kind in left_out.items():
            self._check_left_out(index, kind)
        for example in examples:
            self.check_example(example, whole)

    def check_example(self, example: Example, whole: str) -> None:
        """Require that everything supervised has before it what inference would have."""
        self._check_mask(example)
        for span in example.spans:
            self._check_span(example, span)
        last = max(span.message_index for span in example.spans)
        shown = {whole, self.render(last + 1, prompt=False)}
        differs = any(
            finding.kind in ("context_differs", "header_respelled", "stop_appended")
            for finding in example.findings
        )
        require(differs or example.text in shown, "the text is not what transformers renders")

    def finds_no_completion(self, error: LossmaskError) -> bool:
        """Return whether nothing could be trained, for the reason that was given."""
        if error.reason == "unclosed_think" and error.message_index is not None:
            return self._is_unclosed(error.message_index)
        return error.reason in NOTHING_TO_TRAIN and all(map(self._is_left_out, self.trained))

    def _is_left_out(self, index: int) -> bool:
        for kind in sorted(NOTHING_TO_TRAIN):
            try:
                self._check_left_out(index, kind)
            except Wrong:
                continue
            return True
        return False

    def _is_unclosed(self, index: int) -> bool:
        prompt, full = self.render(index, prompt=True), self.render(index + 1, prompt=False)
        opened = re.search(r"<(\w*:?think)>\s*$|\[(THINK)\]\s*$", prompt)
        if opened is None or not full.startswith(prompt):
            return False
        closing = f"</{opened[1]}>" if opened[1] else f"[/{opened[2]}]"
        return closing not in full[len(prompt) :]

    def _check_left_out(self, index: int, kind: str) -> None:
        """Require that inference could not be asked for this message."""
        try:
            prompt = self.render(index, prompt=True)
        except Exception:  # whatever the template raises
            require(kind == "no_prompt", f"message {index}: no prompt, but {kind}")
            return
        if not prompt:
            require(kind == "no_prompt", f"message {index}: an empty prompt, but {kind}")
            return
        full = self.render(index + 1, prompt=False)
        rest = full[longest_common(prompt, full) :]
        if kind == "arguments_torn":
            self._check_torn(index, rest)
            return
        if kind == "nothing_generated":
            invitation = self._generation_prompt(index, prompt)
            nothing = not rest.strip() or (invitation.strip() and rest.endswith(invitation))
            require(bool(nothing), f"message {index}: {rest!r} was left out")
            return
        require(kind == "content_dropped", f"message {index} has a prompt, but {kind}")
        is_lost = any(
            text.strip() not in rest or self._is_unseen(index, changed, full)
            for text, changed in _other_texts(self.messages[index])
            if text.strip()
        )
        require(is_lost, f"message {index}: left out, but its text is all in {rest!r}")

    def _is_unseen(self, index: int, changed: Message, full: str) -> bool:
        """Return whether the rendering is the same with another string in a message."""
        try:
            return self._apply([*self.messages[:index], changed]) == full
        except Exception:  # whatever the template raises: it looks at the string
            return False

    def _check_torn(self, index: int, rest: str) -> None:
        """Require that a JSON string of arguments is not in the rendering in one piece."""
        calls = self.messages[index].get("tool_calls") or []
        arguments = [call.get("function", call).get("arguments") for call in calls]
        torn = [text for text in arguments if isinstance(text, str) and text not in rest]
        require(bool(torn), f"message {index}: arguments left out, but they are in {rest!r}")

    def _check_mask(self, example: Example) -> None:
        expected = np.zeros(len(example), bool)
        for span in example.spans:
            expected[span.token_start : span.token_end] = True
        require(np.array_equal(example.loss_mask, expected), "the mask is not the spans")
        require(
            np.array_equal(example.labels, np.where(expected, example.input_ids, -100)), "labels"
        )

    def _check_span(self, example: Example, span: Span) -> None:
        index = span.message_index
        prompt = self.render(index, prompt=True)
        full, stop = self.render(index + 1, prompt=False), ""
        kinds = {f.kind for f in example.findings if f.message_index == index}
        start = span.start
        if self._keeps_joint(example, index):
            start = longest_common(prompt, example.text)
        before = example.text[:start]
        completion = example.text[start : span.end]
        if "stop_appended" in kinds:
            full, stop = self._stopped_as_in_history(index, full)
        at = self._beginning(index, kinds, before, prompt, full, completion.removesuffix(stop))
        rest = full[at:]
        self._check_no_header(index, completion, prompt, before)
        stop = stop or self._next_header_stop(before + rest, rest)
        expected = self._until_stop(rest, index) + stop
        require(
            completion == expected,
            f"message {index}: supervised {completion!r}, inference generates {expected!r}",
        )
        self._check_ids(example, span, before, completion)
        self._check_owner(completion, index)

    def _beginning(
        self, index: int, kinds: set[str], before: str, prompt: str, full: str, written: str
    ) -> int:
        """Require the prompt of inference; return where the full rendering goes on behind it."""
        differs = not full.startswith(prompt)
        if differs and not kinds & {"context_differs", "header_respelled"}:
            require(MISMATCHES & kinds == {"generation_prompt_mismatch"}, "no finding")
            self._check_common_prefix(index, before, prompt, full)
            return len(before)
        require(before == prompt, f"message {index}: the prompt is {before!r}, not {prompt!r}")
        if not differs:
            require(not kinds & MISMATCHES, f"message {index}: a mismatch where there is none")
            return len(prompt)
        at = full.rfind(written)
        require(at >= 0, f"message {index}: {written!r} is not in the full rendering")
        if "context_differs" not in kinds:
            self._check_header(index, prompt, full, at)
            return at
        invitation = self._generation_prompt(index, prompt)
        require(
            full[:at].endswith(invitation),
            f"message {index}: {written!r} does not follow {invitation!r}",
        )
        return at

    def _check_common_prefix(self, index: int, before: str, prompt: str, full: str) -> None:
        """Require the longest common prefix, but for what would end inside a tag."""
        require(prompt.startswith(before) and full.startswith(before), "not a common prefix")
        at = len(before)
        longest = longest_common(prompt, full)
        if at == longest:
            return
        inside = any(
            match.start() == at and match.end() > longest
            for text in (prompt, full)
            for match in TAG.finditer(text)
        )
        content = str(self.messages[index].get("content") or "")
        starts_answer = bool(content) and full[at:].startswith(content.strip()[:1] or content[:1])
        require(inside or starts_answer, f"the prompt ends {longest - at} characters early")

    def _check_header(self, index: int, prompt: str, full: str, at: int) -> None:
        """Require that a completion begins right behind the last tag of the generation prompt."""
        invitation = self._generation_prompt(index, prompt)
        supplied = re.split(TAG, invitation)[-1]
        tags = [tag for tag in TAG.findall(invitation) if tag in full[:at]]
        require(bool(tags), f"message {index}: no tag of {invitation!r} in {full[:at]!r}")
        between = full[full.rindex(tags[-1], 0, at) + len(tags[-1]) : at]
        words = between.strip()
        require(
            words in supplied and (bool(supplied) or not between),
            f"message {index}: {between!r} lies between the header and the completion",
        )

    def _generation_prompt(self, index: int, prompt: str) -> str:
        """Return what the generation prompt adds, cut so as to begin with a whole tag.

        Nothing where a prefill stands without it.
        """
        try:
            at = longest_common(prompt, self.render(index, prompt=False))
        except Exception:  # whatever the template raises: it shows no context by itself
            require(index in self.prefills, f"message {index}: no context without prompt")
            return ""
        for match in TAG.finditer(prompt):
            if match.start() < at < match.end():
                at = match.start()
        return prompt[at:]

    def _check_no_header(self, index: int, completion: str, prompt: str, before: str) -> None:
        """Require that nothing of the generation prompt is trained again before the answer."""
        own = [text for text in strings_in(self.messages[index]).split("\0") if text.strip()]
        starts = [completion.find(text.strip()[:12]) for text in own]
        lead = completion[: min((at for at in starts if at >= 0), default=0)]
        missed = prompt[longest_common(before, prompt) :] or self._generation_prompt(index, prompt)
        twice = [tag for tag in TAG.findall(missed) if tag in lead and "think" not in tag.lower()]
        require(not twice, f"message {index}: {twice} of the prompt is trained in {lead!r}")

    def _until_stop(self, rest: str, index: int) -> str:
        """Cut behind the first stop token and those that directly follow, up to eos."""
        own = strings_in(self.messages[index])
        require(not any(stop in own for stop in self.stops), "a stop token inside the content")
        pattern = self._stop_pattern()
        found = pattern.search(rest)
        if not found:
            return rest
        while found.group() != self.eos and (more := pattern.match(rest, found.end())):
            found = more
        return rest[: found.end()]

    def _next_header_stop(self, shown: str, rest: str) -> str:
        """Return the stop token right behind a turn that has none of its own, as GLM ends turns."""
        if any(stop in rest for stop in self.stops):
            return ""
        whole = self.render(len(self.messages), prompt=False)
        found = self._stop_pattern().match(whole, len(shown)) if whole.startswith(shown) else None
        return found.group() if found else ""

    def _stopped_as_in_history(self, index: int, full: str) -> tuple[str, str]:
        """Return the turn, cut where a stop token stands once another message follows, and that."""
        user = {"role": "user", "content": "Z9 and then?"}
        tool = {"role": "tool", "content": "Z9 result"}
        calls = self.messages[index].get("tool_calls")
        for probe in [tool | {"tool_call_id": calls[0].get("id")}, user] if calls else [user]:
            try:
                gone_on = self._apply([*self.messages[: index + 1], probe])
            except Exception:  # whatever the template raises: it shows no such history
                continue
            at = longest_common(full, gone_on)
            found = self._stop_pattern().match(gone_on, at)
            require(bool(found), f"message {index}: no stop token follows in {gone_on[at:]!r}")
            require(not full[at:].strip(), f"message {index}: {full[at:]!r} is cut off")
            return full[:at], found.group() if found else ""
        raise Wrong(f"message {index}: a stop token appended, but no history shows one")

    def _stop_pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self.stops)) or "(?!)")

    def _check_ids(self, example: Example, span: Span, before: str, completion: str) -> None:
        """Require the ids of the prompt alone, then those of the completion behind it."""
        if self._keeps_joint(example, span.message_index):
            self._check_joint_ids(example, span, before, completion)
            return
        ids = example.input_ids.tolist()
        prompt_ids = self.ids(before)
        require(
            ids[: span.token_start] == prompt_ids,
            f"message {span.message_index}: the ids before the supervised run are not the prompt's",
        )
        generated = ids[span.token_start : span.token_end]
        joint = self.ids(before + completion)
        straddles = any(
            f.kind == "boundary_straddle" and f.message_index == span.message_index
            for f in example.findings
        )
        if not straddles:
            require(
                joint == prompt_ids + generated,
                f"message {span.message_index}: the ids of the completion are not the text's",
            )
            return
        spelled = self.decode(prompt_ids + generated).removeprefix(self.decode(prompt_ids))
        own = self.decode(self.ids("\n" + completion))
        if own.endswith(completion):  # a tokenizer that loses nothing of it
            is_right = spelled == completion
        else:
            is_right = bare(spelled) in (bare(completion), bare(own))
        require(
            is_right,
            f"message {span.message_index}: the ids spell {spelled!r}, not {completion!r}",
        )

    def decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return text

    def _keeps_joint(self, example: Example, index: int) -> bool:
        """Return whether the policy keeps tokens across the border, and this turn has one."""
        kinds = {f.kind for f in example.findings if f.message_index == index}
        return self.boundary in ("include", "exclude") and "boundary_straddle" in kinds

    def _check_joint_ids(self, example: Example, span: Span, before: str, completion: str) -> None:
        """Require the ids of the whole text, in the loss from or behind the token at the border."""
        ids = example.input_ids.tolist()[: span.token_end]
        text = before + completion
        require(ids == self.ids(text), "the ids are not those of the whole text")
        if self.decode(ids) != text:  # nothing that this tokenizer decodes tells its tokens' places
            return
        spelled = [self.decode(ids[:k]) for k in range(len(ids) + 1)]
        reached = {k: len(part) for k, part in enumerate(spelled) if text.startswith(part)}
        if self.boundary == "include":
            first = max(k for k, length in reached.items() if length <= len(before))
        else:
            first = min(k for k, length in reached.items() if length >= len(before))
        require(span.token_start == first, f"in the loss from {span.token_start}, not {first} on")

    def _check_owner(self, completion: str, index: int) -> None:
        """Require all words of the answer in the completion, in order, and no other's marker."""
        words = set(MARKER.findall(completion))
        own = set(MARKER.findall(strings_in(self.messages[index])))
        require(words <= own, f"message {index}: supervised text holds {words - own}")
        content = strings_in(self.messages[index].get("content"))
        content = content.removeprefix(self.prefills.get(index, ""))
        answer = re.split(r"</think>|\[/THINK\]", content)[-1]
        at = 0
        for word in re.findall(r"[^\W_]+", answer):  # an escape may stand right before it
            at = completion.find(word, at) + len(word)
            require(at >= len(word), f"message {index}: {word!r} is not supervised")


def longest_common(a: str, b: str) -> int:
    """Return the length of the longest common prefix."""
    return next((k for k in range(len(a)) if a[k : k + 1] != b[k : k + 1]), len(a))


def bare(text: str) -> str:
    """Return a text without its white space."""
    return "".join(text.split())


def strings_in(value: object) -> str:
    """Return the strings inside a value, a NUL between them; keys, roles and types left out."""
    if isinstance(value, dict):
        kept = [item for key, item in value.items() if key not in ("role", "type")]
        return "\0".join(strings_in(item) for item in kept)
    if isinstance(value, list):
        return "\0".join(strings_in(item) for item in value)
    return value if isinstance(value, str) else ""


def _other_texts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each string inside a value, and the value with another string in its place."""
    if isinstance(value, str):
        yield value, "Z9 other words"
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = [item for item in value.items() if item[0] not in _NO_TEXT]
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        for text, changed in _other_texts(item):
            copied: Any = dict(value) if isinstance(value, dict) else list(value)
            copied[key] = changed
            yield text, copied


def require(holds: bool, detail: str) -> None:
    if not holds:
        raise Wrong(detail)
