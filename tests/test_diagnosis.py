"""A diagnosis is plain data: ordered, searched, turned into JSON."""

from __future__ import annotations

import json

import pytest

from lossmask.diagnosis import Diagnosis, Evidence, Fact, Rendered, Verdict

RENDERED = Rendered(
    (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "reasoning_content": "Hm", "tool_calls": [{}, {}]},
    ),
    "abcdef",
    tools=({"name": "t"},),
    add_generation_prompt=True,
    variables=(("quick", True),),
)


def a_fact(kind: str, verdict: Verdict, topic: str = "stops") -> Fact:
    return Fact(topic, kind, verdict, "A sentence.", ("v",), (Evidence(RENDERED, 2, 4),))


FOUND = Diagnosis(
    (a_fact("good", "ok"), a_fact("odd", "warning"), a_fact("bad", "error", "tools")), "t", False, 3
)


def test_the_worst_verdict_is_that_of_the_gravest_fact() -> None:
    assert FOUND.worst == "error"
    assert Diagnosis((a_fact("good", "ok"),), "t", False, 1).worst == "ok"
    assert Diagnosis((), "t", False, 0).worst == "ok"


def test_facts_are_found_by_topic_kind_and_gravity() -> None:
    assert [fact.kind for fact in FOUND.of("stops")] == ["good", "odd"]
    assert FOUND.find("odd") is FOUND.facts[1]
    assert FOUND.find("other") is None
    assert [fact.kind for fact in FOUND.at_least("warning")] == ["bad", "odd"]


def test_a_rendering_is_labelled_by_its_roles_and_options() -> None:
    assert RENDERED.label == (
        "user, assistant + reasoning + 2 calls; tools given; generation prompt asked for; "
        "quick=True"
    )


def test_evidence_shows_the_characters_that_matter_or_the_error() -> None:
    assert Evidence(RENDERED, 2, 4).excerpt == "cd"
    assert Evidence(Rendered((), None, "ValueError: no")).excerpt == "ValueError: no"


def test_a_mapping_holds_all_that_is_needed_to_render_again() -> None:
    mapping = json.loads(json.dumps(FOUND.to_mapping()))
    assert mapping["worst"] == "error"
    assert mapping["facts"][0] == {
        "topic": "stops",
        "kind": "good",
        "verdict": "ok",
        "sentence": "A sentence.",
        "values": ["v"],
        "evidence": [
            {
                "probe": RENDERED.label,
                "excerpt": "cd",
                "start": 2,
                "messages": list(RENDERED.messages),
                "tools": [{"name": "t"}],
                "add_generation_prompt": True,
                "variables": {"quick": True},
                "text": "abcdef",
                "error": None,
            }
        ],
    }


@pytest.mark.parametrize(("topic", "verdict"), [("weather", "ok"), ("stops", "fine")])
def test_a_fact_of_no_known_topic_or_verdict_is_refused(topic: str, verdict: Verdict) -> None:
    with pytest.raises(ValueError, match="no such topic or verdict: "):
        Fact(topic, "kind", verdict, "A sentence.")
