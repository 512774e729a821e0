"""`concord fetch`, `concord weights`, and the verbs of `concord data` that bring a dataset here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concord.console import collect
from concord.data.errors import ConcordError

if TYPE_CHECKING:
    from concord.data.download.fetch import Fetcher
    from concord.data.download.manifest import Manifest

weights = typer.Typer(
    help="Fetch and list the papers' weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="Examples: concord weights list | concord weights fetch bisenet",
)

Names = Annotated[list[str], typer.Argument(metavar="NAME", help="What to fetch, one or several.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", help="Accept the licences and ask nothing: for scripts.")]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir", help="Where files are kept; $CONCORD_CACHE or datasets/ without it.", show_default=False
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Open no connection (as $CONCORD_OFFLINE=1).")]
Note = Annotated[
    Path | None,
    typer.Option(
        "--note",
        help="A JSON file that says what was had, or why not, for DVC to watch; a name that cannot "
        "be had is then no error.",
        show_default=False,
    ),
]
FromFile = Annotated[
    Path | None,
    typer.Option("--from-file", help="A file that a browser fetched, or a folder with several.", show_default=False),
]


# ------------------------------------------------------------------------------------------------------------ the verbs


def fetch(
    bundle: Annotated[
        str,
        typer.Option(
            "--for", metavar="BUNDLE", help="What it is for: a profile, such as paper, or a suite.", show_default=False
        ),
    ],
    yes: Yes = False,
    cache_dir: CacheDir = None,
    offline: Offline = False,
) -> None:
    """Fetch every dataset and weight file that a profile needs; lists sizes and licences first, and asks.

    What is there and whole is left as it is; a stopped fetch goes on where it was.

    Examples:

      concord fetch --for paper

      concord fetch --for face-generation

      concord fetch --for paper --yes --cache-dir /data/concord
    """
    _fetch(needed_for(bundle), yes, cache_dir, offline, ask_always=True)


@weights.command("fetch", short_help="Fetch weight files.", epilog="Example: concord weights fetch bisenet vgg19")
def fetch_weights(
    names: Names,
    yes: Yes = False,
    from_file: FromFile = None,
    cache_dir: CacheDir = None,
    offline: Offline = False,
    note: Note = None,
) -> None:
    """Fetch weight files by name; what is there and whole is left as it is."""
    _fetch(_named(names, "weights"), yes, cache_dir, offline, from_file, note=note)


@weights.command("list", short_help="List the weights that can be fetched.")
def list_weights(cache_dir: CacheDir = None) -> None:
    """List every name with its size and licence, and whether it is here."""
    from concord.data.download.manifest import load_manifest, manifest_names

    chosen = [manifest for manifest in map(load_manifest, manifest_names()) if manifest.kind == "weights"]
    _show(chosen, _fetcher(cache_dir, False))


def fetch_data(
    names: Names,
    yes: Yes = False,
    from_file: FromFile = None,
    cache_dir: CacheDir = None,
    offline: Offline = False,
    note: Note = None,
) -> None:
    """Fetch datasets by name; what is there and whole is left as it is."""
    _fetch(_named(names, "data"), yes, cache_dir, offline, from_file, note=note)


def prepare_data(
    name: Annotated[str, typer.Argument(help="celebamask-hq.", show_default=False)],
    source: Annotated[
        Path | None, typer.Option("--from", help="An unpacked tree; the fetched one without it.", show_default=False)
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(help="A caption file; those in the tree, else the fetched one, without it.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the shards; beside the fetched tree without it.", show_default=False)
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores without it.")] = None,
    cache_dir: CacheDir = None,
) -> None:
    """Make compact shards of a dataset: masks of class numbers at 512 and 256, images at 256, captions, splits.

    A stopped run goes on where it was; a tree that has changed since is an error.
    """
    from concord.data.datasets.faces.prepare import DATASET, prepare
    from concord.data.datasets.faces.prepared import open_prepared
    from concord.data.download.manifest import cache_folder, load_manifest
    from concord.data.progress import bar

    if name != DATASET:
        raise ConcordError(f"data prepare {name}: expected {DATASET}; the other datasets are read as they are")
    cache = cache_dir or cache_folder()
    there = out or cache / "data" / DATASET / "prepared"
    manifest = load_manifest(DATASET)
    tree = source or manifest.folder(cache) / manifest.files[0].result
    if not tree.is_dir() and source is None and (there / "prepared.json").is_file():
        typer.echo(f"{open_prepared(there, 'all').summary()}; prepared already, and no tree is here to compare with")
        return
    with bar("faces") as progress:
        prepared = prepare(source, out, captions, cache, workers, progress, _say)
    typer.echo(prepared.summary())


def find_landmarks(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A folder of faces; the prepared CelebAMask-HQ without it.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first faces.", show_default=False)] = None,
) -> None:
    """Find the 68 landmarks of the test faces by 2DFAN-4 and write them beside the faces, as landmarks.npz.

    CelebAMask-HQ states none. Images in which no face is found are left out, and with them their requests.
    """
    from concord.benchmarks.settings import load_settings
    from concord.data.datasets.faces.open import open_faces
    from concord.data.device import resolve_device
    from concord.data.progress import bar

    place = folder or load_settings().profile("paper").datasets["faces"].items_folder
    items = [item for item in open_faces(place).items if item.has_image][:limit]
    if not items:
        raise ConcordError(f"{place}: no images of faces; expected a dataset, such as `concord data prepare` makes")
    from concord.metrics.networks.pretrained.fan import load_fan

    fan = load_fan(device=resolve_device(device))
    with bar("landmarks") as progress:
        found, size = write_landmarks(place, items, fan, progress)
    typer.echo(f"{place / 'landmarks.npz'}: {found:,} of {len(items):,} faces, in pixels of {size}x{size}")


def write_landmarks(
    folder: Path, items: list[Any], network: Any, progress: Callable[[int, int], None]
) -> tuple[int, int]:
    """Write landmarks.npz of these faces; (faces found, side of the images that they are in).

    network: `landmarks(images)` -> points (B, 68, 2) and a status for each, as the judges have it.
    """
    import numpy as np
    import torch

    from concord.data.files import atomic_path

    indices, points, size = [], [], 256
    for start in range(0, len(items), 16):
        batch = items[start : start + 16]
        pixels = np.stack([item.image(size) for item in batch])
        images = torch.from_numpy(pixels).movedim(-1, 1).float() / 255
        seen, statuses = network.landmarks(images)
        for item, place, status in zip(batch, seen.cpu().numpy(), statuses, strict=True):
            if status == "ok":
                indices.append(item.id)
                points.append(np.clip(place, 0, size))
        progress(start + len(batch), len(items))
    arrays: dict[str, Any] = {
        "indices": np.array(indices),
        "landmarks": np.array(points, np.float32).reshape(-1, 68, 2),
        "size": size,
    }
    with atomic_path(folder / "landmarks.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return len(indices), size


# ------------------------------------------------------------------------------------------------------------- the work


def needed_for(bundle: str) -> list[Manifest]:
    """The manifests of a bundle, or of all that a profile names; says what else supplies weights that are missing."""
    from concord.benchmarks.generators import fetch_commands, has_manifest, lacking, weights_of
    from concord.benchmarks.suite import suite_names
    from concord.data.download.manifest import load_bundle, load_manifest, manifest_names
    from concord.data.profile import load_profile, profile_names

    if bundle in suite_names():
        return _needed_by_suite(bundle)
    bundles = {name for known in manifest_names() for name in load_manifest(known).bundles}
    if bundle in bundles or (bundle not in profile_names() and not bundle.endswith((".yaml", ".yml"))):
        return load_bundle(bundle)
    profile = load_profile(bundle)
    uses = profile.uses(list(profile.roles))
    for name, generator in profile.generators.items():
        entries = generator.roles.items()
        needed = [role for role, entry in entries if isinstance(entry, str) or not entry.optional]
        uses += profile.uses(needed, name)
    names = dict.fromkeys([name for data in profile.datasets.values() for name in data.sources] + weights_of(uses))
    others = lacking([name for name in names if not has_manifest(name)], profile.name)
    for line in others.values():
        typer.echo(line, err=True)
    if others:
        raise ConcordError(
            f"profile '{profile.name}': {', '.join(others)} missing, `{fetch_commands(others, profile.name)}`"
        )
    return [load_manifest(name) for name in names if has_manifest(name)]


def _needed_by_suite(name: str) -> list[Manifest]:
    """What one suite needs in profile 'paper'."""
    from concord.benchmarks.generators import has_manifest, needed_by
    from concord.benchmarks.settings import load_settings
    from concord.benchmarks.suite import load_suite
    from concord.data.download.manifest import load_manifest

    needed = needed_by([load_suite(name)], load_settings(), "paper")
    return [load_manifest(one) for names in needed.values() for one in names if has_manifest(one)]


def _named(names: list[str], kind: str) -> list[Manifest]:
    from concord.data.download.manifest import load_manifest

    found = [load_manifest(name) for name in names]
    for manifest in found:
        if manifest.kind != kind:
            raise ConcordError(f"{manifest.name}: is {manifest.kind}; run `{manifest.command}`")
    return found


def _fetcher(cache_dir: Path | None, offline: bool) -> Fetcher:
    from concord.data.download.fetch import Fetcher, offline_by_environment
    from concord.data.download.manifest import cache_folder
    from concord.data.progress import BYTES, bar

    offline = offline or offline_by_environment()
    return Fetcher(cache_dir or cache_folder(), offline, say=_say, bar=lambda what: bar(what, BYTES))


def _fetch(
    manifests: list[Manifest],
    yes: bool,
    cache_dir: Path | None,
    offline: bool,
    from_file: Path | None = None,
    ask_always: bool = False,
    note: Path | None = None,
) -> None:
    """Show, ask where a licence wants it, fetch one after another; one that cannot be had does not stop the others."""
    if from_file is not None and len(manifests) > 1:
        raise ConcordError("--from-file: expected one NAME, as it is one file; call it once for each")
    from concord.data.download.transfer import UNREACHABLE

    fetcher = _fetcher(cache_dir, offline)
    lacking = [manifest for manifest in manifests if fetcher.missing(manifest)]
    if not lacking:
        typer.echo(f"{', '.join(manifest.name for manifest in manifests)}: there already; nothing to do")
        _write_note(note, manifests, fetcher.cache, {})
        return
    _show(lacking, fetcher)
    if ask_always and fetcher.offline:
        raise ConcordError(
            f"nothing fetched: connections are off (--offline or CONCORD_OFFLINE), and {len(lacking)} of these are "
            "missing; switch them on, or supply each by `--from-file`"
        )
    asking = ask_always or any(manifest.licence.accept for manifest in lacking)
    agreed = yes or (asking and _agreed())
    if ask_always and not agreed:
        raise ConcordError("nothing fetched: the list above was not agreed to; answer yes when asked, or add --yes")
    failed: dict[str, str] = {}
    for manifest in lacking:
        try:
            for path in fetcher.fetch(manifest, agreed, from_file)[:1]:
                typer.echo(f"{manifest.name}: {path}")
        except ConcordError as error:
            if len(lacking) == 1 and note is None:
                raise
            failed[manifest.name] = str(error)
            typer.echo(f"{'not fetched' if note else 'error'}: {error}", err=True)
            if UNREACHABLE in str(error):
                left = lacking[lacking.index(manifest) + 1 :]
                failed |= {one.name: "not tried, as no host can be reached from here" for one in left}
                break
    _write_note(note, manifests, fetcher.cache, failed)
    if failed and note is None:
        rest = "; the others are there" if len(failed) < len(lacking) else ""
        raise ConcordError(f"not fetched: {', '.join(failed)} (reasons above){rest}")


def _write_note(note: Path | None, manifests: list[Manifest], cache: Path, failed: dict[str, str]) -> None:
    """SHA-256 and size of every file that was fetched, and the reasons for what failed; the same on every machine."""
    if note is None:
        return
    from concord.data.download.manifest import Lock
    from concord.data.files import write_json

    fetched = {}
    for manifest in manifests:
        if manifest.name not in failed:
            lock = Lock(manifest, cache)
            fetched[manifest.name] = {
                file.name: {key: lock.entry(file).get(key) for key in ("size", "sha256")} for file in manifest.files
            }
    write_json(note, {"fetched": fetched, **({"failed": failed} if failed else {})})


def _show(manifests: list[Manifest], fetcher: Fetcher) -> None:
    """A line for each name: its size, its licence and what follows from that."""
    from concord.data.download.fetch import listing, megabytes

    rows = listing(manifests, fetcher)
    told = [
        {"name": one.name, "here": not row.lacking, "bytes": row.size or None, "licence": one.licence.name}
        for one, row in ((row.manifest, row) for row in rows)
    ]
    if collect("Files", told):
        return
    wide = max(len(row.manifest.name) for row in rows)
    for row in rows:
        size = (
            "here" if not row.lacking else megabytes(row.size or None) + (" or more" if row.vague and row.size else "")
        )
        typer.echo(f"{row.manifest.name:{wide}}  {size:>16}  {row.manifest.licence.name}")
        if row.lacking and row.manifest.licence.accept:
            typer.echo(f"{'':{wide}}  {'':>16}  {row.manifest.licence.consequence}")
    if len(rows) > 1:
        total = megabytes(sum(row.size for row in rows))
        typer.echo(f"about {total} to fetch, into {fetcher.cache}")


def _agreed() -> bool:
    """Ask on a terminal; without one there is nobody to ask."""
    if not sys.stdin.isatty():
        return False
    return typer.confirm("Fetch these, and accept their licences as listed?")


def _say(line: str) -> None:
    typer.echo(line, err=True)
