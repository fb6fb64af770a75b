# SPDX-License-Identifier: GPL-2.0-or-later
"""`mount none DIR -t srvfs`: a srv folder of its own; and the steps of srvfs's own test scripts."""

import errno
import json
import os
import select
import stat
import subprocess
import tempfile

import harness

HELPER = "/sbin/mount.srvfs"


class SrvfsCase(harness.FolderCase):
    """Beside the folder of the class there is a directory for mounting. The daemons here end with their mounts."""

    def setUp(self):
        # On no file system but a plain one, so that only what the test mounts is found there.
        self.dir = tempfile.mkdtemp(prefix="srvfs-", dir=self.folder.base)
        os.chmod(self.dir, 0o755)
        self.addCleanup(self.clean_up)

    def clean_up(self):
        for path, _ in harness.mounts_below(self.dir):
            subprocess.run(["umount", "-l", path], check=False)

    def helper(self, *args, cwd=None):
        """Call the helper as mount(8) does."""
        return subprocess.run([*harness.program("mount.srvfs"), "none", *args], capture_output=True, text=True, cwd=cwd,
                              stdin=subprocess.DEVNULL, timeout=10 * harness.SCALE, env=harness.environment())

    def mount(self, *args):
        """Mount the test's directory. Return: the processes of its daemon."""
        done = self.helper(self.dir, *args)
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)
        self.assertTrue(os.path.ismount(self.dir), "it is mounted when the helper returns")
        status = json.loads(self.at("status", "--json").stdout)
        return [int(status["keeper_pid"]), int(status["worker_pid"])]

    def umount(self):
        done = subprocess.run(["umount", self.dir], capture_output=True, text=True, timeout=20 * harness.SCALE)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def at(self, *args, **options):
        return subprocess.run([*harness.program("kshared"), "--at", self.dir, *args], capture_output=True, text=True,
                              timeout=20 * harness.SCALE, env=harness.environment(), **options)

    def socket_path(self):
        return os.getxattr(self.dir, "user.kshared.socket").decode()

    def bash(self, script, **options):
        """Run a script that stops at its first failure, in the mounted directory's parent."""
        return subprocess.run(["bash", "-euc", script, "bash", self.dir], capture_output=True, text=True,
                              timeout=20 * harness.SCALE, **options)

    def assertNotMounted(self, done, status):
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertRegex(done.stderr, r"(mount\.srvfs|ksharedd): \S.*\n")
        self.assertEqual(harness.mounts_below(self.dir), [])


