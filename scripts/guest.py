#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Small guests whose memory can be merged: QEMU without KVM, Debian's kernel, and one program that verifies its memory for ever.

    guest.py prepare            get all that a guest needs, and say so; exit status 77: it cannot be had, and why
    guest.py run LOG SEED [MIB] become a guest (QEMU); its console goes to the file LOG

Used by the demo as a command and by the tests as a module. The kernel comes out of the package that the file `packages`
names, which is fetched by apt-get and not installed; it is kept in the build directory. The initramfs holds one
program, tests/guest/init.c. Guest RAM is QEMU's default: private, anonymous memory.
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
QEMU = "qemu-system-x86_64"
MIB = 256
BOOT_SECONDS = 240 # without KVM, on a busy machine; 7 on a quiet one
PR_SET_PDEATHSIG = 1


class Unavailable(Exception):
    """No guest can be run here, and why."""


def build():
    """The build directory that has the guest's program: tests may be run on copies of the others."""
    for place in (os.environ.get("KSHARED_BUILD"), os.path.join(ROOT, "build")):
        if place and os.path.exists(os.path.join(place, "tests/guest/guest-init")):
            return os.path.abspath(place)
    raise Unavailable("the guest's program is not built")


# ---- kernel and initramfs ----


def kernel_package():
    """The package that has the newest kernel: the one of the list depends on it."""
    with open(os.path.join(ROOT, "packages")) as file:
        listed = re.search(r"^\[guest\].*\n(\S+)", file.read(), flags=re.M)[1]
    depends = apt("apt-cache", "depends", listed)
    return re.search(r"Depends: (linux-image-\S+)", depends)[1]


def apt(*command, cwd="/"):
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, cwd=cwd).stdout
    except (OSError, subprocess.SubprocessError) as reason:
        raise Unavailable(f"{' '.join(command[:2])} fails: {getattr(reason, 'stderr', None) or reason}".strip()) from None


def fetch_kernel(path):
    """Take the kernel out of its package, without installing it."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as work:
        # apt's own user writes here.
        os.chmod(work, 0o777)
        apt("apt-get", "download", "--quiet", kernel_package(), cwd=work)
        package = os.path.join(work, os.listdir(work)[0])
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpack:
            with tarfile.open(fileobj=unpack.stdout, mode="r|") as archive:
                for member in archive:
                    if re.fullmatch(r"\./boot/vmlinuz-.*", member.name):
                        with open(os.path.join(work, "vmlinuz"), "wb") as file:
                            shutil.copyfileobj(archive.extractfile(member), file)
        os.rename(os.path.join(work, "vmlinuz"), path)


def cpio(entries):
    """An initramfs (newc): [(name, mode, data, device number)]."""
    out = b""
    for number, (name, mode, data, device) in enumerate(entries + [("TRAILER!!!", 0, b"", 0)]):
        name = name.encode() + b"\0"
        fields = (number + 1, mode, 0, 0, 1, 0, len(data), 0, 0, os.major(device), os.minor(device), len(name), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return out


def prepare():
    """Return: (kernel, initramfs), made if they are not there yet."""
    if not shutil.which(QEMU):
        raise Unavailable(f"{QEMU} is missing; scripts/deps installs it")
    place = os.path.join(build(), "tests/guest")
    kernel, initramfs = os.path.join(place, "vmlinuz"), os.path.join(place, "initramfs")
    if not os.path.exists(kernel):
        fetch_kernel(kernel)
    with open(os.path.join(place, "guest-init"), "rb") as file:
        image = cpio([("dev", 0o40755, b"", 0), ("dev/console", 0o20600, b"", os.makedev(5, 1)),
                      ("init", 0o100755, file.read(), 0)])
    with tempfile.NamedTemporaryFile(dir=place, delete=False) as file:
        file.write(image)
    os.chmod(file.name, 0o644)
    os.rename(file.name, initramfs)
    return kernel, initramfs


def command(log, seed, mib=MIB, memory=()):
    """What starts a guest. @memory: more arguments, on its memory."""
    kernel, initramfs = prepare()
    return [QEMU, "-M", "q35", "-accel", "tcg,tb-size=32", "-cpu", "max", "-m", str(mib), "-nodefaults", "-no-user-config",
            "-no-reboot", "-display", "none", "-serial", f"file:{log}", "-kernel", kernel, "-initrd", initramfs,
            "-append", f"console=ttyS0 quiet panic=-1 no_timer_check seed={seed}", *memory]


# ---- a guest, for tests ----


class Guest:
    """A running guest; end it with stop(). .pid is QEMU's."""

    def __init__(self, log, seed, mib=MIB, memory=()):
        self.log = log
        open(log, "wb").close()
        libc = ctypes.CDLL(None)
        self.process = subprocess.Popen(
            command(log, seed, mib, memory), stdin=subprocess.DEVNULL,
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)) # pylint: disable=subprocess-popen-preexec-fn
        self.pid = self.process.pid

    def stop(self):
        self.process.kill()
        self.process.wait()

    def says(self):
        with open(self.log, errors="replace") as file:
            return file.read()

    def rounds(self):
        """How often it has verified its memory; raises if it is not as it was, or the guest has died."""
        text = self.says()
        found = re.findall(r"verifier: round (\d+), \d+ pages, (\d+) bad\r?\n", text)
        if self.process.poll() is not None or "is bad" in text or "panic" in text or any(bad != "0" for _, bad in found):
            raise AssertionError(f"the guest is not well (status {self.process.returncode}):\n{text[-2000:]}")
        return int(found[-1][0]) if found else 0

    def await_rounds(self, more, seconds=BOOT_SECONDS):
        """Wait until it has verified all its memory @more times from now on, the first of which may have begun before."""
        want, end = self.rounds() + more, time.monotonic() + seconds
        while self.rounds() < want:
            if time.monotonic() > end:
                raise AssertionError(f"the guest did not get so far within {seconds} s:\n{self.says()[-2000:]}")
            time.sleep(0.05)

    def ram_kib(self, mib=MIB):
        """Pss of its RAM, in KiB."""
        return pss_of(self.pid, *ram_span(self.pid, mib))


def smaps(pid):
    """[(start, end, name, flags, Pss in KiB)]"""
    found = []
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)", line)
            if head:
                start, end, name, pss = int(head[1], 16), int(head[2], 16), head[3], 0
            elif line.startswith("Pss:"):
                pss = int(line.split()[1])
            elif line.startswith("VmFlags:"):
                found.append((start, end, name, line.split()[1:], pss))
    return found


def ram_span(pid, mib):
    """Where a guest's RAM of that size is in QEMU: what no child of QEMU's would have (see base/guest_ram.h)."""
    first = last = None
    for start, end, _, flags, _ in smaps(pid):
        if "dc" in flags:
            first, last = (first, end) if start == last else (start, end)
            if last - first == mib << 20:
                return first, last
    raise AssertionError("QEMU has no memory of that size")


def pss_of(pid, start, end):
    """Pss of all mappings between two addresses, in KiB."""
    return sum(pss for low, high, _, _, pss in smaps(pid) if start <= low and high <= end)


def main(arguments):
    try:
        if arguments == ["prepare"]:
            kernel, _ = prepare()
            print(f"{kernel} ({os.path.getsize(kernel) >> 20} MiB)")
            return 0
        if arguments[:1] == ["run"] and len(arguments) in (3, 4):
            line = command(*arguments[1:])
            os.execvp(line[0], line)
    except Unavailable as reason:
        print(f"guest: {reason}", file=sys.stderr)
        return 77
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
