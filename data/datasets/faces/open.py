"""Opening a folder of faces: the one place that knows every format that they come in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from concord.data.datasets.faces.captions import load_captions
from concord.data.datasets.faces.dataset import FaceDataset, FaceItem, Missing, landmark_rows
from concord.data.datasets.faces.prepared import MANIFEST, open_prepared
from concord.data.datasets.faces.tree import DRAWN, LANDMARK_FILE, SPLITS, TEST_KEYS, list_tree
from concord.data.errors import ConcordError
from concord.data.files import path_kind
from concord.data.notes import note


def open_faces(root: Path | str, split: str = "test", captions: str = "auto") -> FaceDataset:
    """Open a tree of faces.

    `split`: 'test' is, on the full CelebAMask-HQ (30,000 faces), the last 3,000 keys of the caption file, in its order;
    on any other tree every face. 'all' is every face with an image or a mask.
    `captions`: 'beard-and-age', 'overall' or 'plain'; 'auto' takes the first of these that the tree has.
    What a face lacks is listed in `missing`, and so are captions of faces that are not there. ConcordError where two
    files are the same face, and where landmarks belong to no face of the tree.
    """
    if split not in SPLITS:
        raise ConcordError(f"split '{split}': expected one of {', '.join(SPLITS)}")
    if path_kind(Path(root) / MANIFEST) == "file":
        return open_prepared(Path(root), split, captions)
    listing = list_tree(root)
    listing.refuse_duplicates()
    listing.say_what_is_left()
    known = load_captions(listing.root, captions)
    rows = landmark_rows(listing.root)
    if rows and not any(item in rows for item in listing.ids):
        raise ConcordError(
            f"{listing.root / LANDMARK_FILE}: landmarks of other faces ({', '.join(list(rows)[:3])}, ...); expected "
            f"rows of faces such as {', '.join(listing.ids[:3])}"
        )
    drawn = (listing.root / DRAWN).is_file()
    texts = known.texts if known else {}
    ids = listing.ids
    there = set(ids)
    wanted = ids + [item for item in texts if item not in there]
    if split == "test" and listing.has_test_split:
        if known is None:
            raise ConcordError(
                f"{root}: the test split is the last {TEST_KEYS:,} caption keys, but there is no caption file; "
                "add captions_hq_beard_and_age_*.json or captions_hq.json"
            )
        wanted = list(texts)[-TEST_KEYS:]
        note(f"{root}: CelebAMask-HQ in full, of which the last {TEST_KEYS:,} keys of {known.path.name} are read")
    items, missing = [], []
    for item in wanted:
        image, files = listing.images.get(item), listing.mask_files(item)
        if image is None and listing.image_folder:
            missing.append(Missing(item, "image", f"{listing.image_folder}/{item}.jpg"))
        if not files and listing.mask_folder:
            missing.append(Missing(item, "mask", listing.mask_folder))
        if known is not None and item not in texts:
            missing.append(Missing(item, "caption", known.path.name))
        if image is not None or files:
            # a drawn tree without references would make a person recognise the very image: it has none then
            person = listing.references.get(item, None if drawn else image)
            items.append(FaceItem(item, texts.get(item), listing.root, image, files, person, rows.get(item)))
    return FaceDataset(listing.root, listing.root.resolve().name, split, known.kind if known else None, items, missing)


def with_landmarks(dataset: FaceDataset) -> FaceDataset:
    """The dataset with the landmarks that lie beside prepared shards (`concord data landmarks`), where they do."""
    rows = {} if any(item.has_landmarks for item in dataset.items) else landmark_rows(dataset.root)
    if not rows:
        return dataset
    return dataset.with_items([replace(item, landmark_row=rows.get(item.id)) for item in dataset.items])
