# SPDX-License-Identifier: GPL-2.0-or-later
"""Rings by the command: what these tests have in common."""

import fcntl
import json
import os
import subprocess

import harness

FAILED, USAGE, BROKEN, TIMEOUT = 1, 2, 3, 4
F_GETPIPE_SZ = 1032


class RingCase(harness.FolderCase):
    def ok(self, *args, **options):
        """A command that must succeed and say nothing on stderr. Return: what it printed."""
        done = self.cli(*args, **options)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def create(self, *options, suffix=""):
        """A new ring: its name."""
        name = self._testMethodName + suffix
        self.ok("ring", "create", name, *options)
        return name

    def start(self, *args, wrapper=(), **options):
        """`kshared ring ARGS`, which goes on running; its output is bytes."""
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        options.setdefault("env", harness.environment())
        process = subprocess.Popen([*wrapper, *harness.program("kshared"), "--at", self.folder.dir, "ring", *args],
                                   **options)
        self.addCleanup(self.finish, process)
        return process

    @staticmethod
    def finish(process):
        process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()
        process.wait()

    def ends(self, process, status, says=None, timeout=10):
        """It ends with a status, and says this on stderr (nothing: None). Return: what it printed."""
        try:
            out, err = process.communicate(timeout=timeout * harness.SCALE)
        except subprocess.TimeoutExpired:
            self.fail(f"{process.args[3:]}: not within {timeout} s; {self.stat(process.args[5])}")
        err = err.decode()
        self.assertEqual(process.returncode, status, err)
        if says is None:
            self.assertEqual(err, "")
        else:
            self.assertIn(says, err)
        return out

    def stat(self, name):
        return json.loads(self.ok("ring", "stat", name, "--json"))

    def file(self, content, name="input"):
        """A file with this content: an open descriptor."""
        with open(self.scratch(f"{self._testMethodName}-{name}"), "wb") as file:
            file.write(content)
        return self.opened(file.name, os.O_RDONLY)

    def wait_for(self, name, **wanted):
        """Until `ring stat` says so: wait_for(name, readers=1)."""
        last = {}

        def is_so():
            last.update(self.stat(name))
            return all(last[key] == value for key, value in wanted.items())

        harness.wait_until(is_so, f"{name}: {wanted}", timeout=15)
        return last

    def small_pipe(self):
        """A pipe that holds a page: (its reading, its writing end)."""
        reader, writer = os.pipe()
        self.addCleanup(lambda: harness.errno_of(os.close, reader))
        self.addCleanup(lambda: harness.errno_of(os.close, writer))
        fcntl.fcntl(writer, 1031, 4096)
        return reader, writer
