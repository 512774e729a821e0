"""`concord data`: make the embedded faces and scenes, check a tree of faces or a file of layouts, look at one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from concord.commands.fetch import fetch_data, find_landmarks, prepare_data
from concord.data.errors import ConcordError

app = typer.Typer(help="Make, fetch, check and look at datasets.", no_args_is_help=True, rich_markup_mode=None)
app.command(
    "fetch",
    short_help="Fetch a dataset.",
    epilog="Examples: concord data fetch coco-mig | "
    "concord data fetch celebamask-hq --from-file Downloads/CelebAMask-HQ.zip --yes",
)(fetch_data)
app.command(
    "prepare",
    short_help="Make compact shards of a fetched dataset.",
    epilog="Examples: "
    "concord data prepare celebamask-hq | concord data prepare celebamask-hq --from path/to/CelebAMask-HQ",
)(prepare_data)
app.command(
    "landmarks",
    short_help="Find the landmarks of real faces.",
    epilog="Examples: concord data landmarks | concord data landmarks path/to/CelebAMask-HQ --device cuda",
)(find_landmarks)

DEFAULT_OUT = Path("datasets/synthfaces")
DEFAULT_SPLITS = ("test", "validation")
DEFAULT_SCENES = Path("datasets/synthscenes")


class Split(StrEnum):
    """Which faces of a tree (data.faces.open_faces)."""

    test = "test"
    all = "all"


class CaptionKind(StrEnum):
    """Which captions of a tree (data.captions)."""

    auto = "auto"
    beard_and_age = "beard-and-age"
    overall = "overall"
    plain = "plain"


@app.command(
    short_help="Write the embedded faces, SynthFaces, to disk.",
    epilog="Examples: concord data make | concord data make --split validation --n 1000 | "
    "concord data make --split 0..64 --out faces64",
)
def make(
    split: Annotated[
        str | None,
        typer.Option(
            help="train, validation, test, or a range of the world as FIRST..LAST (LAST not included); "
            "without it, test and validation."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the tree; datasets/synthfaces/SPLIT without it.")] = None,
    n: Annotated[int | None, typer.Option(min=1, help="Only the first N faces of the split.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores without it.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace SynthFaces of another range or a damaged tree.")
    ] = False,
    identity_references: Annotated[
        bool | None,
        typer.Option(
            help="Draw every person a second time, as identity references; without it, for all but the splits train "
            "and validation.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write faces of the embedded world, SynthFaces, as a CelebAMask-HQ + CelebA-Dialog tree.

    A tree that is already there, whole and of the same faces, is left as it is.
    """
    if split is None and out is not None:
        raise ConcordError("--out needs --split: expected the one split that is written there; add --split test")
    from concord.data.synthetic.make import PLAIN_SPLITS, face_range, make_faces

    for name in (split,) if split is not None else DEFAULT_SPLITS:
        references = name not in PLAIN_SPLITS if identity_references is None else identity_references
        done = make_faces(
            out or DEFAULT_OUT / name, face_range(name, n), workers=workers, force=force, references=references
        )
        typer.echo(done)


@app.command(
    short_help="Write the embedded scenes, SynthScenes, to disk.",
    epilog="Examples: concord data scenes | concord data scenes --split validation --n 200 --out scenes200",
)
def scenes(
    split: Annotated[str, typer.Option(help="train, validation, test or tuning.")] = "test",
    out: Annotated[Path | None, typer.Option(help="Folder; datasets/synthscenes/SPLIT without it.")] = None,
    n: Annotated[int | None, typer.Option(min=1, help="Only the first N scenes of the split.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores without it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace SynthScenes that are there.")] = False,
) -> None:
    """Write SynthScenes, the world of layouts: COCO-MIG's JSON, images, instances, interactions, references.

    A folder that already holds these very scenes is left as it is.
    """
    from concord.data.synthetic.make import make_scenes

    typer.echo(make_scenes(out or DEFAULT_SCENES / split, split, n, workers=workers, force=force))


