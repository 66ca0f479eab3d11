"""One to many on equal limited links: every machine a network namespace, and what went over its link."""

from __future__ import annotations

import shutil
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import links
import report
from getters import Getters
from isolate import Place
from links import Carried, Links
from processes import Crew, Failed, Process, say
from report import Spread
from tools import Data, Round, Tool
from turns import data_folder, random_file, take_turns

TICK_S = 0.02
"""How often the counters of the links are read."""
FIRST_BYTES = 16 * 1024
"""What a machine has received when data have begun to arrive: more than the talk before."""
STALLED_S = 15.0
"""When nothing moved for so long, nothing will: well over the time that any client here lets a dead source be."""
MOVING_BYTES = 256 * 1024
"""What all getters together receive in STALLED_S if anything moves: more than clients that talk of nothing."""
ROUNDS = 3
LIMIT_OF_BOUND = 25
"""How often the shortest possible time a round may take: sixteen copies from one server take 17."""


@dataclass(frozen=True)
class Case:
    """What happens in a swarm."""

    name: str
    getters: int
    mib: int
    mbit: int
    kill_after_files: float | None = None
    """The origin is killed when it has sent so many times the size of the file, or, where that can be seen, as soon as
    all of it has arrived once at somebody: an origin that sends everything once never sends more."""
    late: int = 0
    """So many more join when the getters have half of what they need."""

    @property
    def bound_s(self) -> float:
        """What it takes at least: the file through one link."""
        return (self.mib << 20) * 8 / (self.mbit * 1e6)


CASES = (
    Case("swarm-8", 8, 256, 200),
    Case("swarm-16", 16, 64, 100),
    Case("swarm-origin-killed", 8, 256, 200, kill_after_files=1.16),
    Case("swarm-late", 8, 256, 200, late=4),
)


@dataclass
class Swarm:
    """What one round showed."""

    finished: int = 0
    getters: int = 0
    last_s: float = 0.0
    """The last of all getters, from the start of the first."""
    last_of_first_s: float = 0.0
    """The last of those that started at the beginning."""
    first_byte_s: float = 0.0
    """When data had begun to arrive at all of those."""
    own_last_s: float | None = None
    """The longest time that a getter itself gives."""
    origin_files: float = 0.0
    """Bytes that the origin sent, in sizes of the file."""
    moved: float = 0.0
    """Bytes that all getters received, against what they need."""
    own_wasted: float | None = None
    """What the getters say that they received and did not use, against what they need."""
    killed_s: float | None = None
    """When the origin was killed..."""
    killed_after_files: float | None = None
    """... and what it had sent by then."""
    why: str | None = None
    """What went wrong."""
    slowed: float | None = None
    """By how much those that join late slow the first down, against a run without."""


def bench(case: Case, tools: Sequence[Tool], options: Namespace, place: Place) -> bool:
    """All rounds of a case, and what is printed of them; whether enxame did not fail."""
    case = replace(case, mib=options.mib or case.mib)
    if why := place.why_not_isolated or links.missing():
        say(f"{case.name}: skipped, for it needs network namespaces: {why}")
        if options.json:
            report.print_json({"case": case.name, "skipped": why})
        return True
    size = case.mib << 20
    folder = data_folder(place.dir, size * (case.getters + case.late + 1))
    data = random_file(folder / "file.bin", size)
    rounds = options.rounds or ROUNDS
    turns = take_turns(case.name, rounds, tools, place.dir, lambda tool, folder: _once(tool, case, data, folder))
    rows = [_row(case, tool, swarms) for tool, swarms in turns.outcomes.items()]
    rows += [{"case": case.name, "tool": tool.name, "missing": why} for tool, why in turns.missing.items()]
    if options.json:
        for row in rows:
            report.print_json({**row, "busy_before": round(turns.busy, 2)})
    else:
        _print_table(case, rows)
    return not any(row.get("failures") for row in rows if row["tool"] == "enxame")


