# SPDX-License-Identifier: GPL-2.0-or-later
"""What the worker may still do; and a folder of somebody who is not root: what he gets and is told that he lacks."""

import ctypes
import errno
import glob
import json
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import unittest

import harness
import rawctl

UNDER_VALGRIND = False

CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SYS_PTRACE, CAP_SETFCAP = 0, 1, 3, 19, 31
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
PR_CAPBSET_DROP = 24
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000


def drop_capabilities(kept=0):
    """For this process, and for what it may execute: all but a set of the first 32."""
    for bit in range(64):
        if not kept >> bit & 1:
            harness.libc.prctl(PR_CAPBSET_DROP, bit, 0, 0, 0)
    header = struct.pack("=Ii", 0x20080522, 0)
    assert harness.libc.syscall(126, header, struct.pack("=6I", kept, kept, 0, 0, 0, 0)) == 0, "capset"


def enter_user_namespace():
    if len(os.listdir("/proc/self/task")) > 1:
        raise unittest.SkipTest("the thread sanitizer's own thread keeps this process from entering a user namespace")
    if harness.libc.unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare")


def facts(pid):
    """/proc/PID/status as a dictionary."""
    with open(f"/proc/{pid}/status") as file:
        return dict((line.split(":", 1)[0], line.split(":", 1)[1].strip()) for line in file)


class Worker(harness.FolderCase):
    def capabilities(self, expected):
        now = facts(self.folder.worker_pid())
        for name in ("CapEff", "CapPrm"):
            found = int(now[name], 16)
            self.assertEqual({bit for bit in range(64) if found >> bit & 1}, expected, name)
        for name in ("CapInh", "CapAmb"):
            self.assertEqual(int(now[name], 16), 0, name)

    def test_it_has_four_capabilities(self):
        self.capabilities({CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SYS_PTRACE})

    def test_so_has_the_one_after_it(self):
        self.folder.kill_worker()
        self.test_it_has_four_capabilities()
        self.test_it_can_gain_no_privileges_and_is_filtered()

    def test_it_can_gain_no_privileges_and_is_filtered(self):
        now = facts(self.folder.worker_pid())
        self.assertEqual(now["NoNewPrivs"], "1")
        if not self.folder.status()["features"]["sandbox"]:
            self.skipTest("built without the filter")
        self.assertEqual(now["Seccomp"], "2")
        self.assertGreaterEqual(int(now["Seccomp_filters"]), 1)

    def test_it_is_nobody_that_could_be_met_elsewhere(self):
        now = facts(self.folder.worker_pid())
        uids, gids = set(now["Uid"].split()), set(now["Gid"].split())
        self.assertEqual((len(uids), len(gids)), (1, 1))
        self.assertFalse((uids | gids) & {"0", "65534"}, "neither root nor the one that everybody's nobody is")
        self.assertEqual(now["Groups"], "")

    def test_others_cannot_touch_it(self):
        status = self.folder.status()
        for pid in (status["worker_pid"], status["keeper_pid"]):
            self.assertErrnoAs(harness.USER_A, errno.EPERM, os.kill, pid, 0)
            self.assertErrnoAs(harness.USER_A, errno.EACCES, os.listdir, f"/proc/{pid}/fd")

    def test_a_write_to_a_posted_socket_is_not_roots_word(self):
        path = self.scratch("socket")
        server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(server.close)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        server.bind(path)
        os.chmod(path, 0o666)
        server.settimeout(5)

        def speak():
            client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            client.connect(path)
            with open(self.path("srv/voice"), "w") as file:
                file.write(str(client.fileno()))
            os.write(os.open(self.path("srv/voice"), os.O_RDWR), b"proxied")

        error = harness.errno_as(harness.USER_A, speak)
        if error:
            return  # refused: also right
        data, control, _, _ = server.recvmsg(100, 100)
        self.assertEqual(data, b"proxied")
        _, uid, gid = struct.unpack("iII", control[0][2][:12])
        self.assertNotIn(uid, (0, harness.USER_B))
        self.assertNotEqual(gid, 0)


class Root(harness.FolderCase):
    """On the socket root passes over modes by capabilities in the daemon's user namespace, and by no others."""

    def setUp(self):
        os.umask(0)

        def post():
            with harness.Connection(self.folder.dir) as library:
                library.srv_post(self._testMethodName, os.memfd_create("private"), 0o600)
        harness.run_as(harness.USER_A, post)

    def opens(self):
        """By a client that says no more than it must: in a namespace without ids the library cannot name itself."""
        with rawctl.Raw(self.folder) as raw:
            name = f"srv/{self._testMethodName}".encode()
            return raw.ask(rawctl.request(rawctl.OPEN, name, oflags=os.O_RDWR))

    def test_with_capabilities(self):
        self.assertEqual(self.opens(), 0)

    def test_without_capabilities(self):
        drop_capabilities()
        self.assertEqual(self.opens(), -errno.EACCES)

    def test_with_those_of_a_namespace_of_its_own(self):
        drop_capabilities()
        enter_user_namespace()
        self.assertNotEqual(int(facts("self")["CapEff"], 16), 0)
        self.assertEqual(self.opens(), -errno.EACCES)

    def test_with_those_of_a_namespace_that_maps_it(self):
        drop_capabilities(1 << CAP_SETFCAP)  # without it root cannot be mapped
        enter_user_namespace()
        for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        self.assertEqual(self.opens(), -errno.EACCES)
        with harness.Connection(self.folder.dir) as library:
            self.assertErrno(errno.EACCES, library.srv_open, self._testMethodName)


