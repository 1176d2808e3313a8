"""The demo's plain text: an endless, seeded stream of short prose documents.

Every document depends on its seed and index alone, so any part of the stream can be made again,
in any process. Nothing here is in chat format: style is what fine-tuning is there to teach.
Example: `document("train", 7)`.
"""

from collections.abc import Callable, Iterator

from benchmarks.demo_base.stories import (
    NAMES,
    diary,
    fable,
    journey,
    letter,
    market,
    song,
    story,
)
from benchmarks.demo_base.talks import howto, talk
from benchmarks.demo_base.world import (
    ANIMALS,
    CAUSES,
    COLOURS,
    DAYS,
    DISHES,
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


def about_person(dice: Dice) -> str:
    x = PEOPLE[dice.pick(NAMES)]
    they, their = capital(x.subject), capital(x.possessive)
    facts = [
        dice.pick((f"{x.name} works as {a(x.job)}.", f"{x.name} is {a(x.job)} by trade.")),
        dice.pick((f"{x.name} lives in {x.town}.", f"{their} home is in {x.town}.")),
        dice.pick((f"{they} is {x.age} years old.", f"{x.name} is {x.age} years old.")),
        dice.pick((f"{their} {x.pet} is called {x.pet_name}.",
                   f"{x.name} has a {x.pet} named {x.pet_name}.")),
        dice.pick((f"{their} favourite colour is {x.colour}.",
                   f"{x.name} likes {x.colour} best of all colours.")),
        dice.pick((f"{they} loves {x.food}.",
                   f"{their} favourite dish is {x.food}.")),
    ]  # fmt: skip
    first = f"{x.name} is {a('woman' if x.she else 'man')} from {x.town}."
    return " ".join([first, *dice.some(facts, dice.between(3, 6))])


def about_town(dice: Dice) -> str:
    t = TOWNS[dice.pick(tuple(TOWNS))]
    n = t.houses
    place = "on the coast" if t.land == "coast" else f"in the {t.land}"
    facts = [
        f"It was founded in the year {t.year}.",
        dice.pick((f"About {n} houses stand there.", f"{t.name} has about {n} houses.")),
        dice.pick((f"{t.name} is known for its {t.product}.", f"Its people trade in {t.product}.")),
        f"The next town is {t.neighbour}, {t.miles} miles to the {t.way}.",
        dice.pick((f"It lies by the {t.water}.", f"Its water comes from the {t.water}."))
        if t.water != "sea" else "Ships come in from the sea.",
    ]  # fmt: skip
    people = [p.name for p in PEOPLE.values() if p.town == t.name]
    if people:
        facts.append(f"Among its people {'are' if len(people) > 1 else 'is'} {listing(people)}.")
    return " ".join(
        [f"{t.name} is a town {place}.", *dice.some(facts, dice.between(3, len(facts)))]
    )


def about_animal(dice: Dice) -> str:
    x, y = (ANIMALS[n] for n in dice.some(tuple(ANIMALS), 2))
    cub = a(x.young)
    size = "bigger than" if x.size > y.size else "smaller than" if x.size < y.size else "as big as"
    facts = [
        dice.pick((f"It eats {x.food}.", f"Its food is {x.food}.")),
        dice.pick((f"It lives in {x.home}." if "plain" not in x.home and "sea" not in x.home
                   else f"Its home is {x.home}.", f"Its home is {x.home}.")),
        dice.pick((f"A young {x.name} is called {cub}.", f"Its young is called {cub}.")),
        "It makes no sound." if "silent" in x.sound else f"It {x.sound}.",
        f"It has {number(x.legs)} legs." if x.legs else "It has no legs.",
        f"{capital(a(x.name))} is {size} {a(y.name)}.",
    ]  # fmt: skip
    first = dice.pick((f"The {x.name} is {a(x.colour)} animal.", f"The {x.name} is {x.colour}."))
    return " ".join([first, *dice.some(facts, dice.between(3, 6))])


def recipe(dice: Dice) -> str:
    dish = dice.pick(tuple(DISHES))
    parts = dice.some(DISHES[dish], 4)
    minutes, people = dice.between(2, 12) * 5, dice.between(2, 8)
    cook = dice.pick(NAMES)
    return dice.pick((
        f"To make {dish} for {number(people)} people, take {listing(parts)}. First prepare the "
        f"{parts[0]}. Then add the {parts[1]} and the {parts[2]}. At the end add the {parts[3]}. "
        f"Cook it for {minutes} minutes. The {dish} is ready for {number(people)} people.",
        f"{cook}'s {dish}\nTake: {', '.join(parts)}.\nMix the {parts[0]} with the {parts[1]}. Stir "
        f"in the {parts[2]}, and then the {parts[3]}. Wait {minutes} minutes.\n"
        f"{cook} likes it best warm.",
    ))  # fmt: skip


def sums(dice: Dice) -> str:
    lines = []
    for _ in range(dice.between(2, 5)):
        x, y = dice.between(1, 20), dice.between(1, 20)
        low, high = min(x, y), max(x, y)
        lines.append(dice.pick((
            f"{x} plus {y} is {x + y}.",
            f"{capital(number(x))} and {number(y)} make {number(x + y)}.",
            f"{high} minus {low} is {high - low}.", f"{high} is more than {low}." if high > low else
            f"{high} is equal to {low}.", f"Twice {x} is {2 * x}.",
            f"Count on from {x}: {x + 1}, {x + 2}, {x + 3}, {x + 4}.",
            f"Take {low} from {high}, and {high - low} remains.",
        )))  # fmt: skip
    return dice.pick((" ", "\n")).join(lines)


def knowledge(dice: Dice) -> str:
    """Short statements of timeless facts, each in one of several wordings."""
    lines = []
    for _ in range(dice.between(3, 6)):
        good, bad = dice.pick(tuple(OPPOSITES.items()))
        (one, two), mix = dice.pick(tuple(MIXES.items()))
        day, month, thing = dice.below(7), dice.below(12), dice.pick(THINGS)
        use, stuff, price = OBJECTS[thing]
        when, then, why = dice.pick(CAUSES)
        lines.append(dice.pick((
            f"The opposite of {good} is {bad}.", f"What is not {bad} is often {good}.",
            f"{capital(one)} and {two} together make {mix}.",
            f"If you mix {two} with {one}, you get {mix}.",
            f"The day after {DAYS[day]} is {DAYS[(day + 1) % 7]}.",
            f"{DAYS[day]} comes before {DAYS[(day + 1) % 7]}.",
            f"{MONTHS[month]} is month {month + 1} of the year.",
            f"After {MONTHS[month]} comes {MONTHS[(month + 1) % 12]}.",
            f"{capital(a(thing))} is made of {stuff} and is used to {use}.",
            f"{capital(a(thing))} costs {price} coins.", f"When {when}, {then}, because {why}.",
            f"If {when}, then {then}.", f"{capital(then)} when {when}. The reason is that {why}.",
        )))  # fmt: skip
    return " ".join(lines)


def inventory(dice: Dice) -> str:
    """A list, then the same list sorted, counted or searched."""
    items, x = dice.some(THINGS, dice.between(3, 6)), PEOPLE[dice.pick(NAMES)]
    spot = dice.pick(SPOTS)
    text = [f"In {x.name}'s {spot} there are {number(len(items))} things: {listing(items)}."]
    dearest = max(items, key=lambda t: (OBJECTS[t][2], t))
    ends = [
        f"In the order of the alphabet they are {listing(sorted(items))}.",
        f"From the last to the first they are {listing(items[::-1])}.",
        f"The first is the {items[0]} and the last is the {items[-1]}.",
        f"The dearest of them is the {dearest}, which costs {OBJECTS[dearest][2]} coins.",
        f"{x.name} took the {items[1]} away, so {number(len(items) - 1)} things were left: "
        f"{listing(items[:1] + items[2:])}.",
    ]
    return " ".join(text + dice.some(ends, dice.between(1, 3)))


def reading(dice: Dice) -> str:
    """People, things and places; then questions whose answers stand above."""
    n = dice.between(2, 4)
    who, things = [PEOPLE[i] for i in dice.some(NAMES, n)], dice.some(THINGS, n)
    spots, tints = dice.some(SPOTS, n), [dice.pick(COLOURS) for _ in range(n)]
    text = []
    for x, thing, spot, tint in zip(who, things, spots, tints, strict=True):
        text.append(dice.pick((
            f"{x.name} put the {tint} {thing} in the {spot}.",
            f"{x.name} has {a(tint)} {thing}. {capital(x.subject)} keeps it in the {spot}.",
            f"The {tint} {thing} of {x.name} is in the {spot}.",
        )))  # fmt: skip
    if dice.chance(0.4):
        k, new = dice.below(n), dice.pick([s for s in SPOTS if s not in spots])
        text.append(f"Later {who[k].name} moved the {things[k]} to the {new}.")
        spots[k] = new
    for _ in range(dice.between(1, 3)):
        k = dice.below(n)
        x, thing, spot, tint = who[k], things[k], spots[k], tints[k]
        text.append(dice.pick((
            f"Where is the {thing}? It is in the {spot}.",
            f"Whose {thing} is it? It belongs to {x.name}.",
            f"Which colour is the {thing}? It is {tint}.",
            f"What is in the {spot}? The {tint} {thing} is there.",
            f"Who has the {thing}? {x.name} has it.",
        )))  # fmt: skip
    return " ".join(text)


def compare(dice: Dice) -> str:
    """An order among people or towns that follows from known numbers."""
    if dice.chance(0.5):
        x, y = (PEOPLE[n] for n in dice.some(NAMES, 2))
        old, young = (x, y) if x.age >= y.age else (y, x)
        how = "as old as" if x.age == y.age else "older than"
        return (
            f"{x.name} is {x.age} and {y.name} is {y.age}, so {old.name} is {how} {young.name}. "
            f"{x.name} comes from {x.town}, {y.name} from {y.town}. "
            f"{old.name} likes {old.food}, while {young.name} likes {young.food}."
        )
    s, t = (TOWNS[n] for n in dice.some(tuple(TOWNS), 2))
    old_t, new_t = (s, t) if s.year <= t.year else (t, s)
    big, small = (s, t) if s.houses >= t.houses else (t, s)
    return (
        f"{s.name} was founded in {s.year} and {t.name} in {t.year}, so {old_t.name} is older than "
        f"{new_t.name}. {s.name} has {s.houses} houses and {t.name} has {t.houses}, so {big.name} "
        f"is {'no smaller' if s.houses == t.houses else 'bigger'} than {small.name}. "
        f"{s.name} sells {s.product}; {t.name} sells {t.product}."
    )


KINDS: tuple[tuple[Callable[[Dice], str], int], ...] = (
    (story, 6), (reading, 4), (market, 3), (letter, 3), (about_person, 3), (about_animal, 3),
    (about_town, 3), (knowledge, 3), (inventory, 2), (recipe, 2), (diary, 2), (journey, 2),
    (fable, 2), (compare, 2), (sums, 2), (song, 1), (talk, 4), (howto, 2),
)  # fmt: skip
_DECK = tuple(kind for kind, weight in KINDS for _ in range(weight))


def document(seed: str, index: int) -> str:
    """The document at `index` of the stream `seed`."""
    dice = Dice(f"{seed}/{index}")
    return dice.pick(_DECK)(dice)


def stream(seed: str, start: int = 0) -> Iterator[str]:
    """All documents of one stream, without an end; another seed gives other documents."""
    while True:
        yield document(seed, start)
        start += 1
