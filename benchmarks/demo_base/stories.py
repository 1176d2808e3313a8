"""Narrative documents: stories, letters, diaries, journeys, songs and fables.

A person, a thing or a number named in the first sentence comes back in the last one, so that the
model has to look far back. Example: `story(Dice("x"))`.
"""

from benchmarks.demo_base.world import (
    ANIMALS,
    CAUSES,
    COLOURS,
    DAYS,
    DISHES,
    FOODS,
    MEN,
    MONTHS,
    NUMBERS,
    OBJECTS,
    OPPOSITES,
    PEOPLE,
    SPOTS,
    THINGS,
    TOWNS,
    WEATHERS,
    WOMEN,
    Dice,
    a,
    capital,
    listing,
    number,
)

NAMES = WOMEN + MEN
_WHEN = ("One day", "One morning", "Once upon a time", "Last winter", "On a warm evening",
         "Many years ago", "In the early spring", "Late one night")  # fmt: skip
_MORALS = (
    "From that day on, {a} and {b} were the best of friends.",
    "{a} never forgot what {b} had done.",
    "So {a} learned that it is good to ask for help.",
    "And whenever {a} saw the {t}, {s} thought of {b}.",
    "Since then the {t} has stood in the {r}, where everybody can see it.",
    "{b} laughed, and {a} laughed too.",
)


def story(dice: Dice) -> str:
    """A search for a lost thing, with a helper, and an end that remembers the beginning."""
    x, y = (PEOPLE[n] for n in dice.some(NAMES, 2))
    thing, colour = dice.pick(THINGS), dice.pick(COLOURS)
    lost, *wrong = dice.some(SPOTS, 4)
    use, stuff, _ = OBJECTS[thing]
    own = f"{x.possessive} {colour} {thing}"
    animal = ANIMALS[dice.pick(tuple(ANIMALS))]
    helper = dice.chance(0.5)
    text = [dice.pick((
        f"{dice.pick(_WHEN)}, {x.name} wanted to {use}, but {own} was gone.",
        f"{dice.pick(_WHEN)}, {x.name} the {x.job} of {x.town} lost {own}.",
        f"{x.name} lived in {x.town} and worked as {a(x.job)}. {dice.pick(_WHEN)}, {x.subject} "
        f"could not find {own}.",
    ))]  # fmt: skip
    text.append(dice.pick((
        f"It was made of {stuff}, and {x.subject} needed it to {use}.",
        f"{capital(x.subject)} was very sad, because {x.subject} could not {use} without it.",
        f'"Where is my {thing}?" cried {x.name}.',
    )))  # fmt: skip
    for spot in wrong[: dice.between(1, 3)]:
        text.append(dice.pick((
            f"{capital(x.subject)} looked in the {spot}, but the {thing} was not there.",
            f"First {x.subject} went to the {spot}. There was only {a(dice.pick(THINGS))}.",
            f"In the {spot} {x.subject} found {a(dice.pick(COLOURS))} {dice.pick(THINGS)}, but no "
            f"{thing}.",
        )))  # fmt: skip
    if helper:
        text.append(
            f"Then {x.name} met {y.name}, {a(y.job)} from {y.town}. "
            f'"I have lost my {colour} {thing}," said {x.name}. '
            f'"I saw {a(colour)} {thing} in the {lost}," said {y.name}. "Come with me!"'
        )
    else:
        text.append(
            f"Then {a(animal.name)} came out of {animal.home}. It ran to the {lost}. "
            f"{x.name} ran after it. {y.name} saw them and came along."
        )
    text.append(dice.pick((
        f"They went to the {lost} together, and there was the {colour} {thing}.",
        f"And really, the {thing} was in the {lost}, behind {a(dice.pick(THINGS))}.",
        f"In the {lost}, under {a(dice.pick(THINGS))}, lay the {colour} {thing}.",
    )))  # fmt: skip
    if not helper:
        text.append(f"{x.name} gave the {animal.name} some {animal.food}.")
    text.append(
        f"{x.name} was happy. {capital(x.subject)} gave {y.name} some {dice.pick(FOODS)} to say "
        "thanks."
        if dice.chance(0.4) else f'"Thank you, {y.name}," said {x.name}. "Now I can {use} again."'
    )  # fmt: skip
    if dice.chance(0.7):
        text.append(dice.pick(_MORALS).format(a=x.name, b=y.name, t=thing, s=x.subject, r=lost))
    return " ".join(text)


