"""Rows made and scored by an engine's workers: the driver plans, keeps what comes back, and writes to the store.

Rows of several suites are in work at once. What a worker gives is checked by its SHA-256 and written before anything
else happens, so that a driver that is killed loses what has not come back yet and no more. A task that ends without all
of its shards is submitted again for those that are missing; after three times its row fails, alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from concord.benchmarks.cost import read_rates
from concord.benchmarks.engines.base import ATTEMPTS, NODE_LOSSES, Advanced, Ended, Engine, Event, Failed, Given, Task
from concord.benchmarks.engines.display import Board
from concord.benchmarks.engines.making import MakingRow
from concord.benchmarks.engines.scoring import ScoringRow
from concord.benchmarks.generators import why_not
from concord.benchmarks.plan.runs import RunPlan
from concord.benchmarks.run.generate import is_current
from concord.benchmarks.session import Session
from concord.benchmarks.store.run import Run
from concord.data.errors import ConcordError
from concord.data.user_code import UserCodeError

WAIT = 1.0  # seconds between two looks at the engine


@dataclass
class Outcome:
    """What a call did. failed: 'request set/row' -> one line. detached: tasks that go on after it."""

    made: list[RunPlan] = field(default_factory=list)
    scored: list[RunPlan] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    detached: int = 0


@dataclass
class _Row:
    """A row in work, made or scored. left: tasks that are not ended. ends: task -> how often it ended unfinished."""

    session: Session
    job: MakingRow | ScoringRow
    left: int = 0
    given: int = 0
    ends: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    wrong: dict[str, str] = field(default_factory=dict)  # task -> what was wrong with a parcel of it
    losses: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    ahead: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # task -> images computed, not yet given


class Spread:
    """One call: these rows of these sessions on one engine."""

    def __init__(
        self,
        engine: Engine,
        work: Sequence[tuple[Session, Sequence[RunPlan]]],
        generate: bool = True,
        score: bool = True,
        show: bool = True,
    ) -> None:
        self.engine, self.work, self.making, self.scoring = engine, work, generate, score
        self.board = Board(lambda: engine.crew, show=show)
        self.outcome = Outcome()
        self.rows: dict[str, _Row] = {}
        self.waiting: dict[int, set[str]] = {}  # session -> its rows that are being made
        self.real: dict[int, dict[str, object]] = {}

    def run(self) -> Outcome:
        """All of it; ConcordError where the engine itself cannot work."""
        spread = self._what_is_here()
        if not spread:
            return self.outcome
        try:
            self.engine.start()
            with self.board.drawn():
                self._begin(spread)
                if self.engine.call.detach:
                    self._pick_up()
                    return self.outcome
                while self.engine.unfinished:
                    for event in self.engine.wait(WAIT):
                        self._on(event)
                    self.board.tick()
        except BaseException:
            self.engine.cancel()
            raise
        finally:
            try:
                self.engine.close()
            finally:
                for row in self.rows.values():
                    row.job.close()
        return self.outcome

    def _pick_up(self) -> None:
        """Take what earlier calls have finished, and leave the rest to go on by itself."""
        while events := self.engine.wait(0):
            for event in events:
                self._on(event)
        self.outcome.detached = self.engine.unfinished

    # ------------------------------------------------------------------------------------------------------ beginning

    def _what_is_here(self) -> list[tuple[int, Session, list[RunPlan], list[RunPlan]]]:
        """Make here what is no method's, and the reference features; what is left for the workers, by session."""
        found = []
        for place, (session, runs) in enumerate(self.work):
            mine: list[RunPlan] = []
            if self.making:
                own = [run for run in runs if run.is_reference or run.external is not None]
                self.outcome.made += session.generate(own)
                pending = [run for run in runs if run not in own and not is_current(run, session.grid)]
                session.not_run |= {run.row.name: reason for run in pending if (reason := why_not(run)) is not None}
                mine = [run for run in pending if run.row.name not in session.not_run]
                if mine:
                    session.check_conditions()
            to_score: list[RunPlan] = []
            if self.scoring:
                to_score = [run for run in runs if run in mine or Run(run.path).finished]
                to_score = [run for run in to_score if run in mine or not session.has_scores(run)]
                if to_score and session.reference is not None:
                    session.make_reference()
            if mine or to_score:
                found.append((place, session, mine, to_score))
        return found

    def _begin(self, spread: Sequence[tuple[int, Session, list[RunPlan], list[RunPlan]]]) -> None:
        rates, tasks = read_rates(), list[Task]()
        self.to_score = {place: to_score for place, _, _, to_score in spread}
        for place, session, mine, _ in spread:
            self.waiting[place] = set()
            for run in mine:
                batch_size = session.plan.settings.batch_size if session.batch_size is None else session.batch_size
                try:
                    job = MakingRow(run, batch_size, session.grid, self.engine)
                except ConcordError as error:  # another process has it
                    self._fail(f"{run.requests.name}/{run.row.name}", session, run, str(error))
                    continue
                if is_current(run, session.grid):  # another process has just finished it
                    job.close()
                    continue
                self.waiting[place].add(job.name)
                found = job.tasks(rates, self.engine.crew.wanted)
                self.rows[job.name] = _Row(session, job, len(found))
                self.board.expect(job.name, job.images)
                tasks += found
                if not found:  # nothing but the manifest was missing
                    self._end_row(job.name)
        self.engine.submit(tasks)
        for place in list(self.waiting):
            self._begin_scoring(place)

    def _begin_scoring(self, place: int) -> None:
        """Score a session's rows once all of them are made: metrics of pairs look at another row."""
        if self.waiting.get(place) or place not in self.to_score:
            return
        session, tasks = self.work[place][0], list[Task]()
        for name in ("metrics", "metrics_not_run", "feature_kinds"):
            session.__dict__.pop(name, None)
        real = session.reference_features()
        for run in self.to_score.pop(place):
            if not Run(run.path).finished or run.row.name in session.failed or session.has_scores(run):
                continue
            try:
                job = ScoringRow(run, session.metrics, session.reference, real, session.originals, self.engine)
            except ConcordError as error:
                self._fail(f"{run.requests.name}/{run.row.name}", session, run, str(error))
                continue
            found = job.tasks()
            self.rows[f"score {job.name}"] = _Row(session, job, len(found))
            self.board.expect(f"score {job.name}", job.images)
            tasks += found
        self.engine.submit(tasks)

    # --------------------------------------------------------------------------------------------------------- events

    def _on(self, event: Event) -> None:
        row = self.rows.get(event.task.row)
        if row is None:
            return  # of a row that failed
        name = event.task.row
        if isinstance(event, Advanced):
            row.ahead[event.task.name] += event.images
            self.board.add(name, event.images)
        elif isinstance(event, Given):
            try:
                row.given += row.job.take(event.parcel, event.worker)
            except ConcordError as error:  # as good as not given; what its task says at its end decides
                row.wrong[event.task.name] = str(error)
                return
            row.ahead[event.task.name] = 0
            self.board.back(name, min(row.given + sum(row.ahead.values()), self.board.parts[name][1]))
        elif isinstance(event, Ended):
            self._ended(row, event.task)
        else:
            row.ahead[event.task.name] = 0
            self.board.back(name, row.given)
            self._again(row, event)

    def _ended(self, row: _Row, task: Task) -> None:
        if task.work() is not None:  # a shard of it was damaged on its way
            line = row.wrong.pop(task.name, "a worker gave less than it was asked")
            self._again(row, Failed(task, line, "here"))
            return
        row.left -= 1
        if not row.left:
            self._end_row(task.row)

    def _again(self, row: _Row, failed: Failed) -> None:
        """A task ended without all of its shards: once more elsewhere, or its row fails."""
        task, counts = failed.task, row.losses if failed.node else row.ends
        counts[task.name] += 1
        times = counts[task.name]
        if not failed.final and times < (NODE_LOSSES if failed.node else ATTEMPTS):
            self.engine.submit([task])
            return
        often = "" if failed.final else f" ({times} times)"
        tail = " | ".join(line.strip() for line in failed.tail.splitlines()[-3:] if line.strip())
        said = f"; its last lines: {tail}" if tail else ""
        where = "" if failed.worker == "here" else f"{failed.worker}: "
        self._fail(task.row, row.session, row.job.plan, f"{where}{failed.line}{often}{said}")

    def _fail(self, name: str, session: Session, run: RunPlan, line: str) -> None:
        """A row that is given up; what it has stays, and the other rows go on."""
        row = self.rows.pop(name, None)
        self.engine.cancel(name)
        if row is not None:
            row.job.close()
            done = sum(info is not None for info in row.job.generation.infos) if isinstance(row.job, MakingRow) else 0
            if done:
                line += f"; {done} of {len(run.requests.shards)} shards are finished and stay"
        self.outcome.failed[name] = line
        session.failed[run.row.name] = UserCodeError(line)
        self._made(name)

    def _end_row(self, name: str) -> None:
        row = self.rows[name]
        try:
            seconds = row.job.finish()
        except ConcordError as error:
            self._fail(name, row.session, row.job.plan, str(error))
            return
        del self.rows[name]
        row.job.close()
        for kind, value in seconds.items():
            row.session.seconds[kind] += value
        (self.outcome.made if isinstance(row.job, MakingRow) else self.outcome.scored).append(row.job.plan)
        self._made(name)

    def _made(self, name: str) -> None:
        for place, names in self.waiting.items():
            if name in names:
                names.discard(name)
                self._begin_scoring(place)
                return
