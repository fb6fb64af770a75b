# SPDX-License-Identifier: GPL-2.0-or-later
"""One folder with its daemon: started on a fresh temporary directory, taken down whatever happens."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile

from processes import Hung, SCALE, descriptors, process_state, wait_until

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("KSHARED_BUILD", os.path.join(ROOT, "build")))
WRAPPER = shlex.split(os.environ.get("KSHARED_WRAPPER", ""))


def mounts_below(directory):
    """Mount points at or below a directory, innermost first: [(path, "major:minor")]."""
    found = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields = line.split()
            path = fields[4].replace("\\040", " ")
            if path == directory or path.startswith(directory + "/"):
                found.append((path, fields[2]))
    return found[::-1]


def program(name):
    """The command line that runs one of our programs: "kshared", "ksharedd" or "mount.srvfs"."""
    return WRAPPER + [os.path.join(BUILD, name)]


def environment(**more):
    """The environment that our programs are run with: nothing of the tester's that changes what they do."""
    env = {key: value for key, value in os.environ.items()
           if not key.startswith("KSHARED_") or key == "KSHARED_REPORTS"}
    env.update(LC_ALL="C", **more)
    return env


class Folder:
    """A daemon on a fresh temporary directory: .dir is the folder, .log the file with what the daemon printed."""

    def __init__(self, options=(), daemon="ksharedd"):
        self.options = list(options)
        self.daemon = daemon
        self.base = tempfile.mkdtemp(prefix="kshared-test-")
        os.chmod(self.base, 0o755)
        self.dir = os.path.join(self.base, "folder")
        self.scratch = os.path.join(self.base, "scratch")  # anybody may write here
        self.log = os.path.join(self.base, "log")
        os.mkdir(self.dir, 0o755)
        os.mkdir(self.scratch)
        os.chmod(self.scratch, 0o1777)
        self.process = None
        self.kills = 0

    def start(self):
        """Start the daemon and wait until the folder is served."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                program(self.daemon) + ["--dir", self.dir] + self.options,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(), start_new_session=True)

        def served():
            status = self.process.poll()
            if status:
                raise AssertionError(f"ksharedd ended with status {status}:\n{self.log_tail()}")
            return self.is_mounted() and self.cli("status", "--json").returncode == 0

        try:
            wait_until(served, "the folder is served", timeout=10)
        except Hung as hung:
            raise Hung(f"{hung}\n{self.log_tail()}") from None

    def is_mounted(self):
        return any(path == self.dir for path, _ in mounts_below(self.dir))

    def cli(self, *args, timeout=10.0, uid=None, gid=None, groups=(), **options):
        """Run the CLI on this folder. Return: a CompletedProcess with text in stdout and stderr."""
        if uid is not None:
            options.update(user=uid, group=uid if gid is None else gid, extra_groups=list(groups))
        command = program("kshared") + ["--at", self.dir, *args]
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("env", environment())
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=timeout * SCALE, **options)
        except subprocess.TimeoutExpired:
            raise Hung(f"kshared {' '.join(args)}: not within {timeout * SCALE:g} s") from None

    def status(self):
        """What `kshared status --json` says."""
        done = self.cli("status", "--json")
        if done.returncode:
            raise AssertionError(f"kshared status: {done.stderr}")
        return json.loads(done.stdout)

    def keeper_pid(self):
        return int(self.status()["keeper_pid"])

    def worker_pid(self):
        return int(self.status()["worker_pid"])

    def kill_worker(self, number=signal.SIGKILL, wait=True):
        """Kill the worker; wait: until another one answers. Return: the pid that was killed."""
        pid = self.worker_pid()
        self.kills += 1
        os.kill(pid, number)
        if wait:
            wait_until(lambda: self.worker_pid() not in (0, pid), "a new worker answers", timeout=10)
        return pid

    def descriptor_counts(self):
        """How many descriptors the keeper and the worker have open: (keeper, worker)."""
        status = self.status()
        return len(descriptors(int(status["keeper_pid"]))), len(descriptors(int(status["worker_pid"])))

    def remove_all(self):
        """Remove every entry and board."""
        for kind in os.listdir(self.dir):
            if kind == "ksm":
                # A partition's files go with it.
                for name in os.listdir(os.path.join(self.dir, kind)):
                    os.rmdir(os.path.join(self.dir, kind, name))
                continue
            for parent, boards, names in os.walk(os.path.join(self.dir, kind), topdown=False):
                for name in names:
                    os.unlink(os.path.join(parent, name))
                for board in boards:
                    os.rmdir(os.path.join(parent, board))

    def socket(self):
        """Where the daemon's socket is, as base/place.h says."""
        path = os.path.realpath(self.dir)
        value = 0xCBF29CE484222325
        for byte in os.fsencode(path):
            value = (value ^ byte) * 0x100000001B3 % 2**64
        return f"/run/ksharedd/{os.path.basename(path)[:32]}-{value:016x}.sock"

    def log_tail(self, lines=60):
        """The end of what the daemon printed."""
        try:
            with open(self.log, errors="replace") as file:
                return "daemon's log:\n" + "".join(file.readlines()[-lines:])
        except OSError as error:
            return f"daemon's log: {error}"

    def take_down(self):
        """End the daemon in the orderly way and else by force. Return: what went wrong, in lines."""
        problems = []
        try:
            done = self.cli("down")
            if done.returncode:
                problems.append(f"kshared down: status {done.returncode}: {done.stderr.strip()}")
            else:
                wait_until(lambda: not self.is_mounted(), "unmounted after kshared down")
        except (Hung, OSError) as error:
            problems.append(f"kshared down: {error}")
        problems += self.force_down()
        return problems

    def force_down(self):
        """Unmount and remove whatever is still there. Return: what could not be."""
        problems = []
        for path, device in mounts_below(self.base):
            problems.append(f"still mounted: {path}")
            # Whoever waits in the kernel for this mount is let go, then it is detached.
            with contextlib.suppress(OSError):
                with open(f"/sys/fs/fuse/connections/{device.split(':')[1]}/abort", "w") as file:
                    file.write("1")
            subprocess.run(["umount", "-l", path], stderr=subprocess.DEVNULL, check=False)
        if self.process:
            try:
                self.process.wait(5 * SCALE)
            except subprocess.TimeoutExpired:
                problems.append(f"ksharedd {self.process.pid} is still running: {process_state(self.process.pid)}")
                self.process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(5)
        if os.path.exists(self.socket()):
            problems.append(f"a socket is left: {self.socket()}")
            os.unlink(self.socket())
        return problems

    def delete(self):
        """Remove the temporary directory, unless something is still mounted in it."""
        if not mounts_below(self.base):
            shutil.rmtree(self.base, ignore_errors=True)
