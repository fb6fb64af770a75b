# SPDX-License-Identifier: GPL-2.0-or-later
"""Merge partitions: the library's calls, memory with known contents, and processes that have some."""

import ctypes
import functools
import mmap
import os
import signal
import socket
import struct

import harness
from library import Connection, library
from processes import PR_SET_DUMPABLE, Child, libc, wait_until

PAGE = 4096
SYNC, CREAT, EXCL = 1, 2, 4
DRY_RUN, FORCE, GUEST_RAM = 1, 2, 4
PARTS = ["general_profit", "members", "merge", "pages_scanned", "pages_shared", "pages_sharing", "pages_skipped",
         "pages_unshared", "unmerge"]
MADV_DONTFORK = 10

MAGIC = 0x314d534b
OP_STAT, OP_MEMBERS, OP_MERGE, OP_UNMERGE = 4, 5, 6, 7
TARGET = 1 << 31
REQUEST = struct.Struct("<IIIIQQ")  # magic op flags zero addr size
ANSWER = struct.Struct("<Ii80s")
ORDERS_HELLO, ORDERS_SEGMENT, ORDERS_BATCH = 0, 1, 2


class Result(ctypes.Structure):
    """struct ksm_result"""
    _fields_ = [(name, ctypes.c_uint64) for name in (
        "scanned", "merged", "zero", "unique", "skipped_changed", "skipped_pinned", "skipped_mapping", "skipped_limit")
    ] + [("saved_bytes", ctypes.c_int64), ("elapsed_ns", ctypes.c_uint64), ("reserved", ctypes.c_uint64 * 6)]


class Stats(ctypes.Structure):
    """struct ksm_stats"""
    _fields_ = [(name, ctypes.c_uint64) for name in (
        "pages_shared", "pages_sharing", "pages_unshared", "pages_scanned", "pages_skipped", "members", "store_bytes",
        "index_bytes")] + [("general_profit", ctypes.c_int64), ("reserved", ctypes.c_uint64 * 7)]


def lib():
    found = library()
    size, number = ctypes.c_size_t, ctypes.c_uint
    found.ksm_open_at.argtypes = [ctypes.c_void_p, ctypes.c_char_p, number, number]
    found.ksm_unlink_at.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    found.ksm_merge.argtypes = found.ksm_unmerge.argtypes = [ctypes.c_int, ctypes.c_int, size, size]
    found.ksm_merge_ex.argtypes = [ctypes.c_int, ctypes.c_int, size, size, number, ctypes.POINTER(Result)]
    found.ksm_unmerge_ex.argtypes = [ctypes.c_int, ctypes.c_int, size, size, number]
    found.ksm_get_stats.argtypes = [ctypes.c_int, ctypes.POINTER(Stats)]
    found.ksm_alloc.argtypes = [size]
    found.ksm_alloc.restype = ctypes.c_void_p
    found.ksm_free.argtypes = [ctypes.c_void_p]
    found.ksm_free.restype = None
    return found


