"""Hostile templates reach neither Python nor files nor the user's data, and cost what they may."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import Encoder, TemplateError
from lossmask.confinement import Limits
from lossmask.embedded import DEMO_MODEL
from lossmask.preparing import EncoderSource, prepare
from lossmask.rendering import trace_messages
from lossmask.template_environment import TracingEnvironment
from tests.hostile_templates import (
    ATTACKS,
    BOMBS,
    CANARY,
    CONSTANT_BOMBS,
    MESSAGES,
    NESTED,
    Attack,
    Bomb,
)
from tests.scenarios import assistant, user

LIMITS = Limits(seconds=1, gibibytes=1)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def result_of(render: Callable[[], str]) -> str:
    try:
        return str.__str__(render())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_gets_at_nothing(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, attack: Attack
) -> None:
    canary = tmp_path / "canary"
    template = attack.template.replace(CANARY, str(canary))
    messages = copy.deepcopy(MESSAGES)

    def by_transformers() -> str:
        text: str = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
        return text

    def by_us() -> str:
        environment = TracingEnvironment()
        environment.begin()
        traced, _ = trace_messages(messages)
        text: str = environment.from_string(template).render(messages=traced)
        return text

    assert result_of(by_transformers) == attack.result
    assert result_of(by_us) == attack.our_result
    assert messages == MESSAGES
    assert not canary.exists()


@pytest.mark.parametrize(
    "attack", [a for a in ATTACKS if "Error: " in a.result], ids=lambda attack: attack.name
)
def test_an_attack_that_is_refused_rejects_the_row_with_the_words_of_the_refusal(
    tokenizer: PreTrainedTokenizerBase, attack: Attack
) -> None:
    row = {"messages": copy.deepcopy(MESSAGES)}
    outcome = Encoder(tokenizer, chat_template=attack.template).encode_row(row)
    assert outcome.rejection is not None
    assert outcome.rejection.reason == "template_error"
    assert outcome.rejection.detail == f"the chat template raised {attack.result}"
    assert row == {"messages": MESSAGES}


@pytest.mark.parametrize("name", NESTED)
def test_a_template_nested_too_deeply_is_refused_when_it_is_read(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    with pytest.raises(TemplateError, match="it is nested too deeply") as caught:
        Encoder(tokenizer, chat_template=NESTED[name])
    assert caught.value.reason == "template_syntax"


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def write(path: Path, *contents: str) -> Path:
    rows = [{"messages": [user(content), assistant("Hello")]} for content in contents]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def armed(*bombs: Bomb) -> EncoderSource:
    """Return a template in which each bomb goes off where a message holds its name."""
    armed_bombs = "".join(
        f"{{% if messages[0].content == {bomb.name!r} %}}{bomb.source}{{% endif %}}"
        for bomb in bombs
    )
    return EncoderSource(str(DEMO_MODEL), chat_template=armed_bombs + CHATML)


def rejections(folder: Path) -> list[tuple[int, str, str]]:
    lines = (folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [(record["row"], record["reason"], record["detail"]) for record in records]


def test_bombs_in_some_rows_take_those_rows_only_for_any_number_of_workers(tmp_path: Path) -> None:
    in_time, in_memory = BOMBS[:2]
    contents = ("Hi", in_time.name, "Hi there", in_memory.name, in_memory.name, "Bye")
    data = write(tmp_path / "data.jsonl", *contents)
    for workers in (1, 2):
        counts = prepare(
            [data],
            armed(in_time, in_memory),
            tmp_path / str(workers),
            workers=workers,
            limits=LIMITS,
        ).counts
        assert (counts.rows_in, counts.rows_kept, counts.rows_rejected) == (6, 3, 3)
        assert counts.rejections == {"template_limits": 3}
    found = rejections(tmp_path / "1")
    assert [row for row, _, _ in found] == [1, 3, 4]
    assert [
        bomb.ends in detail
        for (_, _, detail), bomb in zip(found, (in_time, in_memory, in_memory), strict=True)
    ] == [True] * 3
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_a_template_that_no_row_survives_is_an_error_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    data = write(tmp_path / "data.jsonl", "a", "b", "c", "d")
    prepare([data], armed(), tmp_path / "out", limits=LIMITS)
    before = digests(tmp_path / "out")
    bomb = EncoderSource(str(DEMO_MODEL), chat_template=CHATML + BOMBS[1].source)
    with pytest.raises(TemplateError) as caught:
        prepare([data], bomb, tmp_path / "out", limits=LIMITS, overwrite=True, workers=2)
    assert caught.value.reason == "template_limits"
    assert str(caught.value) == (
        "3 rows reach the limits of what one row may cost (1 s of processor time, 1 s more per "
        f"message, 1 GiB of memory) before any is kept; nothing is written. Of {data}:3: it takes "
        "more than 1 GiB of memory: the chat template blows it up, or it is very long; allow more "
        "with --max-memory"
    )
    assert digests(tmp_path / "out") == before
    with pytest.raises(TemplateError):
        prepare([data], bomb, tmp_path / "new", limits=LIMITS)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.name)
def test_a_bomb_takes_its_row_and_no_other(tmp_path: Path, bomb: Bomb) -> None:
    data = write(tmp_path / "data.jsonl", "Hi", bomb.name, "Bye")
    counts = prepare([data], armed(bomb), tmp_path / "out", limits=LIMITS).counts
    assert (counts.rows_in, counts.rows_kept) == (3, 2)
    [(row, reason, detail)] = rejections(tmp_path / "out")
    assert row == 1
    assert bomb.ends in detail
    is_limit = not re.search("Range too big|RecursionError", detail)
    assert reason == ("template_limits" if is_limit else "template_error")


@pytest.mark.slow
@pytest.mark.parametrize("name", CONSTANT_BOMBS)
def test_a_bomb_that_goes_off_at_every_row_fails_the_run(tmp_path: Path, name: str) -> None:
    data = write(tmp_path / "data.jsonl", *"abcdefgh")
    source = EncoderSource(str(DEMO_MODEL), chat_template=CHATML + CONSTANT_BOMBS[name])
    with pytest.raises(TemplateError, match="3 rows reach the limits"):
        prepare([data], source, tmp_path / "out", limits=LIMITS, workers=2)
    assert not (tmp_path / "out").exists()
