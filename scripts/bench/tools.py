"""How each program holds a file, and how it gets one: command lines, and how one knows that it is ready or done."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from processes import Crew, Failed, Host, Process
from torrent import Torrent

HERE = Path(__file__).parent
QUIET_ARIA2 = (
    "--console-log-level=warn",
    "--summary-interval=0",
    "--show-console-readout=false",
    "--download-result=hide",
    "--disable-ipv6=true",
)


@dataclass(frozen=True)
class Data:
    """What is distributed: a file, or a folder of files."""

    path: Path
    size: int

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def files(self) -> list[Path]:
        """All files of it, in order."""
        if self.path.is_file():
            return [self.path]
        return sorted(each for each in self.path.rglob("*") if each.is_file())

    @cached_property
    def _sha256(self) -> dict[Path, str]:
        return {}

    def sha256(self, file: Path) -> str:
        """The hash of one of the files, in hexadecimal."""
        if file not in self._sha256:
            with open(file, "rb") as opened:
                hashed = hashlib.sha256()
                while chunk := opened.read(1 << 20):
                    hashed.update(chunk)
            self._sha256[file] = hashed.hexdigest()
        return self._sha256[file]

    @cached_property
    def torrent(self) -> Torrent:
        return Torrent.of(self.path, self.files)

    def link(self, folder: Path) -> None:
        """Puts it into a folder without copying it."""
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-al", "--", str(self.path), str(folder)], check=True)

    def is_same(self, copy: Path) -> bool:
        """Whether a copy is the same, byte by byte; that of a folder may stand in `copy` or be it."""
        if self.path.is_dir() and (copy / self.name).is_dir():
            copy = copy / self.name
        if self.path.is_file():
            compare = ["cmp", "--silent"]
        else:
            compare = ["diff", "--recursive", "--brief"]
        return subprocess.run([*compare, "--", self.path, copy], capture_output=True, check=False).returncode == 0


@dataclass
class Round:
    """One tool getting the data once: what the parts of a tool have to know of each other."""

    crew: Crew
    dir: Path
    data: Data
    hub: Host
    """Where trackers run."""
    holders: int = 1
    tracker: str = ""
    """IP:PORT of the tool's tracker, if it has one."""
    sources: list[str] = field(default_factory=list)
    """IP:PORT of each holder, of tools whose getters are told."""

    def __post_init__(self) -> None:
        # Before any holder runs: a new link to a file is a change of it, and a holder may look at it anew.
        for number in range(self.holders):
            self.data.link(self.holding(number))

    def holding(self, number: int) -> Path:
        """The folder in which a holder finds the data."""
        return self.dir / f"holder{number}" / "files"

    def folder(self, name: str) -> Path:
        """A folder of this round, made if it is not there."""
        made = self.dir / name
        made.mkdir(parents=True, exist_ok=True)
        return made


@dataclass(frozen=True)
class Getter:
    """How to start a getter, and what comes of it."""

    argv: Sequence[str]
    copy: Path
    """Where its copy will be."""
    done: str | None = None
    """The line that it prints when it has all; None: it says nothing before it ends."""
    failed: str | None = None
    """The line that it prints when it gives up."""
    stays: bool = False
    """Whether it goes on sharing; otherwise it ends with 0 when it has all."""


@dataclass(frozen=True)
class OwnWords:
    """What a getter says of itself when it has all."""

    seconds: float
    from_first: int
    """Bytes that it took from the first holder and used."""
    wasted: int
    """Bytes that it received and did not use."""


class Tool:
    """A program that is measured. The methods are those of a round, in their order."""

    name = ""
    remark = ""
    """What a reader of the table has to know."""
    many_sources = True
    """Whether it can take from several holders at once."""

    def missing(self) -> str | None:
        """Why it cannot be run; None if it can."""
        return None

    def open(self, round: Round) -> None:
        """Starts what holders and getters need: the tracker."""

    def hold(self, round: Round, host: Host, number: int) -> Process | None:
        """Starts a holder of the data, and returns when it can be fetched from; None if it needs none."""
        raise NotImplementedError

    def getter(self, round: Round, host: Host, number: int, stays: bool) -> Getter:
        """A getter, which goes on sharing if it `stays`."""
        raise NotImplementedError

    def own_words(self, line: str) -> OwnWords | None:
        """What a getter itself says in its line `done`."""
        return None

    def arrived(self, getter: Getter) -> list[range] | None:
        """Which bytes of a copy that is not whole yet are there; None of a program whose files do not tell."""
        return None


