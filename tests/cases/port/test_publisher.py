# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's own ports: what they say, what they cost nobody, and what becomes of them when somebody dies."""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), up) for up in ("..", "../daemon")]

import harness  # noqa: E402
import ports  # noqa: E402

UNDER_VALGRIND = False


def cgroup2():
    """Where control groups of the second version can be made; None: nowhere."""
    with open("/proc/self/mounts") as file:
        found = [line.split()[1] for line in file if line.split()[2] == "cgroup2"]
    return found[0] if found and os.geteuid() == 0 else None


def freezer():
    """Where groups can be made of which no process ends while they are frozen; None: nowhere."""
    with open("/proc/self/mounts") as file:
        found = [line.split()[1] for line in file
                 if line.split()[2] == "cgroup" and "freezer" in line.split()[3].split(",")]
    return found[0] if found and os.geteuid() == 0 else None


def remove_freezer(group):
    """Let go what is in such a group, and wait until it has ended."""
    if os.path.exists(group):
        with open(os.path.join(group, "freezer.state"), "w") as file:
            file.write("THAWED")
        harness.wait_until(lambda: harness.errno_of(os.rmdir, group) == 0, "the group is empty", timeout=10)


class PublisherCase(harness.FolderCase):
    descriptor_slack = 1  # the keeper's channel to it

    def text(self, name):
        with open(self.path("port", name)) as file:
            return file.read()

    def values(self, name):
        return {line.split()[0]: line.split()[1] for line in self.text(name).splitlines()}

    def publisher(self):
        found = ports.publishers(self.folder)
        self.assertEqual(len(found), 1)
        return found[0]

    def kill_publisher(self):
        pid = self.publisher()
        os.kill(pid, signal.SIGKILL)
        harness.wait_until(lambda: pid not in ports.publishers(self.folder), "it is gone")


class OnDemand(PublisherCase):
    def test_1_nobody_who_uses_no_ports_has_one(self):
        self.assertEqual(sorted(os.listdir(self.path("port"))), sorted(ports.PAGES))
        for name in ports.PAGES:
            at = os.stat(self.path("port", name))
            self.assertEqual((oct(at.st_mode), at.st_uid), ("0o100444", 0))
        self.assertEqual(self.cli("status").returncode, 0)
        self.assertEqual(ports.publishers(self.folder), [])
        self.text("load")
        self.publisher()

    def test_2_a_page_that_was_removed_stays_away(self):
        os.unlink(self.path("port/swap"))
        self.folder.kill_worker()
        self.assertEqual(sorted(os.listdir(self.path("port"))), sorted(set(ports.PAGES) - {"swap"}))


