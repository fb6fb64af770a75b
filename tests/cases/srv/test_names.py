# SPDX-License-Identifier: GPL-2.0-or-later
"""Names, owners, modes, times and attributes of posted descriptors."""

import errno
import os
import time

import harness
import names


class Srv(names.Tests):
    kind = "srv"

    def make(self, name, mode=0o600):
        fd = os.memfd_create("content")
        try:
            os.write(fd, os.path.basename(os.fsencode(name)))
            handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            os.write(handle, b"%d" % fd)
            os.close(handle)
        finally:
            os.close(fd)
        return name

    def attributes(self, path):
        return {name.removeprefix("user.kshared."): os.getxattr(path, name).decode() for name in os.listxattr(path)}

    def test_what_is_posted_is_told(self):
        reader, writer = os.pipe()
        cases = {
            "pipe": (reader, "read"), "other": (writer, "write"),
            "file": (self.opened(self.scratch("told"), os.O_RDWR | os.O_CREAT), "read-write"),
            "memfd": (os.memfd_create("told"), "read-write"),
            "device": (self.opened("/dev/null", os.O_RDWR), "read-write"),
            "directory": (self.opened("/", os.O_RDONLY), "read"),
            "eventfd": (harness.libc.eventfd(0, 0), "read-write"),
            "timerfd": (harness.libc.timerfd_create(1, 0), "read-write"),
            "inotify": (harness.libc.inotify_init1(0), "read"),
        }
        connection = self.connect()
        for what, (fd, access) in cases.items():
            with self.subTest(what):
                before = time.time()
                connection.srv_post("told-" + what, fd)
                found = self.attributes(self.path("srv", "told-" + what))
                posted = float(found.pop("posted"))
                self.assertTrue(before - 1 <= posted <= time.time() + 1, posted)
                expected = {"kind": "srv", "what": "pipe" if what == "other" else what, "access": access, "opens": "0",
                            "poster.uid": "0", "poster.pid": str(os.getpid())}
                with open("/proc/self/comm") as file:
                    expected["poster.comm"] = file.read().rstrip("\n")
                if what == "memfd":
                    expected["seals"] = "seal"
                self.assertEqual(found, expected)
                entry = connection.stat("srv/told-" + what)
                self.assertEqual(entry.what.decode(), expected["what"])
                self.assertEqual((entry.poster_uid, entry.poster_pid), (0, os.getpid()))
                self.assertEqual(entry.poster_comm.decode(), expected["poster.comm"])
                self.assertEqual(entry.access, {"read": 0, "write": 1, "read-write": 2}[access])

    def test_an_unposted_entry_is_told(self):
        path = self.own("x")
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
        self.assertEqual(self.attributes(path), {"kind": "srv", "what": "unposted", "opens": "1"})
        self.assertErrno(errno.ENODATA, os.getxattr, path, "user.kshared.poster.uid")
        self.assertEqual(self.connect().stat(self.inside(path)).posted_ns, 0)

    def test_the_size_is_the_posted_files(self):
        fd = self.opened(self.scratch("sized"), os.O_RDWR | os.O_CREAT)
        os.write(fd, bytes(100000))
        self.connect().srv_post("sized", fd)
        path = self.path("srv", "sized")
        self.assertEqual((os.stat(path).st_size, self.connect().stat("srv/sized").size_bytes), (100000, 100000))
        self.assertGreaterEqual(os.stat(path).st_blocks * 512, 100000)
        os.ftruncate(fd, 5)
        self.assertEqual((os.stat(path).st_size, self.connect().stat("srv/sized").size_bytes), (5, 5))
        reader, writer = os.pipe()
        os.write(writer, b"x" * 100)
        self.connect().srv_post("sizeless", reader)
        self.assertEqual(os.stat(self.path("srv", "sizeless")).st_size, 0)

    def test_utime_changes_the_entry_and_not_what_is_posted(self):
        reader, _ = os.pipe()
        self.connect().srv_post("timed", reader)
        os.utime(self.path("srv", "timed"), ns=(10**18, 10**18))
        self.assertEqual(os.stat(self.path("srv", "timed")).st_mtime_ns, 10**18)


if __name__ == "__main__":
    harness.main()
