"""The least that a transfer over TCP can do, in two processes: sendfile on one side, receive (and write) on the other.

Usage: pipe.py send FILE              prints `listening PORT`, serves one connection
       pipe.py drain|store PORT FILE  receives all, and with `store` writes it to FILE
Each prints {"wall_s": ..., "cpu_s": ...} at its end.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

SPAN_BYTES = 1 << 20
"""What is received before it is written: long enough that calls cost nothing, short enough for the cache."""


def send(file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, open(file, "rb") as opened:
        print(f"listening {listener.getsockname()[1]}", flush=True)
        connection, _ = listener.accept()
        with connection:
            start = time.monotonic(), time.process_time()
            connection.sendfile(opened)
            _tell(*start)


def receive(port: int, file: Path | None) -> None:
    span = memoryview(bytearray(SPAN_BYTES))
    target = os.open(file, os.O_WRONLY | os.O_CREAT) if file else None
    with socket.create_connection(("127.0.0.1", port)) as connection:
        start = time.monotonic(), time.process_time()
        offset = 0
        while got := connection.recv_into(span, SPAN_BYTES, socket.MSG_WAITALL):
            if target is not None:
                os.pwrite(target, span[:got], offset)
            offset += got
        _tell(*start)


def _tell(wall_start: float, cpu_start: float) -> None:
    print(json.dumps({"wall_s": time.monotonic() - wall_start, "cpu_s": time.process_time() - cpu_start}), flush=True)


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    if role == "send":
        send(Path(rest[0]))
    else:
        receive(int(rest[0]), Path(rest[1]) if role == "store" else None)
