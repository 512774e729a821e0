"""Claims that a user registers before results: 'mine > composable : mask-accuracy'.

    claims:                                   # in a suite's YAML file
      - "mine > composable : mask-accuracy"   # a row, '>' for 'is better than', a row, ':', a metric
    concord run face-generation --claim "mine > composable : mask-accuracy"

Registered claims are tested in the family of the paper's claims (reports/families.py) and printed with their day and
commit. What `--claim` registers is kept in `claims.json` of the results folder with the rows that had images by then: a
claim about these is post hoc.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from concord.data.errors import ConcordError
from concord.data.files import read_json, write_json
from concord.data.schema import Strict, explain

FILE = "claims.json"
FORM = re.compile(r"\s*(?P<winner>[^\s>:]+)\s*>\s*(?P<loser>[^\s>:]+)\s*:\s*(?P<metric>[^\s>:]+)\s*")


class Claim(Strict):
    """`winner` is better than `loser` in `metric`; of one that is printed by level, 'metric@avg' or 'metric@L2'."""

    winner: str
    loser: str
    metric: str

    @property
    def text(self) -> str:
        return f"{self.winner} > {self.loser} : {self.metric}"


class Registered(Strict):
    """A claim in `claims.json`. made: those of its two rows that had images when it was registered."""

    suite: str
    claim: Claim
    day: str
    commit: str
    made: list[str]


def parse_claim(text: str) -> Claim:
    """ConcordError where it is not of the form 'row > row : metric'."""
    from concord.metrics.base import metric_name

    found = FORM.fullmatch(text)
    if found is None or found["winner"] == found["loser"]:
        raise ConcordError(f"claim '{text}': expected two rows and a metric, as in 'mine > composable : mask-accuracy'")
    name, at, level = found["metric"].partition("@")
    return Claim(winner=found["winner"], loser=found["loser"], metric=f"{metric_name(name)}{at}{level}")


def check_claim(claim: Claim, rows: Sequence[str], metrics: Sequence[str]) -> None:
    """ConcordError where a suite has no such row or metric."""
    for row in (claim.winner, claim.loser):
        if row not in rows:
            raise ConcordError(f"claim '{claim.text}': unknown row '{row}'; expected one of {', '.join(rows)}")
    if claim.metric.partition("@")[0] not in metrics:
        raise ConcordError(
            f"claim '{claim.text}': unknown metric '{claim.metric}'; expected one of {', '.join(metrics)}"
        )


def register(root: Path, suite: str, claims: Sequence[Claim], made: Sequence[str], commit: str | None) -> None:
    """Add claims to a results folder; one that is there already keeps its day."""
    known = read_registered(root)
    have = {(one.suite, one.claim.text) for one in known}
    new = [
        Registered(
            suite=suite,
            claim=claim,
            day=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            commit=commit or "unknown",
            made=sorted({claim.winner, claim.loser} & set(made)),
        )
        for claim in claims
        if (suite, claim.text) not in have
    ]
    if new:
        write_json(root / FILE, {"claims": [one.model_dump() for one in [*known, *new]]})


def read_registered(root: Path) -> list[Registered]:
    """What was registered in a results folder; ConcordError where the file is damaged."""
    path = root / FILE
    if not path.is_file():
        return []
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("claims"), list):
        raise ConcordError(f"{path}: expected a list 'claims'; remove the file and register the claims again")
    try:
        return [Registered.model_validate(one) for one in content["claims"]]
    except ValidationError as error:
        raise ConcordError(f"{path}: {explain(error, Registered)}") from None
