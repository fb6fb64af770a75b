# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of `kshared folder top` share: running it, on a pipe or on a terminal, and making trees."""

import ctypes
import fcntl
import json
import os
import resource
import select
import struct
import subprocess
import termios
import time

import harness

CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
TIOCSCTTY = 0x540E


def mount(source, target, kind="none", flags=0, options=""):
    words = (os.fsencode(word) for word in (source, target, kind))
    if harness.libc.mount(*words, ctypes.c_ulong(flags), options.encode()):
        raise OSError(ctypes.get_errno(), f"mount {target}")


class Terminal:
    """A command on a terminal of its own: .read_until() what it has printed, .end() all of it."""

    def __init__(self, command, columns=80, errors_too=True, **options):
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.master = master
        self.output = b""
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave if errors_too else subprocess.PIPE, start_new_session=True,
            preexec_fn=lambda: harness.libc.ioctl(0, TIOCSCTTY, 0), **options)
        os.close(slave)

    def _read(self, deadline):
        ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise harness.Hung(f"on the terminal so far: {self.output}")
        try:
            part = os.read(self.master, 65536)
        except OSError:  # nobody has it open any more
            return False
        self.output += part
        return True

    def read_until(self, text, timeout=10.0):
        deadline = time.monotonic() + timeout * harness.SCALE
        while text not in self.output:
            if not self._read(deadline):
                raise AssertionError(f"{text} never came: {self.output}")

    def type(self, keys):
        os.write(self.master, keys)

    def end(self, timeout=20.0):
        """Return: a CompletedProcess, with \\r\\n as \\n in stdout."""
        deadline = time.monotonic() + timeout * harness.SCALE
        while self._read(deadline):
            pass
        errors = self.process.stderr.read() if self.process.stderr else b""
        if self.process.stderr:
            self.process.stderr.close()
        status = self.process.wait(timeout)
        os.close(self.master)
        return subprocess.CompletedProcess(self.process.args, status, self.output.replace(b"\r\n", b"\n"), errors)


class TopCase(harness.FolderCase):
    """Each test has a directory of its own, .here; everything is in bytes, as names are."""

    timeout = 60.0

    def setUp(self):
        self.here = self.scratch(self._testMethodName)
        os.mkdir(self.here, 0o755)

    def at(self, *parts):
        return os.path.join(self.here, *parts)

    def file(self, path, size=0, allocated=True):
        """A file of so many bytes; not allocated: a hole."""
        fd = os.open(self.at(path), os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
        if size and allocated:
            os.posix_fallocate(fd, 0, size)
        os.ftruncate(fd, size)
        os.close(fd)

    def dir(self, path, mode=0o755):
        os.mkdir(self.at(path))
        os.chmod(self.at(path), mode)

    def own_mounts(self):
        """From now on nobody sees what is mounted, and it goes with this test's process."""
        if harness.libc.unshare(CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "unshare")
        mount("none", "/", flags=MS_REC | MS_PRIVATE)

    def in_memory(self):
        """.here is a tmpfs."""
        self.own_mounts()
        mount("test", self.here, "tmpfs", options="mode=755,nr_inodes=0,size=90%")
        # A million files take a while to go: not when the process that has them is to be gone.
        self.addCleanup(lambda: harness.libc.umount2(os.fsencode(self.here), 0))

    @staticmethod
    def command(*args):
        return harness.program("kshared") + ["folder", "top", *args]

    def popen_options(self, uid=None, env=None, descriptors=None, address_space=None, **options):
        if uid is not None:
            options.update(user=uid, group=uid, extra_groups=[])
        if descriptors:
            options["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
        if address_space:
            options["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
        return dict(options, env=dict(harness.environment(), **(env or {})))

    def top(self, *args, timeout=30.0, **options):
        """Run it on .here, or on what the last argument says if there is a `cwd`. Return: a CompletedProcess."""
        if "cwd" not in options:
            args += (self.here,)
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        return subprocess.run(self.command(*args), stderr=subprocess.PIPE, timeout=timeout * harness.SCALE, check=False,
                              **self.popen_options(**options))

    def ok(self, *args, **options):
        """It must be complete. Return: standard output."""
        done = self.top(*args, **options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def names(self, *args, **options):
        """The names that it lists, in order."""
        return [line.split(b"  ./", 1)[1] for line in self.ok("-0", *args, **options).split(b"\0")[:-1]]

    def json(self, *args, status=0, **options):
        done = self.top("--json", *args, **options)
        self.assertEqual(done.returncode, status, done.stderr)
        return json.loads(done.stdout)

    def on_terminal(self, *args, columns=80, errors_too=True, **options):
        """The same on a terminal, to its end."""
        return self.terminal(*args, columns=columns, errors_too=errors_too, **options).end()

    def terminal(self, *args, columns=80, errors_too=True, env=None, **options):
        env = dict({"TERM": "xterm"}, **(env or {}))
        return Terminal(self.command(*args, self.here), columns, errors_too, **self.popen_options(env=env, **options))
