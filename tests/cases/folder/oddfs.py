# SPDX-License-Identifier: GPL-2.0-or-later
"""A FUSE file system of one directory whose entries misbehave, each in a way of its own, and always in the same."""

import contextlib
import ctypes
import errno
import os
import struct

import harness

LOOKUP, FORGET, GETATTR, INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = 1, 2, 3, 26, 27, 28, 29, 36, 42
ROOT = 1
DT_UNKNOWN, DT_DIR, DT_REG = 0, 4, 8
SIZE, BLOCKS = 5000, 16

# What an entry may be, and as what it is listed.
KINDS = {
    "file": DT_REG,
    "untold": DT_UNKNOWN,  # a file, of which reading the directory does not tell that it is one
    "untold-directory": DT_UNKNOWN,  # an empty one
    "lied-directory": DT_REG,  # a directory with a file in it, which is listed as a file
    "loop": DT_DIR,  # a directory with itself in it
    "same": DT_DIR,  # the same, of which the kernel does not know: another one with its number
    "ghost": DT_REG,  # gone when it is looked at
    "ghost-directory": DT_DIR,
    "broken": DT_REG,  # looking at it is an I/O error
    "broken-directory": DT_DIR,  # reading it is
    "replaced": DT_DIR,  # a file, when it is looked at
    "hung": DT_DIR,  # opening it is not answered until who waits is interrupted
}


def _is_directory(kind):
    return kind in ("untold-directory", "broken-directory", "hung") or kind in HOLDS


# What is in those that hold something: its name, and whether it is the directory once more.
HOLDS = {"lied-directory": (b"in", False), "loop": (b"self", True), "same": (b"self", True)}
LEVEL = 1000  # nodes below the entries: the entry's number, and this for each level


class _Server:
    def __init__(self, device, entries, hung):
        self.device = device
        self.names = list(entries)
        self.kinds = list(entries.values())
        self.hung = hung

    def kind(self, node):
        return self.kinds[node % LEVEL - 2]

    def attr(self, node):
        directory = node == ROOT or (_is_directory(self.kind(node)) and
                                     (node < LEVEL or HOLDS[self.kind(node)][1]))
        number = node % LEVEL if node != ROOT and self.kind(node) == "same" else node
        return struct.pack("QQQQQQIIIIIIIIII", number, SIZE, BLOCKS, 0, 0, 0, 0, 0, 0,
                           0o40755 if directory else 0o100644, 1, 0, 0, 0, 4096, 0)

    def lookup(self, parent, name):
        if parent != ROOT:
            kind = self.kind(parent)
            if name != HOLDS.get(kind, (None,))[0]:
                return -errno.ENOENT, b""
            node = parent if kind == "loop" else parent + LEVEL
            return 0, struct.pack("QQQQII", node, 0, 0, 0, 0, 0) + self.attr(node)
        if name not in self.names:
            return -errno.ENOENT, b""
        index = self.names.index(name)
        kind = self.kinds[index]
        if kind.startswith("ghost"):
            return -errno.ENOENT, b""
        if kind == "broken":
            return -errno.EIO, b""
        return 0, struct.pack("QQQQII", index + 2, 0, 0, 0, 0, 0) + self.attr(index + 2)

    def read_directory(self, node, start):
        if node != ROOT:
            kind = self.kind(node)
            if kind not in HOLDS or start:
                return (-errno.EIO, b"") if kind == "broken-directory" else (0, b"")
            name, again = HOLDS[kind]
            data = struct.pack("QQII", node, 1, len(name), DT_DIR if again else DT_REG) + name
            return 0, data + bytes(-len(data) % 8)
        data = b""
        for index in range(start, len(self.names)):
            name = self.names[index]
            data += struct.pack("QQII", index + 2, index + 1, len(name), KINDS[self.kinds[index]]) + name
            data += bytes(-len(data) % 8)
        return 0, data

    def answer(self, unique, error, data=b""):
        # Whoever asked may have gone.
        with contextlib.suppress(FileNotFoundError):
            os.write(self.device, struct.pack("IiQ", 16 + len(data), error, unique) + data)

    def serve(self):
        """Answer until the mount is gone."""
        while True:
            try:
                request = os.read(self.device, 1 << 18)
            except OSError:
                return
            _, opcode, unique, node = struct.unpack_from("IIQQ", request)
            if opcode in (FORGET, BATCH_FORGET):
                continue
            if opcode == OPENDIR and node != ROOT and self.kind(node) == "hung":
                os.write(self.hung, b"x")
                continue
            if opcode == INTERRUPT:
                unique, = struct.unpack_from("Q", request, 40)
                self.answer(unique, -errno.EINTR)
                continue
            error, data = -errno.ENOSYS, b""
            if opcode == INIT:
                error, data = 0, struct.pack("IIIIHHII", 7, 31, 65536, 0, 12, 9, 65536, 1) + bytes(32)
            elif opcode == LOOKUP:
                error, data = self.lookup(node, request[40:].split(b"\0")[0])
            elif opcode == GETATTR:
                error, data = 0, struct.pack("QII", 0, 0, 0) + self.attr(node)
            elif opcode == OPENDIR:
                error, data = 0, struct.pack("QII", 1, 0, 0)
            elif opcode == READDIR:
                error, data = self.read_directory(node, struct.unpack_from("QQ", request, 40)[1])
            elif opcode == RELEASEDIR:
                error = 0
            self.answer(unique, error, data)


class OddFs:
    """Mounted at a new directory, until end(). entries: {name in bytes: one of KINDS}; .hung is readable once one is."""

    def __init__(self, directory, entries):
        self.directory = directory
        os.mkdir(directory)
        device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if harness.libc.mount(b"odd", os.fsencode(directory), b"fuse", 0, options):
            raise OSError(ctypes.get_errno(), "mount")
        self.hung, writer = os.pipe()
        self.server = harness.Child(_Server(device, entries, writer).serve)
        os.close(device)
        os.close(writer)

    def end(self):
        """With its server the connection ends, and whoever waits is let go."""
        self.server.__exit__()
        harness.libc.umount2(os.fsencode(self.directory), 2)
        os.close(self.hung)
