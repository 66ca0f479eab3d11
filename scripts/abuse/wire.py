"""The frames that a stranger says: as much of MessagePack as they need, written out by hand."""

from __future__ import annotations

import socket
import struct
from typing import Union

Value = Union[None, bool, int, str, bytes, list["Value"], tuple["Value", ...], dict[str, "Value"]]

VERSION = 2
HEADER_BYTES = 5
MAX_HELLO_BYTES = 64 << 10
MAX_CONTROL_BYTES = 1 << 20
MAX_REQUEST_BYTES = 4 << 10
SPAN_BLOCKS = 64
SPANS_PER_REQUEST = 64


def pack(value: Value) -> bytes:
    """A value as MessagePack; numbers and texts need not be in their shortest form."""
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return bytes([value]) if value < 128 else b"\xcf" + struct.pack(">Q", value)
    if isinstance(value, str):
        text = value.encode()
        return (bytes([0xA0 | len(text)]) if len(text) < 32 else b"\xda" + struct.pack(">H", len(text))) + text
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    if isinstance(value, (list, tuple)):
        return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(pack, value))
    return bytes([0x80 | len(value)]) + b"".join(pack(key) + pack(each) for key, each in value.items())


def header(length: int) -> bytes:
    """The header of a control frame whose body is so long."""
    return struct.pack(">IB", length, 0)


def frame(message: Value) -> bytes:
    """A control frame."""
    body = pack(message)
    return header(len(body)) + body


def hello(peer: str) -> bytes:
    """HELLO."""
    return frame({"Hello": {"version": VERSION, "peer": peer, "agent": "abuse"}})


def get(file: bytes, first_span: int, spans: int, last_blocks: int = SPAN_BLOCKS) -> bytes:
    """GET of whole spans of a file; the last one may have fewer blocks."""
    count = (spans - 1) * SPAN_BLOCKS + last_blocks
    return frame({"Get": {"id": file, "run": {"first": first_span * SPAN_BLOCKS, "count": count}, "fresh": False}})


def who_has(name: str) -> bytes:
    """WHO_HAS of a name."""
    return frame({"WhoHas": {"question": {"Name": {"name": name, "prefix": None}}}})


def listing(name: str, file: bytes) -> dict[str, Value]:
    """An entry of a list."""
    return {"name": name, "id": file, "size": 1, "complete": True}


def register(instance: int, files: list[Value]) -> bytes:
    """REGISTER."""
    return frame({"Register": {"instance": instance, "port": 9, "files": files}})


def new_file(files: list[Value]) -> bytes:
    """NEW_FILE."""
    return frame({"NewFile": {"files": files}})


def read_exactly(stream: socket.socket, length: int) -> bytes:
    """So many bytes, or an error if the other side ends before."""
    parts = []
    while length > 0:
        part = stream.recv(min(length, 1 << 20))
        if not part:
            raise ConnectionError("it was closed")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def read_frame(stream: socket.socket) -> bytes:
    """The body of the next frame."""
    length, _ = struct.unpack(">IB", read_exactly(stream, HEADER_BYTES))
    return read_exactly(stream, length)
