"""Suites: one YAML file, one table of a paper. What is compared, on which requests, by which metrics.

Suites that name the same request set share its runs: a row that two tables show is generated and scored once.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from concord.benchmarks.claims import check_claim, parse_claim
from concord.benchmarks.store.shards import SHARD_SIZE
from concord.data.conditions.base import all_conditions, make_conditions
from concord.data.errors import ConcordError
from concord.data.notes import note
from concord.data.profile import QUICK, Sizes, load_profile
from concord.data.schema import Strict, explain, read_model, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from concord.metrics.base import Metric

FOLDER = Path(__file__).resolve().parent / "suites"
REFERENCES = ("ground-truth", "shuffled")
JOINT_SUCCESS = "joint-success"


class Row(Strict):
    """One row of the table: a method with its parameters, or one that is planned, or a reference row."""

    name: str
    method: str | None = None
    planned: str | None = None  # shown instead of our value until a method of the row's name is registered
    conditions: list[str] | None = None  # a subset of the suite's; all of them if absent
    params: dict[str, object] = Field(default_factory=dict)
    tuned: str | None = None  # the entry of benchmarks/tuned/<request set>.yaml that gives its other parameters
    sizes: list[Literal["default", "full"]] | None = Field(None, min_length=1)  # where it runs; everywhere if absent

    @model_validator(mode="after")
    def _one_source(self) -> Row:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+,-]*", self.name):
            raise ValueError(f"name {self.name!r}: expected letters, digits, '-', '_', '.', '='")
        if self.name in REFERENCES:
            raise ValueError(f"name '{self.name}' is kept for the reference row; choose another")
        if (self.method is None) == (self.planned is None):
            raise ValueError(f"row '{self.name}' needs either 'method' or 'planned'")
        return self


def _metric_names(names: list[str]) -> list[str]:
    """The names that metrics have today, of names, aliases and former names."""
    from concord.metrics.base import metric_name

    return [name if name == JOINT_SUCCESS else metric_name(name) for name in names]


MetricNames = Annotated[list[str], AfterValidator(_metric_names)]


class Joint(Strict):
    """Joint success: all these metrics pass on one image; thresholds from the ground-truth row's quantile."""

    metrics: MetricNames = Field(min_length=2)
    quantile: float = Field(gt=0, lt=1)


class Tune(Strict):
    """What `concord tune` may try: the same trials and items for every method of the suite."""

    n: int = Field(default=12, ge=2, le=SHARD_SIZE)  # validation items
    trials: int = Field(default=12, ge=2)
    floor: str | None = None  # row that no condition, or only some of them, guides: what a trial is measured from;
    # absent: real images of other requests
    ranges: dict[str, list[float]] = Field(default_factory=dict)
    # 'strengths.identity': [low, high] of the method's own value, before the ranges of the method's own fields
    ceiling: dict[str, float] = Field(default_factory=dict)  # metric -> what counts as met, where real images do not

    @model_validator(mode="after")
    def _ordered(self) -> Tune:
        for name, ends in self.ranges.items():
            if len(ends) != 2 or not 0 < ends[0] < ends[1]:
                raise ValueError(f"range of '{name}': expected [low, high] with 0 < low < high, got {ends}")
        return self


class Quick(Strict):
    """A first look: so many requests of these rows, scored by these metrics."""

    n: int = Field(ge=2, le=SHARD_SIZE)
    rows: list[str] = Field(min_length=1)
    metrics: MetricNames = Field(min_length=1)
    reference: list[Literal["ground-truth", "shuffled"]] = Field(default_factory=list)


class ProfilePart(Strict):
    """What a suite is in another profile than 'embedded'; what is absent stays as it is.

    rows: parameters by row, in place of the row's own; a row that is not named keeps its own. Rows run in every size.
    """

    n: Sizes | None = None
    image_size: int | None = Field(default=None, gt=0)
    generator: str | None = None  # whose models the rows draw from; by the row's method where absent
    rows: dict[str, dict[str, object]] = Field(default_factory=dict)
    metrics: MetricNames | None = None
    joint: Joint | None = None
    reference: list[Literal["ground-truth", "shuffled"]] | None = None
    differences: list[str] | None = None


