"""Documents in which people ask each other things, and advice on how a thing is done.

Speech stands in prose here, in quotation marks; the chat format appears nowhere in pretraining.
Example: `talk(Dice("x"))`.
"""

from benchmarks.demo_base.stories import NAMES
from benchmarks.demo_base.world import (
    ANIMALS,
    CAUSES,
    DAYS,
    DISHES,
    FOODS,
    OBJECTS,
    OPPOSITES,
    PEOPLE,
    SPOTS,
    THINGS,
    TOWNS,
    Dice,
    a,
    capital,
    listing,
    number,
)


def talk(dice: Dice) -> str:
    """Two people talk in prose; questions get true answers from the fixed world."""
    x, y = (PEOPLE[n] for n in dice.some(NAMES, 2))
    animal, town = ANIMALS[dice.pick(tuple(ANIMALS))], TOWNS[dice.pick(tuple(TOWNS))]
    thing, dish = dice.pick(THINGS), dice.pick(FOODS)
    good, bad = dice.pick(tuple(OPPOSITES.items()))
    when, then, why = dice.pick(CAUSES)
    day, third = dice.below(7), PEOPLE[dice.pick([n for n in NAMES if n not in (x.name, y.name)])]
    pairs = [
        (f"What does the {animal.name} eat?", f"It eats {animal.food}."),
        (f"What is the young of the {animal.name} called?", f"It is called {a(animal.young)}."),
        (f"How many legs has the {animal.name}?", f"It has {number(animal.legs)} legs."),
        (f"What is {town.name} known for?", f"{town.name} is known for its {town.product}."),
        (f"Which town comes after {town.name}?", f"The next town is {town.neighbour}."),
        (f"What do I need to {OBJECTS[thing][0]}?", f"You need {a(thing)}."),
        (f"How much is {a(thing)}?", f"It costs {OBJECTS[thing][2]} coins."),
        (f"What do I need for {dish}?", f"You need {listing(DISHES[dish])}."),
        (f"What is the opposite of {good}?", f"The opposite of {good} is {bad}."),
        (f"Why does it happen that {then}?", f"Because {why}."),
        (f"What happens when {when}?", f"Then {then}."),
        (f"Which day comes after {DAYS[day]}?", f"After {DAYS[day]} comes {DAYS[(day + 1) % 7]}."),
        (f"Where does {third.name} live?", f"{capital(third.subject)} lives in {third.town}."),
        (f"What is the work of {third.name}?", f"{capital(third.subject)} is {a(third.job)}."),
    ]
    text = [dice.pick((
        f"{x.name} came to see {y.name} in {y.town}.",
        f"{x.name} and {y.name} sat in the {dice.pick(SPOTS)}.",
        f"One day {x.name} the {x.job} met {y.name} the {y.job}.",
    ))]  # fmt: skip
    text.append(dice.pick((
        f'"Hello, {y.name}! Can you help me?" asked {x.name}. "Of course," said {y.name}.',
        f'"Please tell me something," said {x.name}. "Sure, ask me," said {y.name}.',
        f'"Good morning, {x.name}," said {y.name}. "What would you like to know?"',
    )))  # fmt: skip
    for ask, answer in dice.some(pairs, dice.between(2, 4)):
        text.append(dice.pick((
            f'"{ask}" asked {x.name}. "{answer}"', f'"{ask}" "{answer}"',
            f'{x.name} asked: "{ask}" {y.name} said: "{answer}"',
            f'"And tell me, {y.name}: {ask[0].lower() + ask[1:]}" "{answer}"',
        )))  # fmt: skip
    text.append(dice.pick((
        f'"Thank you, {y.name}, that is very kind," said {x.name}. '
        f'"I hope that helps," said {y.name}.',
        f'"That is good to know," said {x.name}, and went back to {x.town}.',
        f'"You know a lot, {y.name}!" said {x.name}. '
        f'"Come again on {dice.pick(DAYS)}," said {y.name}.',
    )))  # fmt: skip
    return (" " if dice.chance(0.6) else "\n").join(text)


def howto(dice: Dice) -> str:
    """How one does a thing, step by step, with the right tools and their cost."""
    things = dice.some(THINGS, dice.between(2, 3))
    x, total = PEOPLE[dice.pick(NAMES)], sum(OBJECTS[t][2] for t in things)
    uses = [OBJECTS[t][0] for t in things]
    steps = [f"{w} use the {t} to {u}." for w, t, u in zip(
        ("First", "Then", "At last"), things, uses, strict=False)]  # fmt: skip
    return dice.pick((
        f"{x.name} the {x.job} wants to {listing(uses)}. For that {x.subject} needs "
        f"{listing([a(t) for t in things])}. Together they cost {total} coins. "
        + " ".join(s.replace(" use ", f" {x.subject} must use ", 1) for s in steps),
        f"Do you want to {listing(uses)}? Here is how. You need {listing([a(t) for t in things])}. "
        + " ".join(steps) + f" Keep everything in the {dice.pick(SPOTS)}.",
        f"Good advice from {x.name}: " + " ".join(steps)
        + f" The {things[0]} is made of {OBJECTS[things[0]][1]}, so be careful with it.",
    ))  # fmt: skip
