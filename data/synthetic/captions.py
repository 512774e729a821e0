from dataclasses import dataclass
@dataclass(frozen=True)
class Captions:
    attribute_wise: dict; overall: str; beard_and_age: str
def make_captions(rng, person, attributes, scene): return Captions({}, "", "")
