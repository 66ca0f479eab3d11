"""A role of the real binary under abuse: what it holds, and how a good client fares meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import wire

SAMPLE_EVERY_S = 0.1
WINDOW_S = 1.0
"""The p99 of a phase is the median of those of its windows: one moment in which the machine does something else
does not decide."""
ASK_EVERY_S = 0.004
END_S = 20.0
GOOD_ADDRESS = ("127.0.0.2", 0)
"""Where the good client is: at another address than those that abuse."""


class Failed(Exception):
    """A role did not do what it was started for."""


@dataclass(frozen=True)
class Held:
    """What a process holds."""

    memory_mib: float
    descriptors: int


class Role:
    """A tracker or a peer that runs."""

    def __init__(self, enxame: str, logs: Path, name: str, *args: str) -> None:
        self._log = open(logs / f"{name}.err", "wb")
        self._popen = subprocess.Popen(
            [enxame, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True
        )
        assert self._popen.stdout is not None
        ready = re.search(r"ready .* ([\d.]+):(\d+)$", self._popen.stdout.readline().decode().strip())
        if ready is None:
            raise Failed(f"{name} did not start: {(logs / f'{name}.err').read_text().strip()}")
        self.name = name
        self.address = (ready[1].replace("0.0.0.0", "127.0.0.1"), int(ready[2]))

    def held(self) -> Held:
        """What it holds now."""
        process = Path("/proc") / str(self._popen.pid)
        try:
            memory = re.findall(r"^VmRSS:\s+(\d+) kB", (process / "status").read_text(), re.MULTILINE)
            return Held(int(memory[0]) / 1024, len(os.listdir(process / "fd")))
        except (OSError, IndexError) as error:
            raise Failed(f"{self.name} has died (exit {self._popen.poll()})") from error

    def has_aborted(self) -> str | None:
        """Waits for its end; what is wrong if that is not a panic that aborted it."""
        try:
            code = self._popen.wait(END_S)
        except subprocess.TimeoutExpired:
            return "it goes on"
        said = Path(self._log.name).read_text()
        if code != -signal.SIGABRT or "panicked at" not in said:
            return f"it ended with {code}: {said.strip()[-300:]}"
        return None

    def __enter__(self) -> Role:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._log.close()

    def end(self) -> None:
        """Ends it in order; fails if it does not end well."""
        self._popen.send_signal(signal.SIGTERM)
        try:
            code = self._popen.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"{self.name} did not end within {END_S:.0f} s") from None
        finally:
            self._log.close()
        if code != 0:
            raise Failed(f"{self.name} ended with {code}")

    def kill(self) -> None:
        """Ends it on the way out of a failure."""
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()


class Peak:
    """The most that a role holds while this is entered."""

    def __init__(self, role: Role) -> None:
        self._role = role
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.held = role.held()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY_S):
            try:
                now = self._role.held()
            except Failed:
                return
            self.held = Held(
                max(self.held.memory_mib, now.memory_mib), max(self.held.descriptors, now.descriptors)
            )

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def ask_tracker(address: tuple[str, int]) -> None:
    """Connects, greets, and asks a tracker who has a file."""
    with socket.create_connection(address, 15, GOOD_ADDRESS) as stream:
        stream.sendall(wire.hello("good") + wire.who_has("small"))
        wire.read_frame(stream)
        if b"Candidates" not in wire.read_frame(stream):
            raise ConnectionError("another answer")


def ask_holder(file: bytes) -> Callable[[tuple[str, int]], None]:
    """Connects, greets, and fetches a small file."""
    request = wire.hello("good") + wire.get(file, 0, 1, 1)

    def ask(address: tuple[str, int]) -> None:
        with socket.create_connection(address, 15, GOOD_ADDRESS) as stream:
            stream.sendall(request)
            wire.read_frame(stream)
            body = wire.read_frame(stream)
            if len(body) != 108:
                raise ConnectionError(f"another answer: {body[:60]!r}")

    return ask


class GoodClient:
    """Asks all the time, in a process of its own, and knows how long each answer took."""

    def __init__(self, ask: Callable[[tuple[str, int]], None], address: tuple[str, int]) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("fork").Process(
            target=_ask_on, args=(ask, address, theirs), daemon=True
        )
        self._process.start()

    def p99_ms(self) -> tuple[float, int]:
        """The p99 since this was last called, in milliseconds, and how often nothing came."""
        self._ours.send(None)
        windows, failures = self._ours.recv()
        return (statistics.median(windows) if windows else float("inf")), failures

    def end(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.join()


def _p99(times: list[float]) -> float:
    return sorted(times)[len(times) * 99 // 100]


def _ask_on(ask: Callable[[tuple[str, int]], None], address: tuple[str, int], told: Connection) -> None:
    windows: list[float] = []
    times: list[float] = []
    failures = 0
    begun = time.monotonic()
    while True:
        before = time.monotonic()
        try:
            ask(address)
            times.append((time.monotonic() - before) * 1000)
        except OSError:
            failures += 1
        if time.monotonic() - begun >= WINDOW_S:
            if times:
                windows.append(_p99(times))
            times, begun = [], time.monotonic()
        if told.poll():
            told.recv()
            # What took less than a window is one.
            told.send((windows or [_p99(times)] if times else windows, failures))
            windows, times, failures, begun = [], [], 0, time.monotonic()
        time.sleep(ASK_EVERY_S)