class Suite(Strict):
    """The schema of benchmarks/suites/*.yaml."""

    name: str
    title: str
    paper: str = ""  # file in reports/papers; '' where the suite answers no paper's table
    table: str = ""  # key in that file
    dataset: Literal["faces", "layouts"]
    n: Sizes | None = None  # requests by size; suites that share a request set state the same
    conditions: list[str] = Field(min_length=1)
    requests: str | None = None  # request set; the suite's own name if absent
    options: dict[str, dict[str, object]] = Field(default_factory=dict)  # condition -> what has to be said about it
    open: bool = False  # every registered method that takes all the conditions joins without being named
    rows: list[Row] = Field(min_length=1)
    metrics: MetricNames = Field(min_length=1)
    originals: str | None = None  # row whose images metrics of pairs compare with, not the items' own images
    joint: Joint | None = None
    reference: list[Literal["ground-truth", "shuffled"]] = Field(default_factory=list)
    grid: int = Field(default=8, ge=0, le=SHARD_SIZE)
    version: int = Field(default=1, ge=1)  # raised where its numbers mean something else than before
    differences: list[str] = Field(default_factory=list)
    claims: list[str] = Field(default_factory=list)  # 'mine > composable : mask-accuracy', registered before results
    tune: Tune | None = None
    quick: Quick | None = None  # what `make bench SIZE=quick` takes; nothing where absent
    profiles: dict[str, ProfilePart] = Field(default_factory=dict)

    @property
    def request_set(self) -> str:
        """The folder of its runs; suites with the same requests share one."""
        return self.requests or self.name

    def part(self, profile: str) -> ProfilePart:
        """What the suite says about a profile, or the profile says about the suite; nothing where neither does."""
        own = self.profiles.get(profile)
        if own is not None:
            return own
        given = load_profile(profile)
        if self.name not in given.suites:
            return ProfilePart()
        try:
            return ProfilePart.model_validate(given.suites[self.name])
        except ValidationError as error:
            raise ConcordError(f"{given.path}: suites.{self.name}: {explain(error, ProfilePart)}") from None

    def size(self, size: str, profile: str) -> int:
        """How many requests it takes in a size; ConcordError where it does not say."""
        if size == QUICK:
            return self.first_look.n
        n = self.part(profile).n or self.n
        if n is None:
            raise ConcordError(
                f"suite '{self.name}': says no n of requests; add `n: {{default: ..., full: ...}}`, or give --limit"
            )
        return n.of(size)

    def in_profile(self, profile: str) -> Suite:
        """The suite as that profile runs it; twice is the same as once."""
        part = self.part(profile)
        if part == ProfilePart():
            return self
        rows = [
            row.model_copy(update={"params": part.rows.get(row.name, row.params), "sizes": None}) for row in self.rows
        ]
        given = {name: getattr(part, name) for name in ("metrics", "joint", "reference", "differences")}
        changed = {name: value for name, value in given.items() if value is not None}
        if "metrics" in changed and "joint" not in changed and JOINT_SUCCESS not in changed["metrics"]:
            changed["joint"] = None
        return self.model_copy(update={"rows": rows, **changed})

    @property
    def first_look(self) -> Quick:
        """Key `quick`; ConcordError where the suite has none."""
        if self.quick is None:
            raise ConcordError(f"suite '{self.name}': has no size '{QUICK}'; add the key 'quick' (n, rows, metrics)")
        return self.quick

    def in_size(self, size: str) -> Suite:
        """The suite without the rows that a size leaves out; of size 'quick' what its key names, in that order."""
        if size == QUICK:
            look = self.first_look
            joint = self.joint if JOINT_SUCCESS in look.metrics else None
            kept = {"metrics": look.metrics, "reference": look.reference, "joint": joint, "open": False}
            return self.model_copy(update={"rows": [self.row(name) for name in look.rows], **kept})
        rows = [row for row in self.rows if row.sizes is None or size in row.sizes]
        return self if len(rows) == len(self.rows) else self.model_copy(update={"rows": rows})

    def row(self, name: str) -> Row:
        """The row of that name; ConcordError that lists them."""
        for row in self.rows:
            if row.name == name:
                return row
        raise ConcordError(f"suite '{self.name}' has no row '{name}': expected one of {', '.join(self.row_names())}")

    def row_names(self) -> list[str]:
        """Reference rows first, then the table's rows in order."""
        return [*self.reference, *(row.name for row in self.rows)]

    def row_conditions(self, row: Row) -> list[str]:
        """The conditions that a row's method is given."""
        return [name for name in self.conditions if row.conditions is None or name in row.conditions]

    @model_validator(mode="after")
    def _consistent(self) -> Suite:
        """All that does not fit together, in one error: a suite file is mended once."""
        names = [row.name for row in self.rows]
        mistakes = [*self._condition_mistakes(), *(f"two rows are named '{name}'" for name in _twice(names))]
        for row in self.rows:
            mistakes += _unknown(row.conditions or [], self.conditions, f"row '{row.name}': condition")
        mistakes += self._joint_mistakes()
        if self.originals is not None:
            mistakes += _unknown([self.originals], names, "originals: row")
        for profile, part in self.profiles.items():
            mistakes += _unknown(part.rows, names, f"profiles.{profile}.rows: row")
            joint = part.joint or (self.joint if part.metrics is None or JOINT_SUCCESS in part.metrics else None)
            named = joint.metrics if joint else []
            mistakes += _unknown(named, part.metrics or self.metrics, f"profiles.{profile}: joint metric")
        if self.quick is not None:
            mistakes += _unknown(self.quick.rows, names, "quick: row")
            mistakes += _unknown(self.quick.metrics, self.metrics, "quick: metric")
        for text in self.claims:
            try:
                check_claim(parse_claim(text), names, self.metrics)
            except ConcordError as error:
                mistakes.append(str(error))
        if self.tune is not None:
            mistakes += _unknown([self.tune.floor] if self.tune.floor else [], names, "tune: floor: row")
            mistakes += _unknown(self.tune.ceiling, self.metrics, "tune: ceiling: metric")
        if bool(self.paper) != bool(self.table):
            lacking = "table" if self.paper else "paper"
            mistakes.append(f"'paper' and 'table' belong together: give '{lacking}' too, or neither")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def _condition_mistakes(self) -> list[str]:
        known = all_conditions()
        mistakes = _unknown(self.conditions, known, "condition")
        mistakes += [f"condition '{name}' is named twice" for name in _twice(self.conditions)]
        for name in self.conditions:
            if name in known and self.dataset not in known[name].datasets:
                which = " or ".join(f"'{kind}'" for kind in sorted(known[name].datasets))
                mistakes.append(f"dataset '{self.dataset}' gives no condition '{name}'; expected dataset {which}")
        mistakes += _unknown(self.options, self.conditions, "options: condition")
        if not mistakes:
            try:
                make_conditions(self.conditions, self.options)
            except ConcordError as error:
                mistakes.append(f"{error} (key 'options')")
        return mistakes

    def _joint_mistakes(self) -> list[str]:
        if self.joint is None:
            lacks = JOINT_SUCCESS in self.metrics
            return [f"metric '{JOINT_SUCCESS}' needs the key 'joint' (metrics and quantile)"] if lacks else []
        mistakes = _unknown(self.joint.metrics, self.metrics, "joint: metric")
        if JOINT_SUCCESS not in self.metrics:
            mistakes.append(f"'joint' is given but '{JOINT_SUCCESS}' is not among the metrics")
        if "ground-truth" not in self.reference:
            mistakes.append("'joint' takes its thresholds from the row 'ground-truth'; add it to 'reference'")
        return mistakes


