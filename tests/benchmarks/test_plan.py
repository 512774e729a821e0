"""Plans: the same inputs give the same requests, seeds and keys; what changes an image changes the key."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy_world
from hypothesis import given
from hypothesis import strategies as st

import concord.data.checkpoints
from concord.benchmarks.changes import Change
from concord.benchmarks.dvc import STAGES, make_matrix, write_keys, write_matrix
from concord.benchmarks.plan.requests import Options, PlannedRequest, make_request_set
from concord.benchmarks.plan.runs import Plan
from concord.benchmarks.plan.sources import Sources, changed_weights
from concord.benchmarks.planner import make_plan, results_root
from concord.benchmarks.run.image_source import derangement
from concord.benchmarks.settings import Settings, load_settings
from concord.benchmarks.suite import JOINT_SUCCESS, load_suite, load_suites
from concord.data.datasets.faces.open import open_faces
from concord.data.errors import ConcordError
from concord.data.request import request_seed
from concord.data.synthetic import face, write_tree
from concord.data.synthetic.styles import style_image, style_of
from concord.metrics.base import get_metric


def planned(suite: Path, tree: Path, **options: object) -> Plan:
    return make_plan(load_suite(str(suite)), load_settings(), Options(data=tree, limit=8, **options))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ requests


def test_seeds_follow_from_request_set_item_and_repetition(toy: str, toy_suite: Path, toy_tree: Path) -> None:
    plan = planned(toy_suite, toy_tree)
    assert [request.id for request in plan.requests.requests] == [f"{i}-0" for i in range(8)]
    assert [request.seed for request in plan.requests.requests] == [request_seed("toys", str(i), 0) for i in range(8)]
    other = planned(toy_suite, toy_tree, seed_set=1)
    assert [request.id for request in other.requests.requests] == [f"{i}-1" for i in range(8)]
    assert not {r.seed for r in plan.requests.requests} & {r.seed for r in other.requests.requests}


def test_all_rows_answer_the_same_requests(toy: str, toy_suite: Path, toy_tree: Path) -> None:
    plan = planned(toy_suite, toy_tree)
    assert [run.row.name for run in plan.runs] == ["ground-truth", "shuffled", "toy"]
    assert all(run.requests is plan.requests for run in plan.runs)


def test_items_that_lack_something_are_left_out_and_counted(tmp_path: Path) -> None:
    tree = toy_world.write_tree(tmp_path / "tree", 5)
    (tree / "CelebA-HQ-img/1.jpg").unlink()
    for part in (tree / "CelebAMask-HQ-mask-anno/0").glob("00003_*"):
        part.unlink()
    requests = make_request_set("toys", open_faces(tree), ["text", "mask"], 64, 9)
    assert [request.item.id for request in requests.requests] == ["0", "2", "4"]
    assert requests.left_out == {"no image": 1, "no mask": 1}
    assert requests.has_images


def test_nothing_to_ask_names_the_reason(tmp_path: Path) -> None:
    tree = toy_world.write_tree(tmp_path / "tree", 2)
    shutil.rmtree(tree / "CelebAMask-HQ-mask-anno")
    with pytest.raises(ConcordError, match=r"no item has text and mask.*2 have no mask"):
        make_request_set("toys", open_faces(tree), ["text", "mask"], 64, 9)


def test_masks_without_images_make_no_reference_rows(toy: str, toy_suite: Path, tmp_path: Path) -> None:
    tree = toy_world.write_tree(tmp_path / "tree", 3)
    shutil.rmtree(tree / "CelebA-HQ-img")
    plan = planned(toy_suite, tree)
    assert [run.row.name for run in plan.runs] == ["toy"]
    assert plan.skipped == dict.fromkeys(("ground-truth", "shuffled"), "the dataset has no images")
    with pytest.raises(ConcordError, match="'ground-truth' cannot be made: the dataset has no images"):
        plan.select(["ground-truth"])


@given(n=st.integers(2, 70))
def test_shuffled_is_a_derangement(n: int) -> None:
    requests = [PlannedRequest(f"{i}-0", i, None) for i in range(n)]  # type: ignore[arg-type]
    partner = derangement(requests)
    assert all(partner[request.id].id != request.id for request in requests)
    assert sorted(p.id for p in partner.values()) == sorted(request.id for request in requests)
    assert partner == derangement(requests[::-1])


def test_one_item_cannot_be_shuffled(toy: str, toy_suite: Path, tmp_path: Path) -> None:
    plan = planned(toy_suite, toy_world.write_tree(tmp_path / "tree", 1))
    assert plan.skipped == {"shuffled": "one item cannot be exchanged for another"}


# ---------------------------------------------------------------------------------------------------------------- keys


def test_key_is_the_same_again(toy: str, toy_suite: Path, toy_tree: Path) -> None:
    keys = [[run.key for run in planned(toy_suite, toy_tree).runs] for _ in range(2)]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 3


def test_key_changes_with_what_changes_the_images(toy: str, toy_suite: Path, toy_tree: Path, tmp_path: Path) -> None:
    run = planned(toy_suite, toy_tree).run("toy")
    source = tmp_path / "method.py"
    source.write_text("# another")
    fewer = replace(run.requests, requests=run.requests.requests[:7])
    for changed in (
        replace(run, params={**run.params, "steps": 3}),
        replace(run, conditions=("text",)),
        replace(run, sources=run.sources | Sources(files=(source,))),
        replace(run, sources=run.sources | Sources(declared={"method": source})),
        replace(run, sources=run.sources | Sources(alone=frozenset(["concord.benchmarks.tune"]))),
        replace(run, networks={"space": {"loader": "x:y"}}),
        replace(run, dtype="bf16"),
        replace(run, generator="another"),
        replace(run, requests=fewer),
        replace(run, profile="paper"),
        planned(toy_suite, toy_tree, seed_set=1).run("toy"),
    ):
        assert changed.key != run.key
    assert replace(run, path=Path("elsewhere")).key == run.key


def test_key_changes_with_a_caption_but_not_with_other_items(toy: str, toy_suite: Path, tmp_path: Path) -> None:
    tree, larger = toy_world.write_tree(tmp_path / "tree", 8), toy_world.write_tree(tmp_path / "larger", 11)
    key = planned(toy_suite, tree).run("toy").key
    assert planned(toy_suite, larger).run("toy").key == key
    captions = tree / "captions_hq_beard_and_age_2022-08-19.json"
    content = json.loads(captions.read_text())
    content["3.jpg"]["Beard_and_Age"] = "Somebody else."
    captions.write_text(json.dumps(content))
    assert planned(toy_suite, tree).run("toy").key != key


def test_a_profiles_own_settings_of_a_suite() -> None:
    """Profile 'paper': the papers' steps and numbers of requests, and rows that two suites share are the same."""
    from concord.benchmarks.generators import has_models
    from concord.benchmarks.suite import check_names, check_shared
    from concord.methods.base import get_method, make_params

    suites = [suite.in_profile("paper") for suite in load_suites()]
    for position, suite in enumerate(suites):
        check_names(suite)
        assert suite.in_profile("paper") == suite
        if has_models(suite, "paper"):
            stated = (500, 3000) if suite.dataset == "faces" else (800,)
            assert suite.size("default", "paper") in stated
        for other in suites[:position]:
            check_shared(suite, other)
    by_name = {suite.name: suite for suite in suites}
    for name, row, steps in (
        ("face-generation", "collaborative", 50),
        ("identity-landmarks", "z-magic", 100),
        ("segmentation-text", "freedom", 100),
        ("text-style", "ugd", 500),
        ("text-style", "style-aligned", 50),
    ):
        found = by_name[name].row(row)
        assert found.method is not None
        assert make_params(get_method(found.method), found.params).steps == steps  # type: ignore[attr-defined]
    embedded = load_suite("text-style")
    assert embedded.row("z-magic").params["steps"] == 30
    assert embedded.in_profile("embedded") is embedded


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("profiles: {paper: {row: {}}}", ["unknown key 'profiles.paper.row'", "rows"]),
        ("profiles: {paper: {rows: {nosuch: {}}}}", ["unknown profiles.paper.rows: row 'nosuch'", "toy"]),
        ("profiles: {paper: {metrics: [joint-success]}}", ["profiles.paper: joint metric", "text-similarity"]),
    ],
)
def test_mistakes_in_a_suites_profile(tmp_path: Path, line: str, words: list[str]) -> None:
    path = toy_world.write_suite(tmp_path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ConcordError) as error:
        load_suite(str(path))
    assert all(word in str(error.value) for word in words), error.value


