"""Namespaces of the bench's own: what it starts, mounts and links in them ends with it, however it ends."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1

COVERED = ("/dev/shm", "/mnt", "/srv")
"""One of these is on every system. A folder made for it would remain when it is killed, and whoever removed that one
meanwhile would remove the mount with it."""
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_libc = ctypes.CDLL(None, use_errno=True)


class Interrupted(BaseException):
    """One of ENDING_SIGNALS came."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum


@dataclass(frozen=True)
class Place:
    """Where a bench works."""

    dir: Path
    """Its folder, empty at first and gone at its end."""
    why_not_isolated: str | None
    """None in namespaces of its own; otherwise what the system answered."""


def run(work: Callable[[Place], int], needed: Sequence[Path]) -> int:
    """Does `work` in namespaces of its own if the system allows it, otherwise in those of the caller; its exit code.

    What is `needed` can be seen there. Killed by force, it leaves nothing; without namespaces, its folder and what it
    had started.
    """
    covered = _covered(needed)
    why_not = _probe(covered) if covered else f"something that is needed is in each of {', '.join(COVERED)}"
    if covered and not why_not:
        return _isolated(covered, work)
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="enxame-bench.", dir=parent))
    try:
        return work(Place(folder, why_not))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def raise_on_ending_signals() -> None:
    """Makes ENDING_SIGNALS raise Interrupted, once: a second one does not disturb the clearing up."""

    def interrupt(signum: int, _frame: FrameType | None) -> NoReturn:
        for each in ENDING_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(signum)

    for each in ENDING_SIGNALS:
        signal.signal(each, interrupt)


@contextmanager
def inside(namespace: int) -> Iterator[None]:
    """In the network namespace of this descriptor: processes that are started here belong to it."""
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked("setns", _libc.setns(namespace, CLONE_NEWNET))
        try:
            yield
        finally:
            _checked("setns", _libc.setns(outside, CLONE_NEWNET))
    finally:
        os.close(outside)


def new_network() -> int:
    """A descriptor of a new network namespace, which lives until the last descriptor and process of it are gone."""
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked("unshare", _libc.unshare(CLONE_NEWNET))
        made = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _checked("setns", _libc.setns(outside, CLONE_NEWNET))
        return made
    finally:
        os.close(outside)


# ---- the steps ----


def _covered(needed: Sequence[Path]) -> Path | None:
    """The folder on which the bench mounts one of its own, which nobody else sees."""
    for folder in map(Path, COVERED):
        if folder.is_dir() and not any(folder in path.resolve().parents for path in needed):
            return folder
    return None


def _isolated(folder: Path, work: Callable[[Place], int]) -> int:
    _leave_namespaces()
    child = os.fork()
    if child == 0:
        _child(folder, lambda: work(Place(folder, None)))

    def forward(signum: int, _frame: FrameType | None) -> None:
        os.kill(child, signum)

    for each in ENDING_SIGNALS:
        signal.signal(each, forward)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _probe(folder: Path) -> str | None:
    """Why there can be no namespaces of its own; None if there can. Tried in a process that is thrown away."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _leave_namespaces()
            inner = os.fork()
            if inner == 0:
                _child(folder, lambda: 0, writer)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
        except BaseException as error:
            os.write(writer, str(error).encode())
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read().strip()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if code == 0 else (answer or f"the try ended with {code}")


def _leave_namespaces() -> None:
    """The children of this process are in new PID and network namespaces from here on."""
    flags = CLONE_NEWPID | CLONE_NEWNET
    if os.geteuid() == 0 and _libc.unshare(flags) == 0:
        return
    user, group = os.geteuid(), os.getegid()
    _checked("unshare", _libc.unshare(flags | CLONE_NEWUSER))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _child(folder: Path, work: Callable[[], int], complaints: int = 2) -> NoReturn:
    """The first process of the new PID namespace: with it all others of that namespace end."""
    code = 1
    try:
        _checked("prctl", _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
        # Ctrl-C is for the parent, which passes it on.
        os.setsid()
        _checked("unshare", _libc.unshare(CLONE_NEWNS))
        _command("mount", "--make-rprivate", "/")
        _command("mount", "-t", "proc", "proc", "/proc")
        # Half of the memory is what tmpfs allows unless told otherwise; whether there is enough is asked elsewhere.
        _command("mount", "-t", "tmpfs", "-o", "size=100%", "enxame-bench", str(folder))
        _command("ip", "link", "set", "lo", "up")
        code = work()
    except Interrupted as interrupted:
        code = interrupted.exit_code
    except BaseException as error:
        if complaints == 2:
            sys.excepthook(type(error), error, error.__traceback__)
        else:
            os.write(complaints, str(error).encode())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _command(*argv: str) -> None:
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise OSError(f"{argv[0]} is not installed") from None
    if done.returncode != 0:
        raise OSError(f"{' '.join(argv)}: {done.stderr.strip()}")


def _checked(call: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
