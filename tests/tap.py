# SPDX-License-Identifier: GPL-2.0-or-later
"""Results of a check as TAP: collect them with Checks, then finish()."""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.abspath(os.environ.get("KSHARED_BUILD", os.path.join(ROOT, "build")))


class Checks:
    """Prints a result at once; finish() prints the plan and ends the program."""

    def __init__(self):
        self.count = 0
        self.failed = 0

    def result(self, name, problems):
        """One result: good if there are no problems (lines of text)."""
        self.count += 1
        problems = list(problems)
        print(f"{'not ok' if problems else 'ok'} {self.count} - {name}")
        for problem in problems:
            print(f"#   {problem}")
        if problems:
            self.failed += 1

    def skip(self, name, reason):
        self.count += 1
        print(f"ok {self.count} - {name} # SKIP {reason}")

    def finish(self):
        print(f"1..{self.count}")
        sys.exit(1 if self.failed else 0)


def files(*folders, endings=("",)):
    """Every file below the folders (paths from the top of the tree) with one of the endings, sorted."""
    found = []
    for folder in folders:
        for parent, below, names in os.walk(os.path.join(ROOT, folder)):
            below[:] = [name for name in below if name not in (".git", "__pycache__")]
            for name in names:
                if name.endswith(endings):
                    found.append(os.path.relpath(os.path.join(parent, name), ROOT))
    return sorted(found)


def read(path):
    """The text of a file, by its path from the top of the tree."""
    with open(os.path.join(ROOT, path), errors="replace") as file:
        return file.read()
