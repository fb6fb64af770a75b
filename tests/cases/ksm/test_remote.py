#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Other processes' memory: who may have it merged, what of it may be, and what becomes of it."""

import ctypes
import errno
import os
import signal

import harness
from partitions import (
    CREAT, DRY_RUN, FORCE, GUEST_RAM, PAGE, SYNC, KsmCase, checked, ksm_merge, ksm_open, ksm_stats, ksm_unmerge, lib,
    orders)

SEEDS = [1, 2, 1, 0, 2, 3, 1, 1] * 8


def merge_pid(fd, pid, address, size):
    checked(lib().ksm_merge(fd, pid, address, size))


class Merge(KsmCase):
    def test_memory_that_it_made_for_it(self):
        fd = self.open()
        puppet = self.puppet()
        address, size = puppet.do("make", SEEDS)
        result = ksm_merge(fd, address, size, puppet.pidfd)
        self.assertGreaterEqual(result.merged, 40)
        self.assertEqual(puppet.do("wrong"), [])
        frames = puppet.do("frames")
        self.assertLess(len(set(frames)), len(SEEDS) // 2)
        self.assertEqual(self.part("members"), f"{puppet.pid}\n")
        ksm_unmerge(fd, address, size, puppet.pidfd)
        self.assertEqual(puppet.do("wrong"), [])
        self.assertEqual(ksm_stats(fd).pages_sharing, 0)

    def test_by_number(self):
        fd = self.open()
        puppet = self.puppet()
        address, size = puppet.do("make", SEEDS)
        merge_pid(fd, puppet.pid, address, size)
        self.assertGreater(ksm_stats(fd).pages_sharing, 0)
        checked(lib().ksm_unmerge(fd, puppet.pid, address, size))
        self.assertEqual(ksm_stats(fd).pages_sharing, 0)
        self.assertEqual(puppet.do("wrong"), [])

    def test_plain_memory_only_by_force(self):
        fd = self.open()
        puppet = self.puppet()
        address, size = puppet.do("make", SEEDS, False)
        self.assertErrno(errno.EACCES, ksm_merge, fd, address, size, puppet.pidfd)
        self.assertErrno(errno.EACCES, ksm_merge, fd, address, size, puppet.pidfd, DRY_RUN)
        self.assertErrno(errno.EACCES, ksm_merge, fd, address, size, puppet.pidfd, GUEST_RAM)
        self.assertEqual(ksm_stats(fd).pages_scanned, 0)
        self.assertGreater(ksm_merge(fd, address, size, puppet.pidfd, FORCE).merged, 40)
        self.assertEqual(puppet.do("wrong"), [])

    def test_a_guests_memory_by_naming_it(self):
        fd = self.open()
        puppet = self.puppet()
        address, size = puppet.do("make", SEEDS, False, True)
        self.assertErrno(errno.EACCES, ksm_merge, fd, address, size, puppet.pidfd)
        self.assertGreater(ksm_merge(fd, address, size, puppet.pidfd, GUEST_RAM).merged, 40)
        self.assertEqual(puppet.do("wrong"), [])

    def test_what_is_said_to_be_for_it_bounds_what_is_touched(self):
        fd = self.open()
        puppet = self.puppet()
        plain, size = puppet.do("make", SEEDS, False)
        made, _ = puppet.do("make", SEEDS)
        low, high = min(plain, made), max(plain, made) + size
        result = ksm_merge(fd, low, high - low, puppet.pidfd)
        self.assertLessEqual(result.scanned, len(SEEDS))

    def test_a_dry_run_stops_nobody(self):
        fd = self.open()
        puppet = self.puppet()
        address, size = puppet.do("make", SEEDS)
        before = puppet.do("frames")
        result = ksm_merge(fd, address, size, puppet.pidfd, DRY_RUN)
        self.assertGreater(result.merged, 40)
        self.assertGreater(result.saved_bytes, 20 * PAGE)
        self.assertEqual(puppet.do("frames"), before)
        harness.wait_until(lambda: ksm_stats(fd).members == 0, "it is no member")

    def test_partitions_share_no_frame(self):
        fd, other = self.open(), self.open("other")
        one, two, three = self.puppet(), self.puppet(), self.puppet()
        frames = []
        for puppet, sock in ((one, fd), (two, other), (three, other)):
            address, size = puppet.do("make", list(range(1, 33)) * 2)
            self.assertGreater(ksm_merge(sock, address, size, puppet.pidfd).merged, 40)
            frames.append(set(puppet.do("frames")))
        self.assertEqual(frames[0] & frames[1], set())
        self.assertEqual(frames[0] & frames[2], set())
        self.assertGreater(len(frames[1] & frames[2]), 20)

    def test_a_process_that_is_merged_may_end(self):
        fd = self.open()
        puppet = self.puppet()
        address, size = puppet.do("make", SEEDS)
        ksm_merge(fd, address, size, puppet.pidfd)
        puppet.end()
        harness.wait_until(lambda: ksm_stats(fd).store_bytes == 0, "its pages are given back")


class Permission(KsmCase):
    """The partition's mode says who may merge; the kernel's rules of ptrace whose memory."""

    @classmethod
    def prepare(cls):
        os.chmod(os.path.join(cls.folder.dir, "ksm"), 0o1777)

    def everybodys(self):
        fd = self.open(mode=0o600)
        os.chmod(self.path("ksm", self.name()), 0o777)
        return fd

    def test_the_partitions_mode(self):
        where = self.folder.dir
        self.open(mode=0o600)
        self.assertErrnoAs(harness.USER_A, errno.EACCES, ksm_open, where, self.name(), SYNC)
        self.assertErrnoAs(harness.USER_A, errno.EACCES, ksm_open, where, self.name(), 0)
        os.chown(self.path("ksm", self.name()), 0, harness.GROUP_SHARED)
        os.chmod(self.path("ksm", self.name()), 0o750)
        self.assertErrnoAs(harness.USER_A, 0, ksm_open, where, self.name(), 0, groups=[harness.GROUP_SHARED])
        self.assertErrnoAs(harness.USER_A, errno.EACCES, ksm_open, where, self.name(), SYNC,
                           groups=[harness.GROUP_SHARED])
        os.chmod(self.path("ksm", self.name()), 0o730)
        self.assertErrnoAs(harness.USER_A, 0, ksm_open, where, self.name(), SYNC, groups=[harness.GROUP_SHARED])
        self.assertErrnoAs(harness.USER_A, errno.EACCES, ksm_open, where, self.name(), 0,
                           groups=[harness.GROUP_SHARED])

    def test_another_users_process(self):
        self.everybodys()
        victim = self.puppet(uid=harness.USER_B)
        address, size = victim.do("make", SEEDS)

        def attack(flags):
            fd = ksm_open(self.folder.dir, self.name(), SYNC)
            ksm_merge(fd, address, size, os.pidfd_open(victim.pid), flags)

        for flags in (0, DRY_RUN, FORCE, GUEST_RAM, FORCE | DRY_RUN):
            self.assertErrnoAs(harness.USER_A, errno.EPERM, attack, flags)
        self.assertErrnoAs(harness.USER_B, 0, attack, 0)
        self.assertEqual(victim.do("wrong"), [])

    def test_a_process_that_may_not_be_looked_into(self):
        self.everybodys()
        victim = self.puppet(uid=harness.USER_A)
        address, size = victim.do("make", SEEDS)
        victim.do("set_dumpable", 0)

        def attack():
            fd = ksm_open(self.folder.dir, self.name(), SYNC)
            ksm_merge(fd, address, size, os.pidfd_open(victim.pid))

        self.assertErrnoAs(harness.USER_A, errno.EPERM, attack)
        victim.do("set_dumpable", 1)
        self.assertErrnoAs(harness.USER_A, 0, attack)

    def test_unmerging_takes_the_same_right(self):
        fd = self.everybodys()
        victim = self.puppet(uid=harness.USER_B)
        address, size = victim.do("make", SEEDS)
        ksm_merge(fd, address, size, victim.pidfd)

        def attack():
            mine = ksm_open(self.folder.dir, self.name(), SYNC)
            ksm_unmerge(mine, address, size, os.pidfd_open(victim.pid))

        self.assertErrnoAs(harness.USER_A, errno.EPERM, attack)
        self.assertGreater(ksm_stats(fd).pages_sharing, 0)

    def test_who_sends_counts_not_who_opened(self):
        fd = self.everybodys()
        victim = self.puppet(uid=harness.USER_B)
        address, size = victim.do("make", SEEDS)
        # Root's descriptor in a user's hands.
        self.assertErrnoAs(harness.USER_A, errno.EPERM, ksm_merge, fd, address, size, victim.pidfd)
        self.assertErrno(0, ksm_merge, fd, address, size, victim.pidfd)

    def test_root_without_capabilities_is_no_more_than_others(self):
        fd = self.everybodys()
        victim = self.puppet(uid=harness.USER_B)
        address, size = victim.do("make", SEEDS)

        def attack():
            head = (ctypes.c_uint32 * 2)(0x20080522, 0)
            if harness.libc.capset(head, (ctypes.c_uint32 * 6)()):
                raise AssertionError("capset")
            ksm_merge(fd, address, size, victim.pidfd)

        self.assertErrno(errno.EPERM, lambda: harness.Child(attack).result())

    def test_the_daemons_own_processes(self):
        fd = self.open()
        ksm_stats(fd)
        pid = os.pidfd_open(self.merger())
        self.assertErrno(errno.EPERM, ksm_merge, fd, 0, PAGE, pid, FORCE)
        os.close(pid)

    def test_only_who_may_makes_partitions(self):
        os.chmod(self.path("ksm"), 0o755)
        try:
            self.assertErrnoAs(harness.USER_A, errno.EACCES, ksm_open, self.folder.dir, self.name(), SYNC | CREAT)
            self.assertErrnoAs(harness.USER_A, errno.EACCES, os.mkdir, self.path("ksm", self.name()))
        finally:
            os.chmod(self.path("ksm"), 0o1777)
        self.assertErrnoAs(harness.USER_A, 0, ksm_open, self.folder.dir, self.name(), SYNC | CREAT)


class Orders(KsmCase):
    """`echo "PID ADDR SIZE" > merge`"""

    @classmethod
    def prepare(cls):
        os.chmod(os.path.join(cls.folder.dir, "ksm"), 0o1777)

    def room(self, mode=0o755):
        os.mkdir(self.path("ksm", self.name()))
        os.chmod(self.path("ksm", self.name()), mode)
        return self.path("ksm", self.name(), "merge"), self.path("ksm", self.name(), "unmerge")

    def test_merge_and_unmerge(self):
        merge, unmerge = self.room()
        puppet = self.puppet()
        address, size = puppet.do("make", SEEDS)
        orders(merge, f"{puppet.pid} {address:#x} {size}\n")
        self.assertGreater(int(self.part("pages_sharing")), 10)
        self.assertGreater(int(self.part("general_profit")), 0)
        self.assertEqual(self.part("members"), f"{puppet.pid}\n")
        self.assertEqual(puppet.do("wrong"), [])
        orders(unmerge, f"{puppet.pid} {address} {size}")
        self.assertEqual(self.part("pages_sharing"), "0\n")

    def test_words(self):
        merge, _ = self.room()
        puppet = self.puppet()
        address, size = puppet.do("make", SEEDS, False, True)
        self.assertErrno(errno.EACCES, orders, merge, f"{puppet.pid} {address} {size}")
        orders(merge, f"{puppet.pid} {address} {size} guest")
        orders(merge, f"{puppet.pid} {address} {size} force\n")

    def test_what_is_no_order(self):
        merge, _ = self.room()
        me = os.getpid()
        for text in ("", "\n", "x", "1", "1 2", "1 2 3 4", f"{me} 0 4096 often", f"{me} -1 4096", f"{me} 0x 4096",
                     f"{me} 0 99999999999999999999999", f"{me} 0 4096\n{me} 0 4096", "1 2 3\0", f"{me} 1 4096",
                     f"{me} 0 4096 " + " " * 300):
            self.assertErrno(errno.EINVAL if text else 0, orders, merge, text)
        self.assertErrno(errno.ESRCH, orders, merge, "4194305 0 4096")
        self.assertErrno(errno.ESRCH, orders, merge, "99999999999 0 4096")

    def test_it_is_written_by_who_opened_it(self):
        merge, _ = self.room(0o777)
        victim = self.puppet()
        address, size = victim.do("make", SEEDS)
        reader, writer = os.pipe()

        def leave_open(path):
            return os.open(path, os.O_WRONLY)

        # A program with more rights, whose output is pointed there by an ordinary user.
        child = harness.Child(lambda: (lambda fd: (os.setresuid(0, 0, 0), os.write(fd, b"x")))(leave_open(merge)))
        self.assertErrno(errno.EINVAL, child.result)

        def attack():
            os.seteuid(harness.USER_A)
            fd = os.open(merge, os.O_WRONLY)
            os.seteuid(0)
            os.write(fd, f"{victim.pid} {address} {size}".encode())

        self.assertErrno(errno.EPERM, lambda: harness.Child(attack).result())
        os.close(reader)
        os.close(writer)

    def test_as_a_user(self):
        merge, _ = self.room(0o777)
        mine, others = self.puppet(uid=harness.USER_A), self.puppet(uid=harness.USER_B)
        address, size = mine.do("make", SEEDS)
        theirs, _ = others.do("make", SEEDS)
        self.assertErrnoAs(harness.USER_A, 0, orders, merge, f"{mine.pid} {address} {size}")
        self.assertErrnoAs(harness.USER_A, errno.EPERM, orders, merge, f"{others.pid} {theirs} {size}")
        self.assertErrnoAs(harness.USER_A, errno.EPERM, orders, merge, f"{others.pid} {theirs} {size} force")

    def test_files_that_tell_cannot_be_written_and_the_others_not_read(self):
        self.room()
        self.assertErrno(errno.EACCES, os.open, self.path("ksm", self.name(), "merge"), os.O_RDONLY)
        self.assertErrno(errno.EACCES, os.open, self.path("ksm", self.name(), "members"), os.O_WRONLY)
        self.assertErrno(errno.EACCES, os.open, self.path("ksm", self.name(), "members"), os.O_RDWR)

    def test_numbers_of_another_pid_namespace_are_not_taken(self):
        merge, _ = self.room()
        number = harness.errno_as(None, orders, merge, "1 0 4096", new_pid_namespace=True)
        self.assertEqual(number, errno.EOPNOTSUPP)


class Ends(KsmCase):
    """pids are reused, processes end."""

    def test_a_pidfd_of_one_that_has_ended(self):
        fd = self.open()
        puppet = self.puppet()
        address, size = puppet.do("make", SEEDS)
        pidfd = os.dup(puppet.pidfd)
        puppet.end()
        self.assertErrno(errno.ESRCH, ksm_merge, fd, address, size, pidfd)
        os.close(pidfd)
        self.assertErrno(errno.ESRCH, merge_pid, fd, 4194305, address, size)
        self.assertErrno(errno.ESRCH, merge_pid, fd, -5, address, size)

    def test_its_number_given_to_another(self):
        fd = self.open()
        first = self.puppet()
        address, size = first.do("make", SEEDS)
        pidfd, number = os.dup(first.pidfd), first.pid
        first.end()
        second = self.with_number(number)
        self.assertErrno(errno.ESRCH, ksm_merge, fd, address, size, pidfd, FORCE)
        self.assertErrno(errno.ESRCH, ksm_unmerge, fd, address, size, pidfd)
        os.close(pidfd)
        os.kill(second, signal.SIGKILL)
        os.waitpid(second, 0)

    def with_number(self, number):
        """A process that has this number, which is free."""
        for _ in range(200):
            with open("/proc/sys/kernel/ns_last_pid", "w") as file:
                file.write(str(number - 1))
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            if pid == number:
                return pid
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.skipTest("the number was never free")

    def test_what_is_no_pidfd(self):
        fd = self.open()
        null = self.opened("/dev/null", os.O_RDONLY)
        self.assertErrno(errno.EBADF, ksm_merge, fd, 0, PAGE, null)
        self.assertErrno(errno.EBADF, ksm_merge, fd, 0, PAGE, -2)


if __name__ == "__main__":
    harness.main()