class OwnFolder(harness.FolderCase):
    """A folder that an ordinary user brings up for himself."""

    def setUp(self):
        self.runtime = self.scratch("runtime")
        os.mkdir(self.runtime, 0o700)
        os.chown(self.runtime, harness.USER_A, harness.USER_A)
        self.addCleanup(shutil.rmtree, self.runtime, True)
        self.where = os.path.join(self.runtime, "kshared")
        # As he would come: without what root has in his environment.
        self.environment = harness.environment(XDG_RUNTIME_DIR=self.runtime, HOME=self.runtime)

    def as_user(self, *command, expected=0):
        """Run one of our programs as him. Return: what it printed, and what it complained of."""
        done = subprocess.run(harness.program(command[0]) + list(command[1:]), user=harness.USER_A,
                              group=harness.USER_A, extra_groups=[], env=self.environment, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=10 * harness.SCALE, check=False, cwd="/")
        self.assertEqual(done.returncode, expected, f"{command}: {done.stderr}")
        return done.stdout, done.stderr

    def down(self):
        subprocess.run(harness.program("kshared") + ["--at", self.where, "down"], user=harness.USER_A,
                       group=harness.USER_A, extra_groups=[], env=self.environment, capture_output=True, check=False)

    def use_by_library(self):
        """As that user: everything that needs no mount, with the worker dying in between."""
        os.environ["XDG_RUNTIME_DIR"] = self.runtime
        with harness.Connection(self.where) as library:
            fd = os.memfd_create("posted")
            os.write(fd, b"content")
            library.srv_post("posted", fd)
            made = library.mem_create("object", 4096)
            os.pwrite(made, b"shared", 0)
            os.kill(library.status().worker_pid, signal.SIGKILL)
            assert os.pread(library.srv_open("posted", os.O_RDWR), 10, 0) == b"content"
            assert os.pread(library.mem_open("object", os.O_RDONLY), 6, 0) == b"shared"
            reader, writer = os.pipe()
            library.srv_post("pipe", reader)
            os.write(writer, b"through")
            assert os.read(library.srv_open("pipe", os.O_RDONLY), 10) == b"through"
            assert sorted(library.list("srv")) == ["pipe", "posted"]
            assert library.stat("srv/posted").uid == os.getuid()
            status = library.status()
            library.srv_remove("posted")
            library.srv_remove("pipe")
            library.mem_remove("object")
            return status.worker_pid, status.features, status.restarts

    def test_without_a_mount_the_library_serves(self):
        self.as_user("ksharedd", "--no-mount", "--dir", self.where)
        self.addCleanup(self.down)
        worker, _, restarts = harness.run_as(harness.USER_A, self.use_by_library)
        self.assertEqual(restarts, 1)
        now = facts(worker)
        self.assertEqual(int(now["CapEff"], 16) | int(now["CapPrm"], 16), 0)
        self.assertEqual(now["NoNewPrivs"], "1")
        self.assertEqual(set(now["Uid"].split()), {str(harness.USER_A)})
        self.assertEqual(harness.mounts_below(self.runtime), [])
        # What is not there is said, and how it could be had.
        text, _ = self.as_user("kshared", "--at", self.where, "status")
        self.assertRegex(text, r"mount +no: .*library")
        self.assertRegex(text, r"passthrough no")
        features = json.loads(self.as_user("kshared", "--at", self.where, "status", "--json")[0])["features"]
        self.assertEqual((features["mount"], features["passthrough"], features["resend"], features["ptrace"]),
                         (False, False, False, False))
        doctor, _ = self.as_user("kshared", "--at", self.where, "doctor")
        self.assertRegex(doctor, r"no +FUSE passthrough\n(.*\n)?.*to gain: \S")
        self.assertRegex(doctor, r"no +posting by number\n(.*\n)?.*to gain: \S")
        self.as_user("kshared", "--at", self.where, "down")
        self.assertFalse(harness.is_alive(worker))

    def test_up_without_the_device_says_what_is_lost(self):
        if os.stat("/dev/fuse").st_mode & 0o006 == 0o006:
            self.skipTest("every user may open /dev/fuse here")
        _, complaint = self.as_user("kshared", "up")
        self.addCleanup(self.down)
        self.assertRegex(complaint, r"(?m)^ksharedd?: .*not mounted.*library")
        harness.run_as(harness.USER_A, self.use_by_library)
        self.as_user("kshared", "down")

    def test_another_user_cannot_end_it(self):
        os.chmod(self.runtime, 0o755)
        self.as_user("ksharedd", "--no-mount", "--dir", self.where)
        self.addCleanup(self.down)

        socket_path, = glob.glob(f"{self.runtime}/ksharedd/*.sock")

        def other():
            with harness.Connection(socket_path) as library:
                return harness.errno_of(library.shutdown), library.status().entries
        self.assertEqual(harness.run_as(harness.USER_B, other), (errno.EPERM, 4))

    def mount_with_a_device_for_all(self):
        """In a mount namespace of its own with a /dev/fuse that every user may open: up, use, down."""
        if harness.libc.unshare(CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "unshare")
        harness.libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        node = self.scratch("fuse")
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(10, 229))
        os.chmod(node, 0o666)
        passwd = self.scratch("passwd")  # fusermount3 wants to know his name
        shutil.copy("/etc/passwd", passwd)
        with open(passwd, "a") as file:
            file.write(f"tester:x:{harness.USER_A}:{harness.USER_A}::/:/bin/sh\n")
        for source, target in ((node, "/dev/fuse"), (passwd, "/etc/passwd")):
            if harness.libc.mount(source.encode(), target.encode(), None, MS_BIND, None):
                raise OSError(ctypes.get_errno(), target)
        _, complaint = self.as_user("kshared", "up")
        try:
            status = json.loads(self.as_user("kshared", "status", "--json")[0])
            result = harness.run_as(harness.USER_A, self.use_by_mount, status["worker_pid"])
            text, _ = self.as_user("kshared", "status")
        finally:
            self.as_user("kshared", "down")
        left = harness.mounts_below(self.runtime)
        return complaint, status, result, text, left

    def use_by_mount(self, worker):
        """As that user, through the mount, with the worker dying in between."""
        fd = os.memfd_create("posted")
        os.write(fd, b"content")
        with open(f"{self.where}/srv/posted", "w") as file:
            file.write(str(fd))
        made = os.open(f"{self.where}/mem/object", os.O_RDWR | os.O_CREAT)
        os.ftruncate(made, 4096)
        os.pwrite(made, b"shared", 0)
        reader, writer = os.pipe()
        with open(f"{self.where}/srv/pipe", "w") as file:
            file.write(str(reader))
        proxied = os.open(f"{self.where}/srv/pipe", os.O_RDONLY)
        os.kill(worker, signal.SIGKILL)
        os.write(writer, b"through")
        with open(f"{self.where}/srv/posted", "rb") as posted:
            return os.read(proxied, 10), posted.read(), os.pread(made, 6, 0), sorted(os.listdir(f"{self.where}/srv"))

    def test_a_mount_by_fusermount3(self):
        if not shutil.which("fusermount3"):
            self.skipTest("needs fusermount3")
        child = self.child(self.mount_with_a_device_for_all)
        complaint, status, result, text, left = child.result(30)
        self.assertTrue(status["features"]["mount"], complaint)
        self.assertFalse(status["features"]["passthrough"])
        self.assertEqual(result, (b"through", b"content", b"shared", ["pipe", "posted"]))
        self.assertRegex(text, r"passthrough no: \S")
        self.assertEqual(left, [], "mounts left behind")

    def test_those_whom_its_user_namespace_does_not_know(self):
        """They look like one user there; and would have each other's entries."""
        path = self.scratch("socket")
        subprocess.run(["unshare", "-Ur"] + harness.program("ksharedd")
                       + ["--no-mount", "--dir", self.scratch("none"), "--socket", path], env=self.environment,
                       stdin=subprocess.DEVNULL, check=True, timeout=10 * harness.SCALE)

        class There:
            def socket(self):
                return path

        def ask(op, fds=()):
            with rawctl.Raw(There()) as raw:
                return raw.ask(rawctl.request(op, b"srv/entry", oflags=os.O_RDWR), fds)

        try:
            fd = os.memfd_create("posted")
            self.assertEqual(harness.run_as(harness.USER_A, ask, rawctl.POST, [fd]), -errno.EOVERFLOW)
            self.assertEqual(harness.run_as(harness.USER_B, ask, rawctl.OPEN), -errno.EOVERFLOW)
            self.assertEqual((ask(rawctl.POST, [fd]), ask(rawctl.OPEN)), (0, 0), "root is mapped")
        finally:
            subprocess.run(harness.program("kshared") + ["--at", path, "down"], check=True)

    def test_a_mount_in_a_user_namespace(self):
        script = """
            set -e
            kshared=$1 dir=$2
            "$kshared" --at "$dir" up
            trap '"$kshared" --at "$dir" down' EXIT
            exec 5</etc/passwd
            echo 5 >"$dir/srv/passwd"
            cmp /etc/passwd "$dir/srv/passwd"
            printf shared >"$dir/mem/object"
            [ "$(cat "$dir/mem/object")" = shared ]
            "$kshared" --at "$dir" ls -l srv
            "$kshared" --at "$dir" status
            """
        where = self.scratch("in-namespace")
        done = subprocess.run(["unshare", "-Urm", "bash", "-c", script, "-", harness.program("kshared")[-1], where],
                              env=harness.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=20 * harness.SCALE, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"mount +yes")
        self.assertRegex(done.stdout, r"passthrough no: \S")
        self.assertIn("passwd", done.stdout)


if __name__ == "__main__":
    harness.main()
