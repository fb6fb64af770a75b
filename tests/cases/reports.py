# SPDX-License-Identifier: GPL-2.0-or-later
"""What sanitizers and valgrind report: they write a file for each process to the directory $KSHARED_REPORTS."""

import os

SIGNS = (
    "ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer", "runtime error:",
    "Invalid read", "Invalid write", "Invalid free", "uninitialised", "definitely lost",
)


def take(*files, directory=None):
    """Reports in these files and in a directory, as texts; a directory's reports are removed."""
    found = []
    names = sorted(os.listdir(directory)) if directory and os.path.isdir(directory) else []
    for path in list(files) + [os.path.join(directory, name) for name in names]:
        try:
            with open(path, errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        if any(sign in text for sign in SIGNS):
            found.append(f"{os.path.basename(path)}:\n{text[:8000]}")
        if path not in files:
            os.unlink(path)
    return found