class Mounting(SrvfsCase):
    def test_it_is_a_folder_of_posted_descriptors_alone(self):
        self.mount()
        self.assertEqual(os.listdir(self.dir), [])
        root = os.stat(self.dir)
        self.assertTrue(stat.S_ISDIR(root.st_mode))
        with open("/proc/self/mountinfo") as file:
            line, = [line for line in file if f" {self.dir} " in line]
        self.assertIn(" - fuse.srvfs ", line)
        self.umount()
        self.assertFalse(os.path.ismount(self.dir))

    def test_umount_ends_it(self):
        pids = self.mount()
        path = self.socket_path()
        self.assertTrue(os.path.exists(path))
        self.bash('echo 0 > "$1/x"', stdin=subprocess.DEVNULL)
        self.umount()
        harness.wait_until(lambda: not any(map(harness.is_alive, pids)), "the daemon has ended")
        self.assertFalse(os.path.exists(path), "its socket is gone")
        self.assertEqual(self.at("status").returncode, 1)

    def test_a_lazy_umount_ends_it_too(self):
        pids = self.mount()
        path = self.socket_path()
        subprocess.run(["umount", "-l", self.dir], check=True)
        harness.wait_until(lambda: not any(map(harness.is_alive, pids)), "the daemon has ended")
        self.assertFalse(os.path.exists(path))

    def test_umount_closes_what_was_posted(self):
        pids = self.mount()
        reader, writer = os.pipe()
        with harness.Connection(self.dir) as connection:
            connection.srv_post("pipe", writer)
        os.close(writer)
        self.umount()
        self.assertEqual(harness.read_exactly(reader, 1), b"", "end of file")
        harness.wait_until(lambda: not any(map(harness.is_alive, pids)), "the daemon has ended")
        os.close(reader)

    def test_a_busy_mount_stays(self):
        self.mount()
        self.bash('echo 0 > "$1/x"', stdin=subprocess.DEVNULL)
        with open(os.path.join(self.dir, "x")):
            done = subprocess.run(["umount", self.dir], capture_output=True, text=True)
            self.assertNotEqual(done.returncode, 0)
            self.assertEqual(os.listdir(self.dir), ["x"])
        self.umount()

    def test_it_can_be_mounted_again(self):
        for _ in range(3):
            pids = self.mount()
            self.bash('echo 0 > "$1/x"', stdin=subprocess.DEVNULL)
            self.assertEqual(os.listdir(self.dir), ["x"])
            self.umount()
            harness.wait_until(lambda pids=pids: not any(map(harness.is_alive, pids)), "the daemon has ended")

    def test_several_are_independent(self):
        self.mount()
        other = tempfile.mkdtemp(prefix="other-", dir=self.folder.base)
        self.assertEqual(self.helper(other).returncode, 0)
        self.bash('echo 0 > "$1/x"', stdin=subprocess.DEVNULL)
        self.assertEqual(os.listdir(other), [])
        subprocess.run(["umount", other], check=True)
        self.assertEqual(os.listdir(self.dir), ["x"])
        self.umount()

    def test_options(self):
        self.mount("-o", "rw,mode=0755")
        self.assertEqual(os.stat(self.dir).st_mode & 0o7777, 0o755)
        self.assertErrnoAs(harness.USER_A, errno.EACCES, os.open, os.path.join(self.dir, "x"), os.O_WRONLY | os.O_CREAT)
        self.umount()

    def test_everybody_may_post_by_default(self):
        self.mount()
        self.assertEqual(os.stat(self.dir).st_mode & 0o7777, 0o1777)

        def post():
            fd = os.open(os.path.join(self.dir, "x"), os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(fd, b"0")
            os.close(fd)

        harness.run_as(harness.USER_A, post)
        self.assertEqual(os.stat(os.path.join(self.dir, "x")).st_uid, harness.USER_A)
        self.umount()

    def test_read_only(self):
        self.mount("-o", "ro")
        path = os.path.join(self.dir, "x")
        self.assertErrno(errno.EROFS, os.open, path, os.O_WRONLY | os.O_CREAT)
        self.assertErrno(errno.EROFS, os.mkdir, path)
        self.umount()

    def test_what_mount_passes_on_by_itself(self):
        done = self.helper(self.dir, "-n", "-o", "rw,nosuid,nodev,relatime,noauto,x-systemd.automount")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.umount()

    def test_a_relative_directory(self):
        done = self.helper(os.path.basename(self.dir), cwd=os.path.dirname(self.dir))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.bash('echo 0 > "$1/x"', stdin=subprocess.DEVNULL)
        self.assertEqual(self.at("ls").stdout, "x\n")
        self.umount()

    def test_refused(self):
        file = self.scratch(self._testMethodName)
        open(file, "w").close()
        for args, status in (((self.dir, "-o", "no-such-option"), 32), ((self.dir, "-o", "mode=999"), 32),
                             ((self.dir, "-o", "mode="), 32), ((self.dir, "-o", "ro=1"), 32),
                             ((self.dir, "-o", "max_entries=many"), 32), ((self.dir, "-o", "rw,bad,mode=0755"), 32),
                             ((self.dir + "-missing",), 32), ((file,), 32), ((), 1), ((self.dir, "too-many"), 1),
                             ((self.dir, "-X"), 1), ((self.dir, "-N", "1"), 1)):
            with self.subTest(args=args):
                self.assertNotMounted(self.helper(*args), status)
        self.assertEqual(os.listdir(self.dir), [])

    def test_the_message_names_the_option(self):
        self.assertIn("'no-such-option'", self.helper(self.dir, "-o", "no-such-option").stderr)

    def test_a_second_mount_on_the_same_directory_is_refused(self):
        pids = self.mount()
        done = self.helper(self.dir)
        self.assertEqual(done.returncode, 32)
        self.assertRegex(done.stderr, r"(mount\.srvfs|ksharedd): \S.*\n")
        self.assertEqual(len(harness.mounts_below(self.dir)), 1)
        self.assertTrue(all(map(harness.is_alive, pids)))
        self.umount()

    def test_a_dry_run_mounts_nothing(self):
        done = self.helper(self.dir, "-f", "-v")
        self.assertEqual(done.returncode, 0)
        self.assertIn(self.dir, done.stdout)
        self.assertEqual(harness.mounts_below(self.dir), [])

    def test_a_killed_worker_is_replaced(self):
        _, worker = self.mount()
        self.bash('echo 0 > "$1/x"', stdin=subprocess.DEVNULL)
        os.kill(worker, 9)
        self.assertEqual(os.listdir(self.dir), ["x"])
        self.assertEqual(os.getxattr(os.path.join(self.dir, "x"), "user.kshared.what"), b"device")
        self.umount()

    def test_memory_objects_have_no_place_there(self):
        self.mount()
        with harness.Connection(self.dir) as connection:
            self.assertNotEqual(harness.errno_of(connection.mem_create, "x", 4096), 0)
        self.assertEqual(os.listdir(self.dir), [])
        self.umount()


class RealMount(SrvfsCase):
    """mount(8) itself, in a private mount namespace where the helper seems to be installed."""

    def mount_by_mount(self, options=""):
        """Run mount(8) where the helper can be seen, with the directory's mounts shared with us."""
        outer = os.path.join(self.dir, "outer")
        inner = os.path.join(outer, "srv")
        os.makedirs(inner)
        subprocess.run(["mount", "--bind", outer, outer], check=True)
        subprocess.run(["mount", "--make-shared", outer], check=True)
        sbin = os.path.join(self.dir, "sbin")
        os.makedirs(sbin + "/upper")
        os.makedirs(sbin + "/work")
        # An overlay would do for /sbin; a tmpfs with links to everything in it works everywhere.
        script = """
            sbin=$(readlink -f /sbin)
            mkdir "$1/real"
            mount --bind "$sbin" "$1/real"
            mount -t tmpfs tmpfs "$1/upper"
            for path in "$1/real"/*; do ln -s "$path" "$1/upper/"; done
            ln -sf "$2" "$1/upper/mount.srvfs"
            mount --bind "$1/upper" "$sbin"
            exec mount none "$3" -t srvfs $4
            """
        helper = os.path.join(harness.BUILD, "mount.srvfs")
        done = subprocess.run(["unshare", "--mount", "--propagation", "unchanged", "bash", "-euc", script, "bash", sbin,
                               helper, inner, options], capture_output=True, text=True, timeout=20 * harness.SCALE,
                              env=harness.environment())
        return inner, done

    @harness.timeout(40)
    def test_mount_and_umount(self):
        inner, done = self.mount_by_mount()
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue(os.path.ismount(inner))
        with harness.Connection(inner) as connection:
            status = connection.status()
        pids = [status.keeper_pid, status.worker_pid]
        subprocess.run(["bash", "-euc", 'echo 0 > "$1/x"', "bash", inner], check=True, stdin=subprocess.DEVNULL)
        self.assertEqual(os.listdir(inner), ["x"])
        subprocess.run(["umount", inner], check=True)
        harness.wait_until(lambda: not any(map(harness.is_alive, pids)), "the daemon has ended")
        self.assertFalse(os.path.islink(HELPER), "nothing was left in /sbin")

    @harness.timeout(40)
    def test_an_unknown_option(self):
        inner, done = self.mount_by_mount("-o bogus")
        self.assertEqual(done.returncode, 32)
        self.assertIn("'bogus'", done.stderr)
        self.assertFalse(os.path.ismount(inner))

    def test_the_helper_explains_itself(self):
        for option, expected in (("--help", r"usage: mount\.srvfs none DIR .*\n"), ("--version", r"mount\.srvfs \d.*\n")):
            done = self.helper(option)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertRegex(done.stdout, rf"\A{expected}\Z")
        for option in ("--bogus", "-x", "-o"):
            done = self.helper(option)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, rf"\Amount\.srvfs: {option}: unknown option.*\n\Z")