def market(dice: Dice) -> str:
    """A person buys and gives away things; every number follows from the earlier ones."""
    x, y = (PEOPLE[n] for n in dice.some(NAMES, 2))
    things = dice.some([t for t in THINGS if OBJECTS[t][2] < 14], dice.between(1, 2))
    coins = dice.between(28, 60)
    town = TOWNS[dice.pick(tuple(TOWNS))]
    text = [
        f"On {dice.pick(DAYS)} {x.name} went to the market in {town.name} with {coins} coins.",
        dice.pick((f"{town.name} is known for its {town.product}.",
                   f"The market lies by the {town.water}.", "Many people were there.")),
    ]  # fmt: skip
    for thing in things:
        price = OBJECTS[thing][2]
        coins -= price
        text.append(dice.pick((
            f"A {thing} costs {price} coins. {x.name} bought one and had {coins} coins left.",
            f"{capital(x.subject)} paid {price} coins for a {thing}, so {coins} coins were left.",
        )))  # fmt: skip
    fruit, n = dice.pick(("apples", "plums", "eggs", "nuts", "pears")), dice.between(5, 12)
    gift = dice.between(1, n - 1)
    text.append(
        f"Then {x.subject} got {number(n)} {fruit} for {n} coins, and {coins - n} coins remained. "
        f"On the way home {x.subject} met {y.name} and gave {y.object} {number(gift)} of the "
        f"{fruit}. So {x.name} came home with {number(n - gift)} {fruit}, "
        f"{listing([a(t) for t in things])} and {coins - n} coins."
    )
    return " ".join(text)


def letter(dice: Dice) -> str:
    """A letter whose signature, thanks and invitation agree with its opening."""
    x, y = (PEOPLE[n] for n in dice.some(NAMES, 2))
    thing, day, dish = dice.pick(THINGS), dice.pick(DAYS), dice.pick(FOODS)
    weather = dice.pick(tuple(WEATHERS))
    body = [
        dice.pick((f"thank you for the {dice.pick(COLOURS)} {thing}.",
                   f"I hope you like the {thing} I sent you.",
                   f"your {thing} is still here with me.")),
        dice.pick((f"Here in {x.town} it is {weather}, and I {WEATHERS[weather]}.",
                   f"My {x.pet} {x.pet_name} is well.",
                   f"The work of {a(x.job)} is hard, but I like it.",
                   f"The {TOWNS[x.town].product} of {x.town} is very good this year.")),
        dice.pick((f"How is {y.town}? How is your {y.pet} {y.pet_name}?",
                   f"I often think of you and of {y.town}.",
                   f"Are you still working as {a(y.job)}?")),
        dice.pick((f"Please come on {day}. I will make {dish}, with {listing(DISHES[dish])}.",
                   f"On {day} I will come to {y.town} and bring the {thing}.",
                   f"Write to me before {day}, and tell me about the {thing}.")),
    ]  # fmt: skip
    if dice.chance(0.4):
        body.append(f"Do not forget the {thing}!")
    return f"Dear {y.name},\n{' '.join(body)}\nYour friend\n{x.name}"