def test_weights_are_current_while_their_files_have_the_recorded_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concord.data.files import sha256_file

    monkeypatch.setattr(concord.data.checkpoints, "weight_path", lambda name: tmp_path / name)
    (tmp_path / "net").write_bytes(b"1")
    recorded = {"net": sha256_file(tmp_path / "net")}
    assert not changed_weights(recorded)
    (tmp_path / "net").write_bytes(b"22")
    assert changed_weights(recorded)
    assert not changed_weights({"a plugin's own": "0" * 64})


def test_fetched_weights_are_current_while_their_lock_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concord.data.download.manifest import Lock, load_manifest

    monkeypatch.setenv("CONCORD_CACHE", str(tmp_path))
    manifest = load_manifest("celeba-hq-ddpm")
    assert not changed_weights({manifest.name: "0" * 64})  # never had here: given by its path
    Lock(manifest).record(manifest.files[0], 3, "1" * 64, "a test")
    assert not changed_weights({manifest.name: "1" * 64})
    assert changed_weights({manifest.name: "0" * 64})
    assert not changed_weights({"buffalo-l": "0" * 64})  # a folder has a hash of its own


# ------------------------------------------------------------------------------------------------------ where things go


def test_trials_get_folders_of_their_own(toy_tree: Path) -> None:
    dataset = open_faces(toy_tree)
    base = Path("results/embedded")
    assert results_root(Options(), dataset) == base
    assert results_root(Options(limit=4), dataset) == base / "limit-4"
    assert results_root(Options(seed_set=2), dataset) == base / "seeds-2"
    own = f"data-tree-{dataset.listing[:8]}"
    assert results_root(Options(data=toy_tree, limit=4, profile="paper"), dataset) == Path(
        f"results/paper/{own}+limit-4"
    )


