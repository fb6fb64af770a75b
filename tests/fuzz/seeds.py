#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the seeds of the fuzz targets, tests/fuzz/seeds/NAME/*: one or more good messages of each sort."""

import os
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
(RESENT, WRONG_LENGTH, OUR_PID, SAME_UNIQUE, EXTENDED, ROOT, LAST_HANDLE, RAW) = (1 << i for i in range(8))
MEM, SRV, PIPE, SOCKET, MEMFD, OBJECT, NEW = 2, 3, 4, 5, 6, 7, 8


def write(target, name, data):
    directory = os.path.join(HERE, "seeds", target)
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, name), "wb") as file:
        file.write(data)


def fuse(opcode, node, body=b"", how=0):
    return struct.pack("<BBBH", opcode, how, node, len(body)) + body


def create(node, name, flags=2):
    return fuse(35, node, struct.pack("<IIII", flags, 0o100644, 0, 0) + name + b"\0", ROOT)


def read_write(opcode, node, size, data=b"", offset=0, flags=0, how=0):
    return fuse(opcode, node, struct.pack("<QQIIQII", 1, offset, size, 0, 0, flags, 0) + data, how)


def fuse_seeds():
    init = fuse(26, 0, struct.pack("<IIIII", 7, 45, 65536, 0xffffffff, 0xffffffff) + bytes(44))
    look = fuse(1, SRV, b"pipe\0") + fuse(3, PIPE, bytes(16)) + fuse(52, PIPE, bytes(24)) + fuse(17, 1)
    post = create(SRV, b"new") + read_write(16, NEW, 4, b"100\n", how=ROOT | OUR_PID | LAST_HANDLE) + \
        fuse(14, NEW, struct.pack("<II", 0, 0)) + read_write(15, NEW, 100, flags=0o4000)
    stream = fuse(14, PIPE, bytes(8)) + read_write(15, PIPE, 10) + fuse(36, 1, struct.pack("<Q", 2)) + \
        fuse(14, SOCKET, struct.pack("<II", 2, 0)) + read_write(16, SOCKET, 5, b"hello") + \
        fuse(40, SOCKET, struct.pack("<QQII", 1, 77, 1, 5)) + fuse(18, SOCKET, bytes(24))
    mem = create(MEM, b"x") + read_write(16, NEW, 5, b"hello") + read_write(15, NEW, 100) + \
        fuse(4, NEW, struct.pack("<IIQQQQQQIIIIIIII", 8, 0, 0, 4096, *[0] * 12)) + \
        fuse(43, NEW, struct.pack("<QQQII", 0, 0, 8192, 0, 0)) + fuse(46, NEW, struct.pack("<QQII", 0, 0, 3, 0)) + \
        fuse(20, NEW, bytes(16)) + fuse(18, NEW, struct.pack("<QIIQ", 0, 2, 0, 0))
    memfd = fuse(14, MEMFD, struct.pack("<II", 2, 0)) + read_write(16, MEMFD, 5, b"hello", 10) + \
        read_write(15, MEMFD, 20) + fuse(46, MEMFD, struct.pack("<QQII", 0, 0, 4, 0)) + fuse(20, MEMFD, bytes(16))
    names = fuse(9, MEM, struct.pack("<II", 0o755, 0) + b"d\0") + \
        fuse(12, MEM, struct.pack("<Q", NEW) + b"object\0moved\0") + \
        fuse(45, MEM, struct.pack("<QII", MEM, 2, 0) + b"d\0d\0") + fuse(10, NEW, b"moved\0") + fuse(11, MEM, b"d\0") + \
        fuse(2, OBJECT, bytes(8)) + b"\xff\xfe" + fuse(42, 1, struct.pack("<IIQQ", 1, 0, NEW, 1))
    listing = fuse(27, 1, bytes(8)) + read_write(28, 1, 4096) + read_write(44, SRV, 4096) + read_write(44, SRV, 200, offset=17)
    xattrs = fuse(23, PIPE, struct.pack("<II", 1024, 0)) + fuse(22, PIPE, struct.pack("<II", 0, 0) + b"user.kshared.what\0") + \
        fuse(22, PIPE, struct.pack("<II", 64, 0) + b"user.kshared.poster.comm\0")
    owner = fuse(4, OBJECT, struct.pack("<IIQQQQQQIIIIIIII", 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0o600, 0, 7, 7, 0))
    parts = {"init": init, "look": look, "post": post, "stream": stream, "mem": mem, "memfd": memfd, "names": names,
             "listing": listing, "xattrs": xattrs, "owner": owner}
    for name, data in parts.items():
        write("fuse", name, data)
    write("fuse", "all", b"".join(parts.values()))


