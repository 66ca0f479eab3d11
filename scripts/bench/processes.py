"""The programs of one round: started, watched, measured, and ended on every path."""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from isolate import inside

READY_S = 30.0
"""How long a program may take until it can be used; seeds of BitTorrent clients announce themselves late."""
ORDERLY_END_S = 10.0
"""How long a program may take to end after SIGTERM before it is killed."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def say(message: str) -> None:
    """Tells a person what happens; results go to standard output."""
    print(message, file=sys.stderr, flush=True)


class Failed(Exception):
    """A program did not do what it was started for."""


@dataclass(frozen=True)
class Host:
    """A machine of the bench: a network namespace, or this machine's loopback."""

    ip: str
    network: int | None = None
    """Descriptor of its network namespace."""


@dataclass(frozen=True)
class Event:
    """A line that a program printed, or (without a line) its end."""

    process: Process
    line: str | None
    at: float


@dataclass(frozen=True)
class Usage:
    """What a program took."""

    cpu_s: float
    peak_kib: int


@dataclass(eq=False)
class Process:
    """A started program."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    peak_file: Path | None
    pidfd: int
    started: float
    code: int | None = None
    cpu_s: float = 0.0
    told_to_end: bool = False
    _rest: bytes = b""
    _descendants_peak_kib: int = 0

    def complaint(self) -> str:
        """The last thing that it wrote to its log, for a message."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else f"it ended with {self.code}"

    def usage_so_far(self) -> Usage:
        """Of a program that runs still, with its children."""
        family = [self.popen.pid, *_descendants(self.popen.pid)]
        peaks = [_peak_kib(pid) for pid in family]
        return Usage(sum(_cpu_s(pid) for pid in family), max(*peaks, self._descendants_peak_kib))

    def sample_descendants(self) -> None:
        """Notes the peaks of its children, which cannot be asked when they are gone."""
        peaks = [_peak_kib(pid) for pid in _descendants(self.popen.pid)]
        self._descendants_peak_kib = max([*peaks, self._descendants_peak_kib])

    def usage(self) -> Usage:
        """Of a program that has ended by itself and was started as `measured`."""
        assert self.peak_file is not None and self.code is not None
        return Usage(self.cpu_s, int(self.peak_file.read_text().split()[-1]))


