"""Write ``docs/gallery.md``: what other tools put into the loss, beside what lossmask does.

    python scripts/make_gallery.py docs/gallery.md          # writes the page
    python scripts/make_gallery.py --table                  # prints the table of the README

Every drawing is made by the code of the installed transformers and TRL, by the embedded tokenizer
and the small templates below; nothing is drawn by hand.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from lossmask import Encoder
from lossmask.diff_display import show_legend, show_row
from lossmask.diff_words import Sides, sentences
from lossmask.diffing import Comparison
from lossmask.embedded import DEMO_MODEL
from lossmask.foreign_masks import TOOLS, ForeignEncoder, Tool, name_of
from lossmask.raw_rows import RawRow, json_bytes

WIDTH = 88


def _chatml(assistant: str, before: str = "") -> str:
    """Return a ChatML template that writes assistant messages so."""
    return (
        f"{before}{{% for m in messages %}}{{% if m.role == 'assistant' %}}{assistant}"
        "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


_WHOLE = _chatml(
    "<|im_start|>assistant\n{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n"
)
_WITHOUT_STOP = _chatml(
    "<|im_start|>assistant\n{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n"
)
_WITH_HEADER = _chatml(
    "{% generation %}<|im_start|>assistant\n{{ m.content }}<|im_end|>\n{% endgeneration %}"
)
_THINKING = _chatml(
    "<|im_start|>assistant\n{% generation %}{% if loop.index0 > ns.last %}<think>"
    "{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|im_end|>{% endgeneration %}\n",
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}",
)
_BARE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '\n' }}{% endfor %}"
)


def _user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


@dataclass(frozen=True, slots=True)
class Case:
    """A failure: whose, on what, and what it comes from."""

    title: str
    tool: Tool
    template: str | None
    """None: the one that comes with the tokenizer, ChatML without tags."""
    row: dict[str, Any]
    why: str


_ASK = [_user("Where is my parcel?"), _assistant("On its way.")]
_CALL = {"type": "function", "function": {"name": "track", "arguments": {"parcel": 7}}}

CASES = (
    Case(
        "A template without tags: nothing is trained",
        "transformers",
        None,
        {"messages": _ASK},
        "`return_assistant_tokens_mask` marks what lies between `{% generation %}` tags. Nearly no "
        "published template has them; then the mask is all zeros, without an error.",
    ),
    Case(
        "A template that is not on the list: refused",
        "trl",
        None,
        {"messages": _ASK},
        "`assistant_only_loss=True` needs tags as well. TRL brings patched templates for those "
        "that equal one of its list character by character; it refuses every other one.",
    ),
    Case(
        "The default: everything is trained",
        "trl-default",
        None,
        {"messages": _ASK},
        "Without `assistant_only_loss`, a row of messages is in the loss from its first header on.",
    ),
    Case(
        "Tags that end too early: no stop token",
        "transformers",
        _WITHOUT_STOP,
        {"messages": [*_ASK, _user("Thanks!"), _assistant("Bye.")]},
        "The tags hold the content of the message, the template writes the end of the turn behind "
        "them. The model learns to answer, and not to stop.",
    ),
    Case(
        "An emoji at the end: three of its four tokens are out of the loss",
        "transformers",
        _WITHOUT_STOP,
        {"messages": [_user("Did it work?"), _assistant("Yes 🎉")]},
        "The end of the tags is looked up by `char_to_token`, which knows the first token of a "
        "character only; here the mask ends there.",
    ),
    Case(
        "Tags that begin too early: the header is trained",
        "trl",
        _WITH_HEADER,
        {"messages": _ASK},
        "At inference the generation prompt supplies the header, and nobody reads what comes "
        "behind the stop token.",
    ),
    Case(
        "An answer of one token at the very beginning: the user is trained",
        "trl",
        _BARE,
        {"messages": [_assistant("A"), _user("I want my money back"), _assistant("Sorry!")]},
        "transformers sets the mask up to `end_token + 1 if end_token else len(input_ids)`. A span "
        "that ends on token 0 reaches to the end of the row.",
    ),
    Case(
        "A template that rewrites history: answers without the reasoning they came from",
        "trl",
        _THINKING,
        {
            "messages": [
                _user("7 + 5?"),
                _assistant("12", reasoning_content="carry one"),
                _user("And 3?"),
                _assistant("15", reasoning_content="12 + 3"),
            ]
        },
        "Like Qwen3 and many others, the template shows the reasoning after the last user message "
        "only. The full rendering trains the first answer as if there had been no reasoning; at "
        "inference it came behind its `<think>` block. lossmask makes an example of each.",
    ),
    Case(
        "A tool call that the template leaves out: an empty answer is trained",
        "trl",
        _WHOLE,
        {
            "messages": [
                _user("Where is parcel 7?"),
                _assistant("", tool_calls=[_CALL]),
                {"role": "tool", "content": "In Graz."},
                _assistant("In Graz."),
            ]
        },
        "The template does not write `tool_calls`. What remains of the message is an end of turn, "
        "which is trained as an answer to the question.",
    ),
    Case(
        "A token across the end of the prompt",
        "trl",
        None,
        {"prompt": "Department: ", "completion": "returns"},
        "Prompt and completion are tokenized together. The space merges with what follows it, and "
        "the model is trained after a prompt that it never sees: at inference the space is a token "
        "of its own.",
    ),
)


def compared(case: Case) -> Comparison:
    """Compare what both make of the row of a case."""
    ours = Encoder.from_pretrained(DEMO_MODEL, chat_template=case.template)
    lent = Encoder.from_pretrained(DEMO_MODEL, chat_template=case.template)
    theirs = ForeignEncoder(lent, case.tool, sets_template=case.template is not None)
    raw = RawRow("row.jsonl", 1, 0, json_bytes(case.row))
    found = Comparison([ours.encode_row(case.row)], ours.layout, 1, knows_b=False)
    found.add(raw, theirs.encode_row(case.row))
    return found


def page() -> str:
    """Return the page."""
    lines = [
        "# What other tools put into the loss",
        "",
        "Seen with transformers "
        f"{version('transformers')} and {name_of('trl')}, on the embedded tokenizer of lossmask. A "
        "is lossmask, B the other tool; text in the loss stands between `⟦` and `⟧`. The page is "
        "written by `scripts/make_gallery.py`, which calls the tools themselves; `lossmask diff "
        "chats.jsonl --tokenizer T --against trl` does the same for your data.",
        "",
        "```text",
        _printed([show_legend()]).strip("\n"),
        "```",
    ]
    for number, case in enumerate(CASES, start=1):
        lines += ["", f"## {number}. {case.title}", "", case.why, "", *_shown(case)]
    return "\n".join(lines) + "\n"


def table() -> str:
    """Return the table of the README: a line for each case."""
    lines = ["| what goes wrong | seen with |", "| --- | --- |"]
    lines += [f"| {case.title} | {name_of(case.tool)} |" for case in CASES]
    return "\n".join(lines) + "\n"


def _shown(case: Case) -> Iterator[str]:
    name = name_of(case.tool)
    diff = compared(case).diff
    sides = Sides("lossmask", name, "", TOOLS[case.tool])
    yield f"B: `{sides.about_b}`"
    yield ""
    yield "```jinja"
    yield case.template or "(that of the tokenizer: ChatML without tags)"
    yield "```"
    yield ""
    yield "```text"
    yield f"{json_bytes(case.row).decode()}"
    yield ""
    for found in diff.shown:
        drawn = show_row(found, colour=False, width=WIDTH, most_lines=None)
        yield from _printed([drawn]).splitlines()[2:]
    for rejected in (diff.rejected_a, diff.rejected_b):
        for tally in rejected.values():
            yield from _printed([tally.first.partition(": ")[2]]).splitlines()
    yield "```"
    if diff.shown:
        yield ""
        yield from (f"* {each}" for each in sentences(diff, sides))


def _printed(drawn: Sequence[Any]) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, legacy_windows=False)
    for each in drawn:
        console.print(each, markup=False, highlight=False)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def main() -> None:
    """Write the page, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", nargs="?", type=Path, help="the page to write")
    parser.add_argument("--table", action="store_true", help="print the table of the README")
    given = parser.parse_args()
    if given.page is not None:
        given.page.write_text(page(), encoding="utf-8")
    if given.table:
        print(table(), end="")


if __name__ == "__main__":
    main()
