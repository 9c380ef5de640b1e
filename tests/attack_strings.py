"""Messages that try to be more than text: control tokens, headers and whole turns, typed.

Every string is made from what the template and the tokenizer at hand really use.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lossmask import Encoder
from tests.control_token_parity import Attack, control_ids
from tests.scenarios import WEATHER, Message, assistant, call, system, tool, user

_KEPT = frozenset(" \t\r\n\"'\\")  # what templates trim and JSON escapes


def attacks(encoder: Encoder) -> Iterator[Attack]:
    """Yield every attack string in every place."""
    for name, text in attack_strings(encoder).items():
        for place, messages, index, tools in _places(text):
            _, harmless, _, _ = next(p for p in _places(_masked(text)) if p[0] == place)
            yield Attack(f"{name} in {place}", messages, harmless, (index,), tools)
        for at in {1, len(text) // 2, len(text) - 1} - {0, len(text)}:
            parts, masked = (text[:at], text[at:]), (_masked(text[:at]), _masked(text[at:]))
            messages, harmless = (
                [user("Q0 " + a), assistant(b + " A1"), user("Q2?"), assistant("A3.")]
                for a, b in (parts, masked)
            )
            yield Attack(f"{name} split at {at}", messages, harmless, (0, 1))


def attack_strings(encoder: Encoder) -> dict[str, str]:
    """Return strings made from the template's own literals and the tokenizer's control tokens."""
    added = encoder.tokenizer.added_tokens_decoder
    texts = sorted(
        (str(added[i]) for i in control_ids(encoder)), key=lambda text: (-len(text), text)
    )
    shown = _render(encoder, [user("fake"), assistant("reply")], prompt=False)
    invited = _render(encoder, [user("fake")], prompt=True)
    turn = shown[len(_common(shown, invited)) :] or shown
    used = [text for text in texts if text in shown + invited] or texts
    stop = next((text for text in used if text in turn), used[0])
    half = len(stop) // 2
    strings = {
        "every control token": " ".join(texts),
        "control tokens without space": "".join(texts[:12]),
        "generation prompt": _render(encoder, [user("a")], prompt=True),
        "fake answer and turn": f"{turn}{shown}{invited}",
        "stop, space around": f" {stop} ",
        "stop, twice": stop * 2,
        "stop inside itself": stop[:half] + stop + stop[half:],
        "stop, zero width inside": f"{stop[:half]}\u200b{stop[half:]}{stop}\u200b",
        "stop without its end": stop[:-1],
        "stop without its start": stop[1:],
        "private use": f"\ue000{stop}\U0010fffd",
    }
    return strings | {f"token {text}": f"x{text}y" for text in used[:4]}


def _places(text: str) -> Iterator[tuple[str, list[Message], int, list[Any] | None]]:
    """Yield place, conversation, index of the message that holds the text, tools."""
    last = [user("Q2 more?"), assistant("A3 done.")]
    yield "system", [system(f"S0 {text}"), user("Q1?"), assistant("A2.")], 0, None
    yield "user", [user(f"Q0 {text} why?"), assistant("A1 so."), *last], 0, None
    yield "user, nothing else", [user(text), assistant("A1 so."), *last], 0, None
    yield "assistant", [user("Q0?"), assistant(f"A1 {text} ok."), *last], 1, None
    yield "assistant, nothing else", [user("Q0?"), assistant(text), *last], 1, None
    yield "last answer's end", [user("Q0?"), assistant(f"A1 {text}")], 1, None
    thinking = assistant("A1 so.", reasoning_content=f"R1 {text}")
    yield "reasoning", [user("Q0?"), thinking], 1, None
    for place, name, arguments, result in (
        ("tool result", "weather", {"city": "A1"}, f"T2 {text}"),
        ("argument", "weather", {"city": f"A1 {text}"}, "T2 sun"),
        ("argument's name", "weather", {text: "A1"}, "T2 sun"),
        ("function's name", f"weather{text}", {"city": "A1"}, "T2 sun"),
    ):
        asked = assistant("", tool_calls=[call(name, arguments)])
        index = 2 if place == "tool result" else 1
        yield place, [user("Q0?"), asked, tool(result), assistant("A3.")], index, [WEATHER]


def _masked(text: str) -> str:
    return "".join(character if character in _KEPT else "z" for character in text)


def _render(encoder: Encoder, messages: list[Message], *, prompt: bool) -> str:
    """Return what transformers renders, nothing where the template raises."""
    try:
        text: str = encoder.tokenizer.apply_chat_template(
            messages,
            chat_template=encoder.chat_template(),
            add_generation_prompt=prompt,
            tokenize=False,
        )
    except Exception:  # whatever the template raises
        return ""
    return text


def _common(a: str, b: str) -> str:
    length = next((k for k in range(len(a)) if a[k : k + 1] != b[k : k + 1]), len(a))
    return a[:length]
