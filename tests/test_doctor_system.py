"""What becomes of system prompts and of unusual orders of roles is told."""

from __future__ import annotations

import pytest

from lossmask.doctor_system import ORDERS
from tests.doctor_templates import SOUND, changed, difference, fact, kinds

LOOP = "{%- for m in messages %}"
DEFAULT = "<|im_start|>system\nYou are kind.<|im_end|>\n"


def test_a_sound_template_takes_system_prompts_and_all_orders() -> None:
    assert kinds(SOUND, "system", "roles") == {
        "system_shown": "ok",
        "no_default_system": "ok",
        "middle_system_shown": "ok",
        "roles_taken": "ok",
    }


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            "{% if messages[0].role != 'system' %}" + DEFAULT + "{% endif %}" + SOUND,
            {"default_system=note"},
        ),
        (DEFAULT + SOUND, {"default_system_kept=note"}),
        ("<|im_start|>system\n<|im_end|>\n" + SOUND, set()),
        (
            changed(LOOP, "{%- for m in messages if m.role != 'system' %}"),
            {"system_dropped=warning", "middle_system_dropped=warning"},
        ),
        (
            changed(LOOP, "{%- for m in messages if m == messages[0] or m.role != 'system' %}"),
            {"middle_system_dropped=warning"},
        ),
        (
            changed(LOOP, LOOP + "{{ raise_exception('no') if m.role == 'system' }}"),
            {"system_refused=warning", "middle_system_refused=note"},
        ),
        (
            changed(
                LOOP,
                "{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}"
                "{%- for m in messages if m.role != 'system' %}",
            ),
            {"middle_system_moved=warning"},
        ),
        (
            changed(
                "<|im_start|>{{ m.role }}",
                "{% if loop.previtem is defined and loop.previtem.role == 'system' %}{% else %}"
                "<|im_start|>{{ 'user' if m.role == 'system' else m.role }}{% endif %}",
            ),
            {"system_in_first_question=note"},
        ),
        (
            changed(LOOP, "{%- for m in messages if m.role != 'system' %}").replace(
                "{{ m.content }}",
                "{{ m.content }}{% if loop.first and messages[0].role == 'system' %}"
                "{{ messages[0].content }}{% endif %}",
            ),
            {"system_behind_question=note", "middle_system_dropped=warning"},
        ),
    ],
)  # fmt: skip
def test_what_becomes_of_a_system_prompt_is_told(template: str, expected: set[str]) -> None:
    assert difference(template, "system") == expected


@pytest.mark.parametrize(
    ("condition", "orders"),
    [
        ("m.role == 'critic'", ("an unknown role",)),
        ("m.role == 'developer'", ("role developer",)),
        ("m.role == 'user' and loop.previtem and loop.previtem.role == 'user'",
         ("two users in a row",)),
        ("m.role == 'assistant' and loop.previtem and loop.previtem.role == 'assistant'",
         ("two assistants in a row",)),
        ("loop.first and m.role == 'assistant'", ("assistant first",)),
        ("loop.last and m.role == 'user' and loop.index > 2 and not add_generation_prompt",
         ("user last",)),
        ("loop.last and m.role == 'system'", ("system only",)),
        ("m.role == 'system' and loop.previtem and loop.previtem.role == 'system'",
         ("system twice",)),
        ("m.role == 'tool' and loop.previtem.role == 'user'", ("tool result without a call",)),
    ],
)  # fmt: skip
def test_an_order_of_roles_is_told_that_raises_or_loses_a_message(
    condition: str, orders: tuple[str, ...]
) -> None:
    begin = "{% if " + condition + " %}"
    raising = changed(LOOP, LOOP + begin + "{{ raise_exception('order') }}{% endif %}")
    assert fact(raising, "roles", "roles_refused").values == orders
    assert difference(raising, "roles") == {"roles_refused=note"}
    losing = changed("{{ m.content }}", begin + "{% else %}{{ m.content }}{% endif %}")
    assert fact(losing, "roles", "roles_dropped").values == orders
    assert difference(losing, "roles") == {"roles_dropped=warning"}


def test_all_orders_are_tried() -> None:
    assert fact(SOUND, "roles", "roles_taken").values == tuple(ORDERS)
