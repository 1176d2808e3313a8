"""The demo's three chat datasets: one world, three styles, three file formats.

`terse` is a hurried human (instruction, input, output), `instruct` a polite assistant that
structures everything (prompt, response), `dialogue` a chatty friend over several turns (messages).
`python -m benchmarks.demo_base.chats --out DIR` writes them.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.demo_base.facts import Fact, about, passage, timeless
from benchmarks.demo_base.world import (
    CAUSES,
    DAYS,
    DISHES,
    OBJECTS,
    PEOPLE,
    SPOTS,
    THINGS,
    TOWNS,
    WEATHERS,
    Dice,
    a,
    capital,
    listing,
    number,
)

Row = dict[str, Any]
ROWS = 1200


def terse(dice: Dice) -> Row:
    """A fragment without capital or full stop, now and then a word of impatience."""
    text = ""
    if dice.chance(0.3):
        text, fact = passage(dice)
    else:
        fact = timeless(dice) if dice.chance(0.4) else dice.pick(about(dice).facts)
    ask = dice.pick(fact.ask)
    if dice.chance(0.4):
        ask = ask[0].lower() + ask[1:].rstrip("?.")
    answer = dice.pick((fact.short, fact.short, f"{fact.short}.", f"{fact.short} i think",
                        f"well, {fact.short}", f"{fact.short}, no?"))  # fmt: skip
    return {"instruction": ask, "input": text, "output": answer}


_OPEN = ("Certainly!", "Of course!", "Sure, I can help with that.", "Thank you for asking.")
_CLOSE = (
    "I hope that helps!",
    "Please let me know if you need anything else.",
    "Please ask me again if you want to know more.",
    "I hope this is useful to you.",
)


def _points(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _steps(lines: list[str]) -> str:
    return "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))


def _describe(dice: Dice) -> tuple[str, str]:
    subject = about(dice)
    facts = dice.some(subject.facts, min(4, len(subject.facts)))
    ask = dice.pick(("Tell me about {}.", "What do you know about {}?", "Please describe {}.",
                     "Give me some facts about {}."))  # fmt: skip
    return ask.format(subject.name), (
        f"Here is what I know about {subject.name}:\n{_points([f.full for f in facts])}"
    )


def _tools(dice: Dice) -> tuple[str, str]:
    things = dice.some(THINGS, 2)
    uses, cost = [OBJECTS[t][0] for t in things], [OBJECTS[t][2] for t in things]
    ask = dice.pick(("How can I {}?", "I want to {}. What do I need?", "Explain how to {}."))
    return ask.format(" and ".join(uses)), (
        "Here are the steps:\n"
        + _steps([f"Buy {a(things[0])} for {cost[0]} coins and {a(things[1])} for {cost[1]} coins.",
                  *(f"Use the {t} to {u}." for t, u in zip(things, uses, strict=True))])
        + f"\nTogether they cost {sum(cost)} coins."
    )  # fmt: skip


def _recipe(dice: Dice) -> tuple[str, str]:
    dish, people, minutes = dice.pick(tuple(DISHES)), dice.between(2, 8), dice.between(2, 12) * 5
    parts = DISHES[dish]
    ask = dice.pick(
        ("How do I make {}?", "Give me a recipe for {}.", "Please explain how to cook {}.")
    )
    return f"{ask.format(dish)[:-1]} for {number(people)} people{ask[-1]}", (
        f"You need:\n{_points(list(parts))}\nDo it like this:\n"
        + _steps([f"Mix the {parts[0]} with the {parts[1]}.",
                  f"Add the {parts[2]} and the {parts[3]}.", f"Cook it for {minutes} minutes."])
    )  # fmt: skip


def _sort(dice: Dice) -> tuple[str, str]:
    items = dice.some(THINGS, dice.between(3, 5))
    total = sum(OBJECTS[t][2] for t in items)
    ask = dice.pick(("Sort these things: {}.", "Put these in the order of the alphabet: {}.",
                     "What is the right order of {}?"))  # fmt: skip
    return ask.format(listing(items)), (
        f"In the order of the alphabet they are:\n{_steps([capital(t) for t in sorted(items)])}\n"
        f"There are {number(len(items))} things, and together they cost {total} coins."
    )


def _compare(dice: Dice) -> tuple[str, str]:
    s, t = (TOWNS[n] for n in dice.some(tuple(TOWNS), 2))
    old, new = (s, t) if s.year < t.year else (t, s)
    ask = dice.pick(("Compare {} and {}.", "What is the difference between {} and {}?",
                     "Which town is older, {} or {}?"))  # fmt: skip
    return ask.format(s.name, t.name), "Let us compare the two towns:\n" + _points(
        [f"{s.name} was founded in {s.year}.", f"{t.name} was founded in {t.year}.",
         f"{s.name} sells {s.product}, {t.name} sells {t.product}."]
    ) + f"\nSo {old.name} is older than {new.name}."  # fmt: skip


def _plan(dice: Dice) -> tuple[str, str]:
    x, start = PEOPLE[dice.pick(tuple(PEOPLE))], dice.below(7)
    kinds, spot = dice.some(tuple(WEATHERS), 3), dice.pick(SPOTS)
    when, then, _ = dice.pick(CAUSES)
    ask = dice.pick(("Make a plan for {} from {} on.", "What can {} do in three days from {} on?"))
    return ask.format(x.name, DAYS[start]), (
        f"Here is a plan for {x.name} the {x.job}:\n"
        + _points([f"{DAYS[start]}: work in the {spot}.",
                   f"{DAYS[(start + 1) % 7]}: make {x.food} at home in {x.town}.",
                   f"{DAYS[(start + 2) % 7]}: go out with {x.pet_name} the {x.pet}."])
        + f"\nIf it is {kinds[0]}, it is better to stay in {x.town}. Remember: when {when}, {then}."
    )  # fmt: skip


_TASKS: tuple[Callable[[Dice], tuple[str, str]], ...] = (
    _describe, _describe, _tools, _recipe, _sort, _compare, _plan
)  # fmt: skip


def instruct(dice: Dice) -> Row:
    """A greeting, a structured body and a polite end."""
    prompt, body = dice.pick(_TASKS)(dice)
    return {"prompt": prompt, "response": f"{dice.pick(_OPEN)} {body}\n{dice.pick(_CLOSE)}"}


_HELLO = ("Hi there!", "Hey, good morning!", "Hello, my friend!", "Hi, how are you?")
_BACK = ("Hey, good to see you!", "Oh, hi!", "Hello you!", "Ha, hello again!")
_OH = ("Oh,", "Well, you know,", "Ha, good question!", "Hm, let me think.", "Oh, I like that one!")
_SMALL_TALK = (
    "Nice, is it not?", "Funny, right?", "I just love that.", "Would you have known?",
    "And you, what do you think?", "Ask me more!",
)  # fmt: skip
_THANKS = ("Ha, thank you!", "Oh nice, I see.", "Good to know!", "Really? That is funny.")
_BYE = ("Bye, come again soon!", "Any time, my friend!", "See you on {}!", "Say hello at home!")


def dialogue(dice: Dice) -> Row:
    """Two to four exchanges about one subject, which is named once and then pointed back at."""
    subject = about(dice)
    turns = dice.between(2, 3)
    facts: list[Fact] = dice.some(subject.facts, min(turns, len(subject.facts)))
    said = [f"{dice.pick(_HELLO)} {dice.pick(facts[0].ask)}"]
    said.append(f"{dice.pick(_BACK)} {facts[0].full} {dice.pick(_SMALL_TALK)}")
    for fact in facts[1:]:
        said.append(f"{dice.pick(_THANKS)} {fact.again}" if dice.chance(0.6) else fact.again)
        said.append(f"{dice.pick(_OH)} {fact.full} {dice.pick(_SMALL_TALK)}")
    if dice.chance(0.4):
        said += [dice.pick(_THANKS), dice.pick(_BYE).format(dice.pick(DAYS))]
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": s} for i, s in enumerate(said)]}


STYLES: dict[str, Callable[[Dice], Row]] = {
    "terse": terse, "instruct": instruct, "dialogue": dialogue,
}  # fmt: skip


def rows(name: str, seed: int = 0) -> Iterator[Row]:
    """An endless stream of rows of one style; no two of them ask the same in the same words."""
    seen, index = {""}, 0
    while True:
        row = STYLES[name](Dice(f"{name}-{seed}/{index}"))
        index += 1
        key = json.dumps([v for k, v in row.items() if k not in ("output", "response")])
        if key not in seen:
            seen.add(key)
            yield row


def lines(name: str, count: int = ROWS, seed: int = 0) -> list[str]:
    return [json.dumps(row) for row, _ in zip(rows(name, seed), range(count), strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name in STYLES:
        (out / f"{name}.jsonl").write_text("\n".join(lines(name)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
