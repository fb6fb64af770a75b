# SPDX-License-Identifier: GPL-2.0-or-later
"""Ten thousand posted descriptors and ten thousand memory objects at once: complete, fast, and given back."""

import os
import random
import resource
import statistics
import time

import folder
import harness

UNDER_VALGRIND = False
ALONE = True
FILE_TIMEOUT = 300

MANY = 10000
FEW = 10
LIMIT = 20000  # descriptors of one process: fewer than there are entries
PAGE = 4096


def fill(library, number):
    """Post `number` memfds and make as many memory objects, each with its number inside."""
    for index in range(number):
        text = f"{index:07}".encode()
        fd = os.memfd_create("scale")
        os.write(fd, text)
        library.srv_post(f"entry{index}", fd)
        os.close(fd)
        fd = library.mem_create(f"entry{index}", PAGE)
        os.write(fd, text)
        os.close(fd)


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def vaults(keeper):
    """The keeper's processes that hold descriptors for it."""
    return [pid for pid in children(keeper) if harness.process_state(pid).startswith("ksharedd-vault")]


def resident_kb(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


class Scale(harness.FolderCase):
    timeout = 90.0

    @classmethod
    def prepare(cls):
        cls.before = cls.folder.status()
        cls.resident_before = resident_kb(cls.before["keeper_pid"])
        with harness.Connection(cls.folder.dir) as library:
            fill(library, MANY)

    def names(self):
        return {f"entry{index}" for index in range(MANY)}

    def test_a_listing_is_complete_and_fast(self):
        library = self.connect()
        for kind in ("srv", "mem"):
            started = time.monotonic()
            names = os.listdir(self.path(kind))
            by_mount = time.monotonic() - started
            self.assertEqual(len(names), MANY)
            self.assertEqual(set(names), self.names())
            started = time.monotonic()
            listed = library.list(kind)
            by_library = time.monotonic() - started
            self.assertEqual(set(listed), self.names())
            started = time.monotonic()
            with os.scandir(self.path(kind)) as entries:
                sizes = sum(entry.stat().st_size for entry in entries)
            with_attributes = time.monotonic() - started
            self.assertEqual(sizes, MANY * (7 if kind == "srv" else PAGE))
            print(f"{kind}: listed by the mount in {by_mount:.3f} s, with attributes {with_attributes:.3f} s, "
                  f"by the library {by_library:.3f} s")
            self.assertLess(by_mount, 1 * harness.SCALE)
            self.assertLess(by_library, 2 * harness.SCALE)
            self.assertLess(with_attributes, 4 * harness.SCALE)

    def test_a_new_worker_serves_them_all_within_a_second(self):
        self.assertGreaterEqual(len(vaults(self.folder.keeper_pid())), 1, "the keeper alone cannot hold so many")
        library = self.connect()
        worker = self.folder.worker_pid()
        self.folder.kills += 1
        started = time.monotonic()
        os.kill(worker, 9)
        fd = os.open(self.path("mem/entry9999"), os.O_RDONLY)
        seconds = time.monotonic() - started
        self.assertEqual(os.read(fd, 7), b"0009999")
        os.close(fd)
        print(f"a new worker answered after {seconds:.3f} s")
        self.assertLess(seconds, 1 * harness.SCALE)
        chooser = random.Random(1)
        for index in chooser.sample(range(MANY), 500):
            with open(self.path(f"srv/entry{index}"), "rb") as file:
                self.assertEqual(file.read(), f"{index:07}".encode())
            fd = library.srv_open(f"entry{index}", os.O_RDWR)
            self.assertEqual(os.pread(fd, 7, 0), f"{index:07}".encode())
            os.close(fd)

    def test_opening_costs_what_it_costs_among_few(self):
        small = folder.Folder()
        self.addCleanup(lambda: (self.assertEqual(small.take_down(), []), small.delete()))
        small.start()
        few, many = harness.Connection(small.dir), self.connect()
        self.addCleanup(few.disconnect)
        fill(few, FEW)
        # On which processor a worker happens to be matters more than everything else: all on one.
        processor = {max(os.sched_getaffinity(0))}
        for status in (many.status(), few.status()):
            for pid in (status.keeper_pid, status.worker_pid):
                os.sched_setaffinity(pid, processor)
        os.sched_setaffinity(0, processor)
        for attempt in range(3):
            ratios = self.measure(small, few, many)
            print(", ".join(f"{what}: {ratio:.2f}" for what, ratio in ratios.items()))
            if max(ratios.values()) <= 1.5:
                return
        self.fail(f"an open among {MANY} entries costs more than 1.5 times one among {FEW}: {ratios}")

    def measure(self, small, few, many):
        """The cost of an open among many over that among few, measured in turns.

        Of the medians or of the lower quartiles, whichever was disturbed less by what else runs here.
        """
        chooser = random.Random(2)
        ways = {}
        for kind, flags in (("srv", os.O_RDWR), ("mem", os.O_RDWR)):
            small_dir, many_dir = os.path.join(small.dir, kind), self.path(kind)
            ways[f"{kind} by the mount"] = (
                lambda index, at=small_dir, flags=flags: os.open(f"{at}/entry{index}", flags),
                lambda index, at=many_dir, flags=flags: os.open(f"{at}/entry{index}", flags))
            call = "srv_open" if kind == "srv" else "mem_open"
            ways[f"{kind} by the library"] = (
                lambda index, call=getattr(few, call), flags=flags: call(f"entry{index}", flags),
                lambda index, call=getattr(many, call), flags=flags: call(f"entry{index}", flags))
        ratios = {}
        for what, (open_few, open_many) in ways.items():
            # Every entry is opened once before: what is measured is not its first time.
            for number, function in ((FEW, open_few), (MANY, open_many)):
                for index in range(number):
                    os.close(function(index))
            costs = ([], [])
            for _ in range(3000):
                for number, function, into in ((FEW, open_few, costs[0]), (MANY, open_many, costs[1])):
                    index = chooser.randrange(number)
                    started = time.perf_counter_ns()
                    fd = function(index)
                    into.append(time.perf_counter_ns() - started)
                    os.close(fd)
            ratios[what] = min(statistics.median(costs[1]) / statistics.median(costs[0]),
                               statistics.quantiles(costs[1], n=4)[0] / statistics.quantiles(costs[0], n=4)[0])
        return ratios

    def test_removal_gives_everything_back(self):
        library = self.connect()
        keeper = self.folder.keeper_pid()
        self.assertGreaterEqual(len(vaults(keeper)), 1)
        for index in range(MANY):
            if index % 2:
                library.srv_remove(f"entry{index}")
                os.unlink(self.path(f"mem/entry{index}"))
            else:
                os.unlink(self.path(f"srv/entry{index}"))
                library.mem_remove(f"entry{index}")
        self.assertEqual(os.listdir(self.path("srv")) + os.listdir(self.path("mem")), [])
        harness.wait_until(lambda: (library.status().entries, library.status().bytes) == (4, 0),
                           "nothing is charged to anybody", timeout=10)
        harness.wait_until(lambda: len(children(keeper)) == 1, "the vaults have ended", timeout=10)
        print(f"the keeper's memory: {self.resident_before} kB before, {resident_kb(keeper)} kB after")
        if harness.SCALE == 1:  # sanitizers keep what is freed
            self.assertLess(resident_kb(keeper), self.resident_before + 16384, "kB of the keeper's memory")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    harness.main()
