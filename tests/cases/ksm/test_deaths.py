#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The merger, the worker, targets and callers are killed at any moment."""

import errno
import os
import random
import signal
import threading
import time

import harness
from partitions import (
    CREAT, FORCE, PAGE, SYNC, KsmCase, Memory, checked, ksm_merge, ksm_open, ksm_stats, ksm_unlink, lib, orders)

MANY = [number % 500 for number in range(1, 8193)]


class Deaths(KsmCase):
    timeout = 60.0

    def test_what_is_merged_survives_the_merger(self):
        fd = self.open()
        memory = self.memory([1, 2, 1, 2, 0])
        ksm_merge(fd, memory.address, memory.size)
        before = memory.frames()
        self.kill_merger()
        self.assertEqual(memory.wrong(), [])
        self.assertEqual(memory.frames()[:4], before[:4])
        memory.write(0, 9)
        self.assertEqual(memory.wrong(), [])

    def test_the_descriptor_goes_on_with_the_next_merger(self):
        fd = self.open()
        for number in range(3):
            memory = self.memory([number + 1] * 3)
            self.assertEqual(ksm_merge(fd, memory.address, memory.size).merged, 3)
            self.assertEqual(memory.wrong(), [])
            self.kill_merger()
        self.assertEqual(ksm_stats(fd).pages_sharing, 0, "it has begun anew")

    def test_a_removed_partition_goes_on_too(self):
        fd = self.open()
        ksm_unlink(self.folder.dir, self.name())
        self.kill_merger()
        memory = self.memory([1, 1])
        self.assertEqual(ksm_merge(fd, memory.address, memory.size).merged, 2)

    def test_a_stopped_merger_is_replaced(self):
        """It does not answer the keeper; what was asked of it is done by the next one."""
        fd = self.open()
        memory = self.memory([1, 1])
        ksm_stats(fd)
        pid = self.merger()
        os.kill(pid, signal.SIGSTOP)
        harness.wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "it is killed", timeout=20)
        self.assertEqual(ksm_merge(fd, memory.address, memory.size).merged, 2)
        self.assertNotEqual(self.merger(), pid)
        self.assertEqual(memory.wrong(), [])

    def test_a_merge_goes_on_with_the_next_merger(self):
        fd = self.open()
        memory = self.memory(MANY)
        killer = threading.Timer(0.01, self.kill_merger)
        ksm_stats(fd)
        killer.start()
        self.assertGreater(ksm_merge(fd, memory.address, memory.size).scanned, 0)
        killer.join()
        self.assertEqual(memory.wrong(), [])

    def test_the_merger_killed_at_random(self):
        """A process merges itself, another is merged by us, and both look at their memory all the time."""
        fd = self.open()
        here = self.memory(MANY)
        there = self.puppet()
        address, size = there.do("make", MANY)
        stop = time.monotonic() + 8 * harness.SCALE
        rounds = kills = 0
        random.seed(5)

        def killer():
            nonlocal kills
            while time.monotonic() < stop:
                time.sleep(random.uniform(0, 0.3))
                pid = self.merger()
                if pid:
                    os.kill(pid, signal.SIGKILL)
                    kills += 1

        thread = threading.Thread(target=killer)
        thread.start()
        failed = set()
        while time.monotonic() < stop:
            for pidfd, at in ((-1, here.address), (there.pidfd, address)):
                try:
                    ksm_merge(fd, at, size, pidfd)
                except OSError as error:
                    failed.add(error.errno)
            for _ in range(64):
                here.write(random.randrange(len(MANY)), random.randrange(500))
            self.assertEqual(here.wrong(), [])
            self.assertEqual(there.do("wrong"), [])
            rounds += 1
        thread.join()
        # One that dies again and again is started less and less often.
        self.assertGreaterEqual(kills, 2)
        # It may be killed more often than a call is made again; and what it left in a process goes within seconds.
        self.assertLessEqual(failed, {errno.ECONNREFUSED, errno.EBUSY, errno.EAGAIN})

        def works():
            return harness.errno_of(ksm_merge, fd, address, size, there.pidfd) == 0

        harness.wait_until(works, "it can be merged again", timeout=15)
        self.assertEqual(there.do("wrong"), [])
        self.assertEqual(here.wrong(), [])

    def test_the_worker_killed_under_orders(self):
        os.mkdir(self.path("ksm", self.name()))
        puppet = self.puppet()
        address, size = puppet.do("make", MANY)
        child = self.child(orders, self.path("ksm", self.name(), "merge"), f"{puppet.pid} {address} {size}")
        self.folder.kill_worker()
        child.result(20)
        self.assertGreater(int(self.part("pages_sharing")), 100)
        self.assertEqual(puppet.do("wrong"), [])

    def test_an_order_may_be_interrupted(self):
        os.mkdir(self.path("ksm", self.name()))
        puppet = self.puppet()
        address, size = puppet.do("make", MANY)
        child = self.child(orders, self.path("ksm", self.name(), "merge"), f"{puppet.pid} {address} {size}")
        child.signal(signal.SIGKILL)
        child.kill()
        self.assertEqual(puppet.do("wrong"), [])
        self.assertGreaterEqual(int(self.part("pages_scanned")), 0)

    def test_a_target_killed_in_the_middle(self):
        fd = self.open()
        for delay in (0, 0.005, 0.02, 0.05):
            puppet = self.puppet()
            address, size = puppet.do("make", MANY)
            pidfd = os.dup(puppet.pidfd)
            timer = threading.Timer(delay, lambda: signal.pidfd_send_signal(pidfd, signal.SIGKILL))
            timer.start()
            number = harness.errno_of(ksm_merge, fd, address, size, pidfd)
            timer.join()
            self.assertIn(number, (0, errno.ESRCH))
            os.close(pidfd)
            puppet.end()
        harness.wait_until(lambda: ksm_stats(fd).members == 0, "all are forgotten")

    def test_a_caller_killed_in_the_middle(self):
        fd = self.open()
        for delay in (0, 0.005, 0.02, 0.05):
            puppet = self.puppet()
            puppet.do("make", MANY)
            puppet.tell("merge", fd)
            time.sleep(delay)
            puppet.end()
        memory = self.memory([3, 3])
        self.assertEqual(ksm_merge(fd, memory.address, memory.size).merged, 2)
        memory.free()
        harness.wait_until(lambda: ksm_stats(fd).members <= 1, "they are forgotten")

    def test_the_folder_ends(self):
        """What is merged stays, and the descriptor says that there is nobody."""
        folder = harness.Folder([])
        self.addCleanup(folder.delete)
        self.addCleanup(folder.force_down)
        folder.start()
        fd = ksm_open(folder.dir, "p")
        memory = self.memory([1, 1, 0])
        ksm_merge(fd, memory.address, memory.size)
        folder.take_down()
        self.assertEqual(memory.wrong(), [])
        self.assertErrno(errno.ECONNREFUSED, ksm_merge, fd, memory.address, memory.size)
        self.assertErrno(errno.ECONNREFUSED, ksm_stats, fd)
        os.close(fd)


