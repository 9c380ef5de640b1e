import json
import os
import signal
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from lossmask.confinement import Limits
from lossmask.embedded import DEMO_MODEL
from lossmask.errors import InputError, TokenizerError
from lossmask.live_encoding import LiveEncoding
from lossmask.live_worker import LiveWorker, refusal_after
from lossmask.preparing import EncoderSource

ROW = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}'
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
EATING = "{{ 'a' * 10 ** 10 }}"


class Obeying:
    """Does what it is asked for, whatever that is."""

    def answer(self, question: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        if question == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if question == "fail":
            raise KeyError("a fault of the program")
        return {"question": question, "process": os.getpid(), "parent": os.getppid()}


def ask(worker: LiveWorker, **given: Any) -> Any:
    return json.loads(worker.ask("tokens", {"row": ROW, **given}))


@pytest.fixture(scope="module")
def worker() -> Iterator[LiveWorker]:
    load = partial(LiveEncoding, EncoderSource(str(DEMO_MODEL)))
    with LiveWorker(load, Limits(1, 0.5), method="fork") as made:
        yield made


@pytest.mark.parametrize(
    ("template", "detail"),
    [
        (LOOP, "it takes more than 1 s of processor"),
        (EATING, "it takes more than 0.5 GiB of memory"),
    ],
)
def test_a_template_that_breaks_the_limits_is_refused_and_the_next_question_answered(
    worker: LiveWorker, template: str, detail: str
) -> None:
    before = ask(worker)
    refusal = ask(worker, template=template)["refusal"]
    assert refusal["reason"] == "template_limits"
    assert refusal["detail"].startswith(detail)
    assert ask(worker)["examples"] == before["examples"]


def test_a_question_that_is_none_is_an_error_and_the_next_is_answered(worker: LiveWorker) -> None:
    with pytest.raises(InputError, match="there is no question 'shell'"):
        worker.ask("shell", {"row": ROW})
    assert len(ask(worker)["examples"]) == 1


def test_what_ends_the_process_ends_a_fork_only() -> None:
    with LiveWorker(Obeying, Limits(1, 1), method="fork") as worker:
        first = json.loads(worker.ask("who", {}))
        ended = json.loads(worker.ask("die", {}))
        second = json.loads(worker.ask("who", {}))
    assert "ends the process that encodes it (SIGKILL)" in ended["refusal"]["detail"]
    assert second["process"] != first["process"]
    assert second["parent"] == first["parent"]


def test_a_fault_of_the_program_is_raised_with_its_traceback_and_all_begins_anew() -> None:
    with LiveWorker(Obeying, Limits(1, 1), method="fork") as worker:
        with pytest.raises(RuntimeError, match="a fault of the program"):
            worker.ask("fail", {})
        assert json.loads(worker.ask("who", {}))["question"] == "who"


def test_the_process_that_keeps_the_tokenizer_may_be_lost_too() -> None:
    with LiveWorker(Obeying, Limits(1, 1), method="fork") as worker:
        first = json.loads(worker.ask("who", {}))
        os.kill(first["parent"], signal.SIGKILL)
        os.kill(first["process"], signal.SIGKILL)
        assert "SIGKILL" in json.loads(worker.ask("who", {}))["refusal"]["detail"]
        assert json.loads(worker.ask("who", {}))["parent"] != first["parent"]


def test_processes_end_when_nobody_asks_any_more() -> None:
    with LiveWorker(Obeying, Limits(1, 1), method="fork") as worker:
        known = json.loads(worker.ask("who", {}))
    for process in (known["process"], known["parent"]):
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_a_tokenizer_that_cannot_be_loaded_is_told_at_the_first_question() -> None:
    load = partial(LiveEncoding, EncoderSource("./nowhere"))
    with (
        LiveWorker(load, Limits(1, 1), method="fork") as worker,
        pytest.raises(TokenizerError, match=r"no such tokenizer folder: \./nowhere"),
    ):
        worker.ask("start", {})


def test_other_ends_are_named() -> None:
    assert "(exit code 3)" in refusal_after(3, Limits(1, 1))["detail"]
