"""What is done to a role, one function per case. Each takes where the role is, and returns what came of it."""

from __future__ import annotations

import select
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import wire
from victim import Role

Address = tuple[str, int]


@contextmanager
def connections(address: Address, count: int) -> Iterator[list[socket.socket]]:
    """So many connections, closed at the end."""
    streams: list[socket.socket] = []
    try:
        for _ in range(count):
            stream = socket.socket()
            streams.append(stream)
            stream.settimeout(15)
            stream.connect(address)
        yield streams
    finally:
        for stream in streams:
            stream.close()


def greeted(address: Address, peer: str) -> socket.socket:
    """A connection on which HELLO was said and answered."""
    stream = socket.create_connection(address, 15)
    stream.sendall(wire.hello(peer))
    wire.read_frame(stream)
    return stream


def send_all_that_is_taken(stream: socket.socket, data: bytes) -> None:
    """Sends; that the other side has ended it is one of the things that may happen."""
    try:
        stream.sendall(data)
    except OSError:
        pass


def maximal_headers(role: Role, before_hello: bytes, behind_hello: bytes) -> str:
    """500 connections announce the longest frame in front of HELLO and stop, and 500 behind it."""
    with connections(role.address, 1000) as streams:
        for number, stream in enumerate(streams):
            said = before_hello if number % 2 else wire.hello("abuse") + behind_hello
            send_all_that_is_taken(stream, said)
        time.sleep(4)
    return "1000 connections"


def idle_and_trickling(role: Role) -> str:
    """500 connections say nothing, and 500 say HELLO at a byte per second."""
    said = wire.hello("abuse")
    with connections(role.address, 1000) as streams:
        for second in range(7):
            for stream in streams[::2]:
                send_all_that_is_taken(stream, said[second : second + 1])
            time.sleep(1)
    return "500 idle, 500 at 1 B/s"


def lists_that_do_not_end(role: Role) -> str:
    """1,000 connections send a list frame but for its last bytes, as far as it is taken."""
    said = wire.hello("abuse") + wire.header(wire.MAX_CONTROL_BYTES) + bytes(wire.MAX_CONTROL_BYTES - 100)
    with connections(role.address, 1000) as streams, selectors.DefaultSelector() as writable:
        for stream in streams:
            stream.setblocking(False)
            writable.register(stream, selectors.EVENT_WRITE, [memoryview(said)])
        until = time.monotonic() + 8
        while time.monotonic() < until:
            for key, _ in writable.select(0.1):
                left = key.data
                try:
                    left[0] = left[0][key.fileobj.send(left[0][: 1 << 18]) :]
                except OSError:
                    left[0] = left[0][:0]
                if not left[0]:
                    writable.unregister(key.fileobj)
    return "1000 connections"


def end_by_panic(role: Role) -> str | None:
    """Registers, which is too much for an actor of this tracker. Returns what is wrong with its end."""
    try:
        with greeted(role.address, "abuse") as stream:
            stream.sendall(wire.register(1, []))
            wire.read_frame(stream)
    except OSError:
        pass
    return role.has_aborted()


def readers_that_do_not_read(role: Role, file: bytes, patience_s: float) -> str:
    """50 connections ask for 64 MiB each and read nothing. Raises if they are not all dropped in time."""
    idle = role.held().descriptors
    request = wire.hello("abuse") + b"".join(
        wire.get(file, first, wire.SPANS_PER_REQUEST) for first in range(0, 256, wire.SPANS_PER_REQUEST)
    )
    with connections(role.address, 50) as streams:
        begun = time.monotonic()
        for stream in streams:
            send_all_that_is_taken(stream, request)
        time.sleep(5)
        while role.held().descriptors > idle + 5:
            if time.monotonic() - begun > patience_s:
                raise AssertionError(f"{role.held().descriptors - idle} descriptors are still held after {patience_s:.0f} s")
            time.sleep(0.1)
        return f"50 dropped after {time.monotonic() - begun:.1f} s"


def tiny_gets(role: Role, file: bytes, count: int, limit_s: float) -> str:
    """So many GETs of a small file over four connections, each of which waits for a thousand answers before it
    asks on. Raises if that takes too long."""
    request, answer_bytes = wire.get(file, 0, 1, 1), wire.HEADER_BYTES + 8 + 100
    in_step = 1000
    begun = time.monotonic()
    answered = [0] * 4

    def ask(number: int) -> None:
        with greeted(role.address, f"flood{number}") as stream:
            while answered[number] < count // 4 and time.monotonic() - begun < limit_s:
                stream.sendall(request * in_step)
                wire.read_exactly(stream, answer_bytes * in_step)
                answered[number] += in_step

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - begun
    if sum(answered) < count:
        raise AssertionError(f"{sum(answered)} of {count} GETs were answered in {took:.0f} s")
    return f"{sum(answered)} answered in {took:.1f} s"


