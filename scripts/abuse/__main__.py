"""Abuses a tracker and a peer of the real binary, and prints a line per case: what was done, and memory,
descriptors and the p99 of a good client before, in the middle and behind it."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cases
import wire
from victim import Failed, GoodClient, Peak, Role, ask_holder, ask_tracker

BEFORE_S = 3.0
AFTER_S = 2.0
NOISE_MS = 5.0
"""A p99 that is no more than this above the one before is not called worse, whatever the factor: the attacker
takes its share of the same cores."""
PANIC = "a panic of an actor"
SMALL_BYTES = 100
LARGE_MIB = 64


@dataclass(frozen=True)
class Case:
    """One kind of abuse."""

    name: str
    role: str
    do: Callable[[Role], str]
    memory_mib: float
    """How much more memory it may cost at any moment."""
    p99_factor: float | None = None
    """How much slower a good client's answers may come."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="abuse.sh", description=__doc__)
    parser.add_argument("--enxame", required=True, metavar="PATH", help="the binary; abuse.sh builds it")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="those whose name contains this; all by default")
    args = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most < 4096:
        print(f"abuse.sh: {most} descriptors are too few for a thousand connections", file=sys.stderr)
        return 1
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="enxame-abuse.") as folder:
        place = Path(folder)
        share = place / "peer" / "files"
        share.mkdir(parents=True)
        (share / "small").write_bytes(os.urandom(SMALL_BYTES))
        (share / "large").write_bytes(os.urandom(LARGE_MIB << 20))
        small, large = (file_id(args.enxame, share / name) for name in ("small", "large"))
        is_wanted = lambda case: not args.cases or any(part in case.name for part in args.cases)
        wanted = list(filter(is_wanted, all_cases(small, large)))
        broken = sum(not run(case, args.enxame, place, small) for case in wanted)
        count = len(wanted)
        if not args.cases or any(part in PANIC for part in args.cases):
            count += 1
            broken += not a_panic(PANIC, Path(args.enxame).parent / "examples" / "panic", place)
    print(f"{count - broken} of {count} cases did no harm, in {time.monotonic() - begun:.0f} s")
    return 1 if broken or not count else 0


def file_id(enxame: str, path: Path) -> bytes:
    """The id of a file."""
    return bytes.fromhex(subprocess.check_output([enxame, "hash", str(path)]).split()[0].decode())


def all_cases(small: bytes, large: bytes) -> list[Case]:
    """The cases, with the bounds that are promised."""
    headers = (wire.header(wire.MAX_HELLO_BYTES), wire.header(wire.MAX_CONTROL_BYTES))
    requests = (wire.header(wire.MAX_HELLO_BYTES), wire.header(wire.MAX_REQUEST_BYTES))
    return [
        Case("maximal headers to a tracker", "tracker", lambda role: cases.maximal_headers(role, *headers), 80),
        Case("maximal headers to a peer", "peer", lambda role: cases.maximal_headers(role, *requests), 80),
        Case("idle and trickling at a tracker", "tracker", cases.idle_and_trickling, 64, 2),
        Case("idle and trickling at a peer", "peer", cases.idle_and_trickling, 64, 2),
        Case("readers that never read", "peer", lambda role: cases.readers_that_do_not_read(role, large, 35), 64),
        Case("a million tiny GETs", "peer", lambda role: cases.tiny_gets(role, small, 1_000_000, 40), 64),
        Case("GETs that do not wait", "peer", lambda role: cases.gets_that_do_not_wait(role, small, 1_000_000), 64),
        Case("lists that do not end", "tracker", cases.lists_that_do_not_end, 160, 2),
        Case("HELLOs to a tracker", "tracker", lambda role: cases.hello_flood(role, 5), 64),
        Case("HELLOs to a peer", "peer", lambda role: cases.hello_flood(role, 5), 64),
        Case("a million names", "tracker", lambda role: cases.million_names(role, 1_000_000), 256),
        Case("a reconnect storm", "tracker", lambda role: cases.reconnect_storm(role, 1000, 5), 64),
        Case("DISCONNECT for others", "tracker", lambda role: cases.disconnect_for_others(role, "victim"), 64),
    ]


def run(case: Case, enxame: str, place: Path, small: bytes) -> bool:
    """Runs a case against roles of its own, prints its line, and says whether all bounds held."""
    running: list[Role] = []
    wrongs: list[str] = []
    done = figures = ""
    client = None
    try:
        running.append(Role(enxame, place, "tracker", "tracker", "--listen", "127.0.0.1:0"))
        at = "{}:{}".format(*running[0].address)
        peer = ["peer", "peer", "--tracker", at, "--root", str(place), "--listen", "127.0.0.1:0"]
        running.append(Role(enxame, place, "peer", *peer))
        role = running[0] if case.role == "tracker" else running[1]
        ask = ask_tracker if case.role == "tracker" else ask_holder(small)
        client = GoodClient(ask, role.address)
        time.sleep(BEFORE_S)
        before, (p99_before, _) = role.held(), client.p99_ms()
        with Peak(role) as peak:
            try:
                done = case.do(role)
            except (AssertionError, OSError) as error:
                wrongs.append(str(error) or repr(error))
            p99_during, failures = client.p99_ms()
        time.sleep(AFTER_S)
        after, (p99_after, failures_after) = role.held(), client.p99_ms()
        figures = (
            f"memory {before.memory_mib:.0f} / {peak.held.memory_mib:.0f} / {after.memory_mib:.0f} MiB, "
            f"descriptors {before.descriptors} / {peak.held.descriptors} / {after.descriptors}, "
            f"p99 {p99_before:.1f} / {p99_during:.1f} / {p99_after:.1f} ms"
        )
        if (more := peak.held.memory_mib - before.memory_mib) >= case.memory_mib:
            wrongs.append(f"{more:.0f} MiB more, not less than {case.memory_mib:.0f}")
        if case.p99_factor and p99_during > max(p99_before * case.p99_factor, p99_before + NOISE_MS):
            wrongs.append(f"the p99 is {p99_during / p99_before:.1f} times as long")
        if failures_after:
            wrongs.append(f"a good client got no answer {failures_after} times behind it")
        if failures:
            figures += f", {failures} of a good client's questions failed"
            if case.p99_factor:
                wrongs.append("a good client got no answer")
        # What is left has been closed by us, and is about to go.
        if after.descriptors > before.descriptors + 20:
            wrongs.append(f"{after.descriptors - before.descriptors} descriptors are left")
    except Failed as error:
        wrongs.append(str(error))
    finally:
        if client is not None:
            client.end()
        for each in reversed(running):
            try:
                each.end()
            except Failed as error:
                wrongs.append(str(error))
    words = "; ".join([*wrongs, *filter(None, [done, figures])])
    print(f"{'BROKEN' if wrongs else 'ok':6} {case.name}: {words}", flush=True)
    return not wrongs


def a_panic(name: str, example: Path, place: Path) -> bool:
    """A tracker of which an actor panics has to end by that, at once and with a reason, and not go on without."""
    with Role(str(example), place, "panicking") as tracker:
        wrong = cases.end_by_panic(tracker)
    print(f"{'BROKEN' if wrong else 'ok':6} {name}: {wrong or 'it ended by SIGABRT and said why'}", flush=True)
    return not wrong


sys.exit(main())