def _once(tool: Tool, case: Case, data: Data, folder: Path) -> Swarm:
    if not case.late:
        return run(tool, case, data, folder)
    alone = run(tool, replace(case, late=0), data, folder / "alone")
    shutil.rmtree(folder / "alone")
    swarm = run(tool, case, data, folder / "late")
    swarm.why = swarm.why or alone.why
    if not swarm.why:
        swarm.slowed = swarm.last_of_first_s / alone.last_s - 1
    return swarm


def _row(case: Case, tool: Tool, swarms: list[Swarm]) -> dict[str, Any]:
    whole = [swarm for swarm in swarms if swarm.finished == swarm.getters]
    spreads = {
        "last_s": [swarm.last_s for swarm in whole],
        "of_bound": [swarm.last_s / case.bound_s for swarm in whole],
        "own_last_s": [swarm.own_last_s for swarm in whole if swarm.own_last_s is not None],
        "origin_files": [swarm.origin_files for swarm in whole],
        "moved": [swarm.moved for swarm in whole],
        "own_wasted": [swarm.own_wasted for swarm in whole if swarm.own_wasted is not None],
        "first_byte_s": [swarm.first_byte_s for swarm in whole],
        "slowed": [swarm.slowed for swarm in whole if swarm.slowed is not None],
        "killed_s": [swarm.killed_s for swarm in swarms if swarm.killed_s is not None],
        "killed_after_files": [
            swarm.killed_after_files for swarm in swarms if swarm.killed_after_files is not None
        ],
    }
    return {
        "case": case.name,
        "tool": tool.name,
        "size": case.mib << 20,
        "mbit": case.mbit,
        "bound_s": case.bound_s,
        "getters": case.getters + case.late,
        "finished": [swarm.finished for swarm in swarms],
        **{name: Spread.of(figures) for name, figures in spreads.items()},
        "failures": [swarm.why for swarm in swarms if swarm.why],
        "rounds": [asdict(swarm) for swarm in swarms],
    }


def run(tool: Tool, case: Case, data: Data, place: Path) -> Swarm:
    """One round of a case. Failures are part of the outcome."""
    machines = 2 + case.getters + case.late
    with Links(machines, case.mbit) as made, Crew(place / "logs") as crew:
        round = Round(crew, place, data, made.hosts[0])
        outcome = Swarm(getters=case.getters + case.late)
        try:
            tool.open(round)
            origin = tool.hold(round, made.hosts[1], 0)
            assert origin is not None
            _distribute(tool, case, round, made, origin, outcome)
        except Failed as failed:
            outcome.why = str(failed)
        return outcome


def _distribute(tool: Tool, case: Case, round: Round, made: Links, origin: Process, outcome: Swarm) -> None:
    course = _Course(case, made, round, origin, Getters(tool, round, stay=True), outcome)
    course.running.start(course.hosts[: case.getters])
    for event in round.crew.events(TICK_S):
        if event is None:
            if not course.tick(time.monotonic() - course.running.started):
                break
            continue
        course.running.note(event)
        if event.process is origin and event.line is None and not origin.told_to_end:
            raise Failed(f"the origin ended: {origin.complaint()}")
        if course.running.all_ended and not course.to_join:
            break
    _conclude(course)