class Enxame(Tool):
    """This project."""

    name = "enxame"
    remark = "every byte verified"

    def __init__(self, binary: str) -> None:
        self._binary = binary

    def open(self, round: Round) -> None:
        argv = [self._binary, "tracker", "--listen", f"{round.hub.ip}:0"]
        tracker = round.crew.start("tracker", argv, round.hub)
        round.tracker = round.crew.await_line(tracker, r"^ready tracker (\S+)")[1]

    def hold(self, round: Round, host: Host, number: int) -> Process:
        name = f"holder{number}"
        holder = round.crew.start(name, self._peer(round, host, name), host)
        round.crew.await_line(holder, "^ready peer ")
        return holder

    def getter(self, round: Round, host: Host, number: int, stays: bool) -> Getter:
        data = round.data
        if stays:
            name = f"p{number}"
            argv = [*self._peer(round, host, name), "--get", data.name, "--json"]
            copy = round.dir / name / "files" / data.name
            return Getter(argv, copy, done=r'^\{"event":"done"', failed=r'^\{"event":"error"', stays=True)
        folder = round.folder(f"got{number}")
        argv = [self._binary, "get", "--quiet", "--tracker", round.tracker, "-o", str(folder)]
        if data.path.is_dir():
            return Getter([*argv, f"{data.name}/"], folder)
        return Getter([*argv, data.name], folder / data.name)

    def arrived(self, getter: Getter) -> list[range] | None:
        for part in getter.copy.parent.glob(".enxame-*.part"):
            # It may get its name, which is another end than its own, at any time.
            with suppress(FileNotFoundError), open(part, "rb") as opened:
                return _written(opened.fileno())
        return [range(os.stat(getter.copy).st_size)] if getter.copy.exists() else []

    def own_words(self, line: str) -> OwnWords | None:
        said = json.loads(line)
        first = sum(each["bytes"] for each in said["sources"] if each["peer"] == "holder0")
        return OwnWords(float(said["elapsed_s"]), first, int(said["wasted_bytes"]))

    def _peer(self, round: Round, host: Host, name: str) -> list[str]:
        where = ["--root", str(round.dir), "--tracker", round.tracker, "--listen", f"{host.ip}:0"]
        return [self._binary, "peer", name, *where]


def _written(descriptor: int) -> list[range]:
    """The parts of a file that are no holes."""
    found, at = [], 0
    while True:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return found
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        found.append(range(start, at))


class CurlNginx(Tool):
    """An HTTP server and its usual client."""

    name = "nginx"
    remark = "verifies nothing"
    many_sources = False

    def missing(self) -> str | None:
        return _not_installed("nginx", "curl")

    def hold(self, round: Round, host: Host, number: int) -> Process:
        return start_nginx(round, host, number)

    def getter(self, round: Round, host: Host, number: int, stays: bool) -> Getter:
        data, folder = round.data, round.folder(f"got{number}")
        url = f"http://{round.sources[0]}/{data.name}"
        if data.path.is_file():
            return Getter(["curl", "-sS", "--fail", "-o", str(folder / data.name), url], folder / data.name)
        config = round.dir / f"curl{number}.conf"
        names = [each.relative_to(data.path) for each in data.files]
        config.write_text("".join(f'url = "{url}/{each}"\noutput = "{folder / data.name / each}"\n' for each in names))
        return Getter(["curl", "-sS", "--fail", "-Z", "--create-dirs", "-K", str(config)], folder / data.name)


class Rsync(Tool):
    """rsync and its daemon."""

    name = "rsync"
    remark = "a checksum of the whole file"
    many_sources = False

    def missing(self) -> str | None:
        if Path("/proc/self/setgroups").read_text().strip() == "deny":
            return "its daemon needs setgroups, which the namespaces of a user do not allow: run it as root"
        return _not_installed("rsync")

    def hold(self, round: Round, host: Host, number: int) -> Process:
        folder, port = round.folder("rsync"), free_port()
        # As root it would become another user, whom the namespace need not know.
        owner = "uid = 0\ngid = 0\n" if os.geteuid() == 0 else ""
        config = folder / "rsyncd.conf"
        config.write_text(f"use chroot = no\n{owner}[bench]\npath = {round.data.path.parent}\nread only = yes\n")
        where = [f"--config={config}", f"--address={host.ip}", f"--port={port}", f"--log-file={folder}/log"]
        daemon = round.crew.start("rsyncd", ["rsync", "--daemon", "--no-detach", *where], host)
        round.crew.await_connection(daemon, host, port)
        round.sources.append(f"{host.ip}:{port}")
        return daemon

    def getter(self, round: Round, host: Host, number: int, stays: bool) -> Getter:
        folder = round.folder(f"got{number}")
        url = f"rsync://{round.sources[0]}/bench/{round.data.name}"
        return Getter(["rsync", "--archive", "--whole-file", url, f"{folder}/"], folder / round.data.name)


