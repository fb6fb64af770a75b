# SPDX-License-Identifier: GPL-2.0-or-later
"""Crash storm: the worker is killed again and again while eight clients use the folder; nobody notices.

KSHARED_STORM_KILLS: how often (1000; fewer, with longer pauses, where a sanitizer makes everything slow).
"""

import contextlib
import os
import random
import signal
import stat
import time

import clients
import harness
import streams

UNDER_VALGRIND = False
ALONE = True
FILE_TIMEOUT = 400

KILLS = int(os.environ.get("KSHARED_STORM_KILLS", round(1000 / harness.SCALE)))
CLIENTS = 8


class Killer:
    """Kills one worker after another: after a moment, at once, or several in a row at once."""

    def __init__(self, folder, shared):
        self.folder = folder
        self.shared = shared
        self.keeper = folder.keeper_pid()
        self.last = 0
        self.random = random.Random("killer")

    def next_worker(self):
        """The keeper's child that is not the one killed last."""
        deadline = time.monotonic() + 10 * harness.SCALE
        while True:
            with open(f"/proc/{self.keeper}/task/{self.keeper}/children") as file:
                for pid in file.read().split():
                    if int(pid) != self.last:
                        return int(pid)
            if time.monotonic() > deadline:
                raise harness.Hung(f"no new worker after kill {self.shared.kills}; the keeper: "
                                   f"{harness.process_state(self.keeper)}")

    def kill(self, after):
        pid = self.next_worker()
        if after:
            time.sleep(after)
        self.folder.kills += 1
        self.shared.kills += 1
        self.last = pid
        os.kill(pid, signal.SIGKILL)

    def run(self, number):
        while self.shared.kills < number and not self.shared.stop:
            style = self.random.random()
            if style < 0.1:
                for _ in range(self.random.randrange(3, 10)):
                    self.kill(0)
            else:
                self.kill(0 if style < 0.25 else self.random.uniform(0, 0.03 * harness.SCALE))


class Storm(harness.FolderCase):
    timeout = 300.0

    def test_nobody_notices_a_thousand_deaths(self):
        baseline = self.folder.descriptor_counts()
        shared = clients.Shared()
        children = []
        for number in range(CLIENTS):
            beside = (streams.STREAMS[number % len(streams.STREAMS)], streams.waits)
            client = clients.Client(number, self.folder, shared, beside)
            # Half of them are ordinary users, each another one.
            uid = harness.USER_A + 10 + number if number % 2 else None
            children.append(self.child(client.run, uid=uid))
        started = time.monotonic()
        hung = None
        try:
            Killer(self.folder, shared).run(KILLS)
        except harness.Hung as error:
            hung = error
        seconds = time.monotonic() - started
        shared.stop = True
        reports = []
        troubles = [str(hung)] if hung else []
        for number, child in enumerate(children):
            try:
                report = child.result(60)
            except (harness.Hung, AssertionError, OSError) as error:
                troubles.append(f"c{number}: {error}")
                continue
            reports.append(report)
            troubles += report["troubles"]
        counts = {}
        for report in reports:
            for operation, count in report["counts"].items():
                counts[operation] = counts.get(operation, 0) + count
        summary = (f"{shared.kills} kills in {seconds:.1f} s; "
                   + ", ".join(f"{operation}: {count}" for operation, count in sorted(counts.items())))
        print(summary, flush=True)
        self.assertEqual(troubles, [], f"{summary}\n" + "\n".join(troubles))
        self.assertGreaterEqual(shared.kills, KILLS)
        self.assertLess(seconds, 150 * harness.SCALE, "the storm took too long")
        # It was no storm in an empty house: everything was done, often.
        operations = [name[3:] for name in dir(clients.Client) if name.startswith("do_")]
        for operation in operations + [f"waits by {way}" for way in ("poll", "epoll", "edge", "select", "read")]:
            self.assertGreater(counts.get(operation, 0), KILLS // 50, f"{operation}: hardly done\n{summary}")
        self.check_folder(reports)
        self.check_nothing_leaks(baseline)

    def check_folder(self, reports):
        """The folder holds what the clients say, and nothing else."""
        expected = {}
        for report in reports:
            for board in report["boards"]:
                expected[board] = None
            for entry in report["entries"]:
                expected[entry["path"]] = (entry, report["uid"], report["gid"])
        found = set()
        for kind in ("srv", "mem"):
            for parent, boards, names in os.walk(self.path(kind)):
                found |= {os.path.relpath(os.path.join(parent, name), self.folder.dir) for name in boards + names}
        self.assertEqual(found - set(expected), set(), "entries that nobody made, or that were removed")
        self.assertEqual(set(expected) - found, set(), "entries lost")
        for path, what in expected.items():
            if what is None:
                continue
            entry, uid, gid = what
            at = os.stat(self.path(path))
            self.assertEqual((oct(at.st_mode), at.st_uid, at.st_gid), (oct(stat.S_IFREG | entry["mode"]), uid, gid),
                             path)
            if entry["content"] is not None:
                with open(self.path(path), "rb") as file:
                    self.assertEqual(file.read(), entry["content"], f"{path}: content")

    def check_nothing_leaks(self, baseline):
        self.folder.remove_all()
        now = None

        def settled():
            nonlocal now
            now = self.folder.descriptor_counts()
            return now[0] <= baseline[0] and now[1] <= baseline[1]

        with contextlib.suppress(harness.Hung):
            harness.wait_until(settled, "descriptors are closed", timeout=5)
        self.assertLessEqual(now[0], baseline[0], "descriptors leaked by the keeper")
        self.assertLessEqual(now[1], baseline[1], "descriptors leaked by the worker")
        status = self.folder.status()
        self.assertEqual((status["entries"], status["bytes"]), (4, 0))
        keeper = status["keeper_pid"]
        with open(f"/proc/{keeper}/task/{keeper}/children") as file:
            self.assertEqual(file.read().split(), [str(status["worker_pid"])], "children of the keeper")


if __name__ == "__main__":
    harness.main()
