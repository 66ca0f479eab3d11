"""As fast as the machine allows: over loopback without limits, with what it costs of CPU and memory on both sides."""

from __future__ import annotations

import shutil
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import report
from getters import Getters
from isolate import Place
from processes import Crew, Failed, Host, Process, Usage
from report import Spread
from tools import Data, Round, Tool
from turns import data_folder, random_file, random_tree, take_turns, warm

ROUNDS = 5
TICK_S = 0.05
"""How often the peaks of short-lived children are read."""
KILL_TICK_S = 0.002
"""How often it is looked whether half has arrived: a transfer takes about a second."""
STALLED_S = 20.0
"""When nothing moved for so long, nothing will: copies alone, which use no network, take less."""
MOVING_BYTES = 256 * 1024
"""What loopback carries in STALLED_S if anything moves: more than clients that talk of nothing."""
LIMIT_S = 180.0
"""When a round is given up: more than twice what the slowest program took for the largest case."""
LOOPBACK = Host("127.0.0.1")


@dataclass(frozen=True)
class Case:
    """Who gets what from how many."""

    name: str
    about: str
    file_bytes: int
    files: int = 1
    holders: int = 1
    getters: int = 1
    kill: bool = False
    """One holder is killed when half has arrived, and the time compared with that of a run without."""

    @property
    def size(self) -> int:
        """Bytes to be had."""
        return self.file_bytes * self.files

    @property
    def title(self) -> str:
        """What is done, for people."""
        return f"{self.about}, {self.size >> 20} MiB" if self.file_bytes >= 1 << 20 else self.about


CASES = (
    Case("one-to-one", "one holder, one getter", 1 << 30),
    Case("four-to-one", "four holders, one getter", 1 << 30, holders=4),
    Case("one-to-eight", "one holder, eight getters at once", 1 << 30, getters=8),
    Case("small-files", "10,000 files of 4 KiB", 4096, files=10_000),
    Case("one-small", "one file of 4 KiB, from the start of the program to its end", 4096),
    Case("holder-killed", "four holders, one killed when half has arrived", 1 << 30, holders=4, kill=True),
)


@dataclass
class Transfer:
    """What one round showed."""

    wall_s: float = 0.0
    getter_cpu_s: float = 0.0
    getter_peak_kib: int = 0
    holder_cpu_s: float = 0.0
    holder_peak_kib: int = 0
    from_first_files: float | None = None
    """How much the getters say they took from the first holder, in sizes of the data."""
    slowed: float | None = None
    """By how much the death of a holder slowed it."""
    why: str | None = None
    """What went wrong."""


def bench(case: Case, tools: Sequence[Tool], options: Namespace, place: Place) -> bool:
    """All rounds of a case, and what is printed of them; whether enxame did not fail."""
    if options.mib and case.file_bytes >= 1 << 20:
        case = replace(case, file_bytes=options.mib << 20)
    folder = data_folder(place.dir, case.size * (case.getters + 1))
    if case.files > 1:
        data = random_tree(folder / "tree", case.files, case.file_bytes)
    else:
        data = random_file(folder / "file.bin", case.size)
    fit = [each for each in tools if each.many_sources or case.holders == 1]
    rounds = options.rounds or ROUNDS
    turns = take_turns(case.name, rounds, fit, place.dir, lambda tool, folder: _once(tool, case, data, folder))
    rows = [_row(case, tool, transfers) for tool, transfers in turns.outcomes.items()]
    own = next((row["wall_s"].median for row in rows if row["tool"] == "enxame" and row["wall_s"]), None)
    for row in rows:
        row["to_enxame"] = row["wall_s"].median / own if own and row["wall_s"] else None
    rows += [{"case": case.name, "tool": tool.name, "missing": why} for tool, why in turns.missing.items()]
    if options.json:
        for row in rows:
            report.print_json({**row, "busy_before": round(turns.busy, 2)})
    else:
        _print_table(case, rows, {tool.name: tool.remark for tool in tools})
    return not any(row.get("failures") for row in rows if row["tool"] == "enxame")


def _once(tool: Tool, case: Case, data: Data, folder: Path) -> Transfer:
    if not case.kill:
        return run(tool, case, data, folder)
    calm = run(tool, replace(case, kill=False), data, folder / "calm")
    shutil.rmtree(folder / "calm")
    transfer = run(tool, case, data, folder / "killed")
    transfer.why = transfer.why or calm.why
    if not transfer.why:
        transfer.slowed = transfer.wall_s / calm.wall_s - 1
    return transfer


def run(tool: Tool, case: Case, data: Data, place: Path) -> Transfer:
    """One round of a case. Failures are part of the outcome."""
    outcome = Transfer()
    with Crew(place / "logs") as crew:
        round = Round(crew, place, data, LOOPBACK, case.holders)
        try:
            tool.open(round)
            held = [tool.hold(round, LOOPBACK, number) for number in range(case.holders)]
            _transfer(tool, case, round, [each for each in held if each is not None], outcome)
        except Failed as failed:
            outcome.why = str(failed)
    return outcome


