"""Captions of SynthFaces: never empty, different by level, every word known."""

import pytest

from concord.data.synthetic import LEVELS, Captions, all_words, tokenize
from concord.data.synthetic.faces import captions as grammar
from concord.data.synthetic.faces.world import describe

TABLES = {
    "Bangs": grammar.BANGS_SENTENCES,
    "Eyeglasses": grammar.GLASSES_SENTENCES,
    "No_Beard": grammar.BEARD_HAS,
    "Smiling": grammar.SMILE_SENTENCES,
    "Young": grammar.AGE_IS,
}
#: Words that a level of age or beard has for itself, as people use them.
AGE_WORDS = (
    "child|kid|boy|girl|fifteen",
    "teenager|teen|teens|adolescent|teenage",
    "young|twenties",
    "thirties|forties|middle",
    "fifties|sixties|older|retirement",
    "elderly|old|seventy|seventies|eighties",
)
BEARD_WORDS = (
    "no|without|any|clean|beardless",
    "stubble|unshaven",
    "short|goatee|trimmed",
    "full|medium|mustache|moustache",
    "bushy|thick|wild|big",
    "long|flowing|chest",
)


def said(captions: Captions) -> list[str]:
    return [*captions.attribute_wise.values(), captions.overall, captions.beard_and_age]


def test_captions_are_sentences_of_known_words() -> None:
    words = set(all_words())
    for index in range(1000):
        for text in said(describe(index)[4]):
            assert text.strip() == text
            assert text[0].isupper()
            assert text.endswith(".")
            assert "{" not in text
            assert "  " not in text
            assert set(tokenize(text)) <= words


def test_words_are_sorted_and_lower_case() -> None:
    words = all_words()
    assert words == sorted(set(words))
    assert all(w.isalpha() and w.islower() for w in words)


@pytest.mark.parametrize("name", list(TABLES))
def test_each_level_has_its_own_patterns(name: str) -> None:
    table = TABLES[name]
    assert len(table) == len(LEVELS[name]) == 6
    assert all(len(level) >= 4 for level in table)
    everything = [pattern for level in table for pattern in level]
    assert len(everything) == len(set(everything))


def test_beard_and_age_names_one_level_of_each() -> None:
    seen = set()
    for index in range(1500):
        _, person, attributes, _, captions = describe(index)
        words = set(tokenize(captions.beard_and_age))
        ages = {level for level, own in enumerate(AGE_WORDS) if words & set(own.split("|"))}
        assert ages == {attributes["Young"]}, captions.beard_and_age
        beards = {level for level, own in enumerate(BEARD_WORDS) if words & set(own.split("|"))}
        if person.sex == "female":
            assert beards <= {0}
        else:
            assert beards == {attributes["No_Beard"]}, captions.beard_and_age
        female = words & {"she", "her", "woman", "girl", "female"}
        male = words & {"he", "his", "man", "boy", "male"}
        assert bool(female) == (person.sex == "female")
        assert bool(male) == (person.sex == "male")
        seen.add((person.sex, attributes["Young"], attributes["No_Beard"]))
    assert len(seen) > 30


def test_overall_mentions_what_stands_out() -> None:
    for index in range(400):
        _, person, attributes, scene, captions = describe(index)
        words = set(tokenize(captions.overall))
        if attributes["Eyeglasses"]:
            assert words & {"glasses", "sunglasses"}
        if scene.hat:
            assert words & {"hat", "cap", "beanie"}
        if attributes["Young"] == 5 and person.hair_style != "bald":
            assert "white" in words


def test_ordinary_english_is_in_the_vocabulary() -> None:
    asked = """She is a young woman without any beard. He is a young man with a full beard of medium length.
    This man has a beard of medium length. He is in his thirties. elderly teen teenager adult mustache moustache goatee
    stubble bushy long short clean-shaven middle age forties fifties sixties twenties child kid old bangs glasses
    sunglasses smile smiling"""
    assert set(tokenize(asked)) <= set(all_words())


def test_captions_do_not_depend_on_the_drawing() -> None:
    first, again = describe(9)[4], describe(9)[4]
    assert first == again
    assert first.attribute_wise.keys() == {"Bangs", "Eyeglasses", "No_Beard", "Smiling", "Young"}