def gets_that_do_not_wait(role: Role, file: bytes, count: int) -> str:
    """So many GETs of a small file, as fast as they are taken, whatever is answered. Raises if the connection
    is not ended for it."""
    batch = wire.get(file, 0, 1, 1) * 1000
    sent = ended = 0
    while sent < count:
        with greeted(role.address, "flood") as stream:
            stream.setblocking(False)
            left = batch
            try:
                while sent < count:
                    reads, writes, _ = select.select([stream], [stream], [], 1)
                    if reads and not stream.recv(1 << 20):
                        break
                    if writes:
                        left = left[stream.send(left) :]
                        if not left:
                            left, sent = batch, sent + 1000
            except OSError:
                pass
            ended += sent < count
    if ended == 0:
        raise AssertionError("nobody minded")
    return f"{sent} GETs, {ended} connections were ended for it"


def hello_flood(role: Role, seconds: float) -> str:
    """Connections that greet and go, as fast as they are taken."""
    begun, count = time.monotonic(), 0
    said = wire.hello("abuse")
    while time.monotonic() - begun < seconds:
        with connections(role.address, 50) as streams:
            for stream in streams:
                send_all_that_is_taken(stream, said)
            count += len(streams)
    return f"{count} HELLOs in {seconds:.0f} s"


def million_names(role: Role, count: int) -> str:
    """A peer lists a million names, and one more. Raises if that one is taken."""
    template = wire.pack(wire.listing("x" * 20, bytes(32)))
    head, tail = template.split(b"x" * 20)
    number_at = tail.index(bytes(32))
    with greeted(role.address, "hoarder") as stream:
        stream.sendall(wire.register(1, []))
        wire.read_frame(stream)
        names = 5000
        for first in range(0, count, names):
            body = b"".join(
                head + b"%020d" % number + tail[:number_at] + number.to_bytes(32, "big") + tail[number_at + 32 :]
                for number in range(first, first + names)
            )
            start = wire.pack({"NewFile": {"files": []}})[:-4] + names.to_bytes(4, "big")
            stream.sendall(wire.header(len(start) + len(body)) + start + body)
            if b"Noted" not in wire.read_frame(stream):
                raise AssertionError(f"the list was refused at {first} names")
        stream.sendall(wire.new_file([wire.listing("one more", bytes(32))]))
        answer = wire.read_frame(stream)
        if b"Limit" not in answer:
            raise AssertionError(f"one more name was not refused: {answer!r}")
        time.sleep(1)
    return f"{count} names, one more refused"


def reconnect_storm(role: Role, peers: int, rounds: int) -> str:
    """So many peers come back at once, again and again. Raises if one of them is not taken in."""
    files: list[wire.Value] = [wire.listing(f"storm/{number}", bytes([number]) * 32) for number in range(10)]
    slowest = 0.0
    for _ in range(rounds):
        begun = time.monotonic()
        with connections(role.address, peers) as streams:
            for number, stream in enumerate(streams):
                stream.sendall(wire.hello(f"storm{number}") + wire.register(number + 1, files))
            for number, stream in enumerate(streams):
                wire.read_frame(stream)
                if b"Registered" not in (answer := wire.read_frame(stream)):
                    raise AssertionError(f"storm{number} was not taken in: {answer!r}")
        slowest = max(slowest, time.monotonic() - begun)
    return f"{rounds} x {peers} peers, all back within {slowest:.1f} s"


def disconnect_for_others(role: Role, victim: str) -> str:
    """1,000 connections greet as a registered peer and say DISCONNECT, or register as it. Raises if it is gone."""
    file: list[wire.Value] = [wire.listing("victim", bytes(32))]
    with greeted(role.address, victim) as peer:
        peer.sendall(wire.register(1, file))
        wire.read_frame(peer)
        refused = 0
        for number in range(1000):
            with greeted(role.address, victim) as stream:
                if number % 2:
                    stream.sendall(wire.frame("Disconnect"))
                else:
                    stream.sendall(wire.register(number + 2, []))
                    refused += b"PeerIdTaken" in wire.read_frame(stream)
        with greeted(role.address, "asker") as stream:
            stream.sendall(wire.who_has("victim"))
            if victim.encode() not in wire.read_frame(stream):
                raise AssertionError("the peer is not listed any more")
        if refused != 500:
            raise AssertionError(f"{500 - refused} of 500 were let in as somebody else")
    return "1000 in its name, it stays listed"