class Classic(SrvfsCase):
    """The two scripts that came with srvfs, with what they should have checked."""

    def test_post_descriptor_0_write_and_remove(self):
        self.mount()
        done = self.bash("""
            exec <>"$1.target"
            echo 0 > "$1/foo"
            echo "hello world" > "$1/foo"
            test -f "$1/foo"
            rm "$1/foo"
            ! test -e "$1/foo"
            """)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        with open(self.dir + ".target") as file:
            self.assertEqual(file.read(), "hello world\n")
        self.assertEqual(os.listdir(self.dir), [])
        self.umount()

    def test_append_both_ways_and_read_both(self):
        self.mount()
        done = self.bash("""
            : > "$1.target"
            exec 5>>"$1.target" 6<"$1.target"
            echo 5 > "$1/writer"
            echo 6 > "$1/reader"
            echo "one, to the file" >> "$1.target"
            echo "two, to the entry" >> "$1/writer"
            echo "three, to the file" >> "$1.target"
            echo "four, to the entry" >> "$1/writer"
            cat "$1.target"
            echo "--"
            cat "$1/reader"
            """)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        text = "one, to the file\ntwo, to the entry\nthree, to the file\nfour, to the entry\n"
        self.assertEqual(done.stdout, text + "--\n" + text)
        self.umount()

    def test_append_both_ways_to_one_entry(self):
        """The script's own form: one descriptor for both."""
        self.mount()
        done = self.bash("""
            echo "begin" > "$1.target"
            exec 5<>"$1.target"
            echo 5 > "$1/file"
            echo "to the file" >> "$1.target"
            echo "to the entry" >> "$1/file"
            cmp "$1.target" "$1/file"
            cat "$1/file"
            """)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout, "begin\nto the file\nto the entry\n")
        self.umount()

    def test_the_library_and_the_command_use_it_as_a_folder(self):
        self.mount()
        reader, writer = os.pipe()
        with harness.Connection(self.dir) as connection:
            connection.srv_post("pipe", writer, 0o600)
            self.assertEqual(sorted(connection.list("srv")), ["pipe"])
            fd = connection.srv_open("pipe", os.O_WRONLY)
            os.write(fd, b"by library")
            os.close(fd)
        self.assertEqual(os.read(reader, 100), b"by library")
        self.assertEqual(self.at("ls").stdout, "pipe\n")
        self.assertEqual(self.at("srv", "open", "pipe", input="by command").returncode, 0)
        self.assertTrue(select.select([reader], [], [], 5)[0])
        self.assertEqual(os.read(reader, 100), b"by command")
        self.assertEqual(self.at("rm", "srv/pipe").returncode, 0)
        self.assertEqual(os.listdir(self.dir), [])
        os.close(reader)
        os.close(writer)
        self.umount()


if __name__ == "__main__":
    harness.main()