def test_changed_parameters_make_rows_of_their_own(toy: str, toy_suite: Path, toy_tree: Path) -> None:
    plan = make_plan(
        load_suite(str(toy_suite)), load_settings(), Options(data=toy_tree, limit=8), [Change("steps", (5,))]
    )
    run = plan.run("toy+steps=5")
    assert run.params["steps"] == 5
    assert run.path.name == "toy+steps=5"
    assert plan.select(["toy"]) == [*(one for one in plan.runs if one.is_reference), run]


def test_planned_row_has_no_run(toy: str, toy_suite: Path, toy_tree: Path) -> None:
    plan = planned(toy_suite, toy_tree)
    with pytest.raises(ConcordError, match=r"'awaited'.*planned"):
        plan.run("awaited")
    with pytest.raises(ConcordError, match=r"no row 'nosuch': expected one of.*toy"):
        plan.run("nosuch")
    with pytest.raises(ConcordError, match=r"no row or method 'nosuch': expected one of.*toy"):
        plan.select(["nosuch"])


@pytest.mark.parametrize(("option", "words"), [({"limit": 0}, "--limit 0"), ({"seed_set": -1}, "--seed-set -1")])
def test_options_out_of_range(toy: str, toy_suite: Path, toy_tree: Path, option: dict[str, int], words: str) -> None:
    with pytest.raises(ConcordError, match=words):
        make_plan(load_suite(str(toy_suite)), load_settings(), Options(data=toy_tree, **option))  # type: ignore[arg-type]


def test_conditions_are_read_at_the_image_size(toy: str, toy_suite: Path, toy_tree: Path) -> None:
    requests = planned(toy_suite, toy_tree).requests
    first = requests.request(requests.requests[0], ["mask"])
    assert first.conditions.names() == ("mask",)
    assert first.conditions.mask is not None
    assert first.conditions.mask.shape == (64, 64)
    np.testing.assert_array_equal(first.conditions.mask, requests.requests[0].item.mask(64))


def test_a_generator_may_read_a_condition_finer_than_the_images(toy_tree: Path) -> None:
    """Where an item has it so fine; and what reads at the image's size alone stays as it was."""
    requests = make_request_set("toys", open_faces(toy_tree), ["mask"], 16, 9)
    item = requests.requests[0].item
    assert item.mask().shape == (64, 64)
    for side in (64, 32):
        finer = requests.request(requests.requests[0], ["mask"], {"mask": side, "text": 512}).conditions
        np.testing.assert_array_equal(finer.mask, item.mask(side))
    for side in (65, 16, 8):
        same = requests.request(requests.requests[0], ["mask"], {"mask": side}).conditions
        np.testing.assert_array_equal(same.mask, item.mask(16))


def test_what_is_read_finer_is_part_of_a_runs_key(toy: str, toy_suite: Path, toy_tree: Path) -> None:
    run = planned(toy_suite, toy_tree).run("toy")
    assert "reads" not in run.parts
    assert replace(run, reads={"mask": 512}).key != run.key


