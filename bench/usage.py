# SPDX-License-Identifier: GPL-2.0-or-later
"""The question "usage" of bench/run: how long `kshared folder top` takes beside a bare loop, du, ncdu, gdu and duc.

The lanes are programs; bench-turns runs them. The tree is bench-tree's, on a file system with a disk below it, and is removed
at the end. A second one, ten times as large, is for the memory alone: it is on a tmpfs of its own, since making and
removing it on a disk would take longer than everything else. Both are first counted by du, too: a sum that differs ends
the run.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

from folder import BUILD, environment, program

FILES, DIRS, BIG = 500_000, 50_000, 10
WARM_ROUNDS, COLD_ROUNDS = 7, 4
QUICK = 10 # so many times smaller are the trees
BYTES_EACH, BYTES_EACH_BIG = 8 << 10, 1500 # room for a file: on the disk, in memory
TIMEOUT = 900
DROP_CACHES = "/proc/sys/vm/drop_caches"
KSHARED = "kshared folder top"
FLOORS = (1, 2, 8)


class Failed(Exception):
    """There are no figures, and why."""


def bench(name):
    return os.path.join(BUILD, "bench", f"bench-{name}")


def run(command):
    """Run a program and all it starts; none of them is left when we are stopped. Return: what it printed."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment(),
                          start_new_session=True) as process:
        try:
            output = process.communicate(timeout=TIMEOUT)[0]
        except BaseException as reason:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(reason, subprocess.TimeoutExpired):
                raise Failed(f"{command[0]} did not end within {TIMEOUT} s") from None
            raise
    if process.returncode:
        raise Failed(f"{' '.join(command[:3])} ended with status {process.returncode}")
    return output


# ---- sums ----


def du(*options):
    """What du says: {path: number}."""
    lines = run(["du", *options]).splitlines()
    return {path: int(number) for number, path in (line.split("\t", 1) for line in lines)}


def top(directory):
    return json.loads(run(program("kshared") + ["folder", "top", "--json", "-n", "1000", directory]))


def same(what, ours, theirs):
    if ours != theirs:
        raise Failed(f"{what}: kshared says {ours}, du {theirs}")


def check_tree(tree):
    """The sums of the tree, and of each of its entries, are du's; the bare loop's is, too."""
    answer = top(tree)
    bytes_by_du = du("-B1", "-d1", tree)
    same(f"bytes of {tree}", answer["total"]["bytes"], bytes_by_du.pop(tree))
    same(f"bytes of the entries of {tree}", {os.path.join(tree, entry["name"]): entry["bytes"]
                                             for entry in answer["entries"]}, bytes_by_du)
    same(f"inodes of {tree}", answer["total"]["inodes"], du("--inodes", "-s", tree)[tree])
    for threads in FLOORS:
        if int(run([bench("floor"), str(threads), tree])) != answer["total"]["bytes"]:
            raise Failed("the floor did not count everything")
    return answer["total"]


def check_usr():
    """So is that of /usr. If something is being installed meanwhile, it is tried again."""
    for _ in range(5):
        before, ours, after = du("-B1", "-s", "/usr"), top("/usr"), du("-B1", "-s", "/usr")
        if before == after:
            same("bytes of /usr", ours["total"]["bytes"], after["/usr"])
            return ours["total"]
    raise Failed("/usr does not hold still: its sum by du is another one every time")


# ---- trees ----


def check_room(directory, files):
    kind = run(["stat", "-f", "-c", "%T", directory]).strip()
    if kind in ("tmpfs", "ramfs"):
        raise Failed(f"{directory} is on a {kind}: cold caches need a disk. Choose another directory with --dir")
    room = os.statvfs(directory)
    need = files * BYTES_EACH
    if room.f_bavail * room.f_frsize < need or (room.f_files and room.f_favail < files * 1.2):
        raise Failed(f"{directory} has no room for {files:,} files: needed are {need / 2**30:.0f} GiB and "
                     f"{files * 1.2:,.0f} inodes. Choose another directory with --dir")


def memory_available():
    with open("/proc/meminfo") as file:
        return int(re.search(r"MemAvailable:\s+(\d+) kB", file.read())[1]) * 1024


@contextlib.contextmanager
def tree_on_disk(base, files, dirs):
    tree = os.path.join(base, "tree")
    try:
        run([bench("tree"), "make", tree, str(files), str(dirs)])
        yield tree
    finally:
        if os.path.exists(tree):
            run([bench("tree"), "remove", tree])


@contextlib.contextmanager
def tree_in_memory(base, files, dirs):
    mount = os.path.join(base, "memory")
    os.mkdir(mount)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=90%,nr_inodes=0", "bench", mount], check=True)
    try:
        tree = os.path.join(mount, "tree")
        run([bench("tree"), "make-sparse", tree, str(files), str(dirs)])
        yield tree
    finally:
        subprocess.run(["umount", mount], check=True)


# ---- lanes ----


