"""Templates render to the text of transformers, with the message behind every character."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lossmask import TemplateError
from lossmask.embedded import DEMO_MODEL
from lossmask.rendering import ChatTemplate
from lossmask.template_environment import TracedMessage
from lossmask.traced_formatting import safe
from lossmask.traced_rendering import Rendering
from lossmask.traced_text import MIXED, leaf_text
from tests.scenarios import Message, assistant, call, system, user

CHAT = [user("Hi <b> a\nb"), assistant("Hello")]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(DEMO_MODEL)


def render(
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    messages: list[Message] | None = None,
    **variables: Any,
) -> Rendering:
    """Render and require the text of ``apply_chat_template``."""
    messages = CHAT if messages is None else messages
    rendering = ChatTemplate(tokenizer, source).render(messages, template_variables=variables)
    expected = tokenizer.apply_chat_template(
        messages, tokenize=False, chat_template=source, **variables
    )
    assert rendering.text == expected
    assert len(rendering.origins) == len(expected)
    return rendering


def owners(rendering: Rendering) -> str:
    """Draw the message of each character, ``.`` for scaffolding."""
    return "".join("." if k < 0 else str(k) for k in rendering.message_index().tolist())


def located(rendering: Rendering, messages: list[Message] | None = None) -> str:
    """Return the content character behind each located character, ``.`` for all others."""
    messages = CHAT if messages is None else messages
    found = [rendering.origin(position) for position in range(len(rendering.text))]
    return "".join(
        messages[leaf.message_index][leaf.path][offset] if leaf and offset >= 0 else "."
        for leaf, offset in found
    )


def marks(rendering: Rendering) -> list[tuple[int, str, int]]:
    return [(at, mark.kind, mark.message_index) for at, mark in rendering.marks]


def each(expression: str) -> str:
    return "{% for m in messages %}" + expression + "{% endfor %}"


@pytest.mark.parametrize(
    ("source", "text", "drawn"),
    [
        (each("<{{ m.content }}>"), "<Hi <b> a\nb><Hello>", ".0000000000..11111."),
        (each("{{ m.role ~ '|' ~ m.content ~ 1 }}"), None, ".....0000000000...........11111."),
        (each("{{ '[' + m.content + ']' }}"), "[Hi <b> a\nb][Hello]", ".0000000000..11111."),
        (
            each("{% set x %}-{{ m.content }}-{% endset %}{{ x }}"),
            "-Hi <b> a\nb--Hello-",
            ".0000000000..11111.",
        ),
        (
            "{% macro t(m, end='!') %}{{ m.content }}{{ end }}{% endmacro %}" + each("{{ t(m) }}"),
            "Hi <b> a\nb!Hello!",
            "0000000000.11111.",
        ),
        (
            "{% macro t(x) %}[{{ caller(x) }}]{% endmacro %}"
            + each("{% call(y) t(m.content) %}{{ y }}!{% endcall %}"),
            "[Hi <b> a\nb!][Hello!]",
            ".0000000000...11111..",
        ),
        (
            "{% filter upper %}" + each("{{ m.content }}ß") + "{% endfilter %}",
            "HI <B> A\nBSSHELLOSS",
            "0000000000..11111..",
        ),
        (
            "{% set ns = namespace(all='') %}"
            + each("{% set ns.all = ns.all + m.content + ';' %}")
            + "{{ ns.all }}",
            "Hi <b> a\nb;Hello;",
            "0000000000.11111.",
        ),
        (
            "{% block chat %}" + each("{{ m.content }}") + "{% endblock %}",
            "Hi <b> a\nbHello",
            "000000000011111",
        ),
        (
            "{% with x = messages[1].content %}{{ x }}{% endwith %}{{ messages[-2].content }}",
            "HelloHi <b> a\nb",
            "111110000000000",
        ),
    ],
)
def test_text_is_attributed_through_template_constructs(
    tokenizer: PreTrainedTokenizerBase, source: str, text: str | None, drawn: str
) -> None:
    rendering = render(tokenizer, source)
    assert text in (None, rendering.text)
    assert owners(rendering) == drawn


@pytest.mark.parametrize(
    ("expression", "text", "where"),
    [
        ("m.content | trim('b')", "Hi <b> a\nHello", "Hi <b> a\nHello"),
        ("m.content | replace('\\n', '\\\\n')", "Hi <b> a\\nbHello", "Hi <b> a..bHello"),
        ("m.content | replace('b', m.role)", None, "Hi <....> a\n....Hello"),
        ("m.content | upper", "HI <B> A\nBHELLO", "Hi <b> a\nbHello"),
        ("m.content | capitalize", "Hi <b> a\nbHello", "Hi <b> a\nbHello"),
        ("m.content | first ~ m.content | last", "HbHo", "HbHo"),
        ("m.content | reverse", "b\na >b< iHolleH", "b\na >b< iHolleH"),
        ("m.content | list | join('.')", None, "H.i. .<.b.>. .a.\n.bH.e.l.l.o"),
        ("m.content.split() | join(' ')", "Hi <b> a bHello", "Hi.<b>.a.bHello"),
        ("m.content.splitlines() | join('/')", "Hi <b> a/bHello", "Hi <b> a.bHello"),
        ("m.content.split('<')[0].rstrip()", "HiHello", "HiHello"),
        ("m.content[1:4]", "i <ell", "i <ell"),
        ("m.content[::-2]", "ba><iolH", "ba><iolH"),
        ("m.content | center(7)", None, "Hi <b> a\nb.Hello."),
        ("m.content | indent(2, first=true)", None, "..Hi <b> a...b..Hello"),
        ("m.content | indent", "Hi <b> a\n    bHello", "Hi <b> a.....bHello"),
        ("m.content | indent('> ', blank=true)", "Hi <b> a\n> bHello", "Hi <b> a...bHello"),
        ("m.content | tojson", '"Hi <b> a\\nb""Hello"', ".Hi <b> a\n\nb..Hello."),
        ("{'k': [m.content]} | tojson(indent=1)", None, None),
        ("m.content | safe", "Hi <b> a\nbHello", "Hi <b> a\nbHello"),
        ("'<' + (m.content | safe)", "&lt;Hi <b> a\nb&lt;Hello", "....Hi <b> a\nb....Hello"),
        ("'%s: %s' | format(m.role, m.content)", None, "......Hi <b> a\nb...........Hello"),
        ("'%s|%%' % m.content", "Hi <b> a\nb|%Hello|%", "Hi <b> a\nb..Hello.."),
        ("'{}!'.format(m.content)", "Hi <b> a\nb!Hello!", "Hi <b> a\nb.Hello."),
        ("', '.join([m.role, m.content])", None, "......Hi <b> a\nb...........Hello"),
        (
            "m.content ~ none ~ true ~ [m.content]",
            None,
            "Hi <b> a\nb..........Hi <b> a\n\nb..Hello..........Hello..",
        ),
        ("[m.content, 'x'] | map('upper') | join", "HI <B> A\nBXHELLOX", "Hi <b> a\nb.Hello."),
        ("m.content | escape", "Hi &lt;b&gt; a\nbHello", None),
        ("m.content | string | trim", "Hi <b> a\nbHello", "Hi <b> a\nbHello"),
        ("(m.content ~ '!') | title", "Hi <B> A\nB!Hello!", None),
        ("m.content | default('none')", "Hi <b> a\nbHello", "Hi <b> a\nbHello"),
        ("m.name | default(m.content)", "Hi <b> a\nbHello", "Hi <b> a\nbHello"),
    ],
)
def test_expressions_keep_the_place_of_each_character(
    tokenizer: PreTrainedTokenizerBase, expression: str, text: str | None, where: str | None
) -> None:
    rendering = render(tokenizer, each("{{ " + expression + " }}"))
    assert text in (None, rendering.text)
    assert where in (None, located(rendering))
    assert MIXED not in rendering.origins
    assert set(owners(rendering)) - {"."} == {"0", "1"}


@pytest.mark.parametrize(
    "expression",
    [
        "'{text:>20}'.format(text=m.content)",
        "m.content | wordwrap(3)",
        "m.content | striptags",
        "m.content | urlize",
        "'%30s' % m.content",
        "m.content | replace('', '-')",
        "{'a': m.content} | xmlattr",
    ],
)
def test_operations_that_cannot_be_followed_keep_the_message(
    tokenizer: PreTrainedTokenizerBase, expression: str
) -> None:
    rendering = render(tokenizer, each("{{ " + expression + " }}"))
    drawn = owners(rendering)
    assert drawn == "0" * drawn.count("0") + "1" * drawn.count("1")
    assert [rendering.origin(position)[1] for position in (0, -1)] == [-1, -1]


def test_two_messages_blended_beyond_recognition_are_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = "{{ (messages[0].content ~ messages[1].content) | wordwrap(30) }}"
    with pytest.raises(
        TemplateError, match=r"blends several strings into one at 'Hi <b> a"
    ) as info:
        render(tokenizer, source)
    assert info.value.reason == "cannot_trace"


def test_text_that_nobody_wrote_in_a_message_is_scaffolding(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = "{{ year }}{{ eos_token }}{{ messages | length }}{{ messages[1].role }}"
    rendering = render(tokenizer, source, year="2026")
    assert rendering.text == "2026<|im_end|>2assistant"
    assert owners(rendering) == "." * 24


def test_nested_fields_are_attributed_to_their_path(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [user("go"), assistant("", tool_calls=[call("f", {"city": "Rö", "n": 2})])]
    rendering = render(
        tokenizer, "{{ messages[1].tool_calls[0].function.arguments | tojson }}", messages
    )
    assert rendering.text == '{"city": "Rö", "n": 2}'
    path = "tool_calls/0/function/arguments"
    shown = {(leaf.path, leaf.is_key) for leaf in rendering.leaves_shown()}
    assert shown == {(f"{path}/city", True), (f"{path}/city", False), (f"{path}/n", True)}
    leaf, offset = rendering.origin(rendering.text.index("ö"))
    assert leaf is not None
    assert (leaf.message_index, leaf.path, leaf.is_key, offset) == (1, f"{path}/city", False, 1)
    assert leaf.field == "tool_calls"


def test_the_reasoning_field_is_found_under_all_its_names(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    messages = [user("q"), assistant("a", reasoning="why")]
    rendering = render(tokenizer, each("{{ m.reasoning_content }}{{ m.thinking }}"), messages)
    assert (rendering.text, owners(rendering)) == ("whywhy", "111111")


def test_keys_that_are_null_are_undefined_as_in_transformers(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    messages = [user("q"), assistant(None, tool_calls=[call("f", {})])]
    source = each("{{ m.content is defined }}{{ m.content or '-' }};")
    assert render(tokenizer, source, messages).text == "Trueq;False-;"


def test_generation_tags_are_marks_of_the_message(tokenizer: PreTrainedTokenizerBase) -> None:
    source = each("{{ m.role }}:{% generation %}{{ m.content }}!{% endgeneration %};")
    rendering = render(tokenizer, source)
    assert rendering.text == "user:Hi <b> a\nb!;assistant:Hello!;"
    assert marks(rendering) == [
        (0, "start", 0),
        (5, "generation_start", 0),
        (16, "generation_end", 0),
        (17, "end", 0),
        (17, "start", 1),
        (27, "generation_start", 1),
        (33, "generation_end", 1),
        (34, "end", 1),
    ]


def test_variables_set_inside_a_generation_tag_do_not_leak(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = (
        "{% set x = 'out' %}{% generation %}{% set x = 'in' %}{{ x }}{% endgeneration %}-{{ x }}"
        + each("{% generation %}{% set y = m.content %}{{ loop.index }}{% endgeneration %}{{ y }}")
    )
    assert render(tokenizer, source).text == "in-out12"


def test_a_generation_tag_outside_of_every_message_names_none(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = "{% generation %}x{% endgeneration %}"
    assert marks(render(tokenizer, source)) == [
        (0, "generation_start", -1),
        (1, "generation_end", -1),
    ]


def test_a_generation_tag_behind_an_inner_loop_names_the_outer_message(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    inner = "{% for n in messages %}{% endfor %}"
    source = each(inner + "{% generation %}{{ m.content }}{% endgeneration %}")
    found = [mark for mark in marks(render(tokenizer, source)) if mark[1] == "generation_start"]
    assert found == [(0, "generation_start", 0), (10, "generation_start", 1)]


BOTH = [(0, "start", 0), (10, "end", 0), (10, "start", 1), (15, "end", 1)]


@pytest.mark.parametrize(
    "source",
    [
        each("{{ m.content }}"),
        each("{{ m.content }}{% if loop.last %}{% endif %}"),
        each("{% if not loop.last %}{{ loop.nextitem.role[:0] }}{% endif %}{{ m.content }}"),
        each("{% if loop.previtem %}{% endif %}{{ m.content }}"),
        "{% for i in range(2) %}{% set m = messages[i] %}{% for n in [m] %}{{ n.content }}"
        "{% endfor %}{% endfor %}",
        "{% for m in messages if m.content %}{{ m.content }}{% else %}none{% endfor %}",
        "{% for part in messages | batch(1) %}{% for m in part %}{{ m.content }}{% endfor %}"
        "{% endfor %}",
        "{% for _, m in [[0, messages[0]], [1, messages[1]]] %}{{ m.content }}{% endfor %}",
        "{% macro body() %}" + each("{{ m.content }}") + "{% endmacro %}{{ body() }}",
        "{% set x %}" + each("{{ m.content }}") + "{% endset %}{{ x }}",
        "{% set x %}" + each("{{ m.content }}") + "{% endset %}{{ x | trim | upper }}",
        "{% filter trim %}" + each("{{ m.content }}") + "{% endfilter %}",
        "{% for m in messages recursive %}{{ m.content }}{% endfor %}",
    ],
)
def test_marks_name_the_message_and_its_borders(
    tokenizer: PreTrainedTokenizerBase, source: str
) -> None:
    assert marks(render(tokenizer, source)) == BOTH


def test_marks_follow_the_message_and_not_the_place_in_the_loop(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    messages = [system("S"), user("Q"), assistant("A")]
    source = "{% for m in messages[1:] | reverse %}{{ m.content }}{% endfor %}"
    assert marks(render(tokenizer, source, messages)) == [
        (0, "start", 2),
        (1, "end", 2),
        (1, "start", 1),
        (2, "end", 1),
    ]


def test_loops_over_other_things_leave_no_marks(tokenizer: PreTrainedTokenizerBase) -> None:
    source = (
        "{% for c in messages[0].content %}{{ c }}{% endfor %}{% for i in [1] %}{{ i }}{% endfor %}"
    )
    rendering = render(tokenizer, source)
    assert (rendering.marks, owners(rendering)) == ((), "0000000000.")


def test_a_loop_over_messages_and_other_things_marks_the_messages_alone(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = "{% for x in [messages[0], 'y', messages[1]] %}{{ x.content or x }}{% endfor %}"
    expected = [(0, "start", 0), (10, "end", 0), (11, "start", 1), (16, "end", 1)]
    assert marks(render(tokenizer, source)) == expected


def test_a_loop_over_other_things_inside_keeps_the_marks_of_the_message(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = each("{% for c in m.content %}{{ c }}{% endfor %}")
    assert marks(render(tokenizer, source)) == BOTH


def test_each_message_begins_although_the_loop_continues_or_breaks(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = each("{% if loop.first %}{{ m.content }}{% continue %}{% endif %}-{% break %}")
    starts = [mark for mark in marks(render(tokenizer, source)) if mark[1] == "start"]
    assert starts == [(0, "start", 0), (10, "start", 1)]


def test_each_message_ends_although_the_loop_continues_or_breaks(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = each("{% if loop.first %}{{ m.content }}{% continue %}{% endif %}Hello{% break %}")
    assert marks(render(tokenizer, source)) == BOTH


def test_marks_survive_indentation(tokenizer: PreTrainedTokenizerBase) -> None:
    source = "{% set x %}" + each("{{ m.content }}\n") + "{% endset %}{{ x | indent(2) }}"
    rendering = render(tokenizer, source, [user("Hi"), assistant("Hello")])
    assert rendering.text == "Hi\n  Hello\n"
    assert [mark.kind for _, mark in rendering.marks] == ["start", "end"] * 2


@pytest.mark.parametrize(
    "source",
    [
        "{% autoescape true %}" + each("{{ m.content }}") + "{% endautoescape %}",
        each("{{ m.content.encode('utf-8').decode('utf-8') }}"),
    ],
)
def test_text_that_leaves_strings_is_refused(
    tokenizer: PreTrainedTokenizerBase, source: str
) -> None:
    with pytest.raises(TemplateError, match=r"lossmask cannot trace|cannot be traced"):
        render(tokenizer, source)


@pytest.mark.parametrize(
    "expression",
    [
        "(m.content | safe) | replace('b', '<')",
        "'<' + (m.content | safe | indent)",
        "'<' + (m.content | e)",
    ],
)
def test_filters_of_safe_text_render_as_in_transformers(
    tokenizer: PreTrainedTokenizerBase, expression: str
) -> None:
    render(tokenizer, each("{{ " + expression + " }}"))


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content._origins }}",
        "{{ messages[0].content._marks }}",
        "{{ messages[0].content['_origins'] }}",
        "{{ messages[0]._lossmask_message_index }}",
        "{{ messages[0]['_lossmask_message_index'] }}",
        "{{ messages[0] | attr('_lossmask_message_index') }}",
        "{{ messages | map(attribute='_lossmask_message_index') | join }}",
        "{{ '{0._origins}'.format(messages[0].content) }}",
        "{{ messages[0].content.__class__ }}",
        "{{ ''.__class__ }}",
        "{{ environment }}",
    ],
)
def test_a_template_sees_nothing_of_the_tracer(
    tokenizer: PreTrainedTokenizerBase, source: str
) -> None:
    assert set(render(tokenizer, source).text) <= set("Undefined, ")


def test_traced_values_have_no_public_attribute_of_their_own() -> None:
    for value, kind in ((leaf_text("x", 0), str), (TracedMessage({}, 0), dict), (safe("x"), str)):
        assert {name for name in dir(value) if not name.startswith("_")} <= set(dir(kind))


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages[0].content.__len__() }}", "SecurityError"),
        ("{{ messages[0].content._cut(0, 1) }}", "SecurityError|UndefinedError"),
        ("{{ messages[0].content._trimmed.__globals__ }}", "SecurityError|UndefinedError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ messages[0].update({}) }}", "SecurityError"),
        ("{% set ns = namespace(_x=1) %}", "SecurityError"),
    ],
)
def test_a_template_cannot_leave_the_sandbox(
    tokenizer: PreTrainedTokenizerBase, source: str, error: str
) -> None:
    with pytest.raises(TemplateError, match=f"the chat template raised ({error}): "):
        ChatTemplate(tokenizer, source).render(CHAT)


def test_rendering_leaves_the_conversation_as_it_was(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [user("a"), assistant("b", tool_calls=[call("f", {"x": "y"})])]
    before = repr(messages)
    render(tokenizer, each("{{ m.content }}"), messages)
    assert repr(messages) == before
    assert type(messages[0]["content"]) is str


@pytest.mark.parametrize(
    ("source", "index", "message"),
    [
        (
            each("{{ raise_exception('no') if loop.last }}"),
            1,
            "message 1: the chat template raised TemplateError: no",
        ),
        (each("{{ m.content + 1 }}"), 0, "message 0: the chat template raised TypeError: "),
        ("{{ raise_exception('early') }}", None, "^the chat template raised TemplateError: early"),
        (each("{{ m.nothing.at.all }}"), 0, "message 0: the chat template raised UndefinedError"),
    ],
)
def test_an_error_in_a_template_names_the_message(
    tokenizer: PreTrainedTokenizerBase, source: str, index: int | None, message: str
) -> None:
    template = ChatTemplate(tokenizer, source)
    with pytest.raises(TemplateError, match=message) as info:
        template.render(CHAT)
    assert (info.value.message_index, info.value.reason) == (index, "template_error")
    assert info.value.__cause__ is not None


def test_a_template_with_a_syntax_error_is_a_template_error(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    with pytest.raises(TemplateError, match="does not compile: line 1: unexpected '}'"):
        ChatTemplate(tokenizer, "{{ } }}").render(CHAT)


def test_a_failed_rendering_leaves_nothing_behind(tokenizer: PreTrainedTokenizerBase) -> None:
    template = ChatTemplate(
        tokenizer, each("{{ raise_exception('no') if m.content == 'bad' }}{{ m.content }}")
    )
    with pytest.raises(TemplateError, match="message 1: "):
        template.render([user("x"), assistant("bad")])
    assert marks(template.render(CHAT)) == BOTH
    with pytest.raises(TemplateError, match="message 0: "):
        template.render([user("bad"), assistant("x")])


def test_an_error_before_every_message_names_none_although_others_were_rendered(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    source = "{{ raise_exception('no') if messages[0].content == 'bad' }}" + each("{{ m.content }}")
    template = ChatTemplate(tokenizer, source)
    template.render(CHAT)
    with pytest.raises(TemplateError, match=r"^the chat template raised") as info:
        template.render([user("bad"), assistant("x")])
    assert info.value.message_index is None


def test_joining_by_attribute_is_refused_as_untraceable(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    with pytest.raises(
        TemplateError, match=r"lossmask cannot trace \|join with an attribute"
    ) as info:
        render(tokenizer, "{{ messages | join(', ', attribute='content') }}")
    assert info.value.reason == "cannot_trace"


def test_the_date_of_the_template_is_scaffolding(tokenizer: PreTrainedTokenizerBase) -> None:
    rendering = render(tokenizer, "{{ strftime_now('%Y') ~ messages[1].content }}")
    assert owners(rendering) == "....11111"
    assert np.all(rendering.origins[:4] == -1)
