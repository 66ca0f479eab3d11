"""Machines on one switch, each a network namespace behind a link of a certain rate, and what their links carried."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from isolate import inside, new_network
from processes import Failed, Host

LATENCY_MS = 30
"""How long a packet may wait at the end of a link before packets are dropped: the buffer of a small switch."""
MIN_BURST_BYTES = 128 * 1024
"""Two of the 64 KiB packets that the kernel hands on whole; what is larger than the burst would be cut."""
TIMER_HZ = 250
"""A burst is at least what a link carries in a tick of the kernel's clock, or it cannot reach its rate."""


@dataclass(frozen=True)
class Carried:
    """Bytes that a machine's link carried, as its interface counts them.

    The kernel hands on up to 64 KiB as one packet, so that the headers add about 0.3 %; the limit of the link counts
    one for every 1448 bytes, 4.6 %.
    """

    sent: int
    received: int


class Links:
    """`count` machines on a bridge, with `mbit` each way (None: no limit). As a context manager it removes them."""

    def __init__(self, count: int, mbit: int | None) -> None:
        self._open = ExitStack()
        try:
            self._switch = self._network()
            self.hosts = [Host(f"10.77.0.{number + 1}", self._network()) for number in range(count)]
            self._connect(mbit)
            with inside(self._switch):
                # Belongs to the namespace in which it was opened, wherever it is read.
                self._counters = os.open("/proc/thread-self/net/dev", os.O_RDONLY | os.O_CLOEXEC)
            self._open.callback(os.close, self._counters)
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def carried(self) -> list[Carried]:
        """What each machine sent and received so far."""
        found = {}
        for line in _read_all(self._counters).splitlines():
            name, colon, numbers = line.partition(":")
            if colon and name.strip().startswith("port"):
                fields = numbers.split()
                # The switch receives what the machine sends.
                found[int(name.strip()[4:])] = Carried(sent=int(fields[0]), received=int(fields[8]))
        return [found[number] for number in range(len(self.hosts))]

    def _network(self) -> int:
        made = new_network()
        self._open.callback(os.close, made)
        return made

    def _connect(self, mbit: int | None) -> None:
        me = os.getpid()
        switch = ["link add bridge type bridge", "link set bridge addrgenmode none", "link set bridge up"]
        for number, host in enumerate(self.hosts):
            switch += [
                f"link add port{number} type veth peer name eth0 netns /proc/{me}/fd/{host.network}",
                f"link set port{number} addrgenmode none",
                f"link set port{number} master bridge up",
            ]
        with inside(self._switch):
            _batch("ip", switch)
            if mbit is not None:
                _batch("tc", [_limit(f"port{number}", mbit) for number in range(len(self.hosts))])
        for host in self.hosts:
            assert host.network is not None
            with inside(host.network):
                _batch(
                    "ip",
                    [
                        "link set lo up",
                        "link set eth0 addrgenmode none",
                        f"addr add {host.ip}/24 dev eth0",
                        "link set eth0 up",
                    ],
                )
                if mbit is not None:
                    _batch("tc", [_limit("eth0", mbit)])


def missing() -> str | None:
    """Which of the programs is not installed that make links; None if all are."""
    return next(
        (f"{each} is not installed (package iproute2)" for each in ("ip", "tc") if shutil.which(each) is None), None
    )


def _limit(device: str, mbit: int) -> str:
    burst = max(MIN_BURST_BYTES, mbit * 1_000_000 // 8 // TIMER_HZ)
    return f"qdisc add dev {device} root tbf rate {mbit}mbit burst {burst} latency {LATENCY_MS}ms"


def _batch(program: str, lines: Sequence[str]) -> None:
    done = subprocess.run(
        [program, "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Failed(f"{program} cannot make the links: {' '.join(done.stderr.split())}")


def _read_all(descriptor: int) -> str:
    text = b""
    while data := os.pread(descriptor, 1 << 16, len(text)):
        text += data
    return text.decode()