class Copy(Tool):
    """The least that anybody has to do: copy it from memory to memory."""

    name = "cp"
    remark = "no network, verifies nothing"
    many_sources = False

    def hold(self, round: Round, host: Host, number: int) -> None:
        return None

    def getter(self, round: Round, host: Host, number: int, stays: bool) -> Getter:
        folder = round.folder(f"got{number}")
        # Copies of copies on write would be no copies.
        return Getter(["cp", "-r", "--reflink=never", str(round.data.path), str(folder)], folder / round.data.name)


class Aria2Http(Tool):
    """aria2 over HTTP, from as many servers as there are holders."""

    name = "aria2-http"
    remark = "SHA-256 of the whole file"

    def missing(self) -> str | None:
        return _not_installed("nginx", "aria2c")

    def hold(self, round: Round, host: Host, number: int) -> Process:
        return start_nginx(round, host, number)

    def getter(self, round: Round, host: Host, number: int, stays: bool) -> Getter:
        data, folder = round.data, round.folder(f"got{number}")
        wanted = round.dir / f"aria2-{number}.txt"
        with open(wanted, "w") as file:
            for each in data.files:
                path = each.relative_to(data.path.parent)
                file.write("\t".join(f"http://{source}/{path}" for source in round.sources))
                file.write(f"\n out={path}\n checksum=sha-256={data.sha256(each)}\n")
        argv = ["aria2c", "--no-conf=true", f"--dir={folder}", f"--input-file={wanted}", *QUIET_ARIA2]
        argv += ["--max-concurrent-downloads=16", "--split=16", "--max-connection-per-server=4", "--min-split-size=1M"]
        return Getter([*argv, "--file-allocation=none"], folder / data.name)


class BitTorrent(Tool):
    """What all BitTorrent clients here have in common: the tracker and the .torrent file."""

    def open(self, round: Round) -> None:
        program = round.crew.start("tracker", [sys.executable, str(HERE / "torrent.py"), round.hub.ip], round.hub)
        round.tracker = round.crew.await_line(program, r"^ready (\S+)")[1]
        round.data.torrent.write(self.torrent(round), round.tracker)
        self._program = program

    def torrent(self, round: Round) -> Path:
        """Where the .torrent file of a round is."""
        return round.dir / "bench.torrent"

    def await_seed(self, round: Round) -> None:
        """Waits until the next holder has told the tracker that it has all."""
        round.crew.await_line(self._program, "^seed ")


class Aria2(BitTorrent):
    """aria2 over BitTorrent."""

    name = "aria2"
    remark = "SHA-1 per piece"

    def missing(self) -> str | None:
        return _not_installed("aria2c")

    def hold(self, round: Round, host: Host, number: int) -> Process:
        argv = [
            *self._client(round, round.holding(number)),
            "--bt-seed-unverified=true",
            "--seed-ratio=0.0",
            str(self.torrent(round)),
        ]
        holder = round.crew.start(f"holder{number}", argv, host)
        self.await_seed(round)
        return holder

    def getter(self, round: Round, host: Host, number: int, stays: bool) -> Getter:
        folder = round.folder(f"got{number}")
        # It ends two seconds after it has all.
        hook = round.dir / "complete.sh"
        if not hook.exists():
            hook.write_text("#!/bin/sh\necho complete\n")
            hook.chmod(0o755)
        argv = [*self._client(round, folder), f"--on-bt-download-complete={hook}"]
        argv += ["--seed-ratio=0.0" if stays else "--seed-time=0", str(self.torrent(round))]
        return Getter(argv, folder / round.data.name, done="^complete$", stays=stays)

    def _client(self, round: Round, folder: Path) -> list[str]:
        return [
            "aria2c",
            "--no-conf=true",
            f"--dir={folder}",
            f"--listen-port={free_port()}",
            "--enable-dht=false",
            "--enable-dht6=false",
            "--bt-enable-lpd=false",
            "--bt-max-peers=0",
            "--bt-min-crypto-level=plain",
            "--bt-require-crypto=false",
            "--max-overall-upload-limit=0",
            "--file-allocation=none",
            "--disk-cache=32M",
            "--allow-overwrite=true",
            *QUIET_ARIA2,
        ]


