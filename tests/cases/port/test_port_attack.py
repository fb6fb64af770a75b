# SPDX-License-Identifier: GPL-2.0-or-later
"""What one user or service may do to the others by ports: nothing."""

import contextlib
import errno
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), up) for up in ("..", "../daemon")]

import harness  # noqa: E402
import ports  # noqa: E402
from ports import Field  # noqa: E402
from test_publisher import cgroup2  # noqa: E402
from test_port_folder import TEXT, PortCase  # noqa: E402

NUMBERS = 1200  # of descriptors that a process of the crowded folder may have


def opened_and_left(folder, name):
    """Open a port and go. Return: 0 or -errno."""
    result, end = ports.open_port(folder, name)
    if end:
        end.close()
    return result


class Crowds(PortCase):
    """Descriptors in flight are charged to the daemon's user, whoever fills a socket with them."""

    @classmethod
    def setUpClass(cls):
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (NUMBERS, NUMBERS) if os.getuid() else (NUMBERS, limits[1]))
        try:
            super().setUpClass()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    def fill(self, services, again=None):
        """As an ordinary user: services that never read, opened until they refuse. Return: how many opens were taken."""
        taken = 0
        kept = []
        for number in range(services):
            server = ports.Server(self.folder, f"deaf{number}", mode=0o666)
            kept.append(server)
            assert server.result == 0, server.result
            for _ in range(40):
                if opened_and_left(self.folder, f"deaf{number}") == 0:
                    taken += 1
            if again:
                again(f"deaf{number}")
        self.after_filling()
        return taken

    def after_filling(self):
        pass

    def others_go_on(self):
        self.serving("sturdy")
        self.assertEqual(self.text("sturdy"), TEXT)
        with ports.Page(self.folder, "sturdy") as page:
            self.assertEqual(page.values()["number"], [42])
        self.assertTrue(self.text("load"))

    def test_services_that_never_read(self):
        status = self.folder.status()
        taken = harness.run_as(harness.USER_A, self.fill, 60, timeout=60)
        self.assertGreater(taken, 7)
        self.assertLessEqual(taken, 64)
        self.others_go_on()
        self.assertEqual(self.folder.status()["restarts"], status["restarts"])

    def test_services_that_never_read_and_go(self):
        """Their entries are removed, and their sockets are still full."""
        taken = harness.run_as(harness.USER_A, self.fill, 60, lambda name: ports.remove(self.folder, name), timeout=60)
        self.assertLessEqual(taken, 64)
        self.others_go_on()

    def test_one_user_does_not_use_up_a_service(self):
        server = self.server("busy", mode=0o666)
        self.assertEqual(harness.run_as(harness.USER_A, lambda: [opened_and_left(self.folder, "busy") for _ in range(40)][-1]),
                         -errno.EAGAIN)
        self.assertEqual(harness.run_as(harness.USER_B, opened_and_left, self.folder, "busy"), 0)
        # Who has been taken does not count any more.
        with contextlib.suppress(TimeoutError):
            server.socket.settimeout(0.2)
            while True:
                server.accept().close()
        self.assertEqual(harness.run_as(harness.USER_A, opened_and_left, self.folder, "busy"), 0)


class Replacing(PortCase):
    def test_openers_of_a_service_that_is_replaced_reach_no_other_one(self):
        """Its descriptor's number may be another one's by then."""
        stop = time.monotonic() + 3 * harness.SCALE

        def storm():
            ends = []
            end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ends.append(other)
            ports.post(self.folder, "rep", end.fileno(), mode=0o666)
            results = {}
            child = os.fork()
            while time.monotonic() < stop:
                if child:
                    result, client = ports.open_port(self.folder, "rep", os.O_RDWR)
                    if client:
                        client.close()
                    results[result] = results.get(result, 0) + 1
                else:
                    end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                    ends[0].close()
                    ends[0] = other
                    ports.post(self.folder, "rep", end.fileno(), mode=0o666, flags=ports.REPLACE)
                    end.close()
            if not child:
                os._exit(0)
            os.waitpid(child, 0)
            return results
        children = [self.child(storm, uid=harness.USER_A) for _ in range(2)]
        mine = None
        got = 0
        while time.monotonic() < stop:
            end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            if mine:
                mine.close()
            mine = other
            mine.setblocking(False)
            self.assertEqual(ports.post(self.folder, "private", end.fileno(), mode=0o600, flags=ports.REPLACE), 0)
            end.close()
            time.sleep(0.003)
            with contextlib.suppress(BlockingIOError):
                got += bool(mine.recv(4096))
        mine.close()
        self.assertEqual(got, 0)
        for child in children:
            results = child.result(30)
            self.assertLessEqual(set(results), {0, -errno.EAGAIN, -errno.ECONNREFUSED}, results)
            self.assertIn(0, results)


