# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams through proxied descriptors whose every byte says where it belongs, and waits for them that must end.

A stream's bytes are 32-bit words that count up, so a byte lost, doubled or moved is seen where it happens. Each
function here runs in a thread of a client until the shared stop flag is set, then to the end of its stream.
"""

import array
import os
import random
import select
import socket
import threading
import time

import harness
from clients import Wrong

WORDS = array.array("I", range(1 << 20)).tobytes()
CYCLE = len(WORDS)
END = b"\xff" * 4
CHUNK_MAX = 150000
WAIT_S = 20


def words(position, length):
    """The bytes of a stream from a position on; far more than can be under way before they come round."""
    start = position % CYCLE
    part = WORDS[start:start + length]
    while len(part) < length:
        part += WORDS[:length - len(part)]
    return part


def wait_ready(fd, events):
    """Wait until one of the events is there."""
    poller = select.poll()
    poller.register(fd, events)
    if not poller.poll(WAIT_S * 1000 * harness.SCALE):
        raise Wrong(f"poll for {events:#x} was not woken in {WAIT_S} s")


class Pump:
    """One direction of a stream: a writing and a reading descriptor, each of them proxied or not."""

    def __init__(self, name, client, log, writer, reader, nonblock=False):
        self.name, self.log, self.shared = name, log, client.shared
        self.random = random.Random(f"{client.name} {name}")
        self.writer, self.reader, self.nonblock = writer, reader, nonblock
        self.written = None
        self.thread = None

    def send(self, data):
        while data:
            try:
                data = data[os.write(self.writer, data):]
            except BlockingIOError:
                if not self.nonblock:
                    raise
                wait_ready(self.writer, select.POLLOUT)

    def write_all(self):
        position = 0
        while not self.shared.stop:
            length = self.random.choice((1, 7, 512, 4096, 65536, self.random.randrange(1, CHUNK_MAX)))
            self.send(words(position, length))
            position += length
            if self.random.random() < 0.3:
                time.sleep(self.random.uniform(0, 0.02))  # let the reader run dry and wait
        self.written = position
        self.send(END)

    def receive(self):
        length = self.random.choice((3, 4096, 65536, CHUNK_MAX))
        while True:
            try:
                return os.read(self.reader, length)
            except BlockingIOError:
                if not self.nonblock:
                    raise
                wait_ready(self.reader, select.POLLIN)

    def read_all(self):
        position, tail = 0, b""
        while tail != END:
            data = self.receive()
            if not data:
                raise Wrong(f"{self.name}: end of file after {position} bytes")
            if self.written is not None and position + len(data) > self.written:
                cut = max(0, self.written - position)
                tail += data[cut:]
                data = data[:cut]
            expected = words(position, len(data))
            if data != expected:
                bad = next(i for i in range(len(data)) if data[i] != expected[i])
                raise Wrong(f"{self.name}: byte {position + bad} is wrong: read {data[bad:bad + 12].hex()}, "
                            f"expected {expected[bad:bad + 12].hex()}, in a read of {len(data)} bytes")
            position += len(data)
        if position != self.written:
            raise Wrong(f"{self.name}: {position} bytes read of {self.written}")
        self.log.count(f"bytes: {self.name}", position)

    def watched_write(self):
        with self.log.watching(f"writing: {self.name}"):
            self.write_all()

    def start_writing(self):
        self.thread = threading.Thread(target=self.watched_write, daemon=True)
        self.thread.start()


def posted(client, name, fd, flags):
    """Post a descriptor, close it, open the entry by the mount and remove it."""
    name = f"stream-{client.name}-{name}"
    path = client.full(f"srv/{name}")
    if client.random.random() < 0.5:
        client.library.srv_post(name, fd, 0o600)
    else:
        into = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.write(into, str(fd).encode())
        os.close(into)
    os.close(fd)
    opened = os.open(path, flags)
    os.unlink(path)
    return opened


def run(*pumps):
    for pump in pumps:
        pump.start_writing()
    readers = [threading.Thread(target=watched_read, args=(pump,), daemon=True) for pump in pumps]
    for thread in readers:
        thread.start()
    for thread in readers + [pump.thread for pump in pumps]:
        thread.join()


def watched_read(pump):
    with pump.log.watching(f"reading: {pump.name}"):
        pump.read_all()


def pipe_read_by_mount(client, log):
    reader, writer = os.pipe()
    run(Pump("pipe_read_by_mount", client, log, writer, posted(client, "r", reader, os.O_RDONLY)))


def pipe_written_by_mount(client, log):
    reader, writer = os.pipe()
    run(Pump("pipe_written_by_mount", client, log, posted(client, "w", writer, os.O_WRONLY), reader))


def pipe_both_ends_by_mount(client, log):
    reader, writer = os.pipe()
    run(Pump("pipe_both_ends_by_mount", client, log, posted(client, "w", writer, os.O_WRONLY),
             posted(client, "r", reader, os.O_RDONLY)))


def pipe_by_poll(client, log):
    reader, writer = os.pipe()
    run(Pump("pipe_by_poll", client, log, posted(client, "w", writer, os.O_WRONLY | os.O_NONBLOCK),
             posted(client, "r", reader, os.O_RDONLY | os.O_NONBLOCK), nonblock=True))


def socket_both_ways(client, log):
    one, other = socket.socketpair()
    proxied, peer = posted(client, "s", one.detach(), os.O_RDWR), other.detach()
    run(Pump("socket_written_by_mount", client, log, proxied, peer),
        Pump("socket_read_by_mount", client, log, peer, proxied))


def socket_by_poll(client, log):
    one, other = socket.socketpair()
    ends = [posted(client, name, end.detach(), os.O_RDWR | os.O_NONBLOCK) for name, end in (("a", one), ("b", other))]
    run(Pump("socket_by_poll_one_way", client, log, *ends, nonblock=True),
        Pump("socket_by_poll_other_way", client, log, *ends[::-1], nonblock=True))


STREAMS = (pipe_read_by_mount, pipe_written_by_mount, pipe_both_ends_by_mount, pipe_by_poll, socket_both_ways,
           socket_by_poll)


def waits(client, log):
    """Wait for a proxied descriptor by poll, epoll, edge-triggered epoll and read(); each wait must end."""
    chooser = random.Random(f"{client.name} waits")
    reader, writer = os.pipe()
    proxied = posted(client, "wait", reader, os.O_RDONLY)
    level, edge = select.epoll(), select.epoll()
    level.register(proxied, select.EPOLLIN)
    edge.register(proxied, select.EPOLLIN | select.EPOLLET)
    number = 0
    while not client.shared.stop:
        number += 1
        token = number.to_bytes(8, "little")
        timer = threading.Timer(chooser.uniform(0, 0.04), os.write, (writer, token))
        timer.start()
        begun = client.shared.kills
        way = chooser.choice(("poll", "epoll", "edge", "select", "read"))
        if way == "poll":
            wait_ready(proxied, select.POLLIN)
        elif way == "select":
            if not select.select([proxied], [], [], WAIT_S * harness.SCALE)[0]:
                raise Wrong(f"select was not woken in {WAIT_S} s, at kill {begun}")
        elif way != "read":
            if not (edge if way == "edge" else level).poll(WAIT_S * harness.SCALE):
                raise Wrong(f"{way}-triggered epoll was not woken in {WAIT_S} s, at kill {begun}")
        data = os.read(proxied, 64)
        if data != token:
            raise Wrong(f"after {way}: read {data.hex()}, expected {token.hex()}")
        timer.join()
        log.count(f"waits by {way}")
    for fd in (proxied, writer):
        os.close(fd)
    level.close()
    edge.close()