class Pages(PublisherCase):
    def test_they_agree_with_proc(self):
        def proc(path, pattern):
            with open(path) as file:
                return {key: int(value) for key, value in re.findall(pattern, file.read(), re.M)}

        def between(low, high, value, slack):
            return min(low, high) - slack <= value <= max(low, high) + slack
        before = proc("/proc/meminfo", r"^(\w+): +(\d+) kB")
        memory = self.values("memory")
        after = proc("/proc/meminfo", r"^(\w+): +(\d+) kB")
        kib = os.sysconf("SC_PAGESIZE") // 1024
        self.assertEqual(int(memory["total"]) * kib, before["MemTotal"])
        for name, field in (("Mapped", "mapped"), ("PageTables", "page_tables"), ("AnonPages", "anon")):
            with self.subTest(name):
                self.assertTrue(between(before[name], after[name], int(memory[field]) * kib, 32768))
        with open("/proc/loadavg") as file:
            first = float(file.read().split()[0])
        load = float(self.values("load")["load1"])
        with open("/proc/loadavg") as file:
            second = float(file.read().split()[0])
        self.assertTrue(between(first, second, load, 0.011), (first, load, second))
        self.assertEqual(self.values("swap")["total"], str(before["SwapTotal"] // kib))
        names = {line.split(":")[0].strip() for line in open("/proc/net/dev").read().splitlines()[2:]}
        shown = {value.strip('"') for key, value in self.values("net").items() if key.startswith("name")}
        self.assertTrue(shown <= names and "lo" in shown, (shown, names))

    def test_every_page_can_be_had_by_anybody(self):
        def look(name):
            with ports.Page(self.folder, name) as page:
                return page.head()[10] > 0 and bool(page.values()) and page.sample_ns() > 0
        for name in ports.PAGES:
            self.assertIs(harness.run_as(harness.USER_A, look, name), True)

    def test_nobody_can_write_them(self):
        import fcntl
        import mmap
        for name in ("load", "swap"):
            with ports.Page(self.folder, name) as page:
                fd = page.fds[0]
                with self.assertRaises(OSError):
                    mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
                self.assertNotEqual(harness.errno_of(os.pwrite, fd, b"x", 0), 0)
                self.assertNotEqual(harness.errno_of(os.ftruncate, fd, 0), 0)
                if fcntl.fcntl(fd, fcntl.F_GETFD) and name == "swap":
                    self.assertErrno(errno.EPERM, fcntl.fcntl, fd, ports.F_ADD_SEALS, ports.SEAL_WRITE)

    def test_they_go_on(self):
        for name in ("load", "swap"):
            with ports.Page(self.folder, name) as page:
                first = page.sample_ns()
                harness.wait_until(lambda: page.sample_ns() > first, "another sample")

    def test_what_the_daemon_says_of_them(self):
        source = os.getxattr(self.path("port/load"), "user.kshared.port.source")
        done = self.cli("status", "--json")
        self.assertEqual(done.returncode, 0)
        features = json.loads(done.stdout)["features"]
        self.assertIs(features["bpf"], source == b"bpf")
        self.assertRegex(self.cli("status").stdout, r"(?m)^bpf +(yes$|no: \S)")
        self.assertIn(source, (b"bpf", b"sampler"))


class Sandbox(PublisherCase):
    def test_it_can_gain_no_privileges_and_is_filtered(self):
        self.text("load")
        with open(f"/proc/{self.publisher()}/status") as file:
            now = dict(line.rstrip("\n").split(":\t", 1) for line in file)
        self.assertEqual(now["NoNewPrivs"], "1")
        # BPF, PERFMON, SYSLOG, NET_ADMIN, KILL; and DAC_OVERRIDE, which is raised while pages are loaded.
        allowed = {39, 38, 34, 12, 5}
        for name, expected in (("CapEff", allowed), ("CapPrm", allowed | {1})):
            found = int(now[name], 16)
            self.assertEqual({bit for bit in range(64) if found >> bit & 1}, expected, name)
        if not self.folder.status()["features"]["sandbox"]:
            self.skipTest("built without the filter")
        self.assertEqual(now["Seccomp"], "2")


class Death(PublisherCase):
    def test_of_the_publisher(self):
        with ports.Page(self.folder, "load") as page:
            generation = page.head()[11]
            self.kill_publisher()
            harness.wait_until(page.is_gone, "the reader learns of it")
            self.assertEqual(len(page.values()["load1"]), 1, "the last sample stays")
        with ports.Page(self.folder, "load") as page:
            self.assertNotEqual(page.head()[11], generation)
            self.assertFalse(page.is_gone())
        self.assertTrue(self.text("load"))

    def test_again_and_again(self):
        """One that dies at once is not started without pause, and it is served again when it lives."""
        for _ in range(3):
            self.text("load")
            self.kill_publisher()
        started = time.monotonic()
        while harness.errno_of(self.text, "load"):
            self.assertLess(time.monotonic() - started, 10 * harness.SCALE)
        self.publisher()

    @harness.timeout(60)
    def test_of_one_that_is_stopped(self):
        """Only readers notice, and it is replaced: they are served by the next one, or give up. Whoever has it open learns of that."""
        with ports.Page(self.folder, "load") as page:
            pid = self.publisher()
            os.kill(pid, signal.SIGSTOP)
            started = time.monotonic()
            self.assertEqual(self.cli("status").returncode, 0)
            os.stat(self.path("srv"))
            self.assertLess(time.monotonic() - started, 2 * harness.SCALE)
            self.assertIn(harness.errno_of(self.text, "load"), (0, errno.ETIMEDOUT))
            self.assertLess(time.monotonic() - started, 8 * harness.SCALE)
            harness.wait_until(page.is_gone, "it is killed", timeout=20)
            harness.wait_until(lambda: harness.errno_of(self.text, "load") == 0, "another serves", timeout=20)
            self.assertNotEqual(self.publisher(), pid)

    @harness.timeout(60)
    def test_of_one_that_does_not_end(self):
        """A process that hangs in the kernel does not even die: it is left behind."""
        top = freezer()
        if not top:
            self.skipTest("there is no freezer from which nothing can be killed")
        self.text("load")
        pid = self.publisher()
        group = os.path.join(top, f"kshared-test-{os.getpid()}")
        os.mkdir(group)
        self.addCleanup(remove_freezer, group)
        for name, value in (("cgroup.procs", str(pid)), ("freezer.state", "FROZEN")):
            with open(os.path.join(group, name), "w") as file:
                file.write(value)
        harness.wait_until(lambda: harness.errno_of(self.text, "load") == 0, "another serves", timeout=20)
        self.assertTrue(harness.is_alive(pid), "that it could not be killed is what is tested here")
        self.assertEqual(len(ports.publishers(self.folder)), 2)
        remove_freezer(group)
        self.assertFalse(harness.is_alive(pid))
        self.assertTrue(self.text("load"))

    def test_of_the_worker(self):
        with ports.Page(self.folder, "load") as page:
            first, pid = page.sample_ns(), self.publisher()
            self.folder.kill_worker()
            harness.wait_until(lambda: page.sample_ns() > first, "another sample")
            self.assertFalse(page.is_gone())
        self.assertEqual(self.publisher(), pid)
        self.assertTrue(self.text("load"))


class Idle(PublisherCase):
    """With a daemon that waits for a fifth of a second where an ordinary one waits for a minute."""

    def setUp(self):
        self.folder = harness.Folder(daemon="ksharedd-hasty")
        self.addCleanup(self.end_folder)
        self.folder.start()

    def end_folder(self):
        self.folder.take_down()
        self.folder.force_down()
        self.folder.delete()

    def ended(self):
        harness.wait_until(lambda: not ports.publishers(self.folder), "it ends by itself")

    def test_it_ends_when_nobody_uses_it_and_comes_again(self):
        with ports.Page(self.folder, "load") as page:
            pid, first = self.publisher(), page.sample_ns()
            harness.wait_until(lambda: page.sample_ns() > first + 10**9, "a second of samples")
            self.assertEqual(self.publisher(), pid, "not while somebody has a page")
            self.assertFalse(page.is_gone())
        self.ended()
        self.assertTrue(self.text("load"))
        self.assertNotEqual(self.publisher(), pid)
        self.ended()
        with open(self.folder.log) as file:
            self.assertEqual(file.read(), "", "that it ends is nothing to tell of")

    def test_it_stays_while_there_is_a_rule(self):
        top = cgroup2()
        if not top:
            self.skipTest("there is no cgroup2 to make a group in")
        group = os.path.join(top, f"kshared-test-{os.getpid()}")
        os.mkdir(group)
        self.addCleanup(os.rmdir, group)
        fd = self.opened(group, os.O_RDONLY | os.O_DIRECTORY)
        with ports.Page(self.folder, "load"):
            if ports.post(self.folder, "rule", fd, 0o644, ports.RULE) == -errno.EOPNOTSUPP:
                self.skipTest("this kernel has no rules")
            pid = self.publisher()
            many = len(os.listdir(f"/proc/{pid}/fd"))
        harness.wait_until(lambda: len(os.listdir(f"/proc/{pid}/fd")) < many - 10, "it lets its pages go")
        self.assertEqual(self.publisher(), pid)
        self.assertTrue(self.text("rule"))
        self.assertEqual(ports.remove(self.folder, "rule"), 0)
        self.ended()


class End(harness.FolderCase):
    def test_nothing_is_left(self):
        """Of a folder of its own, which is taken down, or whose keeper is killed."""
        for end in ("down", "kill"):
            folder = harness.Folder()
            try:
                folder.start()
                page = ports.Page(folder, "load")
                pid, = ports.publishers(folder)
                if end == "down":
                    self.assertEqual(folder.cli("down").returncode, 0)
                    self.assertFalse(harness.is_alive(pid))
                else:
                    os.kill(folder.keeper_pid(), signal.SIGKILL)
                harness.wait_until(lambda: not harness.is_alive(pid), "the publisher ends")
                harness.wait_until(page.is_gone, "its clients know")
                page.values()
                page.close()
            finally:
                folder.take_down()
                folder.force_down()
                folder.delete()

    def test_an_ordinary_users_folder(self):
        def use():
            where = self.scratch("own")
            os.mkdir(where)
            end, other = ports.socket.socketpair(ports.socket.AF_UNIX, ports.socket.SOCK_SEQPACKET)
            command = [*harness.program("ksharedd"), "--no-mount", "--foreground", "--dir", where, "--socket",
                       where + "/socket"]
            with open(self.scratch("own.log"), "wb") as log:
                daemon = subprocess.Popen(command, stdout=log, stderr=log, env=harness.environment())

            class Own:
                dir = where

                @staticmethod
                def socket():
                    return where + "/socket"
            try:
                harness.wait_until(lambda: os.path.exists(Own.socket()), "it serves")
                sources = {}
                for name in ports.PAGES:
                    with contextlib.suppress(OSError), ports.Page(Own, name) as page:
                        sources[name] = page.head()[9]
                with end, other:
                    posted = ports.post(Own, "service", end.fileno())
                    result, client = ports.open_port(Own, "service")
                    client.close()
                with open(os.pidfd_open(os.getpid())) as pidfd:
                    task = ports.post(Own, "task", pidfd.fileno(), flags=ports.TASK)
                return sources, posted, result, task
            finally:
                daemon.terminate()
                daemon.wait()
        sources, posted, result, task = harness.run_as(harness.USER_A, use, timeout=20)
        self.assertGreaterEqual(set(sources), {"load", "cpu", "memory", "vmstat", "clock"})
        self.assertEqual(set(sources.values()), {2}, "all by the sampler")
        self.assertEqual((posted, result, task), (0, 0, -errno.EOPNOTSUPP))


class Limits(PublisherCase):
    def test_a_user_with_many_does_not_hurt_others(self):
        def hoard():
            kept = []
            while True:
                result, end = ports.open_port(self.folder, "load")
                if result == -errno.EAGAIN:
                    continue
                data = end.recv(4096)
                answer = ports.HELLO.unpack(data)[1]
                if answer:
                    return len(kept), answer
                kept.append(end)
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        self.assertEqual(harness.run_as(harness.USER_A, hoard, timeout=25), (1024, -errno.EDQUOT))
        self.assertTrue(self.text("load"))

        def other():
            with ports.Page(self.folder, "load"):
                return True
        self.assertTrue(harness.run_as(harness.USER_B, other))

    def test_accounts(self):
        def hoard():
            with open(os.pidfd_open(os.getpid())) as pidfd:
                pages = []
                for n in range(65):
                    assert ports.post(self.folder, f"mine{n}", pidfd.fileno(), 0o600, ports.TASK) == 0
                    result, end = ports.open_port(self.folder, f"mine{n}")
                    assert result == 0
                    answer = ports.HELLO.unpack(end.recv(4096))[1]
                    pages.append((answer, end))
                    if answer:
                        break
            return [answer for answer, _ in pages]
        got = harness.run_as(harness.USER_A, hoard, timeout=25)
        if got[0] == -errno.EOPNOTSUPP:
            self.skipTest("this kernel has no accounts")
        self.assertEqual(got, [0] * 64 + [-errno.EDQUOT])


class Accounts(PublisherCase):
    def test_a_task_that_ends(self):
        child = subprocess.Popen(["sleep", "100"])
        try:
            with open(os.pidfd_open(child.pid)) as pidfd:
                self.assertEqual(ports.post(self.folder, "child", pidfd.fileno(), flags=ports.TASK), 0)
            error = harness.errno_of(self.text, "child")
            if error == errno.EOPNOTSUPP:
                self.skipTest("this kernel has no accounts")
            with ports.Page(self.folder, "child") as page:
                self.assertEqual(page.values()["pid"], [child.pid])
                child.kill()
                child.wait()
                harness.wait_until(lambda: page.values()["alive"] == [0], "its end is seen")
            self.assertErrno(errno.ESRCH, self.text, "child")
        finally:
            child.kill()
            child.wait()

    def becomes_root(self, name, uid):
        """A user's process that will execute a program of root's, set-user-ID; its account is posted by @uid."""
        place = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, place)
        os.chmod(place, 0o755)
        program = shutil.copy(shutil.which("cat"), os.path.join(place, "turncoat"))
        os.chmod(program, 0o4755)
        child = subprocess.Popen(["sh", "-c", 'echo; read line; exec "$0"', program], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, user=harness.USER_A, group=harness.USER_A, extra_groups=[])
        self.addCleanup(child.communicate)
        self.addCleanup(child.kill)
        child.stdout.read(1)
        with open(os.pidfd_open(child.pid)) as pidfd:
            self.assertEqual(harness.run_as(uid, ports.post, self.folder, name, pidfd.fileno(), 0o644, ports.TASK), 0)
        return child

    def become_root(self, child):
        def lines():
            with open(f"/proc/{child.pid}/status") as file:
                return dict(line.split(":\t", 1) for line in file)
        child.stdin.write(b"\n")
        child.stdin.flush()
        harness.wait_until(lambda: lines()["Name"].strip() == "turncoat", "it is another program")
        if lines()["Uid"].split()[1] != "0":
            self.skipTest("set-user-ID has no effect here")
        child.stdin.write(b"a password\n")
        child.stdin.flush()
        self.assertEqual(child.stdout.read(11), b"a password\n")

    def test_what_a_set_user_id_program_reads_is_not_counted_for_its_user(self):
        child = self.becomes_root("turncoat", harness.USER_A)
        if harness.errno_of(self.text, "turncoat") == errno.EOPNOTSUPP:
            self.skipTest("this kernel has no accounts")
        other = self.becomes_root("roots", 0)
        with ports.Page(self.folder, "turncoat") as page, ports.Page(self.folder, "roots") as roots:
            before = page.values()
            if "io_rchar" not in before:
                self.skipTest("this kernel does not count I/O")
            self.assertEqual(before["io_shown"], [1])
            self.assertGreater(before["io_rchar"][0], 0)
            seen = roots.values()["io_rchar"][0]
            self.become_root(child)
            self.become_root(other)
            sampled = page.sample_ns()
            harness.wait_until(lambda: page.sample_ns() > sampled, "another sample")
            after = page.values()
            self.assertEqual(after["comm"][0].rstrip(b"\0"), b"turncoat")
            self.assertEqual({name: value for name, value in after.items() if name.startswith("io_") and value != [0]}, {})
            # Who may see everything has it as before.
            harness.wait_until(lambda: roots.values()["io_rchar"][0] > seen, "root sees what it reads")
            self.assertEqual(roots.values()["io_shown"], [1])

    def test_a_process_that_became_another_users_is_not_shown_to_its_poster(self):
        child = self.becomes_root("late", harness.USER_A)
        self.become_root(child)
        got = harness.errno_of(self.text, "late")
        if got == errno.EOPNOTSUPP:
            self.skipTest("this kernel has no accounts")
        self.assertEqual(harness.errno_name(got), "EACCES")


class Rules(PublisherCase):
    def setUp(self):
        top = cgroup2()
        if not top:
            self.skipTest("there is no cgroup2 to make a group in")
        self.group = os.path.join(top, f"kshared-test-{os.getpid()}")
        os.mkdir(self.group)
        self.addCleanup(os.rmdir, self.group)
        fd = self.opened(self.group, os.O_RDONLY | os.O_DIRECTORY)
        result = ports.post(self.folder, "rule", fd, 0o644, ports.RULE)
        if result == -errno.EOPNOTSUPP:
            self.skipTest("this kernel has no rules")
        self.assertEqual(result, 0)
        self.addCleanup(lambda: ports.remove(self.folder, "rule"))

    def counted(self):
        """How many sockets the rule has seen; one more is made inside the group."""
        subprocess.run(["sh", "-c", 'echo $$ > "$1/cgroup.procs"; exec python3 -c "import socket; socket.socket()"', "sh",
                        self.group], check=True, timeout=10)
        return int(self.values("rule")["allowed"])

    def test_it_holds_whoever_dies(self):
        seen = self.counted()
        self.assertGreater(seen, 0)
        with ports.Page(self.folder, "rule") as page:
            pid = self.publisher()
            os.kill(pid, signal.SIGKILL)
            harness.wait_until(page.is_gone, "its reader knows")
        # Nobody asks for it: it is there again by itself.
        harness.wait_until(lambda: ports.publishers(self.folder) not in ([], [pid]), "another takes over")
        more = self.counted()
        self.assertGreater(more, seen, "what was counted is not lost")
        self.folder.kill_worker()
        self.assertGreater(self.counted(), more)

    def programs(self):
        """How many programs are attached to the group."""
        done = subprocess.run(["/usr/sbin/bpftool", "cgroup", "show", self.group], capture_output=True, text=True,
                              timeout=10)
        return sum("sock_create" in line for line in done.stdout.splitlines())

    def test_it_ends_with_its_entry(self):
        if not os.path.exists("/usr/sbin/bpftool"):
            self.skipTest("needs bpftool")
        self.assertEqual(self.programs(), 1)
        held = self.opened(self.path("port/rule"), os.O_RDONLY)
        self.assertEqual(ports.remove(self.folder, "rule"), 0)
        harness.wait_until(lambda: self.programs() == 0, "it ends, though somebody has it open")
        os.fstat(held)

    def test_workers_that_die_at_its_removal(self):
        """Whether it was dropped or not when the worker died: the next one says which rules there are."""
        if not os.path.exists("/usr/sbin/bpftool"):
            self.skipTest("needs bpftool")
        fd = self.opened(self.group, os.O_RDONLY | os.O_DIRECTORY)
        for delay in range(10):
            child = self.child(os.unlink, self.path("port/rule"))
            time.sleep(delay * 0.0005)
            self.folder.kill_worker()
            child.result()
            harness.wait_until(lambda: self.programs() == 0, "it is gone")
            self.assertEqual(ports.post(self.folder, "rule", fd, 0o644, ports.RULE), 0)
            self.assertEqual(self.programs(), 1)

    def test_its_group_is_removed_and_made_again(self):
        self.assertEqual(self.values("rule")["alive"], "1")
        with ports.Page(self.folder, "rule") as page:
            self.assertEqual(self.cli("port", "write", "rule", "allow=0").returncode, 0)
            harness.wait_until(lambda: harness.errno_of(os.rmdir, self.group) == 0, "nobody is in it")
            os.mkdir(self.group)
            harness.wait_until(lambda: page.values()["alive"] == [0], "who has it open sees it")
        done = self.cli("port", "write", "rule", "mark=3")
        self.assertEqual(done.returncode, 1)
        self.assertIn("control group was removed", done.stderr)

        def state():
            return {port["name"]: port["gone"] for port in json.loads(self.cli("port", "ls", "--json").stdout)}["rule"]
        self.assertTrue(state())
        self.kill_publisher()
        harness.wait_until(lambda: harness.errno_of(self.text, "rule") == 0, "another takes over")
        self.assertEqual((self.values("rule")["alive"], self.values("rule")["allow"]), ("0", "0"))
        self.assertTrue(state())

    def test_who_may(self):
        fd = os.open(self.group, os.O_RDONLY | os.O_DIRECTORY)
        got = harness.run_as(harness.USER_A, ports.post, self.folder, "theirs", fd, 0o644, ports.RULE)
        os.close(fd)
        self.assertEqual(got, -errno.EPERM)

        def write():
            return ports.open_port(self.folder, "rule", os.O_RDWR)[0]
        self.assertEqual(harness.run_as(harness.USER_A, write), -errno.EACCES)


if __name__ == "__main__":
    harness.main()
