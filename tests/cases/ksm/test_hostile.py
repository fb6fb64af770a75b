#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients that do not keep to the protocol: the merger goes on, and others are served."""

import array
import errno
import mmap
import os
import random
import socket
import struct
import time

import harness
from partitions import (
    ANSWER, MAGIC, OP_MERGE, OP_MEMBERS, OP_STAT, OP_UNMERGE, PAGE, REQUEST, TARGET, KsmCase, ksm_merge, ksm_stats)
from processes import libc

HEAD = struct.Struct("<IIQQ")
REPLY = struct.Struct("<iI")


def send(sock, data, fds=()):
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


def pair():
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Hostile(KsmCase):
    timeout = 90.0

    def raw(self):
        fd = self.open()
        sock = socket.socket(fileno=os.dup(fd))
        self.addCleanup(sock.close)
        return fd, sock

    def ask(self, sock, op=OP_STAT, flags=0, addr=0, size=0, magic=MAGIC, fds=(), data=None):
        """Send a request with a socket for the answer; what the answer's error is."""
        ours, theirs = pair()
        with ours, theirs:
            send(sock, data if data is not None else REQUEST.pack(magic, op, flags, 0, addr, size),
                 [theirs.fileno(), *fds])
            theirs.close()
            ours.settimeout(10 * harness.SCALE)
            found = ours.recv(1 << 17)
            return ANSWER.unpack(found)[1] if len(found) == ANSWER.size else None

    def assertServes(self, fd):
        memory = self.memory([7, 7])
        self.assertEqual(ksm_merge(fd, memory.address, memory.size).merged, 2)
        self.assertEqual(memory.wrong(), [])

    def test_requests_that_are_none(self):
        fd, sock = self.raw()
        null = self.opened("/dev/null", os.O_RDONLY)
        merger = (ksm_stats(fd), self.merger())[1]
        self.assertEqual(self.ask(sock), 0)
        self.assertEqual(self.ask(sock, op=0), -errno.EINVAL)
        self.assertEqual(self.ask(sock, op=OP_MEMBERS), -errno.EINVAL)
        self.assertEqual(self.ask(sock, op=99), -errno.EINVAL)
        self.assertEqual(self.ask(sock, magic=1), -errno.EINVAL)
        self.assertEqual(self.ask(sock, data=b"x"), -errno.EINVAL)
        self.assertEqual(self.ask(sock, data=bytes(200)), None)
        self.assertEqual(self.ask(sock, op=OP_MERGE, flags=1 << 20), -errno.EINVAL)
        self.assertEqual(self.ask(sock, op=OP_UNMERGE, flags=1), -errno.EINVAL)
        self.assertEqual(self.ask(sock, op=OP_MERGE, fds=[null]), -errno.EINVAL)
        self.assertEqual(self.ask(sock, op=OP_MERGE, flags=TARGET), -errno.EINVAL)
        self.assertEqual(self.ask(sock, op=OP_MERGE, flags=TARGET, fds=[null]), -errno.EBADF)
        self.assertEqual(self.ask(sock, op=OP_MERGE, flags=TARGET, fds=[null] * 200), -errno.EINVAL)
        send(sock, b"")
        send(sock, b"", [null] * 253)
        send(sock, REQUEST.pack(MAGIC, OP_STAT, 0, 0, 0, 0))
        send(sock, REQUEST.pack(MAGIC, OP_STAT, 0, 0, 0, 0), [null])
        self.assertServes(fd)
        self.assertEqual(self.merger(), merger)

    def test_an_empty_packet_does_not_end_it(self):
        fd, sock = self.raw()
        send(sock, b"")
        self.assertServes(fd)

    def test_noise(self):
        fd, sock = self.raw()
        random.seed(3)
        merger = (ksm_stats(fd), self.merger())[1]
        with pair()[0] as one:
            for _ in range(2000):
                data = bytearray(REQUEST.pack(MAGIC, random.randrange(8), random.choice((0, 1, 2, 4, 7, TARGET)), 0,
                                              random.choice((0, PAGE, 1, (1 << 64) - PAGE)),
                                              random.choice((0, PAGE, 1 << 40, (1 << 64) - 1))))
                for _ in range(random.randrange(3)):
                    data[random.randrange(len(data))] = random.randrange(256)
                send(sock, bytes(data[:random.choice((32, 32, 32, 31, 8))]),
                     [one.fileno()] * random.choice((0, 1, 1, 1, 2, 3)))
        self.assertServes(fd)
        self.assertEqual(self.merger(), merger)

    def test_answers_that_are_none(self):
        """A process that merges itself, and then does not what it is told."""
        fd, sock = self.raw()
        other = self.open("other")
        memory = self.memory([1, 2] * 64)

        def converse(answers):
            ours, theirs = pair()
            with ours, theirs:
                send(sock, REQUEST.pack(MAGIC, OP_MERGE, 0, 0, memory.address, memory.size), [theirs.fileno()])
                theirs.close()
                ours.settimeout(10 * harness.SCALE)
                data, control, *_ = ours.recvmsg(4096, socket.CMSG_SPACE(8))
                self.assertEqual(HEAD.unpack(data)[0], 0)
                fds = array.array("i")
                fds.frombytes(control[0][2])
                for extra in fds[1:]:
                    os.close(extra)
                with socket.socket(fileno=fds[0]) as talk:
                    talk.settimeout(10 * harness.SCALE)
                    for answer in answers:
                        if answer is None:
                            return None
                        talk.send(answer)
                        data, control, *_ = talk.recvmsg(1 << 16, socket.CMSG_SPACE(4))
                        for _, _, raw in control:
                            os.close(struct.unpack("i", raw)[0])
                        if data[:4] == struct.pack("<I", MAGIC):
                            return ANSWER.unpack(data)[1]
                    return "goes on"

        fine = REPLY.pack(0, 0)
        self.assertEqual(converse([REPLY.pack(-errno.EPERM, 0)]), -errno.EPERM)
        self.assertEqual(converse([REPLY.pack(5, 0)]), -errno.EPROTO)
        self.assertEqual(converse([b"x"]), -errno.EPROTO)
        self.assertEqual(converse([fine, b"x"]), -errno.EPROTO)
        self.assertEqual(converse([fine, REPLY.pack(0, 300)]), -errno.EPROTO)
        self.assertEqual(converse([fine, REPLY.pack(0, 5) + bytes(6)]), -errno.EPROTO)
        # It says that all was replaced, by fates that there are not: it is told so back, and that is all.
        self.assertEqual(converse([fine, fine, REPLY.pack(0, 256) + bytes([200]) * 256, fine]), 0)
        converse([fine, None])
        converse([None])
        self.assertServes(fd)
        self.assertServes(other)

    def test_one_that_does_not_answer_holds_up_its_own_partition_only(self):
        fd, sock = self.raw()
        other = self.open("other")
        memory = self.memory([1, 1])
        ours, theirs = pair()
        with ours, theirs:
            send(sock, REQUEST.pack(MAGIC, OP_MERGE, 0, 0, memory.address, memory.size), [theirs.fileno()])
            theirs.close()
            ours.recv(4096)
            self.assertServes(other)
            self.assertEqual(ksm_stats(fd).pages_shared, 0)
        self.assertServes(fd)

    def test_a_list_of_lies(self):
        """What a process says that it has made for merging is not what it has."""
        fd, sock = self.raw()
        puppet = self.puppet()
        address, size = puppet.do("make", [1] * 8, False)

        def lie(ranges):
            memfd = os.memfd_create("ksm-list")
            os.ftruncate(memfd, 1 << 20)
            os.pwrite(memfd, struct.pack("<IIQ", MAGIC, len(ranges), 0)
                      + b"".join(struct.pack("<QQ", *one) for one in ranges), 0)
            lying = mmap.mmap(memfd, 1 << 20)
            os.close(memfd)
            try:
                ours, theirs = pair()
                with ours, theirs:
                    send(sock, REQUEST.pack(MAGIC, OP_MERGE, 1, 0, 0, 1 << 47), [theirs.fileno()])
                    theirs.close()
                    ours.settimeout(20 * harness.SCALE)
                    found = ours.recv(4096)
                    return ANSWER.unpack(found)[1] if len(found) == ANSWER.size else None
            finally:
                lying.close()

        top = 1 << 64
        for ranges in ([(0, top - PAGE)], [(0, PAGE)], [(PAGE, 0)], [(1, 5)], [(top - PAGE, top - 1)], [(0, 1 << 47)],
                       [(PAGE * i, PAGE * (i + 1)) for i in range(65535)], [(PAGE, 3 * PAGE), (2 * PAGE, 4 * PAGE)]):
            self.assertIn(self.child(lie, ranges).result(30), (0, -errno.EINVAL, -errno.EFAULT), ranges[:3])
        self.assertEqual(puppet.do("wrong"), [])
        self.assertServes(fd)

    def test_a_target_that_executes_something_else(self):
        """Over and over, set-user-ID programs among it: nothing of them comes into the store, and nothing hangs."""
        fd = self.open()

        def dance():
            while True:
                pid = os.fork()
                if pid == 0:
                    os.execv("/bin/true", ["true"])
                os.waitpid(pid, 0)

        child = harness.Child(dance, uid=harness.USER_A)
        self.addCleanup(child.__exit__)
        end = time.monotonic() + 5
        seen = set()
        while time.monotonic() < end:
            children = open(f"/proc/{child.pid}/task/{child.pid}/children").read().split()
            for number in children[:1]:
                try:
                    pidfd = os.pidfd_open(int(number))
                except OSError:
                    continue
                seen.add(harness.errno_of(ksm_merge, fd, 0, 1 << 47, pidfd, 2))
                os.close(pidfd)
        self.assertLessEqual(seen, {0, errno.ESRCH, errno.EAGAIN, errno.EPERM, errno.EBUSY, errno.ENOMEM})
        self.assertServes(fd)


if __name__ == "__main__":
    harness.main()
