"""Write the text that the demo model is pretrained on, from nothing but a grammar and a seed.

In: a ``random.Random``. Out: endless short documents in plain English: stories, records, lists that
are said twice, and chats in which a question about a record is answered with a sentence. The chats
teach the model to look things up and copy them; none of them holds the answer format of the demo's
own task (``team | order``), which is left for fine-tuning to teach.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass


def words(text: str, separator: str | None = None) -> list[str]:
    """Split a list that is written as one string."""
    return text.split(separator)


FIRST_NAMES = words(
    "Anna Ben Clara David Emma Felix Grace Henry Ida Jonas Karin Leo Maria Nils Olga Peter Rosa "
    "Simon Tessa Victor Wanda Yusuf Zoe Amir Bela Carmen Dario Elif Farid Greta Hana Ivan"
)
TOWNS = words(
    "Ashford Birchwood Corvale Dunmore Eastbay Fairhaven Greenford Hillcrest Ironbridge Kingsley "
    "Lakeview Millbrook Northgate Oakfield Pinehurst Ravenna Stonewell Thornbury Westport Yarrow"
)
GOODS = words(
    "kettle lamp chair table clock radio carpet mirror basket bicycle blanket bottle bucket camera "
    "candle cup drum fan fork guitar hammer jacket kettle knife ladder mug needle oven pillow plate"
    " printer ring rope scarf shelf shovel spoon suitcase tent towel umbrella vase violin watch"
)
COLOURS = words("red blue green black white yellow brown grey orange purple silver golden")
TRADES = words(
    "baker teacher farmer doctor sailor painter gardener driver tailor builder clerk nurse miller "
    "singer writer cook"
)
ANIMALS = words("dog cat horse goat sheep duck rabbit donkey parrot fox")
PLACES = words("market harbour school station library garden bridge river church workshop")
NUMBERS = words("two three four five six seven eight nine ten twelve")
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words(
    "January February March April May June July August September October November December"
)
MOODS = words("happy sad angry tired proud calm worried curious")
TROUBLES = words(
    "arrived broken|is too small|never arrived|was paid twice|does not work|has a crack|"
    "is the wrong colour|was sent to the wrong address|came too late|makes a strange noise|"
    "cost too much|lost a screw|is still on its way|was not on the bill|was returned last week",
    separator="|",
)
ONSETS = words("b br d dr f g gr h j k kl l m n p pr r s st t tr v w z")
VOWELS = words("a e i o u ai ea ou")
CODAS = ["", "", "n", "r", "l", "s", "k", "m", "nd", "rt", "x"]
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
DIGITS = "0123456789"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a synthetic chat."""

    role: str
    content: str


Document = str | list[Turn]
"""A plain text, or a chat that the chat template will render."""


def invented_name(rng: random.Random) -> str:
    """Return a capitalised word that no vocabulary knows, two or three syllables long."""
    syllables = (
        rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS)
        for _ in range(rng.choice((2, 2, 3)))
    )
    return "".join(syllables).capitalize()


def code(rng: random.Random) -> str:
    """Return a random code: ``KT-482``, ``7H2-QX81``, ``83-55-12`` or ``48213``."""
    shape = rng.choice(("AA-000", "AA-000", "A00-00", "00A-AA00", "00-00-00", "00000", "AAA-00"))
    return "".join(
        rng.choice(LETTERS) if mark == "A" else rng.choice(DIGITS) if mark == "0" else mark
        for mark in shape
    )


def person(rng: random.Random) -> str:
    """Return a first name with an invented surname, or the surname alone."""
    return (
        f"{rng.choice(FIRST_NAMES)} {invented_name(rng)}"
        if rng.random() < 0.6
        else invented_name(rng)
    )


def town(rng: random.Random) -> str:
    """Return a town, known or invented."""
    return rng.choice(TOWNS) if rng.random() < 0.5 else invented_name(rng)


