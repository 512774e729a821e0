"""What the tests compared with the authors' code or with a paper's equations (reports/compared.yaml)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from concord.data.schema import Strict, read_model

FILE = Path(__file__).resolve().parents[1] / "compared.yaml"


class Compared(Strict):
    """One comparison, as a test made it."""

    method: str
    preset: str
    case: str  # conditions, steps, edges
    code: str  # what it was compared with: repository, commit, file; or a paper's equations
    below: float = Field(ge=0)  # largest absolute difference over largest absolute value, rounded up to a power of ten
    test: str  # the file of the test

    @property
    def difference(self) -> str:
        return "none" if self.below == 0 else f"below {self.below:.0e}"


class Comparisons(Strict):
    """The schema of reports/compared.yaml."""

    comparisons: list[Compared]


def read_compared(path: Path = FILE) -> list[Compared]:
    """Every comparison, by method, preset and case; none where there is no file."""
    return read_model(path, Comparisons).comparisons if path.is_file() else []


def of_method(name: str, path: Path = FILE) -> dict[str, list[Compared]]:
    """Preset -> what was compared under it; a preset that nobody compared is there and empty."""
    found: dict[str, list[Compared]] = {"paper": [], "official": []}
    for entry in read_compared(path):
        if entry.method == name:
            found.setdefault(entry.preset, []).append(entry)
    return found
