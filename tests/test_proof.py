"""Trace and perturbation agree about every template, and a wrong trace does not pass."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import proof
from lossmask.embedded import DEMO_MODEL
from lossmask.errors import ParityError, TemplateError
from lossmask.perturbation import Observation
from lossmask.probes import PROBES
from lossmask.proof import Proof, compare, prove, prove_once, prove_template
from lossmask.remembered import folder
from lossmask.rendering import ChatTemplate
from lossmask.traced_rendering import Rendering
from lossmask.traced_text import COARSE
from tests import corpus
from tests.fixture_templates import FIXTURE_TEMPLATES
from tests.scenarios import SCENARIOS, Message, Scenario, assistant, user

EVERY = 40  # every n-th corpus template in the default run; the slow run takes all

EXPRESSIONS = """
x | upper | lower | capitalize
x | title ~ y.swapcase()
x | trim ~ x.strip('.') ~ x.lstrip() ~ x.rstrip()
x | replace('i', '') ~ x.replace(' ', '') ~ x.replace('.', y)
x | tojson ~ x | tojson(ensure_ascii=true)
{x: [y, 1], 'n': none} | tojson(indent=2, sort_keys=true)
{'a': x, 'b': (y, x)} ~ [x, [y]] | string
[x, y] | join(x[0]) ~ x.join(['a', y])
[y, x] | sort | join ~ [y, x] | unique | join ~ ([x] + [y]) | last
x.split(' ') | map('upper') | join('_') ~ x | list | join
x.rsplit(' ', 1)[0] ~ x.partition(' ') | join ~ x.splitlines() | join('/')
x[2:5] ~ x[::-1] ~ x[-1] ~ 2 * x ~ x[:3]
'%s and %-30s' % (x, y) ~ '%s' | format(x)
'{} {:>30}'.format(x, y)
'{a}{b}'.format(a=x, b=y) ~ '{}'.format(x)
x | e ~ (x | safe) ~ '<'
x | indent(2) ~ x | center(40) ~ x.ljust(40) ~ x.zfill(40)
x | wordwrap(5) ~ y | truncate(6) ~ x | striptags
dict(a=x) | tojson ~ namespace(a=y).a ~ {'a': x}.items() | list
messages | map(attribute='content') | join(' / ') ~ messages | tojson
(x ~ y)[3:9] ~ (x ~ y) | upper ~ (x ~ y).split('.') | join
x | default(y) ~ '' | default(y, true) ~ (x or y) ~ (y if x else x)
"""
"""Jinja expressions over the texts x and y of a user and an assistant."""

STATEMENTS = """
{% for c in x %}{{ c }}{{ loop.nextitem }}-{% endfor %}
{% filter upper %}a{{ x }}b{% filter trim %} {{ y }} {% endfilter %}{% endfilter %}
{% set z | trim %} {{ x }} {% endset %}{{ z[1:] }}{{ z | length }}
{% set n = namespace(t='') %}{% for c in x %}{% set n.t = c ~ n.t %}{% endfor %}{{ n.t }}
{% macro f(a, b='z') %}<{{ a }}{{ b }}>{% endmacro %}{{ f(x) | upper }}{{ f(b=x, a=y)[2:] }}
{% macro f() %}({{ caller(x) }}){% endmacro %}{% call(v) f() %}{{ v }}{{ y }}{% endcall %}
{% for k, v in {'b': x, x: y} | dictsort %}{{ k }}={{ v }};{% endfor %}
{% generation %}{% set z = x %}{{ z }}{% endgeneration %}{{ y }}
{% set a, b = x.split(' ', 1) %}{{ b }}{{ a }}{% with z = x ~ y %}{{ z[3:7] }}{% endwith %}
{% for m in messages | reverse %}{{ m }}{% endfor %}
"""

NEED_OTHER_FIELDS = {  # these render no conversation with role and content, or need other filters
    "gpt4all__DeepSeek-R1-Distill-Qwen-7B.jinja",
    "ov__AliAbdelrasheed-maqa-llama-4bit.jinja",
    "ov__alexsobolev-IcaroLM.jinja",
}

NUMBERS = ["x | int", "x | float", "'{0!r}'.format(x)", "x.format()"]
"""Expressions over a text that is a number."""


def _lines(text: str) -> list[str]:
    return text.strip().split("\n")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOSSMASK_CACHE", str(tmp_path))
    monkeypatch.setattr(proof, "_proven", {})
    return tmp_path / "proofs"


def derived(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message]
) -> tuple[Rendering, Observation]:
    """Return the trace of the demo template and what perturbation says, for faults to be put in."""
    template = ChatTemplate(tokenizer)
    return template.render(messages), prove(template, messages)


CONVERSATION = [user("Hello?"), assistant("Hi you."), user("Hello?"), assistant("Bye.")]


def test_a_true_trace_passes(tokenizer: PreTrainedTokenizerBase) -> None:
    traced, observed = derived(tokenizer, CONVERSATION)
    compare(traced, observed)
    assert int(observed.moved.sum()) == len("Hello?Hiyou.Hello?Bye.")


def test_an_origin_that_is_one_character_off_is_found(tokenizer: PreTrainedTokenizerBase) -> None:
    traced, observed = derived(tokenizer, CONVERSATION)
    at = traced.text.index("Hi you.")
    origins = traced.origins.copy()
    origins[at : at + 7] += 1
    with pytest.raises(ParityError, match="moved with another string") as raised:
        compare(replace(traced, origins=origins), observed)
    assert raised.value.reason == "derivations_disagree"
    assert raised.value.message_index == 1
    assert "the trace says it is character 1 of 'content' of message 1" in str(raised.value)
    assert "perturbation says it is character 0 of 'content' of message 1" in str(raised.value)


@pytest.mark.parametrize("position", range(7))
def test_a_single_lost_origin_is_found(tokenizer: PreTrainedTokenizerBase, position: int) -> None:
    traced, observed = derived(tokenizer, CONVERSATION)
    origins = traced.origins.copy()
    origins[traced.text.index("Hi you.") + position] = -1
    if "Hi you."[position] == " ":  # white space between words is not put to the test
        compare(replace(traced, origins=origins), observed)
        return
    with pytest.raises(ParityError, match="the trace says the template wrote it"):
        compare(replace(traced, origins=origins), observed)


def test_an_invented_origin_is_found(tokenizer: PreTrainedTokenizerBase) -> None:
    traced, observed = derived(tokenizer, CONVERSATION)
    origins = traced.origins.copy()
    origins[traced.text.index("assistant")] = (1 << 32) | 0
    with pytest.raises(ParityError, match="did not move with the string it is traced to") as raised:
        compare(replace(traced, origins=origins), observed)
    assert raised.value.message_index == 1
    assert "perturbation says the template wrote it" in str(raised.value)


def test_two_messages_of_equal_text_that_are_swapped_are_found(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    traced, observed = derived(tokenizer, CONVERSATION)
    leaf = traced.origins >> 32
    origins = traced.origins.copy()
    origins[leaf == 0] += 2 << 32
    origins[leaf == 2] -= 2 << 32
    with pytest.raises(ParityError, match="moved with another string") as raised:
        compare(replace(traced, origins=origins), observed)
    assert "'content' of message 2, perturbation says" in str(raised.value)


def test_a_coarse_origin_passes_where_anything_of_it_moved(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    traced, observed = derived(tokenizer, CONVERSATION)
    at = traced.text.index("Hi you.")
    origins = traced.origins.copy()
    origins[at : at + 7] = (1 << 32) | COARSE
    compare(replace(traced, origins=origins), observed)
    origins = traced.origins.copy()
    origins[traced.text.index("\n")] = (1 << 32) | COARSE  # white space is not put to the test
    compare(replace(traced, origins=origins), observed)
    origins[: traced.text.index("Hello")] = (1 << 32) | COARSE
    with pytest.raises(
        ParityError, match="the trace says it is somewhere in 'content' of message 1"
    ):
        compare(replace(traced, origins=origins), observed)


def test_renderings_of_other_conversations_are_not_compared(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    traced, _ = derived(tokenizer, CONVERSATION)
    _, other = derived(tokenizer, [user("Hello?")])
    with pytest.raises(ParityError, match="not about the same conversation"):
        compare(traced, other)


@pytest.mark.parametrize("name", sorted(FIXTURE_TEMPLATES))
def test_own_templates_are_traced_as_perturbation_sees_them(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    template = ChatTemplate(tokenizer, FIXTURE_TEMPLATES[name])
    compared, untold = _prove_all(template, SCENARIOS)
    assert compared > 0.8 * len(SCENARIOS)
    assert not untold


def test_all_strings_of_the_probes_are_told(tokenizer: PreTrainedTokenizerBase) -> None:
    source = FIXTURE_TEMPLATES["chatml with tools"]
    proven = prove_template(ChatTemplate(tokenizer, source))
    shown = "{% for m in messages %}{{ m | tojson }}{% endfor %}"
    assert proven == Proof(2 * len(PROBES), 0, proven.characters, ())
    assert prove_template(ChatTemplate(tokenizer, shown)).undetermined == ()
    assert proven.characters > 500


def test_probes_that_a_template_refuses_are_skipped(tokenizer: PreTrainedTokenizerBase) -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    blends = "{{ (messages[0].content ~ messages[1].content) | wordwrap(1) }}"
    with_system = sum(probe.messages[0]["role"] == "system" for probe in PROBES)
    proven = prove_template(
        ChatTemplate(tokenizer, refuses + FIXTURE_TEMPLATES["macro and set block"])
    )
    assert (proven.rendered, proven.skipped) == (2 * (len(PROBES) - with_system), 2 * with_system)
    assert prove_template(ChatTemplate(tokenizer, blends)).rendered == 0


def test_a_template_that_the_trace_gets_wrong_is_refused_by_name_of_the_probe(
    tokenizer: PreTrainedTokenizerBase, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = ChatTemplate.render

    def off_by_one(self: ChatTemplate, *args: Any, **kwargs: Any) -> Rendering:
        traced = render(self, *args, **kwargs)
        shifted = np.where(traced.origins >= 0, traced.origins + 1, traced.origins)
        return replace(traced, origins=shifted)

    monkeypatch.setattr(ChatTemplate, "render", off_by_one)
    runs = _counted_proofs(monkeypatch)
    template = ChatTemplate(tokenizer)
    for _ in range(2):
        with pytest.raises(ParityError, match="in the probe 'system and turns', ") as raised:
            prove_once(template)
        assert raised.value.reason == "derivations_disagree"
        assert raised.value.message_index is None
    assert runs == [1]
    assert not list(cache.glob("*"))


def test_a_template_is_proven_once_per_process_and_once_per_machine(
    tokenizer: PreTrainedTokenizerBase, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = _counted_proofs(monkeypatch)
    template = ChatTemplate(tokenizer)
    first = prove_once(template)
    assert prove_once(template) is first
    assert prove_once(ChatTemplate(tokenizer)) is first
    assert runs == [1]
    [file] = cache.iterdir()
    assert file.suffix == ".json"
    monkeypatch.setattr(proof, "_proven", {})  # another process
    assert prove_once(template) == first
    assert runs == [1]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "{}", '{"key": "other"}', '{"key": "KEY", "rendered": 1}', "\udcff"],
)
def test_a_broken_memory_is_no_proof(
    tokenizer: PreTrainedTokenizerBase,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
) -> None:
    runs = _counted_proofs(monkeypatch)
    template = ChatTemplate(tokenizer)
    first = prove_once(template)
    [file] = cache.iterdir()
    file.write_bytes(content.replace("KEY", file.stem).encode("utf-8", "surrogateescape"))
    monkeypatch.setattr(proof, "_proven", {})
    assert prove_once(template) == first
    assert runs == [2]
    assert json.loads(file.read_text())["key"] == file.stem
    assert [path.name for path in cache.iterdir()] == [file.name]


def test_a_memory_that_cannot_be_written_is_no_error(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOSSMASK_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(proof, "_proven", {})
    assert prove_once(ChatTemplate(tokenizer)).rendered > 0


def test_another_template_other_variables_and_other_special_tokens_are_other_proofs(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = _counted_proofs(monkeypatch)
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    prove_once(ChatTemplate(tokenizer))
    prove_once(ChatTemplate(tokenizer), {"enable_thinking": False})
    prove_once(ChatTemplate(tokenizer, FIXTURE_TEMPLATES["macro and set block"]))
    tokenizer.add_special_tokens({"eos_token": "<|im_start|>"})
    prove_once(ChatTemplate(tokenizer))
    assert runs == [4]
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LOSSMASK_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own/proofs"),
        ({"XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}, "/xdg/lossmask/proofs"),
        ({"HOME": "/home/me"}, "/home/me/.cache/lossmask/proofs"),
    ],
)
def test_proofs_lie_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name in ("LOSSMASK_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert folder("proofs") == Path(expected)


TEXTS = [("Hi bob. Ho 10!", "See you <there> & 'then'."), ('Straße ﬁ\n\t"q" \\ é', "a b c")]


@pytest.mark.parametrize("texts", TEXTS, ids=["ASCII", "escapes"])
@pytest.mark.parametrize(
    "source", [*(f"{{{{ {e} }}}}" for e in _lines(EXPRESSIONS)), *_lines(STATEMENTS)]
)
def test_no_operation_loses_or_invents_an_origin(
    tokenizer: PreTrainedTokenizerBase, source: str, texts: tuple[str, str]
) -> None:
    assert _prove_source(tokenizer, source, *texts).moved.any()


@pytest.mark.parametrize("expression", NUMBERS)
def test_a_number_keeps_the_origin_of_its_text(
    tokenizer: PreTrainedTokenizerBase, expression: str
) -> None:
    assert _prove_source(tokenizer, f"{{{{ {expression} }}}}", "42", "").moved.any()


@corpus.needs_corpus
@pytest.mark.parametrize("name", corpus.template_names()[::EVERY])
def test_published_templates_are_traced_as_perturbation_sees_them(name: str) -> None:
    template = ChatTemplate(corpus.tokenizer_for(name), corpus.template_source(name))
    assert prove_template(template).rendered > 0
    compared, _ = _prove_all(template, SCENARIOS[::5])
    assert compared > 0


@corpus.needs_corpus
@pytest.mark.slow
def test_all_published_templates_are_traced_as_perturbation_sees_them() -> None:
    edge = [
        Scenario("edge/" + row["id"], row["messages"], row.get("tools"))
        for row in corpus.rows("synthetic-edge-dev")
    ]
    compared, untold, wrong, unproven = 0, Counter[str](), set[str](), set[str]()
    for name in corpus.template_names():
        template = ChatTemplate(corpus.tokenizer_for(name), corpus.template_source(name))
        if not prove_template(template).rendered:
            unproven.add(name)
        for scenario in [*SCENARIOS, *edge]:
            try:
                more, also = _prove_all(template, [scenario])
            except ParityError:
                wrong.add(f"{name}: {scenario.name}")
            else:
                compared, untold = compared + more, untold + also
    assert wrong == set()
    assert unproven == NEED_OTHER_FIELDS
    assert compared > 25_000
    assert untold.pop("content") <= 20  # white space alone: templates look whether any is left
    assert {path.rpartition("/")[2] for path in untold} == {"type"}  # of parts and of tool calls


def _prove_source(tokenizer: PreTrainedTokenizerBase, source: str, x: str, y: str) -> Observation:
    names = "{% set x = messages[0].content %}{% set y = messages[1].content %}"
    return prove(ChatTemplate(tokenizer, names + source), [user(x), assistant(y)])


def _prove_all(template: ChatTemplate, scenarios: list[Scenario]) -> tuple[int, Counter[str]]:
    """Prove what the template renders of these; count it, and the values that were not told."""
    compared, untold = 0, Counter[str]()
    for scenario in scenarios:
        try:
            observed = prove(template, scenario.messages, tools=scenario.tools)
        except TemplateError:
            continue
        compared += 1
        untold.update(leaf.path for leaf in observed.undetermined if not leaf.is_key)
    return compared, untold


def _counted_proofs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    runs = [0]

    def counted(*args: Any, **kwargs: Any) -> Proof:
        runs[0] += 1
        return prove_template(*args, **kwargs)

    monkeypatch.setattr(proof, "prove_template", counted)
    return runs