def test_collaborative_diffusion_reads_masks_as_its_authors_do() -> None:
    """From 512 x 512 in profile 'paper': cell i of 32 is pixel 16 i + 8; from 256 it would be the next one."""
    from concord.data.images import reduce_labels
    from concord.data.profile import load_profile

    assert load_profile("paper").generator("collaborative-256").reads == {"mask": 512}
    mask = np.random.default_rng(0).integers(0, 19, (512, 512))
    np.testing.assert_array_equal(reduce_labels(mask, 32), mask[8::16, 8::16])
    np.testing.assert_array_equal(reduce_labels(reduce_labels(mask, 256), 32), mask[9::16, 9::16])


FOUR = ["identity", "landmarks", "style", "text"]


@pytest.fixture(scope="module")
def drawn_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three faces of the renderer, with identity references."""
    root = tmp_path_factory.mktemp("drawn") / "tree"
    write_tree(root, range(27_000, 27_003), progress=False, workers=1, references=True)
    return root


def test_identity_landmarks_and_style_come_with_the_items(drawn_tree: Path) -> None:
    requests = make_request_set("toys", open_faces(drawn_tree), FOUR, 64, 9)
    requests.check()
    first = requests.request(requests.requests[0], FOUR).conditions
    assert set(first.names()) == set(FOUR)
    other, truth = face(27_000, variant=1), face(27_000)
    assert first.identity is not None
    assert np.abs(first.identity.astype(int) - other.image).mean() < 4  # the reference, but for JPEG's rounding
    assert np.abs(first.identity.astype(int) - truth.image).mean() > 8  # not the item's own image
    np.testing.assert_array_equal(first.landmarks, truth.landmarks)
    np.testing.assert_array_equal(first.style, style_image(style_of("27000")))
    first.identity[:] = 0  # whoever changes what it was given changes no other's
    again = requests.request(requests.requests[0], FOUR).conditions
    assert again.identity is not None
    assert again.identity.any()


def test_landmarks_follow_the_image_size(drawn_tree: Path) -> None:
    item = open_faces(drawn_tree)["27001"]
    np.testing.assert_allclose(item.landmarks(256), 4 * item.landmarks(64))
    np.testing.assert_array_equal(item.landmarks(), item.landmarks(64))


def test_a_fingerprint_is_of_what_the_requests_read(drawn_tree: Path, tmp_path: Path) -> None:
    """References and landmarks change the key of runs that are given them, and of no others."""
    tree = shutil.copytree(drawn_tree, tmp_path / "tree")

    def fingerprints() -> list[str]:
        sets = [["text", "mask"], ["identity"], ["landmarks"], ["style"]]
        return [make_request_set("toys", open_faces(tree), names, 64, 9).fingerprint for names in sets]

    before = fingerprints()
    assert before[0] == before[3]
    path = tree / "identity-references/27001.jpg"
    path.write_bytes(path.read_bytes() + b"\0")
    changed = fingerprints()
    assert [a == b for a, b in zip(before, changed, strict=True)] == [True, False, True, True]
    with np.load(tree / "landmarks.npz") as file:
        arrays = dict(file)
    np.savez(tree / "landmarks.npz", **{**arrays, "landmarks": arrays["landmarks"] + 1})
    assert [a == b for a, b in zip(changed, fingerprints(), strict=True)] == [True, True, False, True]


def test_bad_references_are_known_before_any_image_is_made(drawn_tree: Path, tmp_path: Path) -> None:
    tree = shutil.copytree(drawn_tree, tmp_path / "tree")
    path = tree / "identity-references/27002.jpg"
    path.write_bytes(path.read_bytes()[:-30])
    requests = make_request_set("toys", open_faces(tree), ["identity"], 64, 9)
    with pytest.raises(ConcordError, match=r"27002\.jpg: is truncated"):
        requests.check()


def test_a_tree_without_second_pictures(toy_tree: Path, drawn_tree: Path, tmp_path: Path) -> None:
    """Real people are told by their own image; drawn ones have none until it is drawn."""
    item = open_faces(toy_tree)["3"]
    np.testing.assert_array_equal(item.identity(64), item.image(64))
    assert not item.has_landmarks
    tree = shutil.copytree(drawn_tree, tmp_path / "tree")
    shutil.rmtree(tree / "identity-references")
    with pytest.raises(ConcordError, match=r"no item has identity \(3 have no identity\)"):
        make_request_set("toys", open_faces(tree), ["identity"], 64, 9)
    with pytest.raises(ConcordError, match=r"no item has landmarks \(12 have no landmarks\)"):
        make_request_set("toys", open_faces(toy_tree), ["landmarks"], 64, 9)


# ------------------------------------------------------------------------------------------------- settings and matrix


def test_settings_of_the_repo() -> None:
    settings = load_settings()
    for suite in load_suites():
        least = max(get_metric(name).minimum_n for name in suite.metrics if name != JOINT_SUCCESS)
        assert suite.size("default", "embedded") >= least, f"{suite.name}: a metric would be refused"
        assert suite.size("full", "embedded") >= 500
    with pytest.raises(ConcordError, match="unknown profile 'huge': expected one of embedded, paper, photos"):
        settings.profile("huge")
    with pytest.raises(ConcordError, match="unknown size 'big': expected one of quick, default, full"):
        load_suite("face-generation").size("big", "embedded")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("batch_size: many", ["profiles.embedded.batch_size", "'many'"]),
        ("batch_size: 65", ["profiles.embedded.batch_size", "64"]),
        ("batch: 8", ["unknown key 'profiles.embedded.batch'", "known keys: batch_size, dtype, datasets"]),
    ],
)
def test_mistakes_in_settings(tmp_path: Path, line: str, words: list[str]) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"profiles:\n  embedded:\n    {line}\n")
    with pytest.raises(ConcordError) as error:
        load_settings(path)
    assert all(word in str(error.value) for word in [str(path), *words]), error.value


def test_matrix_names_each_suite_with_its_data(tmp_path: Path) -> None:
    suites, settings = load_suites(), load_settings()
    matrix = make_matrix(suites, settings, profile="embedded", size="default")
    assert list(matrix["suites"]) == [suite.name for suite in suites]
    assert matrix["suites"]["face-generation"] == {"data": "datasets/synthfaces/test/world.json"}
    assert matrix["suites"]["coco-mig"] == {"data": "datasets/synthscenes/test/world.json"}
    assert 2 * len(suites) < STAGES
    full = make_matrix(suites, settings, profile="embedded", size="full")
    assert "--n 3000" in full["trees"]["items"]["cmd"]
    assert "--n 800" in full["trees"]["scenes"]["cmd"]
    path = tmp_path / "matrix.yaml"
    assert write_matrix(matrix, path)
    assert not write_matrix(matrix, path)
    assert write_matrix(full, path)


def test_what_stages_stand_on_changes_with_their_rows_alone(tmp_path: Path) -> None:
    """A file a stage: parameters and code of its rows, versions; written only where that has changed."""
    suites = [suite for suite in load_suites() if suite.name in ("face-generation", "coco-mig")]
    assert {path.stem for path in write_keys(suites, "embedded", tmp_path)} == {
        f"{verb}-{suite.name}" for verb in ("generate", "score") for suite in suites
    } | {"reference"}
    assert write_keys(suites, "embedded", tmp_path) == []
    content = json.loads((tmp_path / "generate-face-generation.json").read_text())
    assert content["rows"]["collaborative"]["params"]["steps"] == 50
    assert {"concord.methods.collaborative", "concord.benchmarks.run.image_source"} <= set(content["code"])
    assert "concord.methods.z_magic" not in content["code"]
    assert "torch" in content["versions"]
    faces = next(suite for suite in suites if suite.name == "face-generation")
    rows = [
        row.model_copy(update={"params": {**row.params, "steps": 7}}) if row.name == "collaborative" else row
        for row in faces.rows
    ]
    changed = [faces.model_copy(update={"rows": rows}), *(suite for suite in suites if suite is not faces)]
    assert [path.stem for path in write_keys(changed, "embedded", tmp_path)] == ["generate-face-generation"]
    assert [path.stem for path in write_keys([faces], "embedded", tmp_path)] == ["generate-face-generation"]
    assert not (tmp_path / "score-coco-mig.json").exists()


def test_matrix_of_a_profile_without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    own = load_settings().profile("paper")
    monkeypatch.setattr(Settings, "profile", lambda self, name: own.model_copy(update={"datasets": {}}))
    settings = load_settings()
    with pytest.raises(ConcordError, match="profile 'paper' names no folder for dataset 'faces'"):
        make_matrix([s for s in load_suites() if s.dataset == "faces"], settings, profile="paper", size="default")