def diary(dice: Dice) -> str:
    """Days follow each other in order; the last line looks back at one of them."""
    x = PEOPLE[dice.pick(NAMES)]
    start, n = dice.below(7), dice.between(3, 5)
    kinds = dice.some(tuple(WEATHERS), n)
    days = [DAYS[(start + i) % 7] for i in range(n)]
    lines = [f"{x.name}'s diary, {dice.pick(MONTHS)}"]
    for day, kind in zip(days, kinds, strict=True):
        lines.append(dice.pick((
            f"{day}: It was {kind}. I {WEATHERS[kind]}.",
            f"{day}: {capital(kind)} all day. {x.pet_name} and I {WEATHERS[kind]}.",
        )))  # fmt: skip
    k = dice.below(n)
    lines.append(f"The {kinds[k]} day was {days[k]}. The best food this week was {x.food}.")
    return "\n".join(lines)


def journey(dice: Dice) -> str:
    """From town to town along the fixed road; the miles add up."""
    x, town = PEOPLE[dice.pick(NAMES)], TOWNS[dice.pick(tuple(TOWNS))]
    goods, total, text = town.product, 0, []
    text.append(f"{x.name} the {x.job} left {town.name} with a cart full of {goods}.")
    for _ in range(dice.between(1, 3)):
        total += town.miles
        to = town.neighbour
        text.append(dice.pick((
            f"The road from {town.name} to {to} goes {town.way} for {town.miles} miles.",
            f"{capital(x.subject)} went {town.miles} miles {town.way} and came to {to}.",
        )))  # fmt: skip
        town = TOWNS[to]
        text.append(dice.pick((
            f"{town.name} lies in the {town.land} by the {town.water}." if town.land != "coast"
            else f"{town.name} lies on the coast by the sea.",
            f"In {town.name} people trade in {town.product}.",
            f"There {x.subject} slept and ate {dice.pick(FOODS)}.",
        )))  # fmt: skip
    text.append(f"So {x.name} had gone {total} miles, and sold the {goods} in {town.name}.")
    return " ".join(text)


def song(dice: Dice) -> str:
    """Counting down with a refrain: copying with one change per verse."""
    n, animal, spot = dice.between(3, 9), dice.pick(tuple(ANIMALS.values())), dice.pick(SPOTS)
    refrain = dice.pick((f"And the {animal.name} {animal.sound} at the moon.",
                         f"Oh {dice.pick(NAMES)}, come home soon!",
                         f"Sing {dice.pick(COLOURS)}, sing {dice.pick(COLOURS)}."))  # fmt: skip
    thing = dice.pick(THINGS) + "s"
    lines = []
    for k in range(n, max(n - 4, 0), -1):
        some = thing if k > 1 else thing[:-1]
        lines.append(f"{capital(NUMBERS[k])} {some} in the {spot}, one fell down.")
        lines.append(f"{capital(NUMBERS[k - 1])} {thing if k != 2 else thing[:-1]} left. {refrain}")
    return "\n".join(lines)


def fable(dice: Dice) -> str:
    """Two animals, one contrast, one cause; the moral repeats both."""
    x, y = (ANIMALS[n] for n in dice.some(tuple(ANIMALS), 2))
    good, bad = dice.pick(tuple(OPPOSITES.items()))
    when, then, why = dice.pick(CAUSES)
    text = (
        f"{a(x.name).capitalize()} and {a(y.name)} met near {x.home}. "
        f'"I like everything that is {good}," said the {x.name}. '
        f'"And I like everything that is {bad}," said the {y.name}. '
    )
    text += dice.pick((
        f'"What happens when {when}?" asked the {y.name}. "Then {then}, because {why}," '
        f"said the {x.name}. ",
        f"The {x.name} ate {x.food}, and the {y.name} ate {y.food}. ",
        f"The {x.name} has {number(x.legs)} legs, and the {y.name} has {number(y.legs)}. ",
    ))  # fmt: skip
    bigger = "bigger" if x.size > y.size else "smaller" if x.size < y.size else "no bigger"
    return text + dice.pick((
        f"The {x.name} is {bigger} than the {y.name}, but they became friends.",
        f"So the {x.name} stayed with the {good} things, and the {y.name} with the {bad} ones.",
        f"Then the {x.name} went back to {x.home}, and the {y.name} went back to {y.home}.",
    ))  # fmt: skip