def article(word: str) -> str:
    """Return the word behind its indefinite article.

    >>> article("orange lamp")
    'an orange lamp'
    """
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def story(rng: random.Random) -> str:
    """Tell four to seven sentences about two people, an animal and a thing."""
    hero, friend = rng.sample(FIRST_NAMES, 2)
    good, animal, place = rng.choice(GOODS), rng.choice(ANIMALS), rng.choice(PLACES)
    colour, where, mood = rng.choice(COLOURS), town(rng), rng.choice(MOODS)
    thing = f"{colour} {good}"
    body = [
        f"One {rng.choice(DAYS)} {hero} walked to the {place} with {article(animal)}.",
        f"{hero} wanted to buy {article(thing)}.",
        f"The {animal} was {rng.choice(MOODS)}, but {hero} was {mood}.",
        f"At the {place} {hero} met {friend}, who had {rng.choice(NUMBERS)} {rng.choice(GOODS)}s.",
        f'"I am {mood}," said {hero}. "Why are you {mood}?" asked {friend}.',
        f"{friend} gave the {good} to {hero}.",
        f"They took the {animal} home to {where}.",
        f"The {good} {rng.choice(TROUBLES)}, so {hero} went back to the {place}.",
    ]
    keep = sorted(rng.sample(range(len(body)), rng.randint(3, 6)))
    opening = f"{hero} was {article(rng.choice(TRADES))} who lived in {where}."
    ending = f"In the end {hero} and {friend} were {rng.choice(MOODS)}."
    return " ".join([opening, *(body[k] for k in keep), ending])


def said_twice(rng: random.Random) -> str:
    """Write a list of words, names or codes, and write it again in the same order."""
    maker = rng.choice((code, invented_name, lambda r: r.choice(GOODS), town))
    items = [maker(rng) for _ in range(rng.randint(2, 7))]
    joined = rng.choice((", ", " ", "; ")).join(items)
    first, second = rng.choice(("List", "Once", "Names")), rng.choice(("Again", "Twice"))
    return f"{first}: {joined}. {second}: {joined}."


FIELDS: dict[str, Callable[[random.Random], str]] = {
    "name": person,
    "town": town,
    "street": lambda r: f"{r.randint(1, 99)} {invented_name(r)} Street",
    "order": code,
    "invoice": code,
    "parcel": code,
    "phone": lambda r: "".join(r.choice(DIGITS) for _ in range(6)),
    "colour": lambda r: r.choice(COLOURS),
    "item": lambda r: r.choice(GOODS),
    "day": lambda r: r.choice(DAYS),
    "month": lambda r: r.choice(MONTHS),
    "trade": lambda r: r.choice(TRADES),
    "password": lambda r: invented_name(r).lower(),
}

IN_PROSE: dict[str, tuple[str, ...]] = {
    "name": ("My name is {}.", "I am {}.", "This is {} writing.", "Yours, {}."),
    "town": ("I live in {}.", "I write from {}.", "My home is in {}."),
    "street": ("The address is {}.", "Please send it to {}."),
    "order": ("My order is {}.", "It is about order {}.", "I placed order {} last week."),
    "invoice": ("The invoice is {}.", "I paid invoice {}.", "You sent me invoice {}."),
    "parcel": ("The parcel is {}.", "It came with parcel {}."),
    "phone": ("Call me at {}.", "My phone is {}."),
    "colour": ("It is {}.", "The colour is {}."),
    "item": ("I bought a new {}.", "It is about the {}.", "I asked for one {}."),
    "day": ("It happened on {}.", "It came on {}."),
    "month": ("That was in {}.", "I wrote to you in {}."),
    "trade": ("I work as a {}.", "I am a {} by trade."),
    "password": ("The password is {}.", "Use the password {}."),
}


def record(rng: random.Random, facts: dict[str, str]) -> str:
    """Write facts down as ``key: value`` lines, as one line, or as a letter in prose."""
    style = rng.randrange(3)
    if style == 0:
        return "\n".join(f"{key}: {value}" for key, value in facts.items())
    if style == 1:
        return ", ".join(f"{key} {value}" for key, value in facts.items()) + "."
    sentences = [rng.choice(IN_PROSE[key]).format(value) for key, value in facts.items()]
    if rng.random() < 0.5:
        sentences.insert(
            rng.randint(0, len(sentences)), f"The {rng.choice(GOODS)} {rng.choice(TROUBLES)}."
        )
    return " ".join(sentences)


