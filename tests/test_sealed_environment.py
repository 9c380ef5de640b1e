"""What a template writes around contents holds for all contents that give the same answers."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask.embedded import DEMO_MODEL
from lossmask.rendering import ChatTemplate
from lossmask.sealed_reading import SealedText
from lossmask.skeletons import PlainLayout, Skeleton
from tests.inspecting_templates import ASKED, BLOCKS, REFUSED, WRITTEN, showing, with_block, writing
from tests.scenarios import Message

CONTENTS = (
    ("a", "b "),
    ("So,", "No."),
    ("b", "a"),
    (" a ", "\nb\n"),
    ("!q", "</q>\nx"),
    ("YES and no", "one two three"),
    ("a</x>b", "x.y"),
    ("", "a"),
    ("a", ""),
    ("7", "{{ c }}"),
)
ROLES = ("user", "assistant")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def messages_of(contents: tuple[str, ...]) -> list[Message]:
    return [{"role": role, "content": text} for role, text in zip(ROLES, contents, strict=True)]


def sealed_by(template: ChatTemplate, contents: tuple[str, ...]) -> SealedText | None:
    return template.render_sealed(messages_of(contents), template.seen_variables({}))


def rendered_by(template: ChatTemplate, contents: tuple[str, ...]) -> str | None:
    try:
        return template.render_text(messages_of(contents))
    except Exception:
        return None


def check(template: ChatTemplate) -> int:
    """Hold every skeleton, filled with every contents, against transformers; return how many fit.

    A skeleton fits contents other than its own only if they give the same answers.
    """
    fitting = 0
    for contents in CONTENTS:
        sealed = sealed_by(template, contents)
        if sealed is None:
            continue
        assert sealed.text == rendered_by(template, contents), contents
        for index, start, end in sealed.written:
            assert sealed.text[start:end] == contents[index]
        if [index for index, *_ in sealed.written] != [k for k, c in enumerate(contents) if c]:
            continue
        layout = PlainLayout.of(sealed.text, sealed.written, [])
        skeleton = Skeleton.of([layout], sealed.asked)
        filled = skeleton.filled(contents)
        assert filled is not None
        [same] = filled
        assert (same.text, same.written) == (layout.text, layout.written)
        for others in CONTENTS:
            if [*map(bool, others)] == [*map(bool, contents)]:
                filled = skeleton.filled(others)
                if filled is not None:
                    assert filled[0].text == rendered_by(template, others), (contents, others)
                    fitting += others != contents
    return fitting


@pytest.mark.parametrize("expression", ASKED)
def test_what_is_asked_of_a_content_is_asked_of_others(
    tokenizer: PreTrainedTokenizerBase, expression: str
) -> None:
    template = ChatTemplate(tokenizer, showing(expression))
    check(template)
    assert sealed_by(template, ("So,", "No.")) is not None


@pytest.mark.parametrize("expression", WRITTEN)
def test_a_content_may_be_written_in_many_ways(
    tokenizer: PreTrainedTokenizerBase, expression: str
) -> None:
    template = ChatTemplate(tokenizer, writing(expression))
    assert check(template) > 0
    sealed = sealed_by(template, ("So,", "No."))
    assert sealed is not None
    assert [index for index, *_ in sealed.written] == [0, 1]


@pytest.mark.parametrize("expression", REFUSED)
def test_what_says_more_is_refused(tokenizer: PreTrainedTokenizerBase, expression: str) -> None:
    for source in (showing(expression), writing(expression)):
        template = ChatTemplate(tokenizer, source)
        check(template)
        assert sealed_by(template, ("So,", "No.")) is None


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_are_read_or_refused(tokenizer: PreTrainedTokenizerBase, block: str) -> None:
    check(ChatTemplate(tokenizer, with_block(block)))


def test_the_time_is_asked_again(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = ChatTemplate(tokenizer, showing("strftime_now('%Y')"))
    sealed = sealed_by(template, ("a", "b"))
    assert sealed is not None
    skeleton = Skeleton.of([PlainLayout.of(sealed.text, sealed.written, [])], sealed.asked)
    assert skeleton.filled(("c", "d")) is not None
    environment: Any = template._compile_sealed(template.source())[0]
    [(index, method, arguments, _)] = skeleton.asked
    other = Skeleton(skeleton.frames, [(index, method, arguments, "1999")])
    assert method is environment._now
    assert other.filled(("c", "d")) is None


def test_a_content_that_is_empty_may_be_looked_at(tokenizer: PreTrainedTokenizerBase) -> None:
    template = ChatTemplate(tokenizer, showing("c | upper | length"))
    assert sealed_by(template, ("", "a")) is None
    sealed = sealed_by(template, ("", ""))
    assert sealed is not None
    assert sealed.text == rendered_by(template, ("", ""))