def _twice(names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def _unknown(names: Iterable[str], known: Iterable[str], what: str) -> list[str]:
    known = list(known)
    return [
        f"unknown {what} '{name}': expected one of {', '.join(known)}"
        for name in dict.fromkeys(names)
        if name not in known
    ]


# ------------------------------------------------------------------------------------------------------------- loading


def suite_names(folder: Path = FOLDER) -> list[str]:
    """The names of the folder's suites, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def suite_path(name: str) -> Path:
    """Where a suite lies: the name of one in benchmarks/suites, or the path of a YAML file of the user's."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    if name not in suite_names():
        raise ConcordError(
            f"unknown suite '{name}': expected one of {', '.join(suite_names())}, or a path to a .yaml file"
        )
    return FOLDER / f"{name}.yaml"


def read_suite(name: str) -> Suite:
    """A suite by its schema alone: nothing is looked up among methods and metrics."""
    path = suite_path(name)
    suite = read_model(path, Suite)
    if suite.name != path.stem:
        raise ConcordError(f"{path}: 'name' is '{suite.name}'; expected '{path.stem}', as the file is called")
    return suite


def load_suite(name: str, extra: Iterable[str] = (), mistakes: Sequence[str] = ()) -> Suite:
    """A suite with its rows settled, every method, parameter and metric in it known.

    Planned rows whose method has been registered become real; an open suite gains the registered methods that take
    all of its conditions; `extra` names methods that join on request (--methods, --plugin).
    mistakes: what is known to be wrong with it already, told together with the rest.
    Raises ConcordError that names the file, every mistake, and the known names otherwise.
    """
    path = suite_path(name)
    suite = settle(read_suite(name), extra)
    wrong = [*name_mistakes(suite), *mistakes]
    if wrong:
        raise ConcordError(f"{path}: {'; '.join(wrong)}")
    return suite


def load_suites() -> list[Suite]:
    """Every suite of benchmarks/suites, with those that share a request set checked against each other."""
    suites = [load_suite(name) for name in suite_names()]
    for position, suite in enumerate(suites):
        for other in suites[:position]:
            check_shared(suite, other)
    return suites


def related_suites(name: str) -> list[Suite]:
    """A suite and those beside it that share its request set; by their schemas alone.

    In a folder of the user's, YAML files without rows are something else: an external method's, for one. One that
    cannot be read is named, and stops nothing.
    """
    path = suite_path(name)
    found = [read_suite(name)]
    for other in suite_names(path.parent):
        file = path.parent / f"{other}.yaml"
        if other == path.stem:
            continue
        try:
            if path.parent != FOLDER and not _looks_like_suite(read_yaml(file)):
                continue
            suite = read_suite(str(file))
        except ConcordError as error:
            if path.parent == FOLDER:
                raise
            note(f"{error} (beside {path.name}; left out)")
            continue
        if suite.request_set == found[0].request_set:
            found.append(suite)
    return found


def _looks_like_suite(content: object) -> bool:
    return isinstance(content, dict) and "rows" in content


def settle(suite: Suite, extra: Iterable[str] = ()) -> Suite:
    """The suite with the rows that the registered methods give it."""
    from concord.methods.base import all_methods

    methods = all_methods()
    rows = [
        row.model_copy(update={"method": row.name, "planned": None}) if row.planned and row.name in methods else row
        for row in suite.rows
    ]
    joining = list(extra)
    if suite.open:
        joining += [
            name
            for name, method in methods.items()
            if method.auto_include and set(suite.conditions) <= set(method.conditions)
        ]
    shown = {row.method for row in rows} | {row.name for row in rows}
    for name in joining:
        if name not in shown:
            shown.add(name)
            rows.append(Row(name=name, method=name))
    return suite.model_copy(update={"rows": rows})


def check_names(suite: Suite) -> None:
    """Raise ConcordError unless every method, parameter and metric of the suite exists and fits its conditions."""
    mistakes = name_mistakes(suite)
    if mistakes:
        raise ConcordError("; ".join(mistakes))


def name_mistakes(suite: Suite) -> list[str]:
    """What is wrong with the methods, parameters and metrics that a suite names, each in a few words."""
    mistakes = [mistake for row in suite.rows if row.method for mistake in _row_mistakes(suite, row, row.method)]
    return mistakes + _metric_mistakes(suite)


def _row_mistakes(suite: Suite, row: Row, name: str) -> list[str]:
    from concord.methods.base import get_method, make_params

    mistakes = []
    try:
        method = get_method(name)
    except ConcordError as error:
        return [f"row '{row.name}': {error}"]
    try:
        make_params(method, row.params)
    except ConcordError as error:
        mistakes.append(f"row '{row.name}': {error}")
    given = suite.row_conditions(row)
    if unknown := [condition for condition in given if condition not in method.conditions]:
        mistakes.append(
            f"row '{row.name}': method '{name}' does not take condition {', '.join(map(repr, unknown))}; "
            f"it takes {', '.join(sorted(method.conditions))} (give the row a 'conditions' list)"
        )
    if len(given) < method.minimum_conditions:
        mistakes.append(f"row '{row.name}': method '{name}' needs {method.minimum_conditions} conditions")
    return mistakes


def _metric_mistakes(suite: Suite) -> list[str]:
    from concord.metrics.base import SampleMetric, get_metric

    mistakes = []
    known: dict[str, type[Metric]] = {}
    for name in suite.metrics:
        if name == JOINT_SUCCESS:
            continue
        try:
            known[name] = type(get_metric(name))
        except ConcordError as error:
            mistakes.append(str(error))
            continue
        mistakes += [
            f"metric '{name}' scores against condition '{need}', which the suite does not have"
            for need in sorted(known[name].needs)
            if need not in suite.conditions
        ]
    for name in suite.joint.metrics if suite.joint else []:
        metric = known.get(name)
        if metric is None:
            continue
        if not issubclass(metric, SampleMetric):
            mistakes.append(f"joint: metric '{name}' has no value per image; expected a sample metric")
        elif metric.needs_originals:  # the ground truth is its own original: no threshold follows from it
            mistakes.append(f"joint: metric '{name}' compares with the ground truth itself; leave it out of 'joint'")
    return mistakes


def check_shared(suite: Suite, other: Suite) -> None:
    """Raise ConcordError when two suites of one request set would ask for different things under one name."""
    if suite.request_set != other.request_set:
        return
    both = f"suites '{other.name}' and '{suite.name}' share the request set '{suite.request_set}'"
    if (suite.dataset, suite.conditions, suite.options) != (other.dataset, other.conditions, other.options):
        raise ConcordError(f"{both} but differ in dataset or conditions; give one of them its own 'requests'")
    together = suite.profiles.keys() & other.profiles.keys()
    if suite.n != other.n or any(suite.profiles[name].n != other.profiles[name].n for name in together):
        raise ConcordError(f"{both} but differ in n; state the same in both")
    if suite.originals != other.originals:
        raise ConcordError(f"{both} but differ in 'originals'; give one of them its own 'requests'")
    rows = {row.name: row for row in other.rows if row.method is not None}
    for row in suite.rows:
        twin = rows.get(row.name)
        if twin is not None and row.method is not None and _work(suite, row) != _work(other, twin):
            raise ConcordError(f"{both} but row '{row.name}' differs between them; rename one")


def _work(suite: Suite, row: Row) -> tuple[object, ...]:
    from concord.methods.base import get_method, make_params

    assert row.method is not None
    params = make_params(get_method(row.method), row.params)
    return row.method, params.model_dump(), suite.row_conditions(row), row.tuned


def metrics_of(suites: Iterable[Suite]) -> list[str]:
    """The metrics that a request set is scored by: those of all its suites, without the derived joint success."""
    return sorted({name for suite in suites for name in suite.metrics if name != JOINT_SUCCESS})
