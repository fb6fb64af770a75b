# SPDX-License-Identifier: GPL-2.0-or-later
"""A FUSE file system of one file whose server can stop answering: what a dead network mount is to a daemon."""

import ctypes
import os
import select
import struct

import harness

LOOKUP, GETATTR, OPEN, RELEASE, INIT, FLUSH = 1, 3, 14, 18, 26, 25
FORGETS = (2, 42)
ROOT, FILE = 1, 2
SIZE = 4096


def _attr(node):
    mode = 0o40755 if node == ROOT else 0o100666
    return struct.pack("QQQQQQIIIIIIIIII", node, SIZE, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def serve(device, hang):
    """Answer until the mount is gone; from the moment that `hang` is readable take requests and answer none."""
    while True:
        try:
            request = os.read(device, 1 << 18)
        except OSError:
            return
        length, opcode, unique, node = struct.unpack_from("IIQQ", request)
        if opcode in FORGETS or select.select([hang], [], [], 0)[0]:
            continue
        error, data = 0, b""
        if opcode == INIT:
            data = struct.pack("IIIIHHIIHHIIHHI", 7, 31, 65536, 0, 12, 9, 65536, 1, 0, 0, 0, 0, 0, 0, 0) + bytes(16)
            data = data[:64]
        elif opcode == LOOKUP:
            data = struct.pack("QQQQII", FILE, 0, 0, 0, 0, 0) + _attr(FILE)
        elif opcode == GETATTR:
            data = struct.pack("QII", 0, 0, 0) + _attr(node)
        elif opcode == OPEN:
            data = struct.pack("QII", 1, 0, 0)
        elif opcode not in (RELEASE, FLUSH):
            error = -38  # ENOSYS
        os.write(device, struct.pack("IiQ", 16 + len(data), error, unique) + data)


class HungFs:
    """Mounted at a directory; .path is its file; hang() stops the server; end() takes it away."""

    def __init__(self, directory):
        self.directory = directory
        os.mkdir(directory)
        device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if harness.libc.mount(b"hung", os.fsencode(directory), b"fuse", 0, options):
            raise OSError(ctypes.get_errno(), "mount")
        self.hang_reader, self.hang_writer = os.pipe()
        self.server = harness.Child(serve, device, self.hang_reader)
        os.close(device)
        self.path = os.path.join(directory, "file")

    def hang(self):
        os.write(self.hang_writer, b"x")

    def end_server(self):
        """With its server the connection ends, and whoever waits is let go."""
        self.server.__exit__()

    def end(self):
        self.end_server()
        harness.libc.umount2(os.fsencode(self.directory), 2)
        for fd in (self.hang_reader, self.hang_writer):
            os.close(fd)
        os.rmdir(self.directory)