def peers(tree, base, remarks):
    """The programs that others use, as they are told to do as little as they can: [(lane, command)]."""
    # The shell's number makes the name of a new database.
    commands = [
        ("du", "du -s", f"exec du -s {tree}"),
        ("du", "du -a | sort -n -r | head", f"du -a {tree} | sort -n -r | head"),
        ("ncdu", "ncdu -0 -o /dev/null", f"exec ncdu -0 -o /dev/null {tree}"),
        ("gdu", "gdu -n -p", f"exec gdu -n -p {tree}"),
        ("duc", "duc index", f"exec duc index -q -d {base}/duc.$$ {tree}"),
    ]
    found = []
    for name, lane, command in commands:
        if shutil.which(name):
            found.append((lane, command))
        else:
            remarks.append(f"{name} is not installed and was left out; `make bench` installs it")
    versions = []
    for package in ("coreutils", "ncdu", "gdu", "duc", "duc-nox"):
        answer = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], check=False,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) \
            if shutil.which("dpkg-query") else None
        if answer and answer.returncode == 0 and answer.stdout:
            versions.append(f"{package} {answer.stdout}")
    if versions:
        remarks.append("compared with " + ", ".join(versions))
    return found


def floor(tree, threads):
    return f"floor, {threads} thread{'s' if threads > 1 else ''}", f"exec {bench('floor')} {threads} {tree}"


def ours(tree):
    return KSHARED, f"exec {' '.join(program('kshared'))} folder top {tree}"


def turns(group, rounds, lanes, memory, offset, cold=False):
    """Measurements: (group, lane, round, value). Rounds of @memory are counted from @offset."""
    command = [bench("turns")] + ["--cold"] * cold + [group, str(rounds)] + [part for lane in lanes for part in lane]
    found = []
    for line in run(command).splitlines():
        name, lane, number, value = line.split("\t")
        if name == group:
            found.append((group, lane, int(number), float(value)))
        else:
            found.append((memory, lane, int(number) + offset, float(value)))
    return found


def sizes(quick):
    """How much is done."""
    if quick:
        return {"files": FILES // QUICK, "dirs": DIRS // QUICK, "warm": 2, "cold": 1}
    return {"files": FILES, "dirs": DIRS, "warm": WARM_ROUNDS, "cold": COLD_ROUNDS}


def measure(directory, quick):
    """Return: (measurements, remarks). @directory: where the tree is made."""
    files, dirs, warm, cold = sizes(quick).values()
    memory, memory_big = (f"peak memory, {n:,} files" for n in (files, files * BIG))
    found, remarks = [], []
    check_room(directory, files)
    base = tempfile.mkdtemp(prefix="kshared-bench-usage-", dir=directory)
    try:
        say(f"making {files:,} files below {directory}")
        with tree_on_disk(base, files, dirs) as tree:
            say("comparing sums with du's, of the tree and of /usr")
            total, usr = check_tree(tree), check_usr()
            remarks.append(f"sums are du's to the byte: {total['bytes']:,} bytes in {total['inodes']:,} files and "
                           f"directories of the tree, and in each of its entries; {usr['bytes']:,} bytes in "
                           f"{usr['inodes']:,} of /usr")
            lanes = [ours(tree)] + [floor(tree, n) for n in FLOORS] + peers(tree, base, remarks)
            say(f"warm: {warm} rounds")
            found += turns("warm", warm, lanes, memory, 0)
            if os.access(DROP_CACHES, os.W_OK):
                say(f"cold: {cold} rounds")
                found += turns("cold", cold, lanes, memory, warm, cold=True)
            else:
                remarks.append(f"cold caches were left out: only root may write to {DROP_CACHES}")
        found += measure_big(base, files * BIG, dirs * BIG, memory_big, remarks)
    finally:
        shutil.rmtree(base)
    found.sort(key=lambda one: one[0].startswith("peak memory"))
    return found, remarks


def measure_big(base, files, dirs, memory, remarks):
    need = files * BYTES_EACH_BIG
    if os.getuid() != 0:
        remarks.append(f"{files:,} files were left out: only root may mount a tmpfs")
        return []
    if memory_available() < need:
        remarks.append(f"{files:,} files were left out: their tmpfs needs {need / 2**30:.0f} GiB of memory")
        return []
    say(f"making {files:,} files on a tmpfs")
    with tree_in_memory(base, files, dirs) as tree:
        total = top(tree)["total"]
        same(f"inodes of {tree}", total["inodes"], du("--inodes", "-s", tree)[tree])
        return turns(f"{files:,} files on a tmpfs, warm", 1, [ours(tree), floor(tree, 2)], memory, 0)


def say(what):
    print(f"usage: {what}", file=sys.stderr)


# ---- the graph ----


def draw(groups, path, quartiles):
    """The seconds of every lane, warm and cold."""
    from matplotlib import pyplot
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axes, group, threads in zip(panels, ("warm", "cold"), (2, 8)):
        lanes = list(groups.get(group, {}).values())
        if not lanes:
            continue
        seconds = [[part / 1e9 for part in quartiles(list(lane.values.values()))] for lane in lanes]
        errors = [[middle - low for low, middle, _ in seconds], [high - middle for _, middle, high in seconds]]
        colours = ["#2a6fb0" if lane.name == KSHARED else "#bbbbbb" if lane.name.startswith("floor") else "#888888"
                   for lane in lanes]
        axes.barh(range(len(lanes)), [middle for _, middle, _ in seconds], xerr=errors, color=colours, ecolor="#333333")
        axes.set_yticks(range(len(lanes)), [lane.name for lane in lanes])
        limit = next(second[1] for lane, second in zip(lanes, seconds) if lane.name == f"floor, {threads} threads")
        axes.axvline(1.1 * limit, color="#c03030", linestyle="--", linewidth=1)
        axes.set_xlabel(f"{group}: seconds; dashed: 1.1 × floor, {threads} threads")
    panels[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