@dataclass
class Crew:
    """All programs of a round. As a context manager it ends those that still run."""

    logs: Path
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _running: list[Process] = field(default_factory=list)
    _pending: deque[Event] = field(default_factory=deque)

    def __enter__(self) -> Crew:
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.end(self._running)
        self._selector.close()

    def start(
        self,
        name: str,
        argv: Sequence[str],
        host: Host,
        *,
        measured: bool = False,
    ) -> Process:
        """Starts a program on a host. Of one that is `measured`, the peak of memory is known after its end."""
        log = self.logs / f"{name}.log"
        peak_file = self.logs / f"{name}.peak" if measured else None
        if peak_file:
            # What wait4 says of a child begins with the memory of whoever forked it: this interpreter.
            # GNU time is small, so that what it says is the program's own.
            argv = [gnu_time(), "--quiet", "--format", "%M", "--output", str(peak_file), *argv]
        started = time.monotonic()
        with _network_of(host), open(log, "wb") as errors:
            popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=clean_environment(),
                # Signals from a terminal are for the bench, which ends its programs in order.
                start_new_session=True,
            )
        assert popen.stdout is not None
        os.set_blocking(popen.stdout.fileno(), False)
        process = Process(name, popen, log, peak_file, os.pidfd_open(popen.pid), started)
        self._running.append(process)
        self._selector.register(popen.stdout, selectors.EVENT_READ, process)
        self._selector.register(process.pidfd, selectors.EVENT_READ, process)
        return process

    def events(self, tick_s: float) -> Iterator[Event | None]:
        """What happens, in order, for ever; None when nothing happened for `tick_s`, and at least that often."""
        next_tick = time.monotonic() + tick_s
        while True:
            while self._pending:
                yield self._pending.popleft()
            self._collect(max(0.0, next_tick - time.monotonic()))
            if time.monotonic() >= next_tick:
                yield None
                next_tick = time.monotonic() + tick_s

    def await_line(self, process: Process, pattern: str) -> re.Match[str]:
        """Waits until a program prints a line that matches. What others say meanwhile is kept for later."""
        deadline = time.monotonic() + READY_S
        others = []
        try:
            for event in self.events(0.5):
                if event is None:
                    if time.monotonic() > deadline:
                        raise Failed(f"{process.name} printed nothing that matches {pattern} in {READY_S:.0f} s")
                elif event.process is not process:
                    others.append(event)
                elif event.line is None:
                    raise Failed(f"{process.name} ended: {process.complaint()}")
                elif match := re.search(pattern, event.line):
                    return match
        finally:
            self._pending.extendleft(reversed(others))
        raise AssertionError("events go on for ever")

    def await_connection(self, process: Process, host: Host, port: int) -> None:
        """Waits until a program that says nothing accepts connections."""
        deadline = time.monotonic() + READY_S
        for event in self.events(0.02):
            if event is not None and event.process is process and event.line is None:
                raise Failed(f"{process.name} ended: {process.complaint()}")
            with _network_of(host), socket.socket() as probe:
                if probe.connect_ex((host.ip, port)) == 0:
                    return
            if time.monotonic() > deadline:
                raise Failed(f"{process.name} accepted no connection in {READY_S:.0f} s")

    def kill(self, process: Process) -> None:
        """SIGKILL, as when a machine loses its power."""
        process.told_to_end = True
        _signal(process, signal.SIGKILL)

    def end(self, processes: Sequence[Process]) -> None:
        """Ends programs in order, or, if they do not end, by force."""
        waiting = [each for each in processes if each.code is None]
        for process in waiting:
            process.told_to_end = True
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + ORDERLY_END_S
        events = self.events(0.1)
        while any(each.code is None for each in waiting):
            if next(events) is None and time.monotonic() > deadline:
                for process in (each for each in waiting if each.code is None):
                    say(f"{process.name} did not end within {ORDERLY_END_S:.0f} s, and is killed")
                    _signal(process, signal.SIGKILL)
                deadline = float("inf")

    def _collect(self, timeout_s: float) -> None:
        ready = self._selector.select(timeout_s)
        at = time.monotonic()
        for key, _ in ready:
            process: Process = key.data
            if process.code is None:
                self._read(process, at)
                if key.fd == process.pidfd:
                    self._reap(process)
                    self._pending.append(Event(process, None, at))

    def _read(self, process: Process, at: float) -> None:
        stdout = process.popen.stdout
        assert stdout is not None
        while not stdout.closed:
            try:
                data = os.read(stdout.fileno(), 1 << 16)
            except BlockingIOError:
                return
            if data:
                *lines, process._rest = (process._rest + data).split(b"\n")
                self._pending += [Event(process, line.decode(errors="replace"), at) for line in lines]
            else:
                self._close(process)

    def _close(self, process: Process) -> None:
        stdout = process.popen.stdout
        if stdout is not None and not stdout.closed:
            self._selector.unregister(stdout)
            stdout.close()

    def _reap(self, process: Process) -> None:
        _, status, used = os.wait4(process.popen.pid, 0)
        process.code = os.waitstatus_to_exitcode(status)
        process.popen.returncode = process.code
        process.cpu_s = used.ru_utime + used.ru_stime
        self._selector.unregister(process.pidfd)
        os.close(process.pidfd)
        self._running.remove(process)
        # A child of it may hold its output open.
        self._close(process)
        # What it left running in its session is of no use to anybody.
        _signal(process, signal.SIGKILL)


def clean_environment() -> dict[str, str]:
    """The environment without what would change the programs that are measured."""
    dropped = (
        "ENXAME_",
        "RUST_LOG",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    )
    return {**{key: value for key, value in os.environ.items() if not key.startswith(dropped)}, "LC_ALL": "C"}


@cache
def gnu_time() -> str:
    """The path of GNU time."""
    path = shutil.which("time")
    try:
        said = subprocess.run([path or "time", "--version"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        path = None
    if path is None or "GNU" not in said.stdout + said.stderr:
        raise Failed("GNU time is not installed (package time)")
    return path


def _network_of(host: Host) -> AbstractContextManager[None]:
    return nullcontext() if host.network is None else inside(host.network)


def _signal(process: Process, signum: int) -> None:
    try:
        os.killpg(process.popen.pid, signum)
    except ProcessLookupError:
        pass


def _cpu_s(pid: int) -> float:
    """Of a process and of those children that it has waited for."""
    stat = _proc(pid, "stat")
    # The name of the program is in parentheses and may contain anything; utime is the 14th field of all.
    fields = stat[stat.rfind(")") + 2 :].split()
    return sum(int(each) for each in fields[11:15]) / _TICKS_PER_S


def _peak_kib(pid: int) -> int:
    match = re.search(r"^VmHWM:\s+(\d+) kB$", _proc(pid, "status"), re.MULTILINE)
    return int(match.group(1)) if match else 0


def _descendants(pid: int) -> list[int]:
    children = [int(each) for each in _proc(pid, f"task/{pid}/children").split()]
    return children + [each for child in children for each in _descendants(child)]


def _proc(pid: int, name: str) -> str:
    """A file of /proc; nothing of a process that is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
