# SPDX-License-Identifier: GPL-2.0-or-later
"""`bench/run --quick --json ipc`: every cell is there, peers that are not installed are named, nothing is left behind."""

import glob
import json
import math
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(os.path.dirname(HERE)))
import tap

ALONE = True
UNDER_VALGRIND = False
TIMEOUT = 200

SIZES, SMALL = (64, 1024, 4096, 65536, 1048576), (8, 32, 48, 56)
BLOCKING, SPINNING, ADAPTIVE = "blocking", "spinning", "adaptive"
RING, FLOOR = "kshared ring", "floor: a cache line to and fro"
# Peer: its ways to wait, whether it lends its memory.
PEERS = {
    RING: ((BLOCKING, SPINNING, ADAPTIVE), True),
    "pipe": ((BLOCKING, SPINNING), False),
    "UNIX stream": ((BLOCKING, SPINNING), False),
    "UNIX seqpacket": ((BLOCKING, SPINNING), False),
    "POSIX mq": ((BLOCKING, SPINNING), False),
    "eventfd + shared memory": ((BLOCKING, SPINNING), True),
    "Boost message_queue": ((BLOCKING, SPINNING), False),
    "ZeroMQ": ((BLOCKING, SPINNING), False),
    "nng": ((BLOCKING, SPINNING), False),
    "iceoryx": ((BLOCKING, SPINNING), True),
    "ck_ring": ((SPINNING,), True),
}
ALWAYS = {RING, "pipe", "UNIX stream", "UNIX seqpacket", "POSIX mq", "eventfd + shared memory"}


def run(*command, **options):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT, check=False,
                          **options)


def expected(missing):
    """{(group, lane)} of a machine where these peers are not installed."""
    cells = set()
    for name, (waits, lends) in PEERS.items():
        for size in SIZES:
            if name in missing or (name == "POSIX mq" and size == 1048576):
                continue
            for load in ("idle", "busy"):
                works = ["one way", "round trip p50", "round trip p99"] + ["hand-over"] * lends
                cells |= {(f"{work}|{load}|{size}", f"{name}|{wait}") for work in works for wait in waits}
    for load in ("idle", "busy"):
        cells |= {(f"one way|{load}|{size}", "floor: memcpy|spinning") for size in SIZES}
        cells |= {(f"round trip {which}|{load}|64", f"{FLOOR}|spinning") for which in ("p50", "p99")}
    for size in SMALL:
        cells |= {(f"round trip {which}|idle|{size}", f"{name}|spinning") for which in ("p50", "p99")
                  for name in (RING, FLOOR)}
    return cells


def belongs(pid):
    """Is it of this build, and not somebody else's run?"""
    try:
        return os.readlink(f"/proc/{pid}/exe").startswith(tap.BUILD + "/")
    except FileNotFoundError:
        return False


def state():
    """What a run could leave: mounts, names, processes."""
    with open("/proc/self/mountinfo") as file:
        mounts = sorted(line.split(" ")[4] for line in file if " bench " in line)
    names = sorted(path for place in ("/dev/shm", "/tmp", "/dev/mqueue") for path in glob.glob(f"{place}/kshared-bench*"))
    ours = [pid for pid in run("pgrep", "-x", "bench-ipc").stdout.split() if belongs(pid)]
    return mounts, names, ours


def left_out(remarks):
    return {line.split(" is not installed")[0] for line in remarks if " is not installed and was left out" in line}


def complete(answer):
    remarks = answer["remarks"]["ipc"]
    missing = left_out(remarks)
    if missing & ALWAYS:
        yield f"left out: {missing & ALWAYS}"
    groups = answer["questions"]["ipc"]["two"]
    got = {(group, lane) for group, lanes in groups.items() for lane in lanes}
    for group, lane in sorted(expected(missing) - got):
        yield f"no figure of {lane} in {group}"
    for group, lane in sorted(got - expected(missing)):
        yield f"nobody expects {lane} in {group}"
    for group, lanes in groups.items():
        for lane, figures in lanes.items():
            values = [figures["median"], *figures["quartiles"]]
            if not all(math.isfinite(value) and value > 0 for value in values):
                yield f"{lane} in {group}: {values}"
            # The middle half's mean stands for the median.
            if "p50" in group and figures["median"] > 1.01 * groups[group.replace("p50", "p99")][lane]["median"]:
                yield f"{lane} in {group}: more than its 99th percentile"


def without_packages(directory):
    """The program as it is built where none of the peers' packages are."""
    program = os.path.join(directory, "bench-ipc")
    sources = [os.path.join(tap.ROOT, "bench", "ipc", name)
               for name in ("ipc.c", "work.c", "ring.c", "kernel.c", "eventfd.c", "floor.c", "../bench.c")]
    done = run("cc", "-O1", "-D_GNU_SOURCE", "-I", os.path.join(tap.ROOT, "bench"), "-I", os.path.join(tap.ROOT, "include"),
               "-o", program, *sources, "-L", tap.BUILD, "-lkshared", f"-Wl,-rpath,{tap.BUILD}")
    if done.returncode:
        yield done.stderr
        return
    done = run(program, "--warm-us", "500", "--run-us", "2000", "--rounds", "1", "--size", "64")
    if done.returncode:
        yield f"status {done.returncode}: {done.stderr}"
    remarks = [line[2:] for line in done.stdout.splitlines() if line.startswith("# ")]
    if left_out(remarks) != set(PEERS) - ALWAYS:
        yield f"left out: {left_out(remarks)}"
    lanes = {line.split("\t")[1].split("|")[0] for line in done.stdout.splitlines() if "\t" in line}
    if not ALWAYS <= lanes:
        yield f"not measured: {ALWAYS - lanes}"


def main():
    if os.getuid() != 0 or len(os.sched_getaffinity(0)) < 2:
        print("1..0 # SKIP the benchmark makes namespaces and needs two processors: run it as root")
        return
    if os.environ.get("KSHARED_TIMEOUT_SCALE", "1") != "1":
        print("1..0 # SKIP figures under a sanitizer say nothing")
        return
    checks, before = tap.Checks(), state()
    done = run(os.path.join(tap.ROOT, "bench", "run"), "--quick", "--json", "ipc")
    checks.result("bench/run --quick --json ipc", [f"status {done.returncode}: {done.stderr}"] if done.returncode else [])
    checks.result("every cell has its figures", complete(json.loads(done.stdout)) if done.returncode == 0 else ["no figures"])
    done = run(os.path.join(tap.ROOT, "bench", "run"), "--quick", "ipc")
    checks.result("its tables", [] if done.returncode == 0 and "### Wanted" in done.stdout and "| UNIX stream, blocking" in done.stdout
                  else [done.stdout, done.stderr])
    with tempfile.TemporaryDirectory() as directory:
        checks.result("without the peers' packages", without_packages(directory))
    checks.result("nothing is left", [f"before: {before}, after: {state()}"] if state() != before else [])
    checks.finish()


main()