class Libtorrent(BitTorrent):
    """libtorrent through its Python binding."""

    name = "libtorrent"
    remark = "SHA-1 per piece"
    seeds = "seed"

    def missing(self) -> str | None:
        return None if _python_with_libtorrent() else "python3-libtorrent is not installed"

    def hold(self, round: Round, host: Host, number: int) -> Process:
        argv = self._client(round, round.holding(number), host, self.seeds)
        holder = round.crew.start(f"holder{number}", argv, host)
        self.await_seed(round)
        return holder

    def getter(self, round: Round, host: Host, number: int, stays: bool) -> Getter:
        folder = round.folder(f"got{number}")
        argv = self._client(round, folder, host, "get-and-stay" if stays else "get")
        return Getter(argv, folder / round.data.name, done="^complete$", stays=stays)

    def _client(self, round: Round, folder: Path, host: Host, role: str) -> list[str]:
        python = _python_with_libtorrent()
        if python is None:
            raise Failed("python3-libtorrent is not installed")
        return [python, str(HERE / "libtorrent_client.py"), str(self.torrent(round)), str(folder), host.ip, role]


class SuperSeeding(Libtorrent):
    """The same with a first holder that sends each piece to one getter before it sends one again."""

    name = "libtorrent-super"
    seeds = "super-seed"


class Rqbit(BitTorrent):
    """rqbit, whose `download` shares what is there already."""

    name = "rqbit"
    remark = "SHA-1 per piece"

    def missing(self) -> str | None:
        return f"{why} (cargo install rqbit)" if (why := _not_installed("rqbit")) else None

    def hold(self, round: Round, host: Host, number: int) -> Process:
        argv = self._client(round, round.holding(number), host)
        holder = round.crew.start(f"holder{number}", argv, host)
        self.await_seed(round)
        return holder

    def getter(self, round: Round, host: Host, number: int, stays: bool) -> Getter:
        folder = round.folder(f"got{number}")
        argv = self._client(round, folder, host, *([] if stays else ["--exit-on-finish"]))
        return Getter(argv, folder / round.data.name, done="torrent finished downloading", stays=stays)

    def _client(self, round: Round, folder: Path, host: Host, *more: str) -> list[str]:
        network = ["--disable-dht", "--disable-lsd", "--disable-upnp-port-forward", f"--listen-ip={host.ip}"]
        port = free_port()
        # Unless told both, it listens at one port and tells the tracker another.
        network += [f"--listen-port={port}", f"--announce-port={port}"]
        where = ["--disable-http-api", "--overwrite", f"--output-folder={folder}", str(self.torrent(round))]
        return ["rqbit", "-v", "info", *network, "download", *more, *where]


# ---- what several of them need ----


def start_nginx(round: Round, host: Host, number: int) -> Process:
    """Serves the data with sendfile, in one process; appends its address to the sources."""
    folder = round.folder(f"nginx{number}")
    port = free_port()
    temp = "".join(
        f"{each}_temp_path {folder}/temp;\n" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"""
daemon off;
master_process off;
{"user root;" if os.geteuid() == 0 else ""}
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000;
    {temp}
    server {{ listen {host.ip}:{port}; root {round.data.path.parent}; }}
}}
"""
    )
    server = round.crew.start(f"nginx{number}", ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], host)
    round.crew.await_connection(server, host, port)
    round.sources.append(f"{host.ip}:{port}")
    return server


def free_port() -> int:
    """A port that was free a moment ago: for programs that cannot choose one and tell it."""
    with socket.socket() as bound:
        bound.bind(("", 0))
        port: int = bound.getsockname()[1]
        return port


def _not_installed(*programs: str) -> str | None:
    missing = [each for each in programs if shutil.which(each) is None]
    return f"{' and '.join(missing)} not installed" if missing else None


@cache
def _python_with_libtorrent() -> str | None:
    """Debian's package is for Debian's python3, which need not be the first one on the path."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            if subprocess.run([python, "-c", "import libtorrent"], capture_output=True, check=False).returncode == 0:
                return python
        except FileNotFoundError:
            pass
    return None
