"""What all cases share: the data, and tools that take turns, so that a slow moment of the machine falls on all."""

from __future__ import annotations

import mmap
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from processes import Failed, say
from tools import Data, Tool

Outcome = TypeVar("Outcome")

CHUNK_BYTES = 1 << 20
BUSY_SHARE = 0.1
"""What else may run on the machine before the figures are called doubtful."""
BUSY_SAMPLE_S = 0.25
PROGRAMS_BYTES = 512 << 20
"""Memory that is left to the programs: some of a swarm take 30 MiB each."""


@dataclass(frozen=True)
class Turns(Generic[Outcome]):
    """The outcomes of all rounds, or why a tool has none."""

    outcomes: dict[Tool, list[Outcome]]
    missing: dict[Tool, str]
    busy: float
    """The largest share of the machine that others took before a round."""


def take_turns(
    case: str, rounds: int, tools: Sequence[Tool], place: Path, once: Callable[[Tool, Path], Outcome]
) -> Turns[Outcome]:
    """Each tool that is installed once per round, in a folder that is there for it alone."""
    missing = {each: why for each in tools if (why := each.missing()) is not None}
    outcomes: dict[Tool, list[Outcome]] = {each: [] for each in tools if each not in missing}
    busy = 0.0
    for number in range(rounds):
        for tool in outcomes:
            busy = max(busy, _busy_share())
            say(f"{case}, round {number + 1} of {rounds}: {tool.name}")
            folder = place / "round"
            folder.mkdir()
            try:
                outcomes[tool].append(once(tool, folder))
            finally:
                shutil.rmtree(folder)
    if busy > BUSY_SHARE:
        say(f"the machine was busy with other work before a round ({busy:.0%}): doubt these figures")
    return Turns(outcomes, missing, busy)


def random_file(path: Path, size: int) -> Data:
    """A file that nothing can compress, and that is new in each bench."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.writelines(os.urandom(min(CHUNK_BYTES, size - start)) for start in range(0, size, CHUNK_BYTES))
    return Data(path, size)


def random_tree(path: Path, files: int, size: int) -> Data:
    """A folder of folders of a hundred files each."""
    for number in range(files):
        random_file(path / f"{number // 100:03}" / f"{number:05}.bin", size)
    return Data(path, files * size)


def data_folder(place: Path, size: int) -> Path:
    """An empty folder for the data, where there is room for so many bytes of files; everything is kept in memory."""
    folder = place / "data"
    shutil.rmtree(folder, ignore_errors=True)
    available = int(re.findall(r"^MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)[0]) * 1024
    free = min(available - PROGRAMS_BYTES, shutil.disk_usage(place).free)
    if size > free:
        raise Failed(f"it needs {size >> 20} MiB for files, and {free >> 20} MiB are free: try a smaller --mib")
    folder.mkdir()
    return folder


def warm(size: int) -> None:
    """Uses so many bytes of memory for a moment. A host may have taken back what lay free in a virtual machine, and
    gives it again page by page, which costs more than any transfer: here, a `cp` of 1 GiB took 0.4 s or 2.8 s."""
    with mmap.mmap(-1, size) as memory:
        for start in range(0, size, mmap.PAGESIZE):
            memory[start] = 1


def _busy_share() -> float:
    """How much of the machine is in use while the bench does nothing."""
    before = _cpu_times()
    time.sleep(BUSY_SAMPLE_S)
    used = [now - then for now, then in zip(_cpu_times(), before)]
    # The 4th and 5th are idle and waiting for disks.
    return 1 - (used[3] + used[4]) / max(1, sum(used))


def _cpu_times() -> list[int]:
    return [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