@app.command(
    short_help="Check a whole tree and list every defect.",
    epilog="Examples: concord data verify CelebAMask-HQ | concord data verify CelebAMask-HQ --json > defects.json | "
    "concord data verify mig_bench.json",
)
def verify(
    path: Annotated[
        Path,
        typer.Argument(help="A CelebAMask-HQ tree, a folder of index masks, or COCO-MIG layouts.", show_default=False),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON instead of lines.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; all cores without it.")] = None,
) -> None:
    """Check a whole tree: decode every file and list every defect in one run.

    Ends with exit code 0 when the tree is clean, 2 when it has defects.
    """
    from concord.data.datasets.faces.verify import Verification, inspect, summary
    from concord.data.synthetic.scenes.tree import SceneCheck, check_scenes, is_layouts

    result: SceneCheck | Verification
    result = check_scenes(path) if is_layouts(path) else inspect(path, workers, progress=True)
    told = result.summary() if isinstance(result, SceneCheck) else summary(result)
    if as_json:
        typer.echo(result.to_json())
    else:
        for defect in result.defects:
            typer.echo(str(defect))
        for note in result.notes:
            typer.echo(f"note: {note}")
        typer.echo(", ".join(f"{count:,} {what}" for what, count in result.counts.items()))
    if result.defects:
        typer.echo(f"error: {told}", err=True)
        raise typer.Exit(2)
    if not as_json:
        typer.echo(told)


@app.command(
    short_help="Write a contact sheet of images, masks and captions.",
    epilog="Examples: concord data preview CelebAMask-HQ --n 8 --out sheet.png | "
    "concord data preview faces64 --ids 0,5,9 | concord data preview faces64 --all | "
    "concord data preview datasets/synthscenes/test --n 12",
)
def preview(
    path: Annotated[
        Path,
        typer.Argument(help="A CelebAMask-HQ tree, a folder of index masks, or COCO-MIG layouts.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("preview.png"),
    n: Annotated[int, typer.Option(min=1, help="How many faces, evenly spread over the split.")] = 8,
    every: Annotated[bool, typer.Option("--all", help="All faces of the split, whatever --n says.")] = False,
    ids: Annotated[str | None, typer.Option(help="These faces, by number, with commas between.")] = None,
    split: Annotated[Split, typer.Option(help="Which faces: the test split or all of the tree.")] = Split.test,
    captions: Annotated[CaptionKind, typer.Option(help="Which captions.")] = CaptionKind.auto,
) -> None:
    """Write a contact sheet: images, coloured masks, both together, captions, and a legend of the 19 classes.

    Of layouts: the images (blank where there are none) with boxes and labels.
    """
    from concord.data.datasets.faces.open import open_faces
    from concord.data.datasets.faces.preview import contact_sheet, spread, write_sheet
    from concord.data.synthetic.scenes.tree import is_layouts

    if is_layouts(path):
        _preview_layouts(path, out, n, every, ids)
        return
    dataset = open_faces(path, split.value, captions.value)
    if ids is not None:
        faces = [dataset[item.strip()] for item in ids.split(",")]
    else:
        faces = dataset.items if every else spread(dataset.items, n)
    write_sheet(contact_sheet(faces, dataset.summary()), out)
    typer.echo(f"{out}: {len(faces)} faces of {dataset.summary()}")
    for lack in dataset.missing[:20]:
        typer.echo(f"note: {lack}")
    if len(dataset.missing) > 20:
        typer.echo(f"note: and {len(dataset.missing) - 20:,} more missing")


def _preview_layouts(path: Path, out: Path, n: int, every: bool, ids: str | None) -> None:
    from concord.data.datasets.faces.preview import spread, write_sheet
    from concord.data.datasets.layouts.layout import open_layouts
    from concord.data.synthetic.scenes.sheet import layout_sheet
    from concord.data.synthetic.scenes.tree import SceneTree

    tree = SceneTree(open_layouts(path))
    known = list(tree.layouts)
    if ids is not None:
        items = [item.strip() for item in ids.split(",")]
        unknown = [item for item in items if item not in tree.layouts]
        if unknown:
            raise ConcordError(f"--ids: no layout '{unknown[0]}' in {path}; expected such as '{known[0]}'")
    else:
        items = known if every else spread(known, n)
    write_sheet(layout_sheet(tree, items), out)
    typer.echo(f"{out}: {len(items)} of {len(known):,} layouts of {path}")