class Limits(KsmCase):
    options = ["--max-entries-uid", "3", "--mode", "1777"]

    def test_partitions_of_one_user(self):
        where = self.folder.dir

        def make(count):
            for number in range(count):
                os.close(ksm_open(where, f"{self.name()}{number}"))

        self.assertErrnoAs(harness.USER_A, 0, make, 3)
        self.assertErrnoAs(harness.USER_A, errno.EDQUOT, make, 4)
        self.assertErrnoAs(harness.USER_A, errno.EDQUOT, os.mkdir, self.path("ksm", self.name("x")))
        self.assertErrnoAs(harness.USER_B, 0, make, 0)
        self.assertErrnoAs(harness.USER_A, 0, ksm_unlink, where, f"{self.name()}0")
        harness.wait_until(
            lambda: harness.errno_as(harness.USER_A, os.mkdir, self.path("ksm", self.name("x"))) in (0, errno.EEXIST),
            "there is room again")

    def test_open_descriptors_of_one_user(self):
        where = self.folder.dir

        def many():
            fds = [ksm_open(where, self.name()) for _ in range(256)]
            extra = ksm_open(where, self.name())
            number = harness.errno_of(ksm_stats, extra)
            good = harness.errno_of(ksm_stats, fds[0])
            os.close(fds.pop())
            os.close(extra)
            harness.wait_until(lambda: harness.errno_of(ksm_stats, again := ksm_open(where, self.name())) == 0
                               or os.close(again), "there is room again")
            return number, good

        number, good = harness.run_as(harness.USER_C, many, timeout=30)
        self.assertEqual((number, good), (errno.ECONNREFUSED, 0))


if __name__ == "__main__":
    harness.main()
