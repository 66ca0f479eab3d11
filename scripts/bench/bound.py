"""What this machine can do at best, from one process to another: loopback, hash and write, each alone and together."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import report
import speed
from isolate import Place
from processes import Crew, Failed, Process
from report import Spread
from speed import LOOPBACK
from tools import HERE, Copy, Data, Enxame, Tool
from turns import data_folder, random_file, take_turns, warm

NAME = "machine-bound"
MIB = 1024


@dataclass(frozen=True)
class Cost:
    """What one part took."""

    wall_s: float
    cpu_s: float
    """Of both sides."""


class Part(Tool):
    """A part of a transfer; it takes its turn as a tool does."""

    def __init__(self, name: str, remark: str) -> None:
        self.name, self.remark = name, remark


COPY = Part("copy", "cp from memory to memory")
HASH = Part("hash", "BLAKE3 of the file by `enxame hash`, on all cores")
LOOP = Part("loopback", "sendfile to a process that receives and forgets")
STORE = Part("loopback, write", "sendfile to a process that receives and writes")
ENXAME = Part("enxame one-to-one", "loopback, hash and write")


def bench(binary: str, options: Namespace, place: Place) -> None:
    """All parts in turns, and what follows from them."""
    size = (options.mib or MIB) << 20
    data = random_file(data_folder(place.dir, 2 * size) / "file.bin", size)
    parts = [COPY, HASH, LOOP, STORE, ENXAME]
    rounds = options.rounds or speed.ROUNDS
    turns = take_turns(NAME, rounds, parts, place.dir, lambda part, folder: _once(part, binary, data, folder))
    rows = [_row(part, turns.outcomes[part], size) for part in parts]
    bound_s = _bound(rows)
    for row in rows:
        row["to_bound"] = row["wall_s"].median / bound_s
    if options.json:
        for row in rows:
            report.print_json({**row, "bound_s": bound_s, "busy_before": round(turns.busy, 2)})
    else:
        _print_table(rows, bound_s, size)


def _once(part: Tool, binary: str, data: Data, folder: Path) -> Cost:
    if part in (COPY, ENXAME):
        tool = Copy() if part is COPY else Enxame(binary)
        transfer = speed.run(tool, speed.CASES[0], data, folder)
        if transfer.why:
            raise Failed(transfer.why)
        return Cost(transfer.wall_s, transfer.getter_cpu_s + transfer.holder_cpu_s)
    with Crew(folder / "logs") as crew:
        if part is HASH:
            return _hash(crew, binary, data)
        return _pipe(crew, data, "drain" if part is LOOP else "store", folder / "copy")


def _hash(crew: Crew, binary: str, data: Data) -> Cost:
    hashing = crew.start("hash", [binary, "hash", str(data.path)], LOOPBACK)
    started = hashing.started
    for event in crew.events(speed.LIMIT_S):
        if event is None or (event.line is None and hashing.code != 0):
            raise Failed(f"enxame hash: {hashing.complaint()}")
        if event.line is None:
            return Cost(event.at - started, hashing.cpu_s)
    raise AssertionError("events go on for ever")


def _pipe(crew: Crew, data: Data, how: str, copy: Path) -> Cost:
    program = [sys.executable, str(HERE / "pipe.py")]
    sender = crew.start("sender", [*program, "send", str(data.path)], LOOPBACK)
    port = crew.await_line(sender, r"^listening (\d+)")[1]
    warm(data.size)
    receiver = crew.start("receiver", [*program, how, port, str(copy)], LOOPBACK)
    received, sent = _said(crew, receiver), _said(crew, sender)
    if how == "store" and not data.is_same(copy):
        raise Failed("the pipe's copy is not the same as the original")
    return Cost(received["wall_s"], received["cpu_s"] + sent["cpu_s"])


def _said(crew: Crew, process: Process) -> dict[str, float]:
    said: dict[str, float] = json.loads(crew.await_line(process, r"^\{.*")[0])
    return said


def _row(part: Tool, costs: Sequence[Cost], size: int) -> dict[str, Any]:
    return {
        "case": NAME,
        "tool": part.name,
        "remark": part.remark,
        "size": size,
        "wall_s": Spread.of([each.wall_s for each in costs]),
        "cpu_s": Spread.of([each.cpu_s for each in costs]),
    }


def _bound(rows: list[dict[str, Any]]) -> float:
    """All the work on all cores without a pause, and never less than the loopback alone takes."""
    by_name = {row["tool"]: row for row in rows}
    work: float = by_name[STORE.name]["cpu_s"].median + by_name[HASH.name]["cpu_s"].median
    alone: float = by_name[LOOP.name]["wall_s"].median
    return max(work / len(os.sched_getaffinity(0)), alone)


def _print_table(rows: list[dict[str, Any]], bound_s: float, size: int) -> None:
    cores = len(os.sched_getaffinity(0))
    print(f"{NAME}: {size >> 20} MiB on {cores} cores: bound {bound_s:.2f} s, {size / bound_s / 1e6:.0f} MB/s")
    print("  the CPU of `loopback, write` and of `hash` on all cores, and no less than `loopback` takes")
    lines = [
        [row["tool"], f"{row['to_bound']:.2f}", row["wall_s"].text(2), row["cpu_s"].text(2), row["remark"]]
        for row in rows
    ]
    report.print_table(["", "x bound", "wall s", "CPU s", ""], lines)
