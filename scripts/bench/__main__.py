"""The command line of the bench: what is asked for, in which order it is done, and what comes out."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import bound
import isolate
import report
import speed
import swarm
from isolate import Interrupted, Place
from processes import Failed, say
from tools import Aria2, Aria2Http, Copy, CurlNginx, Enxame, Libtorrent, Rqbit, Rsync, SuperSeeding, Tool

HELP = """\
Measures enxame beside other programs that do the same, in turns, and prints medians, minima and maxima.

cases:
{speed}
  machine-bound         what loopback, hash and write take alone, the bound that follows, and enxame beside it
  swarm                 all of the following: machines on equal limited links, each in a network namespace
    swarm-8             one to eight, 256 MiB, 200 Mbit/s each way
    swarm-16            one to sixteen, 64 MiB, 100 Mbit/s
    swarm-origin-killed the origin is killed when it has sent 1.16 times the file; if it can be seen of a program that
                        all of it has arrived at somebody before, then
    swarm-late          four more join when the first eight are half done
"""
EPILOG = """\
Swarms need root, or a system that lets users make namespaces, and `ip` and `tc`; where they cannot be made they are
skipped. Everything is done in memory, in namespaces that end with the bench. Progress is told on stderr.

What is not installed is left out and named. `--install` installs Debian's packages; rqbit is measured where it is on
the path: `cargo install rqbit`.

Times are from the start of the first getter until the last one has all (a getter that ends then: until its end, unless
it says earlier that it has all). CPU is that of all getters, and that of all holders meanwhile; memory is the most that
one of them ever had resident. Trackers are not counted. Copies are compared afterwards.

Of swarms, `x bound` is the time against size / rate, which nobody can beat (the headers of TCP alone make it 1.05);
files sent by the origin and what the getters received against what they need (`moved`) are read from the counters of
the links; the first byte is that of the getter that waited longest.

Exit code: 0 if enxame did all that could be run, 1 if it failed at something, 2 for wrong usage, 130 for Ctrl-C.
"""
PACKAGES = ["aria2", "nginx-light", "curl", "rsync", "python3-libtorrent", "iproute2", "time"]


def main() -> int:
    options = parse(sys.argv[1:])
    # Where users do not look for programs, but servers and `ip` are.
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    isolate.raise_on_ending_signals()
    try:
        if options.install:
            install()
        binary = build()
        return isolate.run(lambda place: bench(options, place, binary), [Path(binary), Path(__file__)])
    except Failed as failed:
        say(f"bench.sh: {failed}")
        return 1
    except Interrupted as interrupted:
        return interrupted.exit_code


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, or exit code 2."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench.sh",
        description=HELP.replace("{speed}", speed_help()),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", metavar="CASE", nargs="*", help="what to measure; everything if none is named")
    parser.add_argument(
        "--rounds", type=positive, metavar="N", help=f"rounds of each case: {speed.ROUNDS}, of swarms {swarm.ROUNDS}"
    )
    parser.add_argument("--mib", type=positive, metavar="N", help="size of the file, instead of that of the case")
    parser.add_argument("--tools", metavar="A,B", help="measure only these: " + ", ".join(TOOL_NAMES))
    parser.add_argument("--json", action="store_true", help="one object per line instead of tables")
    parser.add_argument("--install", action="store_true", help="install the Debian packages: " + " ".join(PACKAGES))
    options = parser.parse_args(argv)
    groups = {
        "speed": [case.name for case in speed.CASES],
        bound.NAME: [bound.NAME],
        "swarm": [case.name for case in swarm.CASES],
    }
    known = [name for group in groups.values() for name in group]
    cases = [name for case in options.cases or groups for name in groups.get(case, [case])]
    for case in cases:
        if case not in known:
            parser.error(f"there is no case {case}")
    options.cases = list(dict.fromkeys(cases))
    options.tools = options.tools.split(",") if options.tools else TOOL_NAMES
    for tool in options.tools:
        if tool not in TOOL_NAMES:
            parser.error(f"there is no tool {tool}")
    return options


def positive(text: str) -> int:
    """A number from 1 on."""
    if not re.fullmatch("[1-9][0-9]{0,5}", text):
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def install() -> None:
    """The Debian packages of what is compared with."""
    # In run level 1 the packages start no servers of their own.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        try:
            done = subprocess.run(["apt-get", *command], stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment)
        except FileNotFoundError:
            raise Failed("there is no apt-get; install by hand: " + " ".join(PACKAGES)) from None
        if done.returncode != 0:
            raise Failed(f"apt-get {command[0]} ended with {done.returncode}")


def build() -> str:
    """Builds the binary that is measured; its path."""
    common = Path(__file__).parent.parent / "common.sh"
    script = 'set -e; source "$0"; build_enxame >&2; printf %s "$enxame"'
    done = subprocess.run(["bash", "-c", script, common], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise Failed("the build failed")
    return done.stdout


def bench(options: argparse.Namespace, place: Place, binary: str) -> int:
    """All cases that were asked for; the exit code."""
    well = True
    for name in options.cases:
        try:
            well &= measure(name, options, place, binary)
        except Failed as failed:
            well = False
            say(f"{name}: {failed}")
            if options.json:
                report.print_json({"case": name, "failures": [str(failed)]})
    return 0 if well else 1


def measure(name: str, options: argparse.Namespace, place: Place, binary: str) -> bool:
    """One case; whether enxame did not fail at it."""
    for case in speed.CASES:
        if case.name == name:
            return speed.bench(case, chosen(speed_tools(binary), options), options, place)
    for swarm_case in swarm.CASES:
        if swarm_case.name == name:
            return swarm.bench(swarm_case, chosen(swarm_tools(binary), options), options, place)
    bound.bench(binary, options, place)
    return True


def chosen(tools: list[Tool], options: argparse.Namespace) -> list[Tool]:
    return [each for each in tools if each.name in options.tools]


def speed_tools(binary: str) -> list[Tool]:
    return [Enxame(binary), CurlNginx(), Rsync(), Aria2Http(), Aria2(), Libtorrent(), Rqbit(), Copy()]


def swarm_tools(binary: str) -> list[Tool]:
    return [Enxame(binary), Aria2(), Libtorrent(), SuperSeeding(), Rqbit(), CurlNginx()]


def speed_help() -> str:
    lines = [f"    {case.name:20}{case.title}" for case in speed.CASES]
    return "\n".join(["  speed                 all of the following: over loopback, without limits", *lines])


TOOL_NAMES = list(dict.fromkeys(each.name for each in speed_tools("") + swarm_tools("")))

if __name__ == "__main__":
    sys.exit(main())
