# SPDX-License-Identifier: GPL-2.0-or-later
"""Both ends of a port, without the library: a server that may misbehave, and a client who looks closely."""

import array
import contextlib
import ctypes
import fcntl
import mmap
import os
import select
import socket
import struct

import rawctl
from processes import SCALE

F_ADD_SEALS = 1033
SEAL_SEAL, SEAL_SHRINK, SEAL_GROW, SEAL_WRITE, SEAL_FUTURE_WRITE = 1, 2, 4, 8, 16
TASK, CGROUP, RULE, REPLACE = 1, 2, 3, 256

PAGE_MAGIC = 0x3130545250485321
SERVE_MAGIC = 0x31505248
PAGES = ["load", "cpu", "memory", "swap", "vmstat", "psi", "net", "clock"]
U64, S64, U32, FIXED, CHARS = range(1, 6)
TYPES = {"u64": U64, "s64": S64, "u32": U32, "fixed": FIXED, "chars": CHARS}

HEAD = struct.Struct("<QIIQIIIIIIQQ32s32xQQQ40x")  # magic ... name, seq, writes, sample_ns
FIELD = struct.Struct("<44s12sBBHIII")
OPEN = struct.Struct("<IIIIIIIIQ256s")  # magic what page access flags uid gid pid entry name
HELLO = struct.Struct("<IiIIQQQ")
SEQ_AT = 128
OPEN_PIDFD, OPEN_TARGET = 1, 2


class Field:
    """One field of a page to be made: where it is is counted by make_page()."""

    def __init__(self, name, kind, value, unit="", bits=0, width=8, count=1):
        self.name, self.kind, self.value, self.unit = name, kind, value, unit
        self.bits, self.width, self.count = bits, width, count

    def data(self):
        values = self.value if isinstance(self.value, list) else [self.value]
        if self.kind == CHARS:
            return b"".join(value.ljust(self.width, b"\0") for value in values)
        return b"".join(struct.pack("<q" if self.kind == S64 else "<Q", value) for value in values)


def make_page(fields, name=b"test", version=1, magic=PAGE_MAGIC, seq=0, size=None, **head):
    """The bytes of a page."""
    data_off = (HEAD.size + FIELD.size * len(fields) + 63) // 64 * 64
    table = data = b""
    for field in fields:
        raw = field.name if isinstance(field.name, bytes) else field.name.encode()
        width = field.width if field.kind == CHARS else 0
        table += FIELD.pack(raw, field.unit.encode(), field.kind, field.bits, width,
                            head.get("offset", data_off + len(data)), field.count, field.width)
        data += field.data()
    whole = data_off + len(data)
    top = HEAD.pack(magic, version, HEAD.size, size if size is not None else whole, head.get("nr", len(fields)),
                    FIELD.size, HEAD.size, data_off, len(data), 3, head.get("period", 0), head.get("generation", 1), name,
                    seq, 1, head.get("sample", 1))
    return (top + table).ljust(data_off, b"\0") + data