@dataclass
class _Course:
    """What happens in a round, from tick to tick, besides what the getters say."""

    case: Case
    links: Links
    round: Round
    origin: Process
    running: Getters
    outcome: Swarm
    _moved_s: float = 0.0
    _moved_bytes: int = 0

    def __post_init__(self) -> None:
        self.hosts = self.links.hosts[2:]
        self.to_join = self.case.late
        self._before = self.links.carried()

    def carried(self) -> list[Carried]:
        """What the links carried since the beginning."""
        now = self.links.carried()
        return [Carried(n.sent - b.sent, n.received - b.received) for b, n in zip(self._before, now)]

    def tick(self, at_s: float) -> bool:
        """Looks at the links, and does what is due; whether the round goes on."""
        _, origin, *getters = self.carried()
        received = [each.received for each in getters]
        if not self.outcome.first_byte_s and min(received[: self.case.getters]) >= FIRST_BYTES:
            self.outcome.first_byte_s = at_s
        self._kill_origin(at_s, origin.sent)
        self._join(sum(received))
        if sum(received) - self._moved_bytes >= MOVING_BYTES:
            self._moved_s, self._moved_bytes = at_s, sum(received)
        if at_s - self._moved_s > STALLED_S:
            return self._give_up(f"nothing moved for {STALLED_S:.0f} s")
        if at_s > LIMIT_OF_BOUND * self.case.bound_s:
            return self._give_up(f"not done after {LIMIT_OF_BOUND} times the bound")
        return True

    def _kill_origin(self, at_s: float, sent: int) -> None:
        limit, size = self.case.kill_after_files, self.round.data.size
        # Less than the file cannot be all of it.
        if limit is None or self.outcome.killed_s is not None or sent < size:
            return
        if sent >= limit * size or self._all_has_arrived():
            self.round.crew.kill(self.origin)
            self.outcome.killed_s = at_s
            self.outcome.killed_after_files = sent / size

    def _all_has_arrived(self) -> bool:
        """Whether the getters have all of the file together, if the tool lets that be seen."""
        each = [self.running.tool.arrived(getter) for getter in self.running.getters.values()]
        reached = 0
        for part in sorted((part for parts in each if parts for part in parts), key=lambda part: part.start):
            if part.start > reached:
                return False
            reached = max(reached, part.stop)
        return reached >= self.round.data.size

    def _join(self, received: int) -> None:
        if self.to_join and received >= self.case.getters * self.round.data.size / 2:
            self.running.start(self.hosts[self.case.getters :])
            self.to_join = 0

    def _give_up(self, why: str) -> bool:
        self.running.why = self.running.why or why
        return False


def _conclude(course: _Course) -> None:
    carried, running, outcome = course.carried(), course.running, course.outcome
    finished = running.finish()
    outcome.finished, outcome.why = len(finished), running.why
    first = [finished[each] for each in list(running.getters)[: course.case.getters] if each in finished]
    outcome.last_s = max(finished.values(), default=0.0)
    outcome.last_of_first_s = max(first, default=0.0)
    outcome.own_last_s = max((each.seconds for each in running.own), default=None)
    size = course.round.data.size
    if running.own:
        outcome.own_wasted = sum(each.wasted for each in running.own) / size / len(running.own)
    outcome.origin_files = carried[1].sent / size
    outcome.moved = sum(each.received for each in carried[2:]) / size / len(running.getters)


def _print_table(case: Case, rows: list[dict[str, Any]]) -> None:
    heads = {
        "last s": ("last_s", 2),
        "x bound": ("of_bound", 2),
        "files sent by origin": ("origin_files", 2),
        "moved": ("moved", 3),
        "first byte s": ("first_byte_s", 2),
    }
    if case.kill_after_files is not None:
        heads["killed at s"] = ("killed_s", 1)
        heads["killed after files"] = ("killed_after_files", 3)
    if case.late:
        heads["first slowed by"] = ("slowed", 3)
    late = f", {case.late} more join" if case.late else ""
    print(f"{case.name}: {case.getters} getters{late}, {case.mib} MiB, {case.mbit} Mbit/s: bound {case.bound_s:.2f} s")
    lines = []
    for row in rows:
        if "missing" in row:
            lines.append([row["tool"], *["-"] * (len(heads) + 1), f"not measured: {row['missing']}"])
            continue
        finished = f"{min(row['finished'])} of {row['getters']}"
        cells = [report.text(row[key], digits) for key, digits in heads.values()]
        words = list(dict.fromkeys(row["failures"]))
        if case.kill_after_files is not None and row["killed_s"] is None and not words:
            words = ["not killed: the origin never sent so much"]
        lines.append([row["tool"], finished, *cells, "; ".join(words)])
    report.print_table(["", "done", *heads, ""], lines)
