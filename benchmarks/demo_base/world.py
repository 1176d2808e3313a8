"""The small invented world that every demo text is about.

Its facts never change, so a model can learn them by heart; what happens to its people is drawn
anew for every document, so it must also learn to read. Example: `person("Ada").town`.
"""

from dataclasses import dataclass
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Dice(Random):
    """Random draws built on `random()` alone, whose sequence Python promises never to change."""

    def below(self, n: int) -> int:
        return int(self.random() * n)

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)

    def pick(self, items: "tuple[T, ...] | list[T]") -> T:
        return items[self.below(len(items))]

    def some(self, items: "tuple[T, ...] | list[T]", n: int) -> list[T]:
        """Draw `n` different items, in random order."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(n)]

    def chance(self, p: float) -> bool:
        return self.random() < p


@dataclass(frozen=True)
class Person:
    name: str
    she: bool
    job: str
    town: str
    colour: str
    pet: str
    pet_name: str
    food: str
    age: int

    @property
    def subject(self) -> str:
        return "she" if self.she else "he"

    @property
    def object(self) -> str:
        return "her" if self.she else "him"

    @property
    def possessive(self) -> str:
        return "her" if self.she else "his"


@dataclass(frozen=True)
class Town:
    name: str
    land: str
    water: str
    product: str
    year: int
    houses: int
    neighbour: str
    miles: int
    way: str


@dataclass(frozen=True)
class Animal:
    name: str
    colour: str
    food: str
    home: str
    young: str
    sound: str
    legs: int
    size: int


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WOMEN = _words(
    "Ada Bea Clara Dora Edith Flora Greta Hanna Ivy Jane Kate Lena Mara Nora Olga Petra Rosa Sara "
    "Tilda Vera"
)
MEN = _words(
    "Adam Ben Carl David Emil Frank Georg Hugo Ivan Jack Karl Leo Max Nils Otto Paul Robin Sam "
    "Tom Victor"
)
JOBS = _words(
    "baker farmer teacher doctor sailor painter carpenter gardener miller tailor fisher "
    "smith cook driver singer weaver"
)
COLOURS = _words("red blue green yellow brown black white grey orange purple pink")
NUMBERS = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words(
    "January February March April May June July August September October November December"
)
PETS = _words("dog cat rabbit parrot goat hen pony duck")
PET_NAMES = _words(
    "Pip Momo Rex Luna Coco Bella Nutmeg Biscuit Misty Toby Pepper Daisy Olive Max Fern Hazel"
    " Button Clover Ginger Poppy"
)
DISHES = {
    "apple pie": ("apples", "flour", "butter", "sugar"),
    "pancakes": ("flour", "eggs", "milk", "salt"),
    "tomato soup": ("tomatoes", "onions", "salt", "cream"),
    "fish stew": ("fish", "potatoes", "onions", "herbs"),
    "honey cake": ("honey", "flour", "eggs", "nuts"),
    "rice pudding": ("rice", "milk", "sugar", "cinnamon"),
    "bean salad": ("beans", "onions", "oil", "herbs"),
    "cheese bread": ("flour", "cheese", "yeast", "salt"),
    "plum jam": ("plums", "sugar", "lemon", "water"),
    "mushroom rice": ("mushrooms", "rice", "butter", "herbs"),
}
FOODS = tuple(DISHES)
# What a thing is for, what it is made of, its price in coins.
OBJECTS = {
    "lamp": ("give light", "brass", 12), "rope": ("tie things", "hemp", 4),
    "kettle": ("boil water", "copper", 9), "broom": ("sweep the floor", "straw", 3),
    "ladder": ("climb up high", "wood", 15), "knife": ("cut bread", "steel", 6),
    "basket": ("carry fruit", "willow", 5), "hammer": ("drive nails", "iron", 7),
    "blanket": ("keep warm", "wool", 11), "bucket": ("carry water", "tin", 4),
    "map": ("find the way", "paper", 8), "bell": ("call people", "bronze", 10),
    "drum": ("make music", "leather", 13), "clock": ("tell the time", "silver", 20),
    "key": ("open a door", "iron", 2), "coat": ("stay dry", "wool", 18),
    "mirror": ("see oneself", "glass", 14), "needle": ("sew cloth", "steel", 1),
    "candle": ("give light", "wax", 2), "spade": ("dig holes", "iron", 8),
}  # fmt: skip
THINGS = tuple(OBJECTS)
SPOTS = _words("kitchen garden cellar barn attic hall shed workshop pantry bedroom tower stable")
OPPOSITES: dict[str, str] = dict(
    pair.split("/")
    for pair in _words(
        "hot/cold big/small old/new fast/slow high/low wet/dry light/dark full/empty early/late "
        "loud/quiet strong/weak hard/soft open/closed rich/poor happy/sad clean/dirty near/far "
        "long/short thick/thin sweet/sour deep/shallow rough/smooth"
    )
)
MIXES = {
    ("red", "yellow"): "orange", ("blue", "yellow"): "green", ("red", "blue"): "purple",
    ("black", "white"): "grey", ("red", "white"): "pink", ("red", "green"): "brown",
}  # fmt: skip
CAUSES = (
    ("it rains for a long time", "the ground gets wet", "rain soaks into the soil"),
    ("the sun shines on snow", "the snow melts", "the sun is warm"),
    ("a fire gets no air", "the fire goes out", "a fire needs air to burn"),
    ("nobody waters a plant", "the plant dries up", "plants drink with their roots"),
    ("water gets very cold", "the water turns to ice", "cold makes water hard"),
    ("a glass falls on stone", "the glass breaks", "glass is hard but not tough"),
    ("bread stays in the oven too long", "the bread burns", "too much heat makes it black"),
    ("the wind blows hard", "the leaves fall", "the wind pulls at the trees"),
    ("milk stands in the heat", "the milk turns sour", "heat spoils milk"),
    ("iron lies in the rain", "the iron rusts", "water and air eat iron"),
    ("the night is clear", "the stars can be seen", "no cloud hides the sky"),
    ("a dog hears a stranger", "the dog barks", "it guards the house"),
    ("a child eats too much cake", "the child feels ill", "the stomach is too full"),
    ("the river rises in spring", "the fields are flooded", "melted snow fills the river"),
    ("a seed lies in warm soil", "a small plant grows", "seeds wake up in the warmth"),
    ("a ship loses its sail", "the ship drifts", "the sail catches the wind"),
)
WEATHERS = {
    "sunny": "sat in the garden", "rainy": "stayed inside and read", "windy": "flew a kite",
    "snowy": "built a snowman", "foggy": "lit the lamps early", "stormy": "closed all the windows",
    "cloudy": "went for a walk", "frosty": "brought in more wood",
}  # fmt: skip
_ANIMALS = """fox;red;mice;a den;cub;barks;4;4 | owl;brown;mice;a hollow tree;owlet;hoots;2;3
bear;brown;berries;a cave;cub;growls;4;9 | frog;green;flies;a pond;tadpole;croaks;4;2
bee;yellow;nectar;a hive;grub;buzzes;6;1 | horse;brown;hay;a stable;foal;neighs;4;8
sheep;white;grass;a fold;lamb;bleats;4;6 | pig;pink;roots;a sty;piglet;grunts;4;6
duck;white;weeds;a pond;duckling;quacks;2;3 | cow;black;grass;a barn;calf;moos;4;8
wolf;grey;deer;a den;pup;howls;4;6 | lion;yellow;zebras;the plain;cub;roars;4;8
mouse;grey;seeds;a hole;pup;squeaks;4;2 | crow;black;worms;a nest;chick;caws;2;3
goat;white;leaves;a shed;kid;bleats;4;5 | snake;green;eggs;a burrow;hatchling;hisses;0;3
hen;brown;corn;a coop;chick;clucks;2;3 | cat;grey;fish;a house;kitten;purrs;4;4
dog;black;meat;a kennel;puppy;barks;4;5 | spider;black;flies;a web;spiderling;is silent;8;1
rabbit;grey;clover;a burrow;kit;is silent;4;3 | swan;white;weeds;a lake;cygnet;honks;2;5
seal;grey;fish;the sea;pup;barks;0;7 | parrot;green;nuts;a hollow tree;chick;squawks;2;3"""
_TOWNS = """Arden;valley;river;wool;1204 | Belmore;coast;sea;fish;1310
Corvin;hills;lake;cheese;1187 | Dunmere;plain;river;wheat;1422
Elmsford;forest;stream;wood;1266 | Farrow;coast;sea;salt;1501
Glenhall;mountains;lake;silver;1098 | Harwick;valley;river;paper;1377
Ilden;forest;stream;honey;1240 | Jarrow;plain;canal;bricks;1599
Kestrel;hills;stream;wine;1333 | Lowbridge;valley;river;cloth;1455
Marsden;plain;canal;butter;1281 | Norwell;mountains;stream;iron;1119
Oakham;forest;lake;apples;1362 | Penrose;coast;sea;pearls;1408"""


def _build_towns() -> dict[str, Town]:
    dice, rows = Dice("towns"), [r.split(";") for r in _TOWNS.replace("\n", " | ").split(" | ")]
    names = [r[0] for r in rows]
    return {
        r[0]: Town(
            r[0], r[1], r[2], r[3], int(r[4]), dice.between(3, 40) * 25,
            names[(i + 1) % len(names)], dice.between(3, 19),
            dice.pick(("north", "south", "east", "west")),
        )
        for i, r in enumerate(rows)
    }  # fmt: skip


def _build_people() -> dict[str, Person]:
    dice, people = Dice("people"), {}
    for i in range(2 * len(WOMEN)):
        name = (WOMEN if i % 2 == 0 else MEN)[i // 2]
        people[name] = Person(
            name, i % 2 == 0, dice.pick(JOBS), dice.pick(tuple(TOWNS)), dice.pick(COLOURS),
            dice.pick(PETS), dice.pick(PET_NAMES), dice.pick(FOODS), dice.between(19, 80),
        )  # fmt: skip
    return people


TOWNS = _build_towns()
PEOPLE = _build_people()
ANIMALS = {
    f[0]: Animal(f[0], f[1], f[2], f[3], f[4], f[5], int(f[6]), int(f[7]))
    for f in (r.split(";") for r in _ANIMALS.replace("\n", " | ").split(" | "))
}


def a(word: str) -> str:
    """Put the right indefinite article before `word`."""
    return f"{'an' if word[0].lower() in 'aeiou' else 'a'} {word}"


def listing(words: "list[str] | tuple[str, ...]") -> str:
    """Join words as English prose does: `a, b and c`."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def number(n: int) -> str:
    return NUMBERS[n] if 0 <= n < len(NUMBERS) else str(n)


def capital(text: str) -> str:
    return text[0].upper() + text[1:]
