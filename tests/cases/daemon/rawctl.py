# SPDX-License-Identifier: GPL-2.0-or-later
"""The control socket's messages, byte by byte, for clients that do not do as they should."""

import array
import socket
import struct

from processes import SCALE

MAGIC = 0x3152484B
HELLO, POST, OPEN, CREATE, SEAL, STAT, LIST, REMOVE, STATUS, SHUTDOWN = range(1, 11)
REQUEST = struct.Struct("IHHQQQQIIII")
REPLY = struct.Struct("IiQII")


def request(op, path=b"", magic=MAGIC, flags=0, token=1, seq=1, size=0, cookie=0, oflags=0, mode=0o600, more=0,
            path_len=None):
    length = len(path) if path_len is None else path_len
    return REQUEST.pack(magic, op, flags, token, seq, size, cookie, oflags, mode, more, length) + path


class Raw:
    """A connection to the socket of a folder."""

    def __init__(self, folder, timeout=5.0):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(timeout * SCALE)
        self.socket.connect(folder.socket())

    def send(self, data, fds=()):
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([data], control)

    def receive(self):
        """The answer's result (0 or -errno); None if the connection was closed."""
        try:
            data, control, _, _ = self.socket.recvmsg(1 << 17, 4096)
        except ConnectionResetError:
            return None
        for _, _, fds in control:
            for fd in array.array("i", fds[:len(fds) // 4 * 4]):
                socket.close(fd)
        return REPLY.unpack_from(data)[1] if data else None

    def ask(self, data, fds=()):
        self.send(data, fds)
        return self.receive()

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