def ctl(op, path=b"", how=0, size=0, cookie=0, oflags=0, mode=0o644, flags=0):
    return struct.pack("<BBIHIHBB", how, op, size, cookie, oflags, mode, flags, len(path)) + path


def ctl_seeds():
    parts = {
        "hello": ctl(1) + ctl(9) + ctl(10, how=0x30),
        "post": b"".join(ctl(2, b"srv/p%d" % i, how=2 | i << 6) + ctl(3, b"srv/p%d" % i) for i in range(4)),
        "create": ctl(4, b"mem/a", size=4096) + ctl(3, b"mem/a", oflags=2) + ctl(3, b"mem/a", oflags=0x40000000),
        "seal": ctl(4, b"mem/a", size=4096, flags=1) + ctl(5, b"mem/a", flags=2) + ctl(5, b"mem/a", flags=15),
        "look": ctl(4, b"mem/a", size=1) + ctl(6, b"mem/a") + ctl(7, b"mem") + ctl(7, b"") + ctl(7, b"mem", cookie=20),
        "remove": ctl(4, b"mem/a") + ctl(8, b"mem/a", how=0x10) + ctl(8, b"mem/a", flags=2) + ctl(8, b"mem/a", how=12),
        "restart": ctl(2, b"srv/a", how=2) + b"\xff" + ctl(3, b"srv/a", oflags=2) + ctl(2, b"srv/a", how=14),
        "raw": struct.pack("<BBB", 1, 61, 0) + struct.pack("<IHHQQQQIIII", 0x3152484b, 6, 0, 1, 1, 0, 0, 0, 0, 0, 5) + b"mem/a",
    }
    for name, data in parts.items():
        write("ctl", name, data)


def item(number, parent, name, kind, directory=False, orphan=False, pos=20, slot=3):
    """One item for fuzz_restore's builder; kind: 0 mem, 1 srv, 2 none."""
    how = len(name) | (0x20 if directory else 0) | (0x40 if orphan else 0)
    private = bytes([0, 8, 56][0 if directory or kind == 2 else kind + 1])
    return struct.pack("<BB", how, kind | number << 4) + struct.pack("<III", 0o644, 1000, 1000) + \
        bytes([slot, parent, pos]) + name + private


def restore_seeds():
    root = item(1, 0, b"", 2, True, pos=17, slot=0)
    mem = item(2, 1, b"mem", 0, True, pos=18, slot=1)
    srv = item(3, 1, b"srv", 1, True, pos=19, slot=2)
    write("restore", "tree", b"\1" + root + mem + srv + item(4, 2, b"a", 0) + item(5, 3, b"b", 1, pos=21, slot=4))
    write("restore", "boards", b"\1" + root + mem + srv + item(4, 2, b"d", 0, True) + item(5, 4, b"e", 0, True, pos=21, slot=4) +
          item(6, 5, b"f", 0, pos=22, slot=5))
    write("restore", "orphan", b"\1" + root + mem + srv + item(4, 0, b"a", 0, orphan=True))
    write("restore", "empty", b"\0" + struct.pack("<IIQQqQQ", 1, 0, 0, 0, 0, 0, 0))
    put = struct.pack("<BBBBB", 1 | 4 | 8 | 16, 5, 0, 1, 0) + b"bytes"
    two = struct.pack("<BBB", 2, 3, 0) + b"\1\0abc" + b"\2\1"
    write("restore", "commits", b"\2" + put + two)