def some_facts(rng: random.Random) -> dict[str, str]:
    """Draw three to six fields and a value for each."""
    return {key: FIELDS[key](rng) for key in rng.sample(sorted(FIELDS), rng.randint(3, 6))}


QUESTIONS = (
    "What is the {}?",
    "Which {} is given?",
    "Please tell me the {}.",
    "And the {}?",
    "The {}?",
)
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "Answer questions about the text.",
    "You are a clerk. Be short and polite.",
    "You help people find things.",
)


def lookup_chat(rng: random.Random) -> list[Turn]:
    """Show a record, then ask for several of its fields; each answer copies the value."""
    facts = some_facts(rng)
    asked = rng.sample(sorted(facts), rng.randint(2, len(facts)))
    turns = [Turn("system", rng.choice(SYSTEM_PROMPTS))] if rng.random() < 0.25 else []
    for position, key in enumerate(asked):
        question = rng.choice(QUESTIONS).format(key)
        if position == 0:
            text = record(rng, facts)
            question = f"{text}\n{question}" if rng.random() < 0.7 else f"{question}\n{text}"
        turns += [Turn("user", question), Turn("assistant", f"The {key} is {facts[key]}.")]
    return turns


def yes_no_chat(rng: random.Random) -> list[Turn]:
    """Ask whether a field of a record has a value; the answer says so and names the true one."""
    facts = some_facts(rng)
    key = rng.choice(sorted(facts))
    is_true = rng.random() < 0.5
    claimed = facts[key] if is_true else FIELDS[key](rng)
    answer = "Yes" if claimed == facts[key] else "No"
    return [
        Turn("user", f"{record(rng, facts)}\nIs the {key} {claimed}?"),
        Turn("assistant", f"{answer}, the {key} is {facts[key]}."),
    ]


def repeat_chat(rng: random.Random) -> list[Turn]:
    """Ask for a text to be repeated word for word."""
    maker = rng.choice((code, invented_name, person, lambda r: r.choice(GOODS)))
    text = " ".join(maker(rng) for _ in range(rng.randint(1, 5)))
    request = rng.choice(("Repeat: {}", "Say this again: {}", "Write down {}", "Please copy {}"))
    return [Turn("user", request.format(text)), Turn("assistant", f"{text}")]


def help_chat(rng: random.Random) -> list[Turn]:
    """Complain about a thing; the answer is sorry about that very thing."""
    good, trouble, name = rng.choice(GOODS), rng.choice(TROUBLES), rng.choice(FIRST_NAMES)
    colour = rng.choice(COLOURS)
    request = f"Hello, I am {name}. The {colour} {good} {trouble}."
    if rng.random() < 0.5:
        request += f" {rng.choice(IN_PROSE['order']).format(code(rng))}"
    turns = [
        Turn("user", request),
        Turn("assistant", f"Hello {name}, I am sorry that the {colour} {good} {trouble}."),
    ]
    if rng.random() < 0.4:
        turns += [Turn("user", "Thank you."), Turn("assistant", f"You are welcome, {name}.")]
    return turns


WRITERS: tuple[tuple[Callable[[random.Random], Document], float], ...] = (
    (story, 0.12),
    (said_twice, 0.2),
    (lambda rng: record(rng, some_facts(rng)), 0.03),
    (lookup_chat, 0.4),
    (yes_no_chat, 0.05),
    (repeat_chat, 0.13),
    (help_chat, 0.07),
)
"""Each kind of document with its share; the shares sum to one."""


def documents(rng: random.Random) -> Iterator[Document]:
    """Yield documents without end, their kinds drawn by share."""
    writers, shares = zip(*WRITERS, strict=True)
    while True:
        (writer,) = rng.choices(writers, weights=shares)
        yield writer(rng)
