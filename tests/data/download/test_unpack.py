"""Archives that try to leave their folder, lie about their size, or hold what is no file: none of it is written."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import concord.data.download.unpack
from concord.data.download.unpack import BadArchive, describe, find_root, unpack
from concord.data.errors import ConcordError

MOST = 1_000_000


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def tarred(path: Path, *members: tuple[tarfile.TarInfo | str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info, content in members:
            member = tarfile.TarInfo(info) if isinstance(info, str) else info
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def refuse(archive: Path, tmp_path: Path, told: str, most: int = MOST) -> None:
    """The archive is refused in one line, and nothing at all is left of it."""
    before = set(tmp_path.rglob("*"))
    with pytest.raises(BadArchive) as caught:
        unpack(archive, tmp_path / "out", most)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_is_unpacked_with_its_hashes(tmp_path, mode):
    folder = tarfile.TarInfo("a/empty")
    folder.type = tarfile.DIRTYPE
    archive = tarred(tmp_path / "x.tar", ("a/b.txt", b"hello"), (folder, b""), ("c", b""), mode=mode)
    members = unpack(archive, tmp_path / "out", MOST)
    assert (tmp_path / "out/a/b.txt").read_bytes() == b"hello"
    assert (tmp_path / "out/a/empty").is_dir()
    assert members["a/b.txt"] == (5, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
    assert set(members) == {"a/b.txt", "c"}


def test_a_zip_is_unpacked_without_the_litter_of_systems(tmp_path):
    archive = zipped(tmp_path / "x.zip", ("a/b.txt", b"hello"), ("__MACOSX/a/._b.txt", b"x"), ("a/.DS_Store", b"x"))
    told: list[tuple[int, int | None]] = []
    members = unpack(archive, tmp_path / "out", MOST, lambda done, of: told.append((done, of)))
    assert set(members) == {"a/b.txt"}
    assert told == [(5, 5)]
    assert (tmp_path / "out/a/b.txt").read_bytes() == b"hello"


def test_many_files_are_unpacked_without_a_hash_each(tmp_path, monkeypatch):
    monkeypatch.setattr(concord.data.download.unpack, "MOST_HASHED", 2)
    members = [(f"{n}", b"x") for n in range(3)]
    for archive in (zipped(tmp_path / "x.zip", *members), tarred(tmp_path / "x.tar", *members)):
        assert unpack(archive, tmp_path / "out", MOST) == {}
        assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../evil", "leads out"),
        ("a/../../evil", "leads out"),
        ("/evil", "absolute"),
        ("C:/evil", "absolute"),
        ("a\\..\\evil", "absolute"),
        ("a\nb", "no file name"),
        ("n" * 300, "no file name"),
    ],
)
def test_names_that_lead_elsewhere(tmp_path, make: Callable[..., Path], name, told):
    refuse(make(tmp_path / "x", ("good", b"1"), (name, b"2")), tmp_path, told)


def test_links_and_devices_in_a_tar(tmp_path):
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE):
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        refuse(tarred(tmp_path / "x.tar", (info, b"")), tmp_path, "link, a device or another special file")


def test_a_link_and_a_way_through_it_in_a_zip(tmp_path):
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    refuse(zipped(tmp_path / "x.zip", (link, b"/tmp"), ("link/evil", b"1")), tmp_path, "is a link or a device")


def test_one_name_twice(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        archive = zipped(tmp_path / "x.zip", ("a", b"1"), ("a", b"2"))
    refuse(archive, tmp_path, "is there twice")
    refuse(zipped(tmp_path / "y.zip", ("a", b"1"), ("a/b", b"2")), tmp_path, "a file and a folder at once")


def test_an_encrypted_member(tmp_path):
    archive = zipped(tmp_path / "x.zip", ("a", b"1"))
    content = bytearray(archive.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + at] |= 1
    archive.write_bytes(content)
    refuse(archive, tmp_path, "is encrypted")


def test_a_bomb_that_says_so_is_not_begun(tmp_path):
    refuse(zipped(tmp_path / "x.zip", ("zeros", bytes(MOST + 1))), tmp_path, "unpacks to 1,000,001 bytes or more")


def test_a_bomb_that_lies_about_its_size(tmp_path):
    """The list of contents says 10 bytes; the stream holds two megabytes."""
    archive = zipped(tmp_path / "x.zip", ("zeros", bytes(2 * MOST)))
    content = archive.read_bytes().replace(struct.pack("<L", 2 * MOST), struct.pack("<L", 10))
    archive.write_bytes(content)
    refuse(archive, tmp_path, "broken archive")


def test_a_bomb_in_a_tar(tmp_path):
    refuse(tarred(tmp_path / "x.tar.gz", ("zeros", bytes(MOST + 1)), mode="w:gz"), tmp_path, "bytes or more")


def test_a_tar_whose_header_alone_is_a_bomb(tmp_path):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 500 << 20
    with gzip.open(tmp_path / "x.tar.gz", "wb", 1) as stream:
        stream.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(40):
            stream.write(bytes(1 << 20))
    refuse(tmp_path / "x.tar.gz", tmp_path, "unpacks to more than it may")


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(concord.data.download.unpack, "MOST_MEMBERS", 2)
    members = [(f"{n}", b"") for n in range(3)]
    refuse(zipped(tmp_path / "x.zip", *members), tmp_path, "more than 2 files")
    refuse(tarred(tmp_path / "x.tar", *members), tmp_path, "more than 2 files")


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.99])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_a_truncated_archive(tmp_path, kind, cut):
    path = tmp_path / f"x.{kind}"
    noise = bytes((n * n * 7 + n // 3) % 251 for n in range(60_000))
    if kind == "zip":
        zipped(path, ("a", noise), ("b", noise[::-1]))
    else:
        tarred(path, ("a", noise), ("b", noise[::-1]), mode={"tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz"}[kind])
    content = path.read_bytes()
    if kind == "tar" and cut > 0.9:
        cut = 0.85  # a tar ends in padding
    path.write_bytes(content[: int(len(content) * cut)])
    refuse(path, tmp_path, "archive")


def test_a_damaged_member(tmp_path):
    archive = zipped(tmp_path / "x.zip", ("a", bytes(range(256)) * 40))
    content = bytearray(archive.read_bytes())
    content[60] ^= 0xFF
    archive.write_bytes(content)
    refuse(archive, tmp_path, "broken archive")


def test_what_is_no_archive(tmp_path):
    (tmp_path / "x.zip").write_text("<!DOCTYPE html><title>Quota exceeded</title>")
    refuse(tmp_path / "x.zip", tmp_path, "neither a zip nor a tar archive but a web page")
    (tmp_path / "x.zip").write_bytes(b"")
    refuse(tmp_path / "x.zip", tmp_path, "archive")


def test_no_space_is_told_before_unpacking(tmp_path, monkeypatch):
    import shutil

    import concord.data.download.transfer

    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(concord.data.download.transfer.shutil, "disk_usage", lambda _: free)
    with pytest.raises(ConcordError, match=r"no space for unpacking x.zip"):
        unpack(zipped(tmp_path / "x.zip", ("a", b"1" * 100)), tmp_path / "out", MOST)
    assert not (tmp_path / "out").exists()


def test_the_root_is_found_and_another_shape_is_described(tmp_path):
    inner = tmp_path / "Top" / "Deeper"
    (inner / "images").mkdir(parents=True)
    (inner / "masks").mkdir()
    assert find_root(tmp_path, ("images", "masks"), "x.zip") == inner
    (tmp_path / "a.JPG").write_text("")
    (tmp_path / "b.jpg").write_text("")
    (tmp_path / "README").write_text("")
    with pytest.raises(BadArchive) as caught:
        find_root(tmp_path, ("photos",), "x.zip")
    line = "x.zip: expected photos inside; it looks like a folder with Top/, 2 .jpg, 1 files without an ending"
    assert str(caught.value) == line
    assert describe(inner / "masks") == "an empty folder"
