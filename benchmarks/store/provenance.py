"""Where a number comes from: code, packages, machine, device."""

from __future__ import annotations

import multiprocessing
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from concord.benchmarks.settings import ROOT
from concord.data.device import usable_cores
from concord.data.git import ask, refusal
from concord.data.notes import note

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "scipy", "pillow", "pandas", "safetensors", "dvc")


@cache
def git_commit(root: Path = ROOT) -> str | None:
    """The commit of the checkout, with '+dirty' when tracked files differ from it; None outside git.

    dvc.lock is left out: the pipeline itself writes it. A checkout in which git refuses to answer (in a container, that
    of another user) is said, once.
    """
    try:
        commit = ask(root, "rev-parse", "HEAD")
        status = ask(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock")
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit.status:
        said = refusal(root)
        if said and multiprocessing.parent_process() is None:  # not once more by every worker
            note(f"{root}: results are stored without their git commit, as git says: {said}")
        return None
    return commit.output.decode().strip() + ("+dirty" if status.output.strip() else "")


@cache
def package_versions() -> dict[str, str]:
    """Versions of the packages that can change a number, as installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def cpu_name() -> str:
    """The processor's name as the system tells it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def provenance(device: torch.device | None = None) -> dict[str, object]:
    """Git commit, versions, platform, processor and device. `device` None: no network ran."""
    facts: dict[str, object] = {
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "device": "cpu" if device is None else str(device),
        "dtype": "float32",
    }
    if device is not None:
        import torch

        facts["threads"] = torch.get_num_threads()
        if device.type == "cuda":
            facts["gpu"] = torch.cuda.get_device_name(device)
            facts["cuda"] = torch.version.cuda
            facts["tf32"] = bool(torch.backends.cuda.matmul.allow_tf32)
    return facts
