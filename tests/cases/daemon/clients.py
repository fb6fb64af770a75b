# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients that use a folder in every way and know at each moment what it must contain.

A Client is one process: a main loop that makes, opens, changes, renames and removes entries of its own, one stream
(streams.py) and one waiter beside it in threads. Each operation is checked at once against what the client knows;
whatever comes out otherwise is a Trouble that names the operation, the errno and how many workers had been killed.
"""

import contextlib
import mmap
import os
import random
import stat
import struct
import threading
import time
import traceback

import harness

BLOCK = 4096
SIZE = 4 * BLOCK
MODES = (0o600, 0o640, 0o644, 0o660, 0o666)
ENTRIES_MAX = 24  # of one client at a time

XATTRS = {"file": ("srv", "file", "rdwr"), "memfd": ("srv", "memfd", "rdwr"), "pipe": ("srv", "pipe", "read"),
          "mem": ("mem", "memfd", "rdwr")}


class Shared:
    """What the clients and the killer tell each other: kills so far, and when to stop."""

    def __init__(self):
        self.memory = mmap.mmap(-1, BLOCK)

    @property
    def kills(self):
        return struct.unpack_from("Q", self.memory, 0)[0]

    @kills.setter
    def kills(self, number):
        struct.pack_into("Q", self.memory, 0, number)

    @property
    def stop(self):
        return self.memory[8] != 0

    @stop.setter
    def stop(self, value):
        self.memory[8] = int(value)


class Wrong(AssertionError):
    """A call went well and what it gave is wrong."""


def same(what, got, expected):
    if got != expected:
        if isinstance(got, bytes) and len(got) > 64:
            first = next((i for i, pair in enumerate(zip(got, expected)) if pair[0] != pair[1]), -1)
            got, expected = f"{len(got)} bytes, other from {first}", f"{len(expected)} bytes"
        raise Wrong(f"{what}: got {got}, expected {expected}")


class Expected:
    """One entry as it must be."""

    def __init__(self, kind, path, mode, content, order):
        self.kind = kind  # a key of XATTRS
        self.path = path  # inside the folder
        self.mode = mode
        self.content = content
        self.order = order


class Log:
    """Collects troubles and counts what was done, from every thread of a client."""

    def __init__(self, name, shared):
        self.name = name
        self.shared = shared
        self.troubles = []
        self.counts = {}

    def count(self, operation, number=1):
        self.counts[operation] = self.counts.get(operation, 0) + number

    @contextlib.contextmanager
    def watching(self, operation):
        """What fails inside is a trouble, and the end of everything."""
        kills = self.shared.kills
        try:
            yield
            self.count(operation)
        except Exception as error:
            number = harness.errno_name(error.errno) if isinstance(error, OSError) else type(error).__name__
            last = traceback.extract_tb(error.__traceback__)[-1]
            self.troubles.append(f"{self.name}: {operation}: {number} ({error}) at {last.name}:{last.lineno} "
                                 f"{last.line}; begun at kill {kills}, failed at kill {self.shared.kills}")
            self.shared.stop = True


class Client:
    """One client; run() is called in a process of its own and returns what there must be at the end."""

    def __init__(self, number, folder, shared, beside):
        self.name = f"c{number}"
        self.folder = folder
        self.shared = shared
        self.random = random.Random(f"storm {number}")
        self.beside = beside  # functions (client, log) that run in threads
        self.log = Log(self.name, shared)
        self.entries = {}  # path: Expected
        self.boards = []
        self.serial = 0
        self.library = None

    def run(self):
        os.umask(0)
        self.uid, self.gid = os.geteuid(), os.getegid()
        self.library = harness.Connection(self.folder.dir)
        threads = []
        for function in self.beside:
            thread = threading.Thread(target=self.watch, args=(function,), daemon=True)
            thread.start()
            threads.append((function.__name__, thread))
        operations = [name for name in dir(self) if name.startswith("do_")]
        while not self.shared.stop:
            name = self.random.choice(operations)
            with self.log.watching(name[3:]):
                getattr(self, name)()
        deadline = time.monotonic() + 30 * harness.SCALE
        for name, thread in threads:
            thread.join(max(0, deadline - time.monotonic()))
            if thread.is_alive():
                self.log.troubles.append(f"{self.name}: {name} does not end: it waits for what does not come")
        with self.log.watching("all entries at the end"):
            self.check_names()
            for entry in self.entries.values():
                self.check(entry)
        self.library.disconnect()
        return {"entries": [vars(entry) for entry in self.entries.values()], "boards": self.boards,
                "uid": self.uid, "gid": self.gid, "troubles": self.log.troubles, "counts": self.log.counts}

    def watch(self, function):
        with self.log.watching(function.__name__):
            function(self, self.log)

    # ---- what there is ----

    def full(self, path):
        return os.path.join(self.folder.dir, path)

    def new_path(self, kind):
        self.serial += 1
        name = f"{self.name}-{self.serial}"
        boards = [board for board in self.boards if board.startswith(kind + "/")]
        if boards and self.random.random() < 0.3:
            return f"{self.random.choice(boards)}/{name}"
        return f"{kind}/{name}"

    def new_content(self):
        return self.random.randbytes(BLOCK) * (SIZE // BLOCK)

    def remember(self, kind, path, mode, content):
        self.entries[path] = Expected(kind, path, mode, content, self.serial)

    def some(self, *kinds):
        found = [entry for entry in self.entries.values() if not kinds or entry.kind in kinds]
        return self.random.choice(found) if found else None

    def full_up(self):
        """Too many entries: remove one rather than make one."""
        if len(self.entries) < ENTRIES_MAX:
            return False
        self.do_unlink()
        return True

    def check(self, entry):
        """Everything that can be seen of one entry, by both ways."""
        path = self.full(entry.path)
        at = os.stat(path)
        same(f"{path}: mode", oct(at.st_mode), oct(stat.S_IFREG | entry.mode))
        same(f"{path}: owner", (at.st_uid, at.st_gid), (self.uid, self.gid))
        seen = self.library.stat(entry.path)
        same(f"{path}: mode by the library", oct(seen.mode), oct(stat.S_IFREG | entry.mode))
        same(f"{path}: owner by the library", (seen.uid, seen.gid), (self.uid, self.gid))
        same(f"{path}: what is posted", (os.fsdecode(seen.kind), os.fsdecode(seen.what)), XATTRS[entry.kind][:2])
        kind, what, access = XATTRS[entry.kind]
        same(f"{path}: user.kshared.kind", os.getxattr(path, "user.kshared.kind"), kind.encode())
        same(f"{path}: user.kshared.what", os.getxattr(path, "user.kshared.what"), what.encode())
        if kind == "srv":
            same(f"{path}: user.kshared.poster.uid", os.getxattr(path, "user.kshared.poster.uid"),
                 str(self.uid).encode())
            same(f"{path}: poster's pid", seen.poster_pid, os.getpid())
        if entry.content is not None:
            same(f"{path}: size", at.st_size, len(entry.content))
            self.check_content(entry)

    def check_content(self, entry):
        fd = os.open(self.full(entry.path), os.O_RDONLY)
        try:
            same(f"{entry.path}: content", os.pread(fd, SIZE + 1, 0), entry.content)
        finally:
            os.close(fd)

    def check_names(self):
        for kind in ("srv", "mem"):
            for board in [kind] + [board for board in self.boards if board.startswith(kind)]:
                expected = {os.path.basename(path) for path in list(self.entries) + self.boards
                            if os.path.dirname(path) == board}
                names = [name for name in os.listdir(self.full(board)) if name.startswith(self.name + "-")]
                same(f"names in {board}, each once", len(names), len(set(names)))
                same(f"names in {board}", set(names), expected)
                listed = self.list_by_library(board)
                same(f"names in {board} by the library",
                     {name for name in listed if name.startswith(self.name + "-")}, expected)
                made = sorted((entry.order, listed[os.path.basename(path)].btime_ns)
                              for path, entry in self.entries.items() if os.path.dirname(path) == board)
                times = [made_ns for _, made_ns in made]
                same(f"{board}: times of birth in the order of creation", times, sorted(times))

    def list_by_library(self, board):
        """A listing in which none of this client's names comes twice; those of others may be replaced meanwhile."""
        while True:
            try:
                return self.library.list(board)
            except AssertionError as error:
                if str(error).startswith(self.name + "-"):
                    raise

    # ---- operations ----

    def scratch_file(self, content):
        """An open file on disk, or a memfd, with this content: (kind, descriptor)."""
        if self.random.random() < 0.5:
            fd = os.memfd_create("storm")
            kind = "memfd"
        else:
            path = os.path.join(self.folder.scratch, f"{self.name}-{self.serial}")
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            os.unlink(path)
            kind = "file"
        os.pwrite(fd, content, 0)
        return kind, fd

    def post(self, by_library, kind, fd, content):
        path, mode = self.new_path("srv"), self.random.choice(MODES)
        if by_library:
            self.library.srv_post(path[4:], fd, mode)
        else:
            into = os.open(self.full(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            try:
                text = str(fd).encode()
                same(f"{path}: bytes taken of the number", os.write(into, text), len(text))
            finally:
                os.close(into)
        self.remember(kind, path, mode, content)

    def do_post_file(self):
        if self.full_up():
            return
        content = self.new_content()
        kind, fd = self.scratch_file(content)
        try:
            self.post(self.random.random() < 0.5, kind, fd, content)
        finally:
            os.close(fd)

    def do_post_pipe(self):
        if self.full_up():
            return
        reader, writer = os.pipe()
        try:
            self.post(self.random.random() < 0.5, "pipe", reader, None)
        finally:
            os.close(reader)
            os.close(writer)

    def do_make_object(self):
        if self.full_up():
            return
        path, mode, content = self.new_path("mem"), self.random.choice(MODES), self.new_content()
        if self.random.random() < 0.5:
            fd = self.library.mem_create(path[4:], SIZE, mode)
        else:
            fd = os.open(self.full(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
            os.ftruncate(fd, SIZE)
        try:
            same(f"{path}: bytes written", os.pwrite(fd, content, 0), SIZE)
        finally:
            os.close(fd)
        self.remember("mem", path, mode, content)

    def use(self, entry, fd):
        """Read it all, write a block, see that block by mmap."""
        same(f"{entry.path}: pread", os.pread(fd, SIZE + 1, 0), entry.content)
        at = self.random.randrange(SIZE // BLOCK) * BLOCK
        data = self.random.randbytes(BLOCK)
        same(f"{entry.path}: pwrite", os.pwrite(fd, data, at), BLOCK)
        entry.content = entry.content[:at] + data + entry.content[at + BLOCK:]
        with mmap.mmap(fd, SIZE) as memory:
            same(f"{entry.path}: mmap", memory[:], entry.content)
            memory[at] ^= 0xFF
            entry.content = memory[:]

    def do_open_by_mount(self):
        entry = self.some("file", "memfd", "mem")
        if entry:
            fd = os.open(self.full(entry.path), os.O_RDWR)
            try:
                self.use(entry, fd)
            finally:
                os.close(fd)

    def do_open_by_library(self):
        entry = self.some("file", "memfd", "mem")
        if entry:
            if entry.kind == "mem":
                fd = self.library.mem_open(entry.path[4:], os.O_RDWR)
            else:
                fd = self.library.srv_open(entry.path[4:], os.O_RDWR)
            try:
                self.use(entry, fd)
            finally:
                os.close(fd)

    def do_rename(self):
        entry = self.some()
        if not entry:
            return
        # A new name, or that of another entry of this kind, which it replaces.
        other = self.some() if self.random.random() < 0.2 else None
        order = self.serial
        target = self.new_path(entry.path[:3])
        if other and other is not entry and other.path[:3] == entry.path[:3]:
            target = other.path
        os.rename(self.full(entry.path), self.full(target))
        self.serial = max(order, self.serial)
        del self.entries[entry.path]
        entry.path = target
        self.entries[target] = entry

    def do_chmod(self):
        entry = self.some()
        if entry:
            mode = self.random.choice(MODES)
            os.chmod(self.full(entry.path), mode)
            entry.mode = mode

    def do_unlink(self):
        entry = self.some()
        if not entry:
            return
        fd = os.open(self.full(entry.path), os.O_RDONLY) if entry.content else None
        way = self.random.randrange(3)
        if way == 0:
            os.unlink(self.full(entry.path))
        elif way == 1:
            self.library.remove(entry.path)
        elif entry.kind == "mem":
            self.library.mem_remove(entry.path[4:])
        else:
            self.library.srv_remove(entry.path[4:])
        del self.entries[entry.path]
        same(f"{entry.path}: there after it was removed", os.path.lexists(self.full(entry.path)), False)
        if fd is not None:
            same(f"{entry.path}: content after it was removed", os.pread(fd, SIZE + 1, 0), entry.content)
            os.close(fd)

    def do_make_board(self):
        if len(self.boards) < 4:
            self.serial += 1
            board = f"{self.random.choice(('srv', 'mem'))}/{self.name}-{self.serial}"
            os.mkdir(self.full(board), 0o700)
            self.boards.append(board)

    def do_remove_board(self):
        empty = [board for board in self.boards if not any(path.startswith(board + "/") for path in self.entries)]
        if empty:
            board = self.random.choice(empty)
            if self.random.random() < 0.5:
                os.rmdir(self.full(board))
            else:
                self.library.remove(board)
            self.boards.remove(board)

    def do_list(self):
        self.check_names()

    def do_look(self):
        entry = self.some()
        if entry:
            self.check(entry)
