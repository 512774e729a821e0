"""The embedded worlds, drawn from numbers: SynthFaces (`faces/`) and scenes with layouts (`scenes/`).

Import the names below from here; they are loaded when first used, so that this stays light. `draw` has the brush of
both worlds, `styles` the colours and patterns of style images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concord.data.synthetic.faces.captions import LEVELS, Captions, all_words, tokenize
    from concord.data.synthetic.faces.person import ATTRIBUTES
    from concord.data.synthetic.faces.tree import write_tree
    from concord.data.synthetic.faces.world import SPLITS, WORLD_SEED, Face, FaceArrays, face, render_many

__all__ = [
    "ATTRIBUTES",
    "LEVELS",
    "SPLITS",
    "WORLD_SEED",
    "Captions",
    "Face",
    "FaceArrays",
    "all_words",
    "face",
    "render_many",
    "tokenize",
    "write_tree",
]

_HOME = {
    "ATTRIBUTES": "person",
    "LEVELS": "captions",
    "Captions": "captions",
    "all_words": "captions",
    "tokenize": "captions",
    "write_tree": "tree",
    "SPLITS": "world",
    "WORLD_SEED": "world",
    "Face": "world",
    "FaceArrays": "world",
    "face": "world",
    "render_many": "world",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    # cached, so that the lookup happens once; submodules of the same name never hide it
    value = getattr(import_module(f"{__name__}.faces.{_HOME[name]}"), name)
    globals()[name] = value
    return value
