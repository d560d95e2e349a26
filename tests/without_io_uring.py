#!/usr/bin/env python3
"""usage: without_io_uring.py ERRNO PROGRAM [ARGUMENT...]

Runs a program under a seccomp filter in which the system calls of io_uring fail with ERRNO, as in a
container with the default profile (EPERM, 1) or on a kernel without io_uring (ENOSYS, 38).
"""

import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
RET_ERRNO = 0x00050000
RET_ALLOW = 0x7FFF0000
# io_uring_setup, io_uring_enter and io_uring_register have the same numbers on all architectures.
FIRST, LAST = 425, 427
# Classic BPF: load a word of seccomp_data, compare, return.
LOAD, GREATER_OR_EQUAL, GREATER, RETURN = 0x20, 0x35, 0x25, 0x06


def refuse_io_uring(errno):
    instructions = [
        (LOAD, 0, 0, 0),
        (GREATER_OR_EQUAL, 0, 2, FIRST),
        (GREATER, 1, 0, LAST),
        (RETURN, 0, 0, RET_ERRNO | errno),
        (RETURN, 0, 0, RET_ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    kept = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_ulong
    if libc.prctl(PR_SET_NO_NEW_PRIVS, number(1), number(0), number(0), number(0)) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    if libc.prctl(PR_SET_SECCOMP, number(SECCOMP_MODE_FILTER), program, number(0), number(0)) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")


if __name__ == "__main__":
    refuse_io_uring(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
