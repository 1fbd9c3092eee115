"""Machine code as a Python function: for processes that share the caller's memory, in which no line of Python may run."""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections.abc import Callable, Mapping
from typing import Final

from pytest_isolate.kernel.syscalls import libc

__all__ = ["function"]

_MAP_FAILED: Final = ctypes.c_void_p(-1).value
_mmap = libc.mmap
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_mmap.restype = ctypes.c_void_p
_mprotect = libc.mprotect
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_mprotect.restype = ctypes.c_int
_munmap = libc.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_munmap.restype = ctypes.c_int


def function(codes: Mapping[str, bytes]) -> Callable[[int], int] | None:
    """A function of one address that keeps the GIL and returns a long; never both written and executed, and never unmapped.

    A processor whose cache of instructions doesn't see what is written needs no more: the kernel cleans the caches where a page becomes
    executable (arm64: __sync_icache_dcache, arch/arm64/mm/flush.c).

    Args:
        codes: at most a page of code for the C calling convention of the kernel's 64 bit ABI, by machine (uname(2)).

    Returns:
        None on other machines, and where memory may not become executable (a security module: execmem).
    """
    code = codes.get(platform.machine())
    if code is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    size = mmap.PAGESIZE
    address = _mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if address == _MAP_FAILED:
        return None
    ctypes.memmove(address, code, len(code))
    if _mprotect(address, size, mmap.PROT_READ | mmap.PROT_EXEC) != 0:
        _munmap(address, size)
        return None
    return ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(address)
