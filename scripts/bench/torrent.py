"""A .torrent file (BEP 3), and an HTTP tracker for the swarms of one bench (BEP 3, BEP 23)."""

from __future__ import annotations

import hashlib
import socket
import sys
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar, Union
from urllib.parse import parse_qsl, urlsplit

Value = Union[int, bytes, str, "list[Value]", "dict[str, Value]"]

MIN_PIECE_BYTES = 256 * 1024
MAX_PIECES = 1024
"""Pieces get longer before they get more: the usual advice for files of this size."""
INTERVAL_S = 10
"""How often clients ask again: often enough that nobody waits for sources."""


def bencode(value: Value) -> bytes:
    """The encoding of BEP 3."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"


@dataclass(frozen=True)
class Torrent:
    """What a .torrent says of a file or a folder; the address of the tracker comes later."""

    info: dict[str, Value]

    @staticmethod
    def of(path: Path, files: list[Path]) -> Torrent:
        """Hashes a file, or all files of a folder."""
        sizes = [each.stat().st_size for each in files]
        piece = MIN_PIECE_BYTES
        while sum(sizes) > piece * MAX_PIECES:
            piece *= 2
        info: dict[str, Value] = {"name": path.name, "piece length": piece, "pieces": _pieces(files, piece)}
        if path.is_file():
            info["length"] = sizes[0]
        else:
            info["files"] = [
                {"length": size, "path": list(each.relative_to(path).parts)} for each, size in zip(files, sizes)
            ]
        return Torrent(info)

    def write(self, path: Path, tracker: str) -> None:
        """Writes the .torrent file for the tracker at this IP:PORT."""
        path.write_bytes(bencode({"announce": f"http://{tracker}/announce", "info": self.info}))


def _pieces(files: list[Path], piece: int) -> bytes:
    hashes, rest = [], b""
    for each in files:
        with open(each, "rb") as file:
            while data := file.read(piece - len(rest)):
                rest += data
                if len(rest) == piece:
                    hashes.append(hashlib.sha1(rest).digest())
                    rest = b""
    if rest:
        hashes.append(hashlib.sha1(rest).digest())
    return b"".join(hashes)


# ---- the tracker, a program of its own: torrent.py IP ----


class _Tracker(BaseHTTPRequestHandler):
    """Tells everybody of everybody; prints `seed IP:PORT` when one that has all announces itself."""

    peers: ClassVar[dict[bytes, dict[tuple[str, int], bool]]] = {}

    def do_GET(self) -> None:
        asked = dict(parse_qsl(urlsplit(self.path).query, encoding="latin-1"))
        try:
            swarm = self.peers.setdefault(asked["info_hash"].encode("latin-1"), {})
            me = (self.client_address[0], int(asked["port"]))
            complete = int(asked["left"]) == 0
        except (KeyError, ValueError):
            self.send_error(400)
            return
        if asked.get("event") == "stopped":
            swarm.pop(me, None)
        else:
            if complete and not swarm.get(me):
                print(f"seed {me[0]}:{me[1]}", flush=True)
            swarm[me] = complete
        others = [each for each in swarm if each != me]
        body = bencode({"interval": INTERVAL_S, "min interval": INTERVAL_S, "peers": b"".join(map(_compact, others))})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is logged per request."""


def _compact(peer: tuple[str, int]) -> bytes:
    return socket.inet_aton(peer[0]) + peer[1].to_bytes(2, "big")


def main() -> None:
    server = HTTPServer((sys.argv[1], 0), _Tracker)
    print(f"ready {sys.argv[1]}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
