"""Write the conversations of ``lossmask demo``: support mail in, ``team | urgency | channel`` out.

In: a seed. Out: two JSONL files of rows ``{"id", "messages"}``. A mail is full of things nobody can
predict (names, addresses, order numbers, log lines); the reply is short and follows from the mail:
which team it is for, whether it is urgent, how to answer. Held-out mail has first names, goods and
numbers of its own; only the ways of saying what is wrong, wanted and urgent are shared.

    python scripts/make_demo_conversations.py --out src/lossmask/assets --seed 0
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo_texts import DIGITS, LETTERS, MONTHS, invented_name, words

TROUBLES: dict[str, tuple[str, ...]] = {
    "billing": (
        "I was charged twice for the {good}.",
        "The invoice for the {good} shows the wrong price.",
        "You took {amount} too much from my card for the {good}.",
        "The discount of {amount} on the {good} is missing from the bill.",
        "I paid for the {good} but still get a payment reminder.",
    ),
    "shipping": (
        "The {good} never arrived.",
        "The parcel with the {good} has been on its way for {days} days.",
        "The driver left the {good} at the wrong house.",
        "When will the {good} be delivered?",
        "Please send the {good} to my new address.",
    ),
    "returns": (
        "I want to send the {good} back.",
        "The {good} is too small, please exchange it.",
        "You sent the wrong colour of {good}, I want the other one.",
        "I do not like the {good} and want my money back.",
        "How can I return the {good} after {days} days?",
    ),
    "repairs": (
        "The {good} broke after {days} days.",
        "The {good} makes a strange noise.",
        "A screw fell out of the {good}.",
        "The {good} does not work any more, can you fix it?",
        "There is a crack in the {good}, is a spare part sold?",
    ),
}
OPENINGS = (
    "Hello, this is {name} from {town}.",
    "Dear team, I am {name}, {number} {street} Street, {town}.",
    "{name} here, from {town}, born in {street}.",
    "Good morning, {name} writing for {company} in {town}.",
)
REFERENCES = (
    "My customer number is {customer}, the order is {order}.",
    "It is about order {order} (customer {customer}, log {log}).",
    "The order {order} was placed with {clerk} under customer {customer}.",
    "Order {order}, basket {log}, paid with voucher {voucher}.",
)
URGENCIES: dict[str, tuple[str, ...]] = {
    "urgent": (
        "I need an answer before {deadline}.",
        "This cannot wait any longer.",
        "Please hurry, {friend} is waiting for it.",
    ),
    "can wait": (
        "There is no hurry.",
        "Take your time, I am away until {deadline}.",
        "Next month is soon enough for {friend} and me.",
    ),
}
CHANNELS: dict[str, tuple[str, ...]] = {
    "phone": ("Call me at {phone}. {name}", "My phone is {phone}, ask for {clerk}."),
    "letter": (
        "Write to {number} {street} Street, {town}.",
        "Send me a letter to box {number}, {town}.",
    ),
    "mail": ("My address is {login}@{host}.com.", "Mail it to {login}@{host}.org. {name}"),
}
SYSTEM_PROMPTS = (
    "You sort the mail of {company}.",
    "Support desk of {company}, {town}.",
)
THANKS = (
    "Thank you {clerk}, that is all.",
    "Solved, thanks. {name}",
    "No more help needed, goodbye from {town}.",
)


@dataclass(frozen=True, slots=True)
class Words:
    """The first names and goods that one split may use; the two splits share none."""

    names: Sequence[str]
    goods: Sequence[str]


TRAINING_WORDS = Words(
    names=words("Agnes Boris Celia Dmitri Edith Fabio Gwen Hugo Irma Jakob Kira Lars Mona Nadia"),
    goods=words(
        "sofa toaster heater mixer desk tablet razor freezer speaker drill tripod stroller kayak "
        "helmet lantern monitor keyboard saddle mattress projector"
    ),
)
HELD_OUT_WORDS = Words(
    names=words("Oskar Paula Quentin Rita Stefan Thea Ulla Vera Willem Xenia"),
    goods=words("blender wardrobe juicer scooter telescope dryer treadmill armchair"),
)


def pattern(rng: random.Random, shape: str) -> str:
    """Fill a shape: ``A`` becomes a capital, ``0`` a digit, ``x`` a hexadecimal digit."""
    pools = {"A": LETTERS, "0": DIGITS, "x": "0123456789abcdef"}
    return "".join(rng.choice(pools[mark]) if mark in pools else mark for mark in shape)


def details(rng: random.Random, vocabulary: Words) -> dict[str, str]:
    """Draw everything a mail may mention; the reply depends on none of it."""
    return {
        "name": f"{rng.choice(vocabulary.names)} {invented_name(rng)}",
        "friend": f"{rng.choice(vocabulary.names)} {invented_name(rng)}",
        "clerk": invented_name(rng),
        "company": f"{invented_name(rng)} & {invented_name(rng)}",
        "town": invented_name(rng),
        "street": invented_name(rng),
        "number": str(rng.randint(1, 199)),
        "login": invented_name(rng).lower(),
        "host": invented_name(rng).lower(),
        "deadline": f"{rng.randint(1, 28)} {rng.choice(MONTHS)}",
        "phone": pattern(rng, "0000 000"),
        "order": pattern(rng, "AA-000"),
        "customer": pattern(rng, "0000-A"),
        "voucher": pattern(rng, "AAAA00"),
        "log": pattern(rng, "xxxx:xxxx"),
        "amount": pattern(rng, "00.00"),
        "days": str(rng.randint(2, 60)),
        "good": rng.choice(vocabulary.goods),
    }


def mail_and_reply(rng: random.Random, facts: dict[str, str]) -> tuple[str, str]:
    """Write one mail, and the reply that its trouble, urgency and channel call for."""
    team, urgency, channel = (rng.choice(sorted(kind)) for kind in (TROUBLES, URGENCIES, CHANNELS))
    middle = [rng.choice(REFERENCES), rng.choice(TROUBLES[team]), rng.choice(URGENCIES[urgency])]
    rng.shuffle(middle)
    sentences = [rng.choice(OPENINGS), *middle, rng.choice(CHANNELS[channel])]
    return "\n".join(sentences).format_map(facts), f"{team} | {urgency} | {channel}"


def conversation(rng: random.Random, vocabulary: Words) -> list[dict[str, str]]:
    """Return the messages of one row: a mail and its reply, often with more around them."""
    facts = details(rng, vocabulary)
    mail, reply = mail_and_reply(rng, facts)
    messages = [{"role": "user", "content": mail}, {"role": "assistant", "content": reply}]
    if rng.random() < 0.25:
        system = rng.choice(SYSTEM_PROMPTS).format_map(facts)
        messages.insert(0, {"role": "system", "content": system})
    if rng.random() < 0.25:
        messages.append({"role": "user", "content": rng.choice(THANKS).format_map(facts)})
        messages.append({"role": "assistant", "content": "closed"})
    return messages


def write_rows(path: Path, prefix: str, count: int, rng: random.Random, vocabulary: Words) -> None:
    """Write ``count`` conversations as JSONL, their ids ``prefix-0001`` and up."""
    rows = (
        {"id": f"{prefix}-{number:04d}", "messages": conversation(rng, vocabulary)}
        for number in range(1, count + 1)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write the files to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=320, help="conversations to train on")
    parser.add_argument("--held-out-rows", type=int, default=80)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    write_rows(
        arguments.out / "demo_conversations.jsonl", "mail", arguments.rows, rng, TRAINING_WORDS
    )
    write_rows(
        arguments.out / "demo_heldout.jsonl",
        "held-out",
        arguments.held_out_rows,
        rng,
        HELD_OUT_WORDS,
    )


if __name__ == "__main__":
    main()