def ksm_seeds():
    """For fuzz_ksm: orders as text, a process's list, answers of one that merges itself, orders of a merger."""
    write("ksm", "order", b"\0" + b"0 0x7f0000000000 1048576 force\n")
    write("ksm", "order-guest", b"\0" + b" 12\t4096 8192 guest")
    line = b"00002000-00102000 rw-s 00000000 00:01 1234 /memfd:ksm-list (deleted)\n"
    ranges = struct.pack("<IIQ4Q", 0x314d534b, 2, 0, 0x10000, 0x20000, 0x30000, 0x31000)
    write("ksm", "list", b"\1" + struct.pack("<H", len(line)) + line + ranges)
    fine = struct.pack("<BiI", 8, 0, 0)
    write("ksm", "answers", b"\2" + fine + fine + struct.pack("<BiI", 12, 0, 4) + bytes(4))
    batch = struct.pack("<IIQQII", 2, 0, 0, 0, 1, 0) + struct.pack("<QIIQ", 0, 1, 0xffffffff, 0) + bytes(24 * 63)
    write("ksm", "zeros", b"\3" + struct.pack("<BH", 1, len(batch)) + batch)
    write("ksm", "segment", b"\3" + struct.pack("<BHIIQQ", 2, 24, 1, 0, 0, 4096) + struct.pack("<BHIIQQ", 1, 24, 3, 0, 0, 4096))


def port_seeds():
    """For fuzz_port: steps of a client, announcements of the daemon, and hellos of a server."""
    length, ring = struct.pack("<BB", 1, 2), struct.pack("<BB", 3, 1)
    store = struct.pack("<BBQ", 2, 0, 77) + struct.pack("<BBQ", 2, 1, 0xee)
    write("port", "write", b"\0\0" + store + length + ring)
    write("port", "far", b"\0\0" + struct.pack("<BBQ", 0x80, 0, 2**64 - 8) + length + ring + struct.pack("<BBQ", 0x81 + 0x36, 0, 2**63))
    write("port", "bell", b"\0\1" + struct.pack("<BBIIiIQQII", 4, 0, 5, 9, -1, 1, 8, 16, 1, 0) + ring)
    write("port", "clobber", b"\0\0" + struct.pack("<BB8s", 5, 63, b"clobber!") + length + ring)
    write("port", "clobber-logged", b"\0\1" + struct.pack("<BB8s", 5, 63, b"clobber!") + length + ring + ring)
    good = struct.pack("<BBB", 1, 6, 0)
    write("port", "announced", b"\1" + good + struct.pack("<BBB", 1, 4, 0) + struct.pack("<BBB", 2, 6, 1) + good)
    raw = struct.pack("<10I", 0x31505248, 0, 0, 6, 0, 0, 0, 1, 0, 0) + bytes(256)
    write("port", "announced-raw", b"\1" + struct.pack("<B", 0x81) + raw)
    page = struct.pack("<BBH", 1, 36, 64) + b"\x0a"
    for at, word in ((24, b"name\0\0\0\0"), (25, bytes(8)), (26, bytes(8)), (27, bytes(8)), (28, bytes(8)), (29, bytes(8)), (30, bytes(8)),
                     (31, struct.pack("<BBHI", 1, 0, 0, 288)), (32, struct.pack("<II", 1, 0)), (36, struct.pack("<Q", 4711))):
        page += bytes([at]) + word
    pool = bytes(64)
    reads = struct.pack("<QB", 0, 8) + struct.pack("<QB", 2**64 - 8, 2)
    write("port", "hello", b"\2" + struct.pack("<BB", 64 | 1, 8) + page + pool + reads)
    write("port", "hello-reader", b"\2" + struct.pack("<BB", 0, 0) + page + pool + reads)
    write("port", "hello-fresh", b"\2" + struct.pack("<BB", 128, 0) + page + pool + reads)


def rule_seeds():
    ring = struct.pack("<BBB", 3, 0, 0)
    allow = struct.pack("<BBB", 0, 0, 1 | 64)
    mark = struct.pack("<BBBQ", 0, 1, 255, 0xffffffff)
    write("rule", "allow", allow + ring + bytes([0, 1]))
    write("rule", "mark", mark + ring + bytes([1, 1]) + mark + ring + bytes([0, 5]))
    write("rule", "scribble", bytes([2, 63]) + b"scribble" + ring + bytes([0, 1]) + ring + bytes([0, 1]))
    write("rule", "token", bytes([3, 0, 1, 0, 1]) + b"notmine!" + bytes([3, 0, 8, 0, 1]) + ring + bytes([8, 1]))


fuse_seeds()
ctl_seeds()
ksm_seeds()
port_seeds()
rule_seeds()
restore_seeds()
