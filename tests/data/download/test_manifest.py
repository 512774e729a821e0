"""The manifests: every file in data/manifests is sound, and a wrong one is named; the cache's hashes are kept right."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

import concord.data.download.manifest
from concord.data.download.manifest import (
    Lock,
    fetched_file,
    load_bundle,
    load_manifest,
    manifest_names,
    weight_file,
    weight_folder,
)
from concord.data.errors import ConcordError

# What loaders of metrics and methods ask for by name.
NAMES = {
    "inception-fidelity", "inception-pytorch-fid", "inception-clean-fid", "clip-rn50", "clip-vit-b-32", "clip-vit-b-16",
    "clip-vit-l-14", "clip-vit-l-14-336", "dinov2-vit-l-14", "bisenet", "parsenet", "ir-se50", "mobilefacenet",
    "buffalo-l", "fan-2d4", "s3fd", "lpips-alexnet", "lpips-vgg16", "vgg19", "groundingdino-swint", "sam-vit-h",
    "celebamask-hq", "celeba-dialog", "coco-mig", "collab-256-vae", "collab-256-text", "collab-256-mask",
    "collab-256-codiff-mask-text", "collab-512-vae", "collab-512-text", "collab-512-mask",
    "collab-512-codiff-mask-text", "celeba-hq-ddpm", "stable-diffusion-v1-4",
}  # fmt: skip  # a table

GOOD = """
name: thing
kind: weights
title: A thing
files:
  - name: thing.bin
    sources: [{url: https://example.org/thing.bin}]
licence: {name: MIT, consequence: Free.}
citation: nobody
needed_by: [tests]
bundles: [toys]
"""


def write(folder: Path, text: str = GOOD, name: str = "thing") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache, by the environment, and the manifest of one thing."""
    monkeypatch.setenv("CONCORD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(concord.data.download.manifest, "FOLDER", write(tmp_path / "manifests"))
    loading = concord.data.download.manifest.load_manifest
    monkeypatch.setattr(
        concord.data.download.manifest, "load_manifest", lambda name: loading(name, tmp_path / "manifests")
    )
    return tmp_path / "cache"


def put(cache: Path, content: bytes, name: str = "thing.bin") -> Path:
    path = cache / "weights" / "thing" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --------------------------------------------------------------------------------------------------- the real manifests


def test_every_manifest_is_sound():
    found = [load_manifest(name) for name in manifest_names()]
    assert {manifest.name for manifest in found} >= NAMES
    for manifest in found:
        assert manifest.licence.consequence.endswith("."), manifest.name
        for file in manifest.files:
            assert file.sources or manifest.by_hand, f"{manifest.name}: {file.name} can be had nowhere"
            for source in file.sources:
                assert source.url is None or source.url.startswith("https://"), manifest.name
                assert (
                    source.status == "official" or source.status == "mirror" or source.note or file.sha256 != "unknown"
                )


def test_what_has_a_hash_in_its_address_or_name_has_that_hash():
    for name in manifest_names():
        for file in load_manifest(name).files:
            stem = file.name.split(".")[0].rpartition("-")[2]
            if len(stem) >= 8 and set(stem) <= set("0123456789abcdef") and not stem.isdigit():
                assert file.sha256.startswith(stem), file.name
            for source in file.sources:
                if source.url and "openaipublic" in source.url and "/clip/" in source.url:
                    assert file.sha256 in source.url


def test_the_papers_bundle_lists_data_before_weights():
    kinds = [manifest.kind for manifest in load_bundle("paper")]
    assert kinds == sorted(kinds)
    assert kinds.count("data") >= 3
    with pytest.raises(ConcordError, match=r"expected one of .*paper"):
        load_bundle("papers")


def test_the_layout_file_that_is_at_hand_is_the_one_of_the_manifest():
    """Facts that were measured on the file itself, when it was at hand."""
    file = load_manifest("coco-mig").files[0]
    assert file.sha256 == "11f9f72eea9c82e4c981d2d0ef62a513870a5cbec36c2d8d8860a933c55b7ca6"
    assert file.size == 441459


# -------------------------------------------------------------------------------------------------------- bad manifests


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("kind: weights", "kind: weight", "kind"),
        ("name: thing.bin", "name: ../thing.bin", "not a plain relative path"),
        ("name: thing.bin", "name: /thing.bin", "not a plain relative path"),
        ("name: thing.bin", "name: thing.bin\n    sha256: abc", "64 hex digits"),
        ("{url: https://example.org/thing.bin}", "{url: https://a.b/c, gdrive: ID}", "exactly one of"),
        ("{url: https://example.org/thing.bin}", "{url: 'ftp://a.b/c'}", "does not begin with https"),
        ("title: A thing", "titel: A thing", "title"),
        ("name: thing\n", "name: other\n", "expected 'thing'"),
        ("citation: nobody", "citation: [", "not valid YAML"),
        ("files:", "files:\n  - name: thing.bin", "two files are called thing.bin"),
    ],
)
def test_a_wrong_manifest_is_one_line_that_names_file_and_field(tmp_path, old, new, told):
    assert old in GOOD
    folder = write(tmp_path / "manifests", GOOD.replace(old, new, 1))
    with pytest.raises(ConcordError) as caught:
        load_manifest("thing", folder)
    assert told in str(caught.value)
    assert "thing.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["bisenett", "../secrets", "", "BiSeNet"])
def test_an_unknown_name_lists_near_ones(name):
    with pytest.raises(ConcordError, match=r"expected a name such as .*bisenet"):
        load_manifest(name)


# ---------------------------------------------------------------------------------------------------------- the helper


def test_a_missing_file_is_told_with_source_licence_and_command(cache):
    with pytest.raises(ConcordError) as caught:
        weight_file("thing")
    line = str(caught.value)
    for part in (
        str(cache / "weights/thing/thing.bin"),
        "https://example.org/thing.bin",
        "MIT",
        "`concord weights fetch thing`",
    ):
        assert part in line
    assert "\n" not in line


def test_a_file_without_a_source_is_told_how_to_bring_by_hand(cache, tmp_path):
    text = GOOD.replace("sources: [{url: https://example.org/thing.bin}]", "sources: []") + "by_hand: ask its authors\n"
    write(tmp_path / "manifests", text)
    with pytest.raises(ConcordError, match="ask its authors, then run `concord weights fetch thing --from-file PATH`"):
        weight_file("thing")


def test_the_first_hash_is_recorded_and_then_enforced(cache):
    path = put(cache, b"first")
    assert weight_file("thing") == path
    path.write_bytes(b"other")
    with pytest.raises(ConcordError) as caught:
        weight_file("thing")
    assert sha256(b"first") in str(caught.value)
    assert sha256(b"other") in str(caught.value)


def test_a_known_hash_is_enforced(cache, tmp_path):
    text = GOOD.replace("- name: thing.bin", f"- name: thing.bin\n    sha256: {sha256(b'right')}")
    write(tmp_path / "manifests", text)
    path = put(cache, b"wrong")
    with pytest.raises(ConcordError) as caught:
        weight_file("thing")
    assert sha256(b"right") in str(caught.value)
    assert sha256(b"wrong") in str(caught.value)
    path.write_bytes(b"right")
    assert weight_file("thing") == path


def test_an_unchanged_file_is_hashed_once(cache, monkeypatch):
    put(cache, b"first")
    count = []
    real = concord.data.download.manifest.sha256_file
    monkeypatch.setattr(concord.data.download.manifest, "sha256_file", lambda path: count.append(path) or real(path))
    for _ in range(3):
        weight_file("thing")
    assert len(count) == 1
    os.utime(cache / "weights/thing/thing.bin", ns=(1, 1))  # touched: looked at again, and found to be the same
    weight_file("thing")
    assert len(count) == 2


def test_a_cache_that_cannot_be_written_still_serves(cache, monkeypatch):
    path = put(cache, b"first")

    def refuse(*_: object) -> None:
        raise ConcordError("read-only")

    monkeypatch.setattr(concord.data.download.manifest, "write_json", refuse)
    assert weight_file("thing") == path


def test_several_files_are_taken_by_name_or_as_a_folder(cache, tmp_path):
    more = "  - name: unet/config.json\n    sources: [{huggingface: a/b}]\nlicence:"
    write(tmp_path / "manifests", GOOD.replace("licence:", more, 1))
    put(cache, b"first")
    with pytest.raises(ConcordError, match="Hugging Face a/b"):
        weight_folder("thing")
    put(cache, b"{}", "unet/config.json")
    assert weight_file("thing", "unet/config.json") == cache / "weights/thing/unet/config.json"
    assert weight_folder("thing") == cache / "weights/thing"
    with pytest.raises(ConcordError, match=r"expected one of thing.bin, unet/config.json"):
        weight_file("thing", "vae/config.json")


def test_a_member_of_an_archive_is_found_by_its_path(cache, tmp_path):
    unpack = "\n    unpack: {into: tree, expects: [a.onnx], most_bytes: 100}"
    write(tmp_path / "manifests", GOOD.replace("- name: thing.bin", "- name: thing.zip" + unpack))
    with pytest.raises(ConcordError, match="not fetched yet"):
        weight_file("thing", "a.onnx")
    path = put(cache, b"onnx", "tree/a.onnx")
    assert weight_file("thing") == path.parent
    assert weight_file("thing", "a.onnx") == weight_file("thing", "tree/a.onnx") == path
    with pytest.raises(ConcordError, match=r"not in the fetched archive thing.zip"):
        weight_file("thing", "b.onnx")


def test_a_broken_lock_is_named(cache):
    put(cache, b"first")
    weight_file("thing")
    (cache / "locks/thing.json").write_text("[]")
    with pytest.raises(ConcordError, match=r"locks/thing.json: expected an object"):
        weight_file("thing")


def test_the_lock_says_what_was_had_and_nothing_of_this_machine(cache):
    put(cache, b"first")
    manifest = concord.data.download.manifest.load_manifest("thing")
    fetched_file(manifest)
    content = json.loads((cache / "locks/thing.json").read_text())
    assert content == {"files": {"thing.bin": {"size": 5, "sha256": sha256(b"first"), "source": "found in the cache"}}}
    assert Lock(manifest).expected(manifest.files[0]) == sha256(b"first")


@pytest.mark.parametrize("seen", ["[]", "{", '{"thing.bin": [5, 0, "00"]}'])
def test_a_broken_memory_of_what_was_hashed_costs_a_hash_alone(cache, seen):
    path = put(cache, b"first")
    weight_file("thing")
    (cache / "locks/thing.seen.json").write_text(seen)
    assert weight_file("thing") == path
    path.write_bytes(b"other")
    with pytest.raises(ConcordError, match="SHA-256"):
        weight_file("thing")
