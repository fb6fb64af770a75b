# SPDX-License-Identifier: GPL-2.0-or-later
"""A folder comes up with a directory for each kind, says what it is, and survives its worker."""

import os
import signal

import harness


class UpDown(harness.FolderCase):
    def test_there_is_a_directory_for_each_kind(self):
        self.assertEqual(sorted(os.listdir(self.folder.dir)), ["ksm", "mem", "port", "srv"])

    def test_status_names_two_living_processes(self):
        status = self.folder.status()
        self.assertNotEqual(status["keeper_pid"], status["worker_pid"])
        self.assertTrue(harness.is_alive(status["keeper_pid"]))
        self.assertTrue(harness.is_alive(status["worker_pid"]))

    def test_library_and_command_say_the_same(self):
        status = self.connect().status()
        self.assertEqual(status.keeper_pid, self.folder.keeper_pid())
        self.assertEqual(os.fsdecode(status.mountpoint), self.folder.dir)

    def test_another_user_may_look(self):
        names = harness.run_as(harness.USER_A, os.listdir, self.folder.dir)
        self.assertEqual(sorted(names), ["ksm", "mem", "port", "srv"])

    def test_a_killed_worker_is_replaced(self):
        keeper = self.folder.keeper_pid()
        killed = self.folder.kill_worker(signal.SIGKILL)
        self.assertFalse(harness.is_alive(killed))
        self.assertEqual(self.folder.keeper_pid(), keeper)
        self.assertEqual(sorted(os.listdir(self.folder.dir)), ["ksm", "mem", "port", "srv"])

    def test_an_unknown_command_is_refused(self):
        self.assertRefused(self.cli("no-such-command"))


if __name__ == "__main__":
    harness.main()