def memory(data, seals=SEAL_SHRINK | SEAL_GROW | SEAL_FUTURE_WRITE | SEAL_SEAL, length=None):
    """A memfd with these bytes."""
    fd = os.memfd_create("page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, length if length is not None else (len(data) + 4095) // 4096 * 4096)
    os.pwrite(fd, data, 0)
    if seals:
        fcntl.fcntl(fd, F_ADD_SEALS, seals)
    return fd


def hello(result=0, magic=SERVE_MAGIC):
    return HELLO.pack(magic, result, 0, 0, 0, 0, 0)


class Caller:
    """Who was handed over to a server: what it was told, and its descriptors."""

    def __init__(self, data, fds):
        (self.magic, self.what, self.page, self.access, self.flags, self.uid, self.gid, self.pid, self.entry,
         name) = OPEN.unpack(data)
        self.name = name.rstrip(b"\0").decode()
        self.fds = fds
        self.socket = socket.socket(fileno=fds[0])

    def answer(self, data, fds=()):
        self.socket.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])

    def close(self):
        self.socket.close()
        for fd in self.fds[1:]:
            os.close(fd)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class Server:
    """The server of one port, which is posted when this is made."""

    def __init__(self, folder, name, page=None, mode=0o644, flags=0):
        self.socket, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(5 * SCALE)
        self.page = page
        with end:
            self.result = post(folder, name, end.fileno(), mode, flags)

    def accept(self):
        """The next caller."""
        data, control, _, _ = self.socket.recvmsg(4096, 4096)
        if not data:
            raise EOFError
        fds = [fd for _, _, raw in control for fd in array.array("i", raw[:len(raw) // 4 * 4])]
        return Caller(data, fds)

    def serve(self, callers=None):
        """Serve callers with self.page, in this process; they keep their sockets until it ends."""
        kept = []
        fd = memory(self.page)
        while callers is None or len(kept) < callers:
            try:
                caller = self.accept()
            except (EOFError, TimeoutError):
                break
            with contextlib.suppress(BrokenPipeError):  # who has gone, or was asking for a worker that died
                caller.answer(hello(), [fd])
            kept.append(caller)
        os.close(fd)
        return kept

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def request(folder, data, fds=()):
    """One request on a connection of its own: (result, descriptors, body)."""
    with rawctl.Raw(folder) as raw:
        raw.send(data, fds)
        answer, control, _, _ = raw.socket.recvmsg(1 << 17, 4096)
        got = [fd for _, _, more in control for fd in array.array("i", more[:len(more) // 4 * 4])]
        return rawctl.REPLY.unpack_from(answer)[1], got, answer[rawctl.REPLY.size:]


def post(folder, name, fd, mode=0o644, flags=0):
    """Post a descriptor as port/name. Return: 0 or -errno."""
    token = int.from_bytes(os.urandom(7), "little") + 1
    return request(folder, rawctl.request(rawctl.POST, b"port/" + name.encode(), token=token, mode=mode, more=flags),
                   [fd])[0]


def remove(folder, name):
    token = int.from_bytes(os.urandom(7), "little") + 1
    return request(folder, rawctl.request(rawctl.REMOVE, b"port/" + name.encode(), token=token))[0]


def open_port(folder, name, oflags=os.O_RDONLY):
    """CTL_OPEN: (0, the client's end) or (-errno, None)."""
    result, fds, body = request(folder, rawctl.request(rawctl.OPEN, b"port/" + name.encode(), oflags=oflags))
    if result < 0:
        assert not fds, "an error comes with a descriptor"
        return result, None
    assert len(fds) == 1
    end = socket.socket(fileno=fds[0])
    end.settimeout(5 * SCALE)
    return 0, end


class Page:
    """A page that was opened: mapped, and found sound."""

    def __init__(self, folder, name):
        result, self.socket = open_port(folder, name)
        if result < 0:
            raise OSError(-result, os.strerror(-result), name)
        data, control, _, _ = self.socket.recvmsg(4096, 4096)
        if not data:
            raise ConnectionRefusedError(name)
        (self.magic, result, self.bell, _, _, _, _) = HELLO.unpack(data)
        self.fds = [fd for _, _, raw in control for fd in array.array("i", raw[:len(raw) // 4 * 4])]
        if result:
            raise OSError(-result, os.strerror(-result), name)
        size = os.fstat(self.fds[0]).st_size or self.map_size()
        self.map = mmap.mmap(self.fds[0], size, mmap.MAP_SHARED, mmap.PROT_READ)

    def map_size(self):
        with open(f"/proc/self/fdinfo/{self.fds[0]}") as file:
            info = dict(line.split(":", 1) for line in file if ":" in line)
        return (int(info["value_size"]) * int(info["max_entries"]) + 4095) // 4096 * 4096

    def head(self):
        return HEAD.unpack_from(self.map)

    def sample_ns(self):
        return struct.unpack_from("<Q", self.map, SEQ_AT + 16)[0]

    def values(self):
        """Every field's values, by name, of one pass."""
        for _ in range(10000):
            seq = struct.unpack_from("<Q", self.map, SEQ_AT)[0]
            copy = self.map[:]
            if not seq & 1 and struct.unpack_from("<Q", self.map, SEQ_AT)[0] == seq:
                break
        else:
            raise TimeoutError("the page is never at rest")
        head = HEAD.unpack_from(copy)
        found = {}
        for i in range(head[4]):
            name, _, kind, bits, width, offset, count, stride = FIELD.unpack_from(copy, head[6] + i * head[5])
            read = {CHARS: f"{width}s", U32: "<I", S64: "<q"}.get(kind, "<Q")
            got = [struct.unpack_from(read, copy, offset + n * stride)[0] for n in range(count)]
            if kind == FIXED:
                got = [value / (1 << bits) for value in got]
            found[name.rstrip(b"\0").decode()] = got
        return found

    def is_gone(self):
        """Has the server hung up?"""
        poll = select.poll()
        poll.register(self.socket, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def close(self):
        self.map.close()
        for fd in self.fds:
            os.close(fd)
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def publishers(folder):
    """The process numbers of the folder's publisher: one or none."""
    found = []
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
            if b"--publisher" in words and folder.dir.encode() in words:
                found.append(int(pid))
    return found


def pidfd_open(pid):
    return os.pidfd_open(pid)
