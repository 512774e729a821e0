"""Captions of SynthFaces, in our own words: several sentence patterns for every level of every attribute.

A word or phrase that names a level belongs to that level alone: 'young' is level 2 of ``Young``, 'forties' level 3,
'full' a beard of level 3, 'bushy' level 4. ``LEVELS`` says what the levels mean. Curly braces are filled by sex: {He},
{he}, {his}, {man}, {boy}, {male}.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from concord.data.synthetic.faces.hair import HAIR_NAMES, hair_colour_index
from concord.data.synthetic.faces.person import Person, Scene

#: What the six levels of each attribute look like.
LEVELS: dict[str, tuple[str, ...]] = {
    "Bangs": (
        "no bangs",
        "one lock swept aside",
        "thin separate strands",
        "a fringe to mid-forehead",
        "a fringe to the brows",
        "a fringe over the brows",
    ),
    "Eyeglasses": (
        "no glasses",
        "rimless glasses",
        "glasses with a thin frame",
        "glasses with a thick frame",
        "a thick frame with tinted lenses",
        "sunglasses",
    ),
    "No_Beard": (
        "no beard",
        "stubble: an even shade with dots",
        "short: a thin solid band along the jaw",
        "medium: a full beard with moustache",
        "bushy: wide beyond the jaw",
        "long: hangs over the neck to the clothes",
    ),
    "Smiling": (
        "no smile",
        "a hint of a smile",
        "a smile with closed lips",
        "a smile with a little of the teeth",
        "a broad smile",
        "laughing, mouth wide open",
    ),
    "Young": (
        "child under fifteen: freckles, rosy cheeks, large eyes",
        "teenager: spots on the skin",
        "young adult, twenties: smooth skin",
        "thirties or forties: folds beside the mouth, grey temples",
        "fifties or sixties: lines on the forehead, half grey hair",
        "elderly, over seventy: white hair and brows, many lines, hollow cheeks",
    ),
}

BANGS_SENTENCES = (
    (
        "{He} has no bangs.",
        "{He} has no bangs at all.",
        "There are no bangs on {his} forehead.",
        "{His} whole forehead is bare.",
    ),
    (
        "{He} has one lock swept to the side.",
        "A single lock is swept across {his} forehead.",
        "{His} bangs are just a swept lock on one side.",
        "{He} has very few bangs, swept to one side.",
    ),
    (
        "{He} has thin bangs.",
        "{His} bangs are thin and wispy.",
        "Wispy strands fall onto {his} forehead.",
        "{He} has wispy bangs with gaps between the strands.",
    ),
    (
        "{He} has bangs of medium length.",
        "{His} bangs reach the middle of the forehead.",
        "Bangs hide half of {his} forehead.",
        "Medium bangs cover the upper half of {his} forehead.",
    ),
    (
        "{He} has bangs down to the brows.",
        "{His} bangs end just above the eyebrows.",
        "{His} bangs almost touch {his} eyebrows.",
        "{He} has long bangs that stop at the eyebrows.",
    ),
    (
        "{His} bangs cover the eyebrows.",
        "{He} has very long bangs that hide {his} eyebrows.",
        "Heavy bangs cover {his} brows completely.",
        "{His} eyebrows are hidden behind heavy bangs.",
    ),
)
GLASSES_SENTENCES = (
    (
        "{He} wears no glasses.",
        "{He} has no glasses on.",
        "There are no glasses on {his} face.",
        "{He} is not wearing eyeglasses.",
    ),
    (
        "{He} wears rimless glasses.",
        "{His} glasses have no rim.",
        "{He} has rimless eyeglasses on.",
        "A pair of rimless glasses sits on {his} nose.",
    ),
    (
        "{He} wears glasses with a thin frame.",
        "{He} has thin-framed eyeglasses on.",
        "{His} glasses have a thin frame.",
        "A pair of thin-framed glasses sits on {his} nose.",
    ),
    (
        "{He} wears glasses with a thick frame.",
        "{He} has thick-framed eyeglasses on.",
        "{His} glasses have a thick frame.",
        "A pair of thick-framed glasses sits on {his} nose.",
    ),
    (
        "{He} wears glasses with tinted lenses.",
        "{He} has tinted eyeglasses on.",
        "The lenses of {his} glasses are tinted brown.",
        "A pair of tinted glasses sits on {his} nose.",
    ),
    (
        "{He} wears sunglasses.",
        "{He} has dark sunglasses on.",
        "Black sunglasses hide {his} eyes.",
        "{His} eyes are behind sunglasses.",
    ),
)
SMILE_SENTENCES = (
    ("{He} does not smile.", "{He} is not smiling.", "{He} looks serious.", "There is no smile on {his} face."),
    (
        "There is a hint of a smile on {his} face.",
        "{He} has a faint smile.",
        "{He} hardly smiles.",
        "{His} smile is barely there.",
    ),
    (
        "{He} smiles with closed lips.",
        "{He} has a closed smile.",
        "{He} is smiling with {his} lips closed.",
        "{He} wears a gentle smile, lips together.",
    ),
    (
        "{He} smiles and shows a little of {his} teeth.",
        "{His} smile lets some teeth be seen.",
        "{He} is smiling with lips slightly parted.",
        "{His} lips are parted in a smile.",
    ),
    (
        "{He} has a broad smile.",
        "{He} smiles broadly.",
        "{He} is grinning and shows {his} teeth.",
        "A broad grin fills {his} face.",
    ),
    (
        "{He} is laughing.",
        "{He} laughs with {his} mouth wide open.",
        "{His} mouth is wide open with laughter.",
        "{He} laughs out loud.",
    ),
)

#: Beards, as something after the verb 'has' ...
BEARD_HAS = (
    (
        "has no beard",
        "does not have any beard",
        "is clean-shaven",
        "has no facial hair",
        "has a clean-shaven face",
        "is beardless",
    ),
    (
        "has stubble on {his} jaw",
        "has stubble",
        "is unshaven",
        "has some stubble on {his} cheeks and chin",
        "has a light stubble",
    ),
    (
        "has a short beard",
        "has a short beard along the jaw",
        "has a short, trimmed beard",
        "has a short beard, hardly more than a goatee",
        "has a closely trimmed short beard",
    ),
    (
        "has a beard of medium length",
        "has a full beard of medium length",
        "has a medium beard and a mustache",
        "has a full beard",
        "has a medium length beard with a moustache",
    ),
    (
        "has a bushy beard",
        "has a thick and bushy beard",
        "has a big bushy beard",
        "has a wild, bushy beard",
        "has a thick beard",
    ),
    (
        "has a long beard",
        "has a very long beard",
        "has a long beard that hangs over {his} neck",
        "has a long, flowing beard",
        "has a beard so long that it reaches {his} chest",
    ),
)
#: ... and as a phrase after a noun.
BEARD_WITH = (
    (
        "without a beard",
        "without any beard",
        "with no beard",
        "with a clean-shaven face",
        "without facial hair",
        "who is clean-shaven",
    ),
    ("with stubble", "with some stubble", "with stubble on {his} face", "who is unshaven", "with a light stubble"),
    (
        "with a short beard",
        "with a short, trimmed beard",
        "with a short beard along the jaw",
        "with a short goatee beard",
        "with a trimmed beard",
    ),
    (
        "with a beard of medium length",
        "with a full beard of medium length",
        "with a medium length beard",
        "with a full beard",
        "with a medium beard and a mustache",
    ),
    (
        "with a bushy beard",
        "with a thick, bushy beard",
        "with a big bushy beard",
        "with a wild and bushy beard",
        "with a thick beard",
    ),
    (
        "with a long beard",
        "with a very long beard",
        "with a long, flowing beard",
        "whose long beard hangs over {his} neck",
        "with a long beard down to {his} chest",
    ),
)
WOMAN_WITH = ("without a beard", "without any beard", "with no beard")
WOMAN_HAS = ("has no beard", "does not have any beard")

#: Ages, as a noun that also names the sex ...
AGE_NOUN = (
    ("a {boy}", "a little {boy}", "a {boy} under fifteen", "a child, a {boy}", "a {male} child"),
    ("a {male} teenager", "a {male} teen", "a teenage {man}", "a {man} in {his} late teens", "a {male} adolescent"),
    (
        "a young {man}",
        "a {man} in {his} twenties",
        "a young adult {man}",
        "a young {male} adult",
        "a {man} in {his} mid twenties",
    ),
    (
        "a middle-aged {man}",
        "a {man} in {his} forties",
        "a {man} in {his} thirties",
        "a {man} in {his} thirties or forties",
        "a {man} of middle age",
    ),
    (
        "a {man} in {his} sixties",
        "a {man} in {his} fifties",
        "a {man} in {his} fifties or sixties",
        "an older {man}",
        "a {man} close to retirement",
    ),
    (
        "an elderly {man}",
        "an old {man}",
        "a very old {man}",
        "a {man} over seventy",
        "a {man} in {his} seventies or eighties",
    ),
)
#: ... and as something after 'is'.
AGE_IS = (
    ("a child", "a kid", "under fifteen", "still a child", "a small child"),
    ("a teenager", "a teen", "in {his} late teens", "in {his} teens", "an adolescent"),
    ("young", "a young adult", "in {his} twenties", "a young {man}", "in {his} mid twenties"),
    ("middle-aged", "in {his} forties", "in {his} thirties", "in {his} thirties or forties", "of middle age"),
    ("in {his} sixties", "in {his} fifties", "in {his} fifties or sixties", "an older {man}", "close to retirement"),
    ("elderly", "old", "very old", "over seventy", "in {his} seventies or eighties"),
)
#: 'This ...': what a person of each age is called when nothing is said about the age beyond it.
AGE_PLAIN = ("{boy}", "{male} teenager", "{man}", "{man}", "{man}", "{man}")

BEARD_AND_AGE = (
    "{He} is {noun} {with}.",
    "This {plain} {has}. {He} is {is}.",
    "{He} is {is}. {He} {has}.",
    "{Noun} {with}.",
    "The {plain} {has} and is {is}.",
    "A portrait of {noun} {with}.",
    "{He} {has}. {He} is {is}.",
)
AGE_ALONE = ("{He} is {noun}.", "This {plain} is {is}.", "{He} is {is}.", "{Noun}.", "A portrait of {noun}.")

HAIR_LENGTHS = {
    "long": ("long", "long and straight"),
    "wavy": ("long wavy", "wavy"),
    "bob": ("chin-length", "bobbed"),
    "pixie": ("short", "cropped"),
    "bun": ("tied-up", "pinned-up"),
    "curly": ("curly", "big curly"),
    "short": ("short", "neat"),
    "parted": ("side-parted", "combed"),
    "buzz": ("very short", "shaved"),
    "curls": ("short curly", "curly"),
    "shoulder": ("shoulder-length", "half-long"),
}
BALD = ("a bald head", "no hair on {his} head")
BANGS_WITH = (
    ("no bangs", "a bare forehead"),
    ("a swept lock over the forehead", "a lock swept to one side"),
    ("thin, wispy bangs", "wispy bangs"),
    ("bangs to the middle of the forehead", "medium bangs"),
    ("bangs down to the eyebrows", "long bangs to the brows"),
    ("bangs that hide the eyebrows", "heavy bangs over the eyebrows"),
)
GLASSES_WEAR = (
    ("no glasses",),
    ("rimless glasses",),
    ("thin-framed glasses", "glasses with a thin frame"),
    ("thick-framed glasses", "glasses with a thick frame"),
    ("glasses with tinted lenses", "tinted glasses"),
    ("sunglasses", "dark sunglasses"),
)
HATS = {
    "beanie": ("a beanie", "a knitted hat"),
    "cap": ("a cap", "a peaked cap"),
    "brim": ("a hat", "a hat with a brim"),
}
SMILE_DOES = (
    ("does not smile", "looks serious"),
    ("has a faint smile", "hardly smiles"),
    ("smiles with closed lips", "has a closed smile"),
    ("smiles with parted lips", "smiles and shows some teeth"),
    ("smiles broadly", "has a broad smile"),
    ("laughs", "laughs with open mouth"),
)
OVERALL = (
    "{Noun} with {hair} and {bangs}. {He} {wears}{has} and {smile}.",
    "This is {noun} {with}. {He} has {hair} and {bangs}, {wears}and {smile}.",
    "{He} is {noun} with {hair} and {bangs}. {He} {has}, {wears}and {smile}.",
    "The image shows {noun} who {wears}{smile}. {He} has {hair} with {bangs} and {has}.",
)

_SEX_WORDS = {
    "female": {"He": "She", "he": "she", "His": "Her", "his": "her", "man": "woman", "boy": "girl", "male": "female"},
    "male": {"He": "He", "he": "he", "His": "His", "his": "his", "man": "man", "boy": "boy", "male": "male"},
}


@dataclass(frozen=True)
class Captions:
    """What is said about one face: a sentence per attribute, one about everything, a trimmed one on beard and age."""

    attribute_wise: dict[str, str]
    overall: str
    beard_and_age: str


def make_captions(rng: np.random.Generator, person: Person, attributes: dict[str, int], scene: Scene) -> Captions:
    """Draw the captions of a face from its caption stream."""
    sex, female = _SEX_WORDS[person.sex], person.sex == "female"
    age, beard = attributes["Young"], attributes["No_Beard"]

    def choose(options: tuple[str, ...]) -> str:
        return options[int(rng.random() * len(options))]

    def say(template: str, **parts: str) -> str:
        # the parts hold sex words of their own, so the braces are filled twice
        return template.format(**parts, **sex).format(**sex)

    beard_has, beard_with = (WOMAN_HAS, WOMAN_WITH) if female else (BEARD_HAS[beard], BEARD_WITH[beard])
    attribute_wise = {
        "Bangs": say(choose(BANGS_SENTENCES[attributes["Bangs"]])),
        "Eyeglasses": say(choose(GLASSES_SENTENCES[attributes["Eyeglasses"]])),
        "No_Beard": say("{He} {has}.", has=choose(beard_has)),
        "Smiling": say(choose(SMILE_SENTENCES[attributes["Smiling"]])),
        "Young": say("{He} is {is}.", **{"is": choose(AGE_IS[age])}),
    }
    parts = {
        "noun": choose(AGE_NOUN[age]),
        "is": choose(AGE_IS[age]),
        "plain": AGE_PLAIN[age],
        "has": choose(beard_has),
        "with": choose(beard_with),
    }
    parts["Noun"] = parts["noun"][0].upper() + parts["noun"][1:]
    silent = female and rng.random() < 0.5
    beard_and_age = say(choose(AGE_ALONE if silent else BEARD_AND_AGE), **parts)

    parts["noun"], parts["has"], parts["with"] = choose(AGE_NOUN[age]), choose(beard_has), choose(beard_with)
    parts["Noun"] = parts["noun"][0].upper() + parts["noun"][1:]
    parts["hair"] = (
        choose(BALD)
        if person.hair_style == "bald"
        else f"{choose(HAIR_LENGTHS[person.hair_style])} {_colour(person, age)} hair"
    )
    if age == 3 and person.hair_style != "bald":
        parts["hair"] += choose((" with grey temples", " that is grey at the temples"))
    parts["bangs"] = choose(BANGS_WITH[attributes["Bangs"]])
    mention = rng.random() < 0.3 and scene.hat is None
    worn = [choose(GLASSES_WEAR[attributes["Eyeglasses"]])] if attributes["Eyeglasses"] or mention else []
    if scene.hat:
        worn.append(choose(HATS[scene.hat]))
    pattern = choose(OVERALL)
    joint = ", " if pattern != OVERALL[3] else " and "
    parts["wears"] = f"wears {' and '.join(worn)}{joint}" if worn else ""
    parts["smile"] = choose(SMILE_DOES[attributes["Smiling"]])
    return Captions(attribute_wise, say(pattern, **parts), beard_and_age)


def _colour(person: Person, age: int) -> str:
    return "white" if age == 5 else "half grey" if age == 4 else HAIR_NAMES[hair_colour_index(person)]


def tokenize(text: str) -> list[str]:
    """Lower-case words of a text; hyphens and punctuation separate."""
    return re.findall(r"[a-z]+", text.lower())


def all_words() -> list[str]:
    """Every lower-case word that a caption can contain, sorted."""
    tables: list[object] = [
        BANGS_SENTENCES,
        GLASSES_SENTENCES,
        SMILE_SENTENCES,
        BEARD_HAS,
        BEARD_WITH,
        WOMAN_HAS,
        WOMAN_WITH,
        AGE_NOUN,
        AGE_IS,
        AGE_PLAIN,
        BEARD_AND_AGE,
        AGE_ALONE,
        tuple(HAIR_LENGTHS.values()),
        BALD,
        BANGS_WITH,
        GLASSES_WEAR,
        tuple(HATS.values()),
        SMILE_DOES,
        OVERALL,
        HAIR_NAMES,
        "white half grey hair with grey temples that is grey at the temples wears and",
    ]
    words: set[str] = set()
    for words_of_sex in _SEX_WORDS.values():
        words.update(w.lower() for w in words_of_sex.values())
    stack = tables
    while stack:
        entry = stack.pop()
        if isinstance(entry, str):
            words.update(tokenize(re.sub(r"\{\w+\}", " ", entry)))
        elif isinstance(entry, tuple):
            stack.extend(entry)
    return sorted(words)