def _transfer(tool: Tool, case: Case, round: Round, holders: list[Process], outcome: Transfer) -> None:
    course = _Course(case, round, holders, Getters(tool, round, stay=case.getters > 1))
    warm(case.size * case.getters)
    course.running.start([LOOPBACK] * case.getters)
    for event in round.crew.events(KILL_TICK_S if case.kill else TICK_S):
        if event is None:
            if not course.tick(time.monotonic() - course.running.started):
                break
            continue
        course.running.note(event)
        if event.process in holders and event.line is None and not event.process.told_to_end:
            raise Failed(f"a holder ended: {event.process.complaint()}")
        if course.running.all_ended:
            break
    course.conclude(outcome)


@dataclass
class _Course:
    """What happens in a round, from tick to tick, besides what the getters say."""

    case: Case
    round: Round
    holders: list[Process]
    """Those that live."""
    running: Getters
    _moved_s: float = 0.0

    def __post_init__(self) -> None:
        self._used_before = {each: each.usage_so_far().cpu_s for each in self.holders}
        self._carried_before = self._moved_to = _over_loopback()
        self._to_kill = self.case.kill

    def tick(self, at_s: float) -> bool:
        """Does what is due; whether the round goes on."""
        carried = _over_loopback()
        if self._to_kill and carried - self._carried_before >= self.case.size / 2:
            self.round.crew.kill(self.holders.pop())
            self._to_kill = False
        if not self.case.kill:
            for holder in self.holders:
                holder.sample_descendants()
        if carried - self._moved_to >= MOVING_BYTES:
            self._moved_s, self._moved_to = at_s, carried
        if at_s - self._moved_s > STALLED_S:
            self.running.why = self.running.why or f"nothing moved for {STALLED_S:.0f} s"
        elif at_s > LIMIT_S:
            self.running.why = self.running.why or f"not done after {LIMIT_S:.0f} s"
        else:
            return True
        return False

    def conclude(self, outcome: Transfer) -> None:
        """What the round showed, when it is over."""
        if self._to_kill and not self.running.why:
            raise Failed("it was done before a holder could be killed")
        held = {each: each.usage_so_far() for each in self.holders}
        used = self.running.usage() if self.running.all_ended else Usage(0.0, 0)
        finished = self.running.finish()
        outcome.why = self.running.why
        outcome.wall_s = max(finished.values(), default=0.0)
        outcome.getter_cpu_s, outcome.getter_peak_kib = used.cpu_s, used.peak_kib
        outcome.holder_cpu_s = sum(usage.cpu_s - self._used_before[each] for each, usage in held.items())
        outcome.holder_peak_kib = max((usage.peak_kib for usage in held.values()), default=0)
        if self.running.own:
            outcome.from_first_files = sum(each.from_first for each in self.running.own) / self.round.data.size


def _over_loopback() -> int:
    """Bytes that loopback carried so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[0])
    raise Failed("there is no loopback")


def _row(case: Case, tool: Tool, transfers: list[Transfer]) -> dict[str, Any]:
    well = [each for each in transfers if each.why is None]
    spreads = {
        "wall_s": [each.wall_s for each in well],
        "getter_cpu_s": [each.getter_cpu_s for each in well],
        "holder_cpu_s": [each.holder_cpu_s for each in well],
        "getter_peak_mib": [each.getter_peak_kib / 1024 for each in well],
        "holder_peak_mib": [each.holder_peak_kib / 1024 for each in well],
        "from_first_files": [each.from_first_files for each in well if each.from_first_files is not None],
        "slowed": [each.slowed for each in well if each.slowed is not None],
    }
    return {
        "case": case.name,
        "tool": tool.name,
        "size": case.size,
        "files": case.files,
        "holders": case.holders,
        "getters": case.getters,
        **{name: Spread.of(figures) for name, figures in spreads.items()},
        "failures": [each.why for each in transfers if each.why],
        "rounds": [asdict(each) for each in transfers],
    }


def _print_table(case: Case, rows: list[dict[str, Any]], remarks: dict[str, str]) -> None:
    heads = {
        "wall s": ("wall_s", 4 if case.size <= 4096 else 2),
        "CPU s getter": ("getter_cpu_s", 3 if case.size <= 4096 else 2),
        "CPU s holder": ("holder_cpu_s", 2),
        "MiB getter": ("getter_peak_mib", 0),
        "MiB holder": ("holder_peak_mib", 0),
    }
    if case.kill:
        heads["slowed by"] = ("slowed", 3)
    if case.getters > 1:
        heads["files from holder"] = ("from_first_files", 2)
    print(f"{case.name}: {case.title}")
    lines = []
    for row in rows:
        if "missing" in row:
            lines.append([row["tool"], *["-"] * (len(heads) + 1), f"not measured: {row['missing']}"])
            continue
        ratio = "-" if row["to_enxame"] is None else f"{row['to_enxame']:.2f}"
        failures = "; ".join(dict.fromkeys(row["failures"]))
        failed = f"failed in {len(row['failures'])} of {len(row['rounds'])}: {failures}" if failures else ""
        cells = [report.text(row[key], digits) for key, digits in heads.values()]
        lines.append([row["tool"], ratio, *cells, failed or remarks[row["tool"]]])
    report.print_table(["", "x enxame", *heads, ""], lines)