class Readers(PortCase):
    def test_many_at_once_of_one_user(self):
        """They wait for their turn: nothing of theirs lies in a server's socket meanwhile."""
        self.serving("sturdy", mode=0o644)

        def read():
            wrong = []

            def one():
                for _ in range(4):
                    for name in ("sturdy", "load"):
                        result = harness.errno_of(self.text, name)
                        if result:
                            wrong.append(result)
            threads = [threading.Thread(target=one) for _ in range(40)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return wrong
        self.assertEqual(harness.run_as(harness.USER_A, read, timeout=60), [])


class Names(PortCase):
    def test_nobody_takes_the_place_of_a_page_of_the_kernel(self):
        folder = harness.Folder()
        try:
            folder.start()
            self.assertEqual(ports.remove(folder, "load"), 0)
            end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with end, other:
                self.assertEqual(ports.post(folder, "load", end.fileno()), -errno.EPERM)
                self.assertEqual(ports.post(folder, "mine", end.fileno()), 0)
                self.assertErrno(errno.EPERM, os.rename, os.path.join(folder.dir, "port/mine"), os.path.join(folder.dir, "port/load"))
                self.assertErrno(errno.EPERM, os.mkdir, os.path.join(folder.dir, "port/load"))
                os.mkdir(os.path.join(folder.dir, "port/board"))
                self.assertEqual(ports.post(folder, "board/load", end.fileno()), 0)
        finally:
            folder.take_down()
            folder.delete()


class Accounts(PortCase):
    def test_who_opens_many_does_not_keep_others_out(self):
        """To make an account takes long; a page does not wait for those of one user."""
        stop = time.monotonic() + 4 * harness.SCALE

        def storm():
            with open(os.pidfd_open(os.getpid())) as pidfd:
                for number in range(60):
                    assert ports.post(self.folder, f"account{number}", pidfd.fileno(), flags=ports.TASK) == 0
            number = 0
            while time.monotonic() < stop:
                opened_and_left(self.folder, f"account{number % 60}")
                number += 1
            return number
        self.assertTrue(self.text("load"))
        attacker = self.child(storm, uid=harness.USER_A)
        time.sleep(0.5)
        reads = 0
        while time.monotonic() < stop - 0.5:
            with ports.Page(self.folder, "load") as page:
                page.values()
            self.assertTrue(self.text("clock"))
            reads += 1
        self.assertGreater(attacker.result(60), 0)
        self.assertGreater(reads, 3)


class Rules(PortCase):
    def test_a_removed_rule_ends_though_the_publisher_could_not_be_told(self):
        top = cgroup2()
        if not top:
            self.skipTest("there is no cgroup2 to make a group in")
        cgroup = os.path.join(top, f"kshared-test-attack-{os.getpid()}")
        os.mkdir(cgroup)
        self.addCleanup(os.rmdir, cgroup)
        fd = self.opened(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        self.assertEqual(ports.post(self.folder, "rule", fd, flags=ports.RULE), 0)
        self.assertTrue(self.socket_in(cgroup))
        self.assertEqual(self.folder.cli("port", "write", "rule", "allow=0").returncode, 0)
        self.assertFalse(self.socket_in(cgroup))
        pid, = ports.publishers(self.folder)
        os.kill(pid, signal.SIGSTOP)
        # Its socket fills with those who want to read, until the kernel takes no more.
        for uid in range(70000, 70040):
            harness.run_as(uid, lambda: [opened_and_left(self.folder, "load") for _ in range(9)])
        self.assertEqual(ports.remove(self.folder, "rule"), 0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        harness.wait_until(lambda: self.socket_in(cgroup), "the rule has ended")

    @staticmethod
    def socket_in(cgroup):
        """May a process in the control group make a socket?"""
        done = subprocess.run([sys.executable, "-c", "import os, socket, sys\n"
                               "open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))\nsocket.socket()", cgroup],
                              stderr=subprocess.DEVNULL, timeout=20, check=False)
        return done.returncode == 0


class Texts(PortCase):
    def test_errors_that_no_file_has(self):
        """The kernel would make the reader wait for ever, read again for ever, or never ask anybody again."""
        for wrong in (-512, -516, -4095, -134, -errno.EINTR, -errno.ENOSYS, 7):
            server = self.server("liar")
            child = self.child(lambda: harness.errno_of(self.text, "liar"), uid=harness.USER_A)
            server.accept().answer(ports.hello(result=wrong))
            self.assertEqual(child.result(10), errno.EPROTO, wrong)
            child = self.child(lambda: harness.errno_of(os.getxattr, self.port("liar"), "user.kshared.port.fields"), uid=harness.USER_A)
            server.accept().answer(ports.hello(result=wrong))
            self.assertEqual(child.result(10), errno.EPROTO, wrong)
            server.close()
            os.unlink(self.port("liar"))
        self.serving("sturdy")
        self.assertTrue(os.getxattr(self.port("sturdy"), "user.kshared.port.fields"), "others can still be asked")

    def test_what_is_left_of_a_text_is_of_the_same_sample(self):
        server = self.server("changing")
        pages = [ports.make_page([Field("number", ports.U64, value)]) for value in (1, 22222222)]

        def serve():
            for page in (pages[0], *[pages[1]] * 2):
                with contextlib.suppress(TimeoutError, EOFError):
                    caller = server.accept()
                    fd = ports.memory(page)
                    caller.answer(ports.hello(), [fd])
                    os.close(fd)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        fd = self.opened(self.port("changing"), os.O_RDONLY)
        self.assertEqual(os.read(fd, 5), b"numbe")
        self.folder.kill_worker()
        self.assertErrno(errno.ESTALE, os.read, fd, 100)
        self.assertEqual(self.text("changing"), "number 22222222\n")
        server.close()
        thread.join()

    def test_one_user_does_not_push_out_anothers_text(self):
        self.serving("model", mode=0o644)

        def crowd():
            fds = [os.open(self.port("model"), os.O_RDONLY) for _ in range(300)]
            for fd in fds:
                os.pread(fd, 4, 0)
            return True
        fd = self.opened(self.port("model"), os.O_RDONLY)
        got = os.read(fd, 10)
        self.assertTrue(harness.run_as(harness.USER_A, crowd, timeout=30))
        self.assertEqual(got + os.read(fd, 4096), TEXT.encode())


class Library(PortCase):
    def test_ages_in_another_time_namespace(self):
        ages = []
        for offset in (-1000, 0, 1000):
            done = subprocess.run(["unshare", "-T", "--monotonic", str(offset), "-f", *harness.program("kshared"), "--at", self.folder.dir,
                                   "port", "ls", "--json"], capture_output=True, text=True, timeout=20, check=True)
            ages += [int(line.split(":")[1].strip(" ,")) for line in done.stdout.splitlines() if "age_ns" in line]
        self.assertGreater(len(ages), 6)
        self.assertLess(max(ages), 10 * 10 ** 9)
        self.assertGreater(sum(age > 0 for age in ages), len(ages) // 2)

    def test_who_clobbers_has_nobody_killed_whom_he_may_not_kill(self):
        """The one who had opened has become root by a set-user-ID program; who has its memory now is still nobody."""
        with tempfile.TemporaryDirectory(dir="/var/tmp") as where:
            os.chmod(where, 0o755)
            source, program = os.path.join(where, "up.c"), os.path.join(where, "up")
            with open(source, "w") as file:
                file.write("#include <unistd.h>\nint main(void)\n{\n"
                           "\treturn setresuid(0, 0, 0) ? 1 : execl(\"/bin/sleep\", \"sleep\", \"30\", (char *)0);\n}\n")
            subprocess.run(["cc", "-o", program, source, "-w"], check=True, timeout=60)
            os.chmod(program, 0o4755)
            serving = subprocess.Popen([*harness.program("kshared"), "--at", self.folder.dir, "port", "serve", "rootsvc", "a=1",
                                        "-m", "666"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            self.addCleanup(serving.wait)
            self.addCleanup(serving.kill)
            harness.wait_until(lambda: os.path.exists(self.port("rootsvc")), "it serves")
            ready, tell = os.pipe()

            def attack():
                _, end = ports.open_port(self.folder, "rootsvc", os.O_RDWR)
                data, control, _, _ = end.recvmsg(4096, 4096)
                fds = struct.unpack("3i", control[0][2][:12])
                pool_off = ports.HELLO.unpack(data)[5]
                os.write(tell, struct.pack("i", os.getpid()))
                if os.fork() == 0:
                    time.sleep(0.7)
                    memory = mmap.mmap(fds[1], os.fstat(fds[1]).st_size)
                    memory[pool_off - 8:pool_off] = b"clobber!"
                    os._exit(0)
                os.execv(program, [program])
            child = os.fork()
            if child == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                try:
                    attack()
                finally:
                    os._exit(1)
            try:
                pid = struct.unpack("i", os.read(ready, 4))[0]
                line = serving.stderr.readline().decode()
                self.assertIn("shut out", line)
                with open(f"/proc/{pid}/status") as file:
                    self.assertIn("Uid:\t0\t0\t0\t0", file.read())
            finally:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                os.close(ready)
                os.close(tell)


if __name__ == "__main__":
    harness.main()
