"""A loop's tail is constant only if nothing that a conversation holds can change it."""

from __future__ import annotations

import jinja2
import pytest
from jinja2 import nodes

from lossmask.template_environment import TracingEnvironment
from lossmask.template_tail import loops_with_constant_tail

LOOP = "{% for m in messages %}{{ m.content }}{% endfor %}"
COUNTED = "{% for m in messages %}{{ m.content }}{% set ns.n = ns.n + 1 %}{% endfor %}"
ASKED = "{% if add_generation_prompt %}<a>{% endif %}"


def constant(source: str) -> list[int]:
    """Return the loops with a constant tail, by their number among the outermost ones."""
    parsed = jinja2.Environment(trim_blocks=True).parse(source)
    found = loops_with_constant_tail(parsed)
    loops = [node for node in parsed.body if isinstance(node, nodes.For)]
    return [number for number, loop in enumerate(loops) if any(loop is each for each in found)]


@pytest.mark.parametrize(
    "source",
    [
        LOOP,
        LOOP + "\n\n",
        LOOP + ASKED,
        LOOP + "<end>",
        LOOP + "{{ '<a>' if add_generation_prompt else eos_token }}",
        "{{ bos_token }}" + LOOP + "{% if add_generation_prompt %}{{ bos_token }}<a>{% endif %}",
        "{% set a = '<a>' %}" + LOOP + "{{ a if add_generation_prompt }}",
        "{% set a = {'x': '<a>'} %}{% set b = a['x'] | trim %}" + LOOP + "{{ b }}",
        "{% set a = a | default('') %}" + LOOP + "{{ a }}",
        "{% set ns = namespace(n=0) %}" + COUNTED + ASKED,
        LOOP + "{% if enable_thinking is defined and enable_thinking is false %}x{% endif %}",
        LOOP + "{% set a = 1 %}{{ a }}",
        LOOP + "{% for x in [1, 2] %}{{ x }}{% endfor %}",
    ],
)
def test_a_tail_that_no_conversation_changes_is_constant(source: str) -> None:
    assert constant(source)[0] == 0


@pytest.mark.parametrize(
    "source",
    [
        LOOP + "{{ messages }}",
        LOOP + "{{ messages[-1].role if add_generation_prompt }}",
        LOOP + "{{ tools }}",
        LOOP + "{{ documents }}",
        LOOP + "{{ strftime_now('%Y') }}",
        LOOP + "{{ lipsum() }}",
        LOOP + "{{ [1, 2] | random }}",
        LOOP + "{% for x in [1] %}{{ loop.index }}{% endfor %}",
        "{% set a = messages[0].content %}" + LOOP + "{{ a }}",
        "{% set a = 1 %}{% set a = messages %}" + LOOP + "{{ a }}",
        "{% set a = 1 %}{% if messages[0] %}{% set a = 2 %}{% endif %}" + LOOP + "{{ a }}",
        "{% if messages[0] %}{% set a = 2 %}{% endif %}" + LOOP + "{{ a }}",
        "{% set a = messages %}{% set b = a %}" + LOOP + "{{ b }}",
        "{% set a %}{{ messages[0].content }}{% endset %}" + LOOP + "{{ a }}",
        "{% set a, b = 1, messages %}" + LOOP + "{{ b }}",
        "{% set ns = namespace(n=0) %}" + COUNTED + "{{ ns.n }}",
        "{% set ns = namespace(n=0) %}{% set b = ns %}" + COUNTED + "{{ b.n }}",
        "{% set b = [namespace(n=0)] %}{% set ns = b[0] %}" + COUNTED + "{{ b[0].n }}",
        "{% set j = joiner() %}" + LOOP + "{{ j() }}",
        "{% set c = cycler(1, 2) %}" + LOOP + "{{ c.next() }}",
        "{% set g = [1, 2] | map('string') %}" + LOOP + "{{ g | first }}",
        "{% set g = [[1] | select] %}" + LOOP + "{{ g[0] | first }}",
        "{% for m in messages %}{% set a = m %}{% endfor %}{{ a }}",
        "{% for m in messages %}{{ m }}{% endfor %}{{ m }}",
        "{% macro a() %}{{ messages }}{% endmacro %}" + LOOP + "{{ a() }}",
        LOOP + "{% macro a() %}{{ messages }}{% endmacro %}{{ a() }}",
        "{% block b %}{{ messages }}{% endblock %}" + LOOP + "{{ self.b() }}",
        LOOP + "{% block b %}{% endblock %}",
        LOOP + "{% include 'x' %}",
        LOOP + "{% import 'x' as x %}{{ x.y() }}",
        LOOP + "{% from 'x' import y %}{{ y() }}",
        "{% for m in messages %}{{ m }}{% else %}none{% endfor %}",
        "{{ add_generation_prompt }}" + LOOP + ASKED,
        "{% set a = add_generation_prompt %}" + LOOP + "{{ '<a>' if a }}",
        "{% for m in messages %}{{ add_generation_prompt }}{% endfor %}" + ASKED,
        "{% macro a() %}{{ add_generation_prompt }}{% endmacro %}" + LOOP + ASKED,
    ],
)
def test_a_tail_that_may_vary_is_not(source: str) -> None:
    assert 0 not in constant(source)


def test_the_loop_has_to_be_an_outermost_one() -> None:
    assert constant("{% if true %}" + LOOP + "{% endif %}" + ASKED) == []
    nested = "{% for x in [1] %}" + LOOP + "{% endfor %}" + ASKED
    assert constant(nested) == [0]  # the outer one


def test_of_two_loops_only_the_one_behind_which_nothing_varies() -> None:
    assert constant(LOOP + LOOP + ASKED) == [1]
    assert constant(LOOP + "{{ messages }}" + LOOP + ASKED) == [1]


def test_of_two_equal_loops_each_has_its_own_tail() -> None:
    environment = TracingEnvironment()
    environment.parse("{% if true %}" + LOOP + "{{ messages }}{% endif %}" + LOOP + ASKED)
    [number] = environment.constant_tails
    marked = {0, 1}
    assert number in marked
    other = TracingEnvironment()
    other.parse(LOOP + "{{ messages | length }}" + LOOP + ASKED)
    assert len(other.constant_tails) == 1
