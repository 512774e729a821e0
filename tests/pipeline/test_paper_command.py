"""`concord` in profile 'paper' where little is there: what is missing is told in one list, and the rest runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from concord.benchmarks import dvc as matrix
from concord.data.download.manifest import Lock, load_manifest
from concord.data.synthetic import write_tree

Cli = Callable[..., Any]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no connections, and a matrix of its own."""
    monkeypatch.setenv("CONCORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CONCORD_OFFLINE", "1")
    real = matrix.write_matrix
    monkeypatch.setattr(matrix, "write_matrix", lambda content: real(content, tmp_path / "matrix.yaml"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three faces as `concord data prepare` writes them."""
    from concord.data.datasets.faces.prepare import prepare

    root = tmp_path_factory.mktemp("faces")
    write_tree(root / "tree", range(27_000, 27_003), progress=False, workers=1)
    prepare(root / "tree", root / "prepared", None, root / "none", workers=1)
    return root / "prepared"


def place(prepared: Path, cache: Path) -> Path:
    return Path(shutil.copytree(prepared, cache / "data/celebamask-hq/prepared"))


def test_plan_tells_costs_licences_and_everything_that_is_missing(concord: Cli, cache: Path, tmp_path: Path) -> None:
    result = concord("plan", "--profile", "paper", "--suite", "identity-segmentation-text", "--results", tmp_path / "r")
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "3,500 images" in text  # seven rows of 500
    assert "GPU hours: unknown. Nobody has measured" in text
    assert "`concord plan --profile paper --measure` times them" in text
    assert "disk: about" in text
    names = ("celebamask-hq", "collab-captions", "celeba-hq-ddpm", "bisenet", "ir-se50", "clip-vit-b-16", "parsenet")
    for name in names:
        kind = load_manifest(name).kind
        assert f"run `concord {kind} fetch {name}`" in text, name
    assert "by hand: open https://github.com/switchablenorms/CelebAMask-HQ in a browser" in text
    assert "concord data fetch celebamask-hq --from-file PATH" in text
    assert "needed by: identity-segmentation-text/freedom, identity-segmentation-text/z-magic" in text
    assert "not prepared yet" in text
    assert "stable-diffusion" not in text
    content = yaml.safe_load((tmp_path / "matrix.yaml").read_text())
    assert "--devices all" in content["options"]
    assert set(content["fetch"]) >= {"celebamask-hq", "celeba-hq-ddpm"}


def test_licences_are_accepted_by_yes_alone(concord: Cli, cache: Path, tmp_path: Path) -> None:
    rest = ["--profile", "paper", "--suite", "face-generation", "--results", tmp_path / "r"]
    assert concord("plan", *rest).exit_code == 0
    assert not Lock(load_manifest("celebamask-hq")).accepted
    assert concord("plan", *rest, "--yes").exit_code == 0
    assert Lock(load_manifest("celebamask-hq")).accepted


def test_a_fetch_that_fails_leaves_a_note_and_is_tried_again(concord: Cli, cache: Path, tmp_path: Path) -> None:
    note = tmp_path / "r/paper/fetched/parsenet.json"
    result = concord("weights", "fetch", "parsenet", "--note", note)
    assert result.exit_code == 0, result.output
    assert "not fetched: parsenet: licence not accepted" in result.stderr
    assert "licence not accepted" in json.loads(note.read_text())["failed"]["parsenet"]
    result = concord("weights", "fetch", "parsenet", "--yes", "--note", note)
    assert "connections are off" in json.loads(note.read_text())["failed"]["parsenet"]
    assert concord("weights", "fetch", "parsenet").exit_code == 2  # by hand it is an error
    rest = ["--profile", "paper", "--suite", "face-generation", "--results", tmp_path / "r"]
    assert concord("plan", *rest).exit_code == 0
    assert not note.exists()


def test_what_was_had_is_in_the_note(concord: Cli, cache: Path, tmp_path: Path) -> None:
    file = load_manifest("parsenet").folder() / "model.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    note = tmp_path / "note.json"
    assert concord("weights", "fetch", "parsenet", "--yes", "--note", note).exit_code == 0
    (fetched,) = json.loads(note.read_text())["fetched"]["parsenet"].values()
    assert fetched["size"] == 7


def test_rows_whose_files_are_missing_are_not_run_and_the_others_are(
    concord: Cli, cache: Path, prepared: Path, tmp_path: Path
) -> None:
    place(prepared, cache)
    stamp, results = tmp_path / "stamp.json", tmp_path / "results"
    rest = ["--profile", "paper", "--limit", 2, "--results", results]
    for method, made in (("reference", 2), ("freedom", 0)):
        result = concord("generate", "segmentation-text", "--methods", method, "--stamp", stamp, *rest)
        assert result.exit_code == 0, result.output
        assert len(json.loads(stamp.read_text())["rows"]) == made
    left = json.loads(stamp.read_text())["left"]["segmentation-text/freedom"]
    assert left == (
        "not run: celeba-hq-ddpm and bisenet and clip-vit-b-16 missing, "
        "`concord weights fetch celeba-hq-ddpm bisenet clip-vit-b-16`"
    )
    assert f"segmentation-text/freedom: {left}" in result.stderr
    rows = {path.name for path in results.glob("paper/*/segmentation-text/*") if path.is_dir()}
    assert rows == {"ground-truth", "shuffled"}


def test_a_suite_whose_conditions_are_missing_is_left_out(
    concord: Cli, cache: Path, prepared: Path, tmp_path: Path
) -> None:
    folder = place(prepared, cache)
    rest = ["--profile", "paper", "--limit", 2, "--results", tmp_path / "results", "--methods", "reference"]
    result = concord("generate", "identity-landmarks", *rest)
    assert result.exit_code == 0, result.output
    assert "no item has identity and landmarks (3 have no landmarks)" in result.stderr
    told = concord("plan", "--profile", "paper", "--suite", "identity-landmarks", "--results", tmp_path / "results")
    assert "run `concord data landmarks`" in " ".join(told.stdout.split())

    from concord.commands.fetch import write_landmarks
    from concord.data.datasets.faces.open import open_faces

    class Finder:
        """A face in two of the three images."""

        def landmarks(self, images):  # type: ignore[no-untyped-def]
            import torch

            return torch.full((len(images), 68, 2), 100.5), ["ok", "no face found", "ok"]

    assert write_landmarks(folder, open_faces(folder).items, Finder(), lambda done, of: None) == (2, 256)
    result = concord("generate", "identity-landmarks", *rest)
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "results").glob("paper/*/identity-landmarks/ground-truth/run.json"))) == 1


# --------------------------------------------------------------------------------------------------------------- wrong


def refused(result: Any, *words: str) -> None:
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert all(word in line for word in words), line


def test_a_folder_of_the_wrong_shape_says_what_it_looks_like(concord: Cli, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wrong"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "a.txt").write_text("words")
    refused(concord("data", "prepare", "celebamask-hq", "--from", folder), str(folder), "looks like", "train")
    refused(concord("generate", "face-generation", "--profile", "paper", "--data", folder), str(folder), "no faces")


def test_pictures_without_masks_and_captions_of_others(concord: Cli, cache: Path, tmp_path: Path) -> None:
    from concord.data.synthetic import write_tree

    write_tree(tmp_path / "tree", range(27_000, 27_003), progress=False, workers=1)
    masks = tmp_path / "tree" / "CelebAMask-HQ-mask-anno"
    kept = masks.rename(tmp_path / "kept")
    result = concord("data", "prepare", "celebamask-hq", "--from", tmp_path / "tree", "--out", tmp_path / "out")
    refused(result, "3 images but no masks", "expected CelebAMask-HQ-mask-anno/", "looks like")
    kept.rename(masks)
    other = {f"{i}.jpg": {"Beard_and_Age": "Somebody."} for i in range(500, 506)}
    (tmp_path / "captions.json").write_text(json.dumps(other))
    rest = ["--from", tmp_path / "tree", "--out", tmp_path / "out", "--captions", tmp_path / "captions.json"]
    refused(concord("data", "prepare", "celebamask-hq", *rest), "captions.json", "captions of other images")
    assert not list((tmp_path / "out").glob("*.tar"))


def test_a_checkpoint_of_another_model_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    import torch

    from concord.data.errors import ConcordError
    from concord.data.networks import Networks
    from concord.methods.networks.protocols import TrainedDenoiser

    file = tmp_path / "celeba_hq.ckpt"
    torch.save({"time_embed.0.weight": torch.zeros(4, 4)}, file)
    networks = Networks("paper", "celeba-hq-ddpm", paths={"celeba-hq-ddpm": file})
    with pytest.raises(ConcordError, match=r"celeba_hq\.ckpt: no weights of the DDPM of CelebA-HQ"):
        networks.get("expert/unconditional", TrainedDenoiser)