def checked(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def ksm_open(where, name, flags=SYNC | CREAT, mode=0o600):
    connection = Connection(where)
    try:
        return checked(lib().ksm_open_at(connection.handle, os.fsencode(name), flags, mode))
    finally:
        connection.disconnect()


def ksm_unlink(where, name):
    connection = Connection(where)
    try:
        checked(lib().ksm_unlink_at(connection.handle, os.fsencode(name)))
    finally:
        connection.disconnect()


def ksm_merge(fd, address, size, pidfd=-1, flags=0):
    result = Result()
    checked(lib().ksm_merge_ex(fd, pidfd, address, size, flags, ctypes.byref(result)))
    return result


def ksm_unmerge(fd, address, size, pidfd=-1):
    checked(lib().ksm_unmerge_ex(fd, pidfd, address, size, 0))


def ksm_stats(fd):
    stats = Stats()
    checked(lib().ksm_get_stats(fd, ctypes.byref(stats)))
    return stats


def set_dumpable(value):
    return libc.prctl(PR_SET_DUMPABLE, value, 0, 0, 0)


@functools.lru_cache(maxsize=None)
def page(seed):
    """A page that no other seed gives; 0 gives zeros."""
    if seed == 0:
        return bytes(PAGE)
    return struct.pack("<512Q", *((seed * 0x9e3779b97f4a7c15 + i * seed) & (1 << 64) - 1 for i in range(512)))


class Memory:
    """Pages of this process, with a seed for each. made: by ksm_alloc(); else plain anonymous memory."""

    def __init__(self, seeds, made=True, guest=False):
        self.seeds = list(seeds)
        self.size = len(self.seeds) * PAGE
        self.mapping = None
        if made:
            self.address = lib().ksm_alloc(self.size)
            if not self.address:
                raise OSError(ctypes.get_errno(), "ksm_alloc")
        else:
            self.mapping = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.mapping))
            if guest:
                self.mapping.madvise(MADV_DONTFORK)
        for number, seed in enumerate(self.seeds):
            self.write(number, seed)

    def write(self, number, seed):
        self.seeds[number] = seed
        ctypes.memmove(self.address + number * PAGE, page(seed), PAGE)

    def wrong(self):
        """Numbers of pages that do not hold what was written."""
        return [number for number, seed in enumerate(self.seeds)
                if ctypes.string_at(self.address + number * PAGE, PAGE) != page(seed)]

    def frames(self):
        """The frame of each page; read first, so that there is one."""
        assert not self.wrong()
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            data = os.pread(file.fileno(), len(self.seeds) * 8, self.address // PAGE * 8)
        return [word & (1 << 55) - 1 for word in memoryview(data).cast("Q")]

    def free(self):
        lib().ksm_free(self.address)


class Puppet:
    """A process that does what it is told: calls of functions here, by name, whose results come back.

    It keeps what `Memory` it makes: make() gives address and size, wrong() and frames() look at the last one.
    """

    def __init__(self, uid=None, **options):
        self.sock, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.child = Child(self._serve, inner, uid=uid, **options)
        inner.close()
        self.pid, self.pidfd = self.child.pid, self.child.pidfd

    def _serve(self, inner):
        self.sock.close()
        memory = None
        while True:
            data = inner.recv(1 << 20)
            if not data:
                return None
            name, args = eval(data.decode())
            try:
                if name == "make":
                    memory = Memory(*args)
                    value = (memory.address, memory.size)
                elif name in ("write", "wrong", "frames", "free"):
                    value = getattr(memory, name)(*args)
                elif name == "merge":
                    value = ksm_merge(args[0], memory.address, memory.size, *args[1:]).merged
                elif name == "merge_result":
                    result = ksm_merge(args[0], memory.address, memory.size, *args[1:])
                    value = {field[0]: getattr(result, field[0]) for field in Result._fields_[:-1]}
                elif name == "fork":
                    value = Child(memory.wrong).result()
                else:
                    value = eval(name, globals())(*args)
                outcome = ("value", value)
            except OSError as error:
                outcome = ("errno", error.errno)
            inner.send(repr(outcome).encode())

    def tell(self, name, *args):
        self.sock.send(repr((name, args)).encode())

    def hear(self, timeout=20.0):
        self.sock.settimeout(timeout * harness.SCALE)
        kind, value = eval(self.sock.recv(1 << 20).decode())
        if kind == "errno":
            raise OSError(value, os.strerror(value))
        return value

    def do(self, name, *args):
        self.tell(name, *args)
        return self.hear()

    def end(self):
        self.sock.close()
        self.child.__exit__()


def orders(path, text):
    """What `echo TEXT > PATH` does."""
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


class KsmCase(harness.FolderCase):
    descriptor_slack = 1  # the keeper's channel to the merger

    def name(self, suffix=""):
        return self._testMethodName + suffix

    def open(self, suffix="", flags=SYNC | CREAT, mode=0o600):
        fd = ksm_open(self.folder.dir, self.name(suffix), flags, mode)
        self.addCleanup(lambda: harness.errno_of(os.close, fd))
        return fd

    def memory(self, seeds, **options):
        memory = Memory(seeds, **options)
        if not memory.mapping:
            self.addCleanup(memory.free)
        return memory

    def puppet(self, **options):
        puppet = Puppet(**options)
        self.addCleanup(puppet.end)
        return puppet

    def part(self, name, suffix=""):
        """What a file of the partition says."""
        with open(self.path("ksm", self.name(suffix), name)) as file:
            return file.read()

    def merger(self):
        """The merger's process; None: there is none."""
        for pid in harness.descendants(self.folder.keeper_pid()):
            with open(f"/proc/{pid}/comm") as file:
                if file.read().strip() == "ksharedd-merge":
                    return pid
        return None

    def kill_merger(self):
        pid = self.merger()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the merger is gone")
        return pid
