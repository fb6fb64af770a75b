# SPDX-License-Identifier: GPL-2.0-or-later
"""libkshared.so of the build through ctypes; errors are OSError with the call's errno."""

import ctypes
import os

from folder import BUILD


class Entry(ctypes.Structure):
    """struct kshared_entry"""
    _fields_ = [
        ("name", ctypes.c_char * 256), ("kind", ctypes.c_char * 8), ("what", ctypes.c_char * 16),
        ("mode", ctypes.c_uint32), ("uid", ctypes.c_uint32), ("gid", ctypes.c_uint32), ("access", ctypes.c_uint32),
        ("id", ctypes.c_uint64), ("size_bytes", ctypes.c_uint64), ("allocated_bytes", ctypes.c_uint64),
        ("btime_ns", ctypes.c_int64), ("mtime_ns", ctypes.c_int64), ("ctime_ns", ctypes.c_int64),
        ("posted_ns", ctypes.c_int64), ("opens", ctypes.c_uint64),
        ("poster_uid", ctypes.c_uint32), ("poster_pid", ctypes.c_uint32), ("poster_comm", ctypes.c_char * 16),
        ("seals", ctypes.c_uint32), ("reserved", ctypes.c_uint32 * 5),
    ]


class Status(ctypes.Structure):
    """struct kshared_status"""
    _fields_ = [
        ("mountpoint", ctypes.c_char * 1024), ("version", ctypes.c_char * 32),
        ("keeper_pid", ctypes.c_uint32), ("worker_pid", ctypes.c_uint32),
        ("features", ctypes.c_uint32), ("fuse_minor", ctypes.c_uint32),
        ("restarts", ctypes.c_uint64), ("started_ns", ctypes.c_int64),
        ("entries", ctypes.c_uint64), ("bytes", ctypes.c_uint64),
        ("max_entries", ctypes.c_uint64), ("max_bytes", ctypes.c_uint64),
        ("entries_uid", ctypes.c_uint64), ("bytes_uid", ctypes.c_uint64),
        ("max_entries_uid", ctypes.c_uint64), ("max_bytes_uid", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 4),
    ]


_library = None


def library():
    """libkshared.so of the build, with its functions' types declared."""
    global _library
    if _library is None:
        lib = ctypes.CDLL(os.path.join(BUILD, "libkshared.so"), use_errno=True)
        connection, name, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint
        lib.kshared_connect.restype = connection
        lib.kshared_connect.argtypes = [name]
        lib.kshared_disconnect.restype = None
        lib.kshared_disconnect.argtypes = [connection]
        lib.kshared_opendir.restype = ctypes.c_void_p
        lib.kshared_opendir.argtypes = [connection, name]
        lib.kshared_readdir.argtypes = [ctypes.c_void_p, ctypes.POINTER(Entry)]
        lib.kshared_closedir.restype = None
        lib.kshared_closedir.argtypes = [ctypes.c_void_p]
        lib.kshared_stat.argtypes = [connection, name, ctypes.POINTER(Entry)]
        lib.kshared_remove.argtypes = [connection, name]
        lib.kshared_get_status.argtypes = [connection, ctypes.POINTER(Status)]
        lib.kshared_shutdown.argtypes = [connection, number]
        lib.ksrv_post.argtypes = [connection, name, ctypes.c_int, ctypes.c_uint]
        lib.ksrv_open.argtypes = [connection, name, ctypes.c_int]
        lib.ksrv_remove.argtypes = [connection, name]
        lib.kmem_create.argtypes = [connection, name, ctypes.c_uint64, ctypes.c_uint, number]
        lib.kmem_open.argtypes = [connection, name, ctypes.c_int]
        lib.kmem_seal.argtypes = [connection, name, number]
        lib.kmem_remove.argtypes = [connection, name]
        _library = lib
    return _library


KSRV_REOPEN = 0x40000000
KMEM_RESIZABLE, KMEM_HUGE_2MB, KMEM_HUGE_1GB = 1, 2, 4
KMEM_SEAL_SEAL, KMEM_SEAL_SHRINK, KMEM_SEAL_GROW, KMEM_SEAL_WRITE, KMEM_SEAL_FUTURE_WRITE = 1, 2, 4, 8, 16


class Connection:
    """A library connection; its methods raise OSError with the errno that the call gave.

    where: a folder or a socket; None with default=True: the process's default connection (NULL).
    """

    def __init__(self, where=None, default=False):
        self.lib = library()
        self.handle = None
        if not default:
            self.handle = self.lib.kshared_connect(None if where is None else os.fsencode(where))
            if not self.handle:
                self._fail("kshared_connect")

    def _fail(self, call):
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")

    def _call(self, call, *args):
        args = [os.fsencode(arg) if isinstance(arg, str) else arg for arg in args]
        result = getattr(self.lib, call)(self.handle, *args)
        if result < 0:
            self._fail(call)
        return result

    def srv_post(self, name, fd, mode=0o600):
        self._call("ksrv_post", name, fd, mode)

    def srv_open(self, name, flags=os.O_RDWR):
        return self._call("ksrv_open", name, flags)

    def srv_remove(self, name):
        self._call("ksrv_remove", name)

    def mem_create(self, name, size_bytes, mode=0o600, flags=0):
        return self._call("kmem_create", name, size_bytes, mode, flags)

    def mem_open(self, name, flags=os.O_RDWR):
        return self._call("kmem_open", name, flags)

    def mem_seal(self, name, seals):
        self._call("kmem_seal", name, seals)

    def mem_remove(self, name):
        self._call("kmem_remove", name)

    def stat(self, path):
        entry = Entry()
        self._call("kshared_stat", path, ctypes.byref(entry))
        return entry

    def list(self, path):
        """Every entry of a directory, as {name: Entry}; a name given twice is a failure."""
        listing = self.lib.kshared_opendir(self.handle, os.fsencode(path))
        if not listing:
            self._fail("kshared_opendir")
        found = {}
        try:
            while True:
                entry = Entry()
                result = self.lib.kshared_readdir(listing, ctypes.byref(entry))
                if result < 0:
                    self._fail("kshared_readdir")
                if result == 0:
                    return found
                name = os.fsdecode(entry.name)
                assert name not in found, f"{name} is listed twice"
                found[name] = entry
        finally:
            self.lib.kshared_closedir(listing)

    def remove(self, path):
        self._call("kshared_remove", path)

    def status(self):
        status = Status()
        self._call("kshared_get_status", ctypes.byref(status))
        return status

    def shutdown(self, flags=0):
        self._call("kshared_shutdown", flags)

    def disconnect(self):
        if self.handle:
            self.lib.kshared_disconnect(self.handle)
            self.handle = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.disconnect()
