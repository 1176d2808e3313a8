"""Questions about the demo's world with their answers, in one word and in one sentence.

The three chat datasets ask the same facts and differ in style alone.
Example: `about(Dice("x"))` gives the facts of one person, town, animal or thing.
"""

from dataclasses import dataclass

from benchmarks.demo_base.world import (
    ANIMALS,
    CAUSES,
    COLOURS,
    DAYS,
    DISHES,
    FOODS,
    MIXES,
    MONTHS,
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


@dataclass(frozen=True)
class Fact:
    """`ask` names its subject, `again` only points back at it."""

    ask: tuple[str, ...]
    again: str
    short: str
    full: str


@dataclass(frozen=True)
class Subject:
    name: str
    facts: tuple[Fact, ...]


def _person(name: str) -> Subject:
    x = PEOPLE[name]
    is_, has = x.subject, x.possessive
    return Subject(name, (
        Fact((f"Where does {name} live?", f"Which town is {name} from?"),
             f"And where does {is_} live?", x.town, f"{name} lives in {x.town}."),
        Fact((f"What does {name} do for a living?", f"What is the work of {name}?"),
             f"What is {has} work?", x.job, f"{name} works as {a(x.job)}."),
        Fact((f"How old is {name}?", f"Tell me the age of {name}."),
             f"How old is {is_}?", str(x.age), f"{name} is {x.age} years old."),
        Fact((f"What pet does {name} have?", f"Which animal does {name} keep?"),
             f"Does {is_} have a pet?", f"{a(x.pet)}, {x.pet_name}",
             f"{name} has a {x.pet} named {x.pet_name}."),
        Fact((f"What is the favourite colour of {name}?", f"Which colour does {name} like best?"),
             f"Which colour does {is_} like?", x.colour, f"{name} likes {x.colour} best."),
        Fact((f"What is the favourite dish of {name}?", f"What does {name} love to eat?"),
             f"And what does {is_} like to eat?", x.food, f"{name} loves {x.food}."),
    ))  # fmt: skip


def _town(name: str) -> Subject:
    t = TOWNS[name]
    place = "on the coast" if t.land == "coast" else f"in the {t.land}"
    return Subject(name, (
        Fact((f"Where does {name} lie?", f"Where is {name}?"), "Where does it lie?", place,
             f"{name} is a town {place}."),
        Fact((f"What is {name} known for?", f"What do people trade in {name}?"),
             "What is it known for?", t.product, f"{name} is known for its {t.product}."),
        Fact((f"When was {name} founded?", f"How old is the town of {name}?"),
             "When was it founded?", f"in {t.year}", f"{name} was founded in the year {t.year}."),
        Fact((f"How many houses does {name} have?", f"How big is {name}?"),
             "And how many houses stand there?", f"{t.houses} houses",
             f"{name} has about {t.houses} houses."),
        Fact((f"What is the next town after {name}?", f"Which town is close to {name}?"),
             "Which town comes next?", t.neighbour,
             f"The next town is {t.neighbour}, {t.miles} miles to the {t.way}."),
        Fact((f"What water is {name} on?", f"Which water is close to {name}?"),
             "And what water is there?", f"the {t.water}", f"{name} lies by the {t.water}."),
    ))  # fmt: skip


def _animal(name: str) -> Subject:
    x = ANIMALS[name]
    sound = "It makes no sound." if "silent" in x.sound else f"The {name} {x.sound}."
    return Subject(f"the {name}", (
        Fact((f"What does the {name} eat?", f"What food do I give to {a(name)}?"),
             "What does it eat?", x.food, f"The {name} eats {x.food}."),
        Fact((f"Where does the {name} live?", f"What is the home of the {name}?"),
             "And where does it live?", x.home, f"Its home is {x.home}."),
        Fact((f"What is the young of the {name} called?", f"What do you call a young {name}?"),
             "What is its young called?", a(x.young), f"A young {name} is called {a(x.young)}."),
        Fact((f"How many legs does the {name} have?", f"Count the legs of the {name}."),
             "How many legs does it have?", number(x.legs), f"It has {number(x.legs)} legs."),
        Fact((f"What colour is the {name}?", f"Which colour has the {name}?"),
             "Which colour is it?", x.colour, f"The {name} is {x.colour}."),
        Fact((f"What sound does the {name} make?", f"What does the {name} sound like?"),
             "What sound does it make?", "none" if "silent" in x.sound else f"it {x.sound}", sound),
    ))  # fmt: skip


def _thing(name: str) -> Subject:
    use, stuff, price = OBJECTS[name]
    return Subject(f"the {name}", (
        Fact((f"What is {a(name)} for?", f"Why would I need {a(name)}?"), "What is it for?",
             f"to {use}", f"{capital(a(name))} is used to {use}."),
        Fact((f"What is {a(name)} made of?", f"Which stuff is {a(name)} made of?"),
             "What is it made of?", stuff, f"{capital(a(name))} is made of {stuff}."),
        Fact((f"How much is {a(name)}?", f"What does {a(name)} cost?"), "And how much is it?",
             f"{price} coins", f"{capital(a(name))} costs {price} coins."),
    ))  # fmt: skip


SUBJECTS: tuple[Subject, ...] = (
    *map(_person, PEOPLE), *map(_town, TOWNS), *map(_animal, ANIMALS), *map(_thing, THINGS)
)  # fmt: skip


def about(dice: Dice) -> Subject:
    return dice.pick(SUBJECTS)


def timeless(dice: Dice) -> Fact:
    """One fact of general knowledge, or one small sum."""
    good, bad = dice.pick(tuple(OPPOSITES.items()))
    if dice.chance(0.5):
        good, bad = bad, good
    (one, two), mix = dice.pick(tuple(MIXES.items()))
    day, month, dish = dice.below(7), dice.below(12), dice.pick(FOODS)
    x, y = dice.between(2, 20), dice.between(1, 20)
    when, then, why = dice.pick(CAUSES)
    after, later = DAYS[(day + 1) % 7], MONTHS[(month + 1) % 12]
    low, high = min(x, y), max(x, y)
    parts = listing(DISHES[dish])
    return dice.pick((
        Fact((f"What is the opposite of {good}?",), "", bad, f"The opposite of {good} is {bad}."),
        Fact((f"What do {one} and {two} make?", f"Which colour do I get from {one} and {two}?"), "",
             mix, f"{capital(one)} and {two} together make {mix}."),
        Fact((f"Which day comes after {DAYS[day]}?",), "", after,
             f"The day after {DAYS[day]} is {after}."),
        Fact((f"Which month comes after {MONTHS[month]}?",), "", later,
             f"After {MONTHS[month]} comes {later}."),
        Fact((f"What is {x} plus {y}?", f"How much is {x} plus {y}?"), "", str(x + y),
             f"{x} plus {y} is {x + y}."),
        Fact((f"What is {high} minus {low}?", f"How much is {high} minus {low}?"), "",
             str(high - low), f"{high} minus {low} is {high - low}."),
        Fact((f"What happens when {when}?",), "", then, f"When {when}, {then}."),
        Fact((f"Why does it happen that {then}?",), "", why, f"The reason is that {why}."),
        Fact((f"What do I need for {dish}?",), "", ", ".join(DISHES[dish]), f"You need {parts}."),
    ))  # fmt: skip


def passage(dice: Dice) -> tuple[str, Fact]:
    """A few sentences about who keeps what where, and a question about them."""
    n = dice.between(1, 2)
    who, things, spots = dice.some(tuple(PEOPLE), n), dice.some(THINGS, n), dice.some(SPOTS, n)
    tints, k = [dice.pick(COLOURS) for _ in range(n)], dice.below(n)
    text = " ".join(
        f"{x} put the {c} {t} in the {s}."
        for x, c, t, s in zip(who, tints, things, spots, strict=True)
    )
    thing, spot = things[k], spots[k]
    return text, dice.pick((
        Fact((f"Where is the {thing}?",), "", spot, f"The {thing} is in the {spot}."),
        Fact((f"Whose {thing} is it?",), "", who[k], f"The {thing} belongs to {who[k]}."),
        Fact((f"Which colour is the {thing}?",), "", tints[k], f"The {thing} is {tints[k]}."),
    ))  # fmt: skip
