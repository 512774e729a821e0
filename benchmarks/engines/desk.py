"""What a work finds in its worker, on any engine: kept networks, files by their hash, who takes its parcels."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import platform
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from concord.benchmarks.engines.base import Parcel, Work
from concord.data.errors import ConcordError
from concord.data.files import atomic_path, sha256_file
from concord.data.user_code import UserCodeError, failure, traceback_of


class Closing(Protocol):
    """What a worker keeps between two works of a row."""

    def close(self) -> None: ...


K = TypeVar("K", bound=Closing)
TAIL = 600  # letters of a worker's last lines in an error


class Desk:
    """The worker's side. take: is handed every parcel. step: is told how many more images are computed.

    node: files by their hash, where no file system is shared. device: what it computes on. done: shards of the
    work that were given before it was begun again.
    """

    def __init__(
        self,
        take: Callable[[Parcel], None],
        step: Callable[[int], None],
        node: NodeFiles | None = None,
        device: str = "auto",
        done: Collection[int] = (),
    ) -> None:
        self.take, self.step, self.node, self.device, self.done = take, step, node, device, done
        self._word: str | None = None
        self._kept: Closing | None = None

    def keep(self, word: str, load: Callable[[], K]) -> K:
        """What was loaded under that word, which stays until another word comes: works of a row load once."""
        if self._word != word:
            self.drop()
            self._kept, self._word = load(), word
        return cast(K, self._kept)

    def drop(self) -> None:
        """Let go of what is kept."""
        if self._kept is None:
            return
        self._kept.close()
        self._kept = self._word = None
        gc.collect()
        import sys

        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


class Trouble(Exception):
    """What went wrong in a worker, as it travels to the driver."""

    def __init__(self, line: str, final: bool, details: str = "") -> None:
        super().__init__(line, final, details)
        self.line, self.final, self.details = line, final, details


def do(work: Work, desk: Desk) -> None:
    """Do a work with its own number of threads; whatever goes wrong is a `Trouble`."""
    try:
        set_threads(work.threads)
        work.run(desk)
    except UserCodeError as error:  # a method's code: a full memory or a device's fault need not come again
        _forget(desk)
        raise Trouble(str(error), isinstance(error.__cause__, ConcordError), error.details) from None
    except ConcordError as error:
        _forget(desk)
        raise Trouble(str(error), True) from None
    except BaseException as error:
        _forget(desk)
        raise Trouble(failure(error), False, traceback_of(error)) from None


def _forget(desk: Desk) -> None:
    with contextlib.suppress(BaseException):  # it may be what failed
        desk.drop()


def set_threads(threads: int) -> None:
    """Compute with so many threads from now on, in this thread too: OpenMP counts them by thread."""
    import sys

    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch when it is imported
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------------------------- files by hash


class NodeFiles:
    """Files by their SHA-256 in a folder of the node, shared by its workers: what came once is not sent again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _blob(self, digest: str) -> Path:
        return self.folder / "blobs" / digest

    def lacks(self, digests: list[str]) -> list[str]:
        """Of these what is not here. A file is here whole or not at all: it is renamed when it is complete."""
        return [digest for digest in digests if not self._blob(digest).is_file()]

    def put(self, digest: str, chunks: Callable[[], Any]) -> None:
        """Keep a file that arrives in chunks; ConcordError where it is not the one that was sent for."""
        path = self._blob(digest)
        if path.is_file():
            return
        with atomic_path(path) as temporary:
            with open(temporary, "wb") as file:
                for chunk in chunks():
                    file.write(chunk)
            found = sha256_file(temporary)
            if found != digest:
                raise ConcordError(f"{path}: arrived with SHA-256 {found[:12]}..., not {digest[:12]}...; run again")

    def tree(self, files: Mapping[str, str]) -> Path:
        """A folder with these files, name -> SHA-256, under their names; hard links, or copies where there are none."""
        word = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:24]
        root = self.folder / "trees" / word
        for name, digest in files.items():
            place = root / name
            if place.is_file():
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = place.with_name(f".{place.name}.{os.getpid()}")
            try:
                os.link(self._blob(digest), temporary)
            except OSError:
                import shutil

                shutil.copyfile(self._blob(digest), temporary)
            os.replace(temporary, place)
        return root


def node_folder() -> Path:
    """Where workers of a node keep files: `$CONCORD_NODE_FILES`, else concord/node of the cache of the user."""
    if named := os.environ.get("CONCORD_NODE_FILES"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "concord" / "node"


# ---------------------------------------------------------------------------------------------------------- who it is


def node_name() -> str:
    """This machine, as an error and a shard's provenance name it."""
    return platform.node() or "unknown"


@cache
def own_versions() -> dict[str, str]:
    """What a worker must have as the driver has it: Concord's code, Python, and the packages that make numbers."""
    import concord
    from concord.benchmarks.plan.sources import PACKAGES, versions

    total, root = hashlib.sha256(), Path(concord.__file__).parent
    folders = [root, *(link for link in root.iterdir() if link.is_symlink() and link.is_dir())]  # of a checkout
    found = {path.relative_to(root).as_posix(): path for folder in folders for path in folder.rglob("*.py")}
    for name in sorted(found):
        total.update(name.encode() + b"\x00" + found[name].read_bytes())
    return {
        "concord": f"{total.hexdigest()[:12]}",
        "python": ".".join(platform.python_version_tuple()[:2]),
        **versions((*PACKAGES, "scipy")),
    }


def check_versions(own: Mapping[str, str], other: Mapping[str, str], worker: str, allowed: bool) -> None:
    """Raise ConcordError naming what a worker has in another version than this process."""
    found = [
        f"{name} {other.get(name, 'missing')} (here {own.get(name, 'missing')})"
        for name in dict.fromkeys((*own, *other))
        if own.get(name) != other.get(name)
    ]
    if found and not allowed:
        raise ConcordError(
            f"{worker} has {', '.join(found)}: its images would be others; install the same there, or set "
            "`allow_versions: true` for the engine"
        )


def gpu_busy(devices: str | None = None) -> float | None:
    """The mean share of the last second in which GPUs computed, as NVML measured it; None where there is none.

    devices: as CUDA_VISIBLE_DEVICES names them; None for this process's own.
    """
    import shutil
    import subprocess

    visible = os.environ.get("CUDA_VISIBLE_DEVICES") if devices is None else devices
    tool = shutil.which("nvidia-smi")
    if tool is None or visible in ("", "-1"):
        return None
    chosen = ["-i", visible] if visible else []
    asked = [tool, *chosen, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
        shares = [float(line) / 100 for line in told.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return sum(shares) / len(shares) if shares else None
