"""The program that :mod:`clearseek.problems.sandbox` starts: it gives up its rights, then runs what a model wrote.

It is started by its path, imports the standard library alone, and reads one JSON object from its standard input: the
code, the calls to make, and the limits. It answers on its standard output in lines of JSON: first the guards that hold,
then the value of each call. What the code prints goes to standard error.

On Linux the kernel keeps the process from the rest of the machine, without privileges being needed:

- *seccomp* (``man 2 seccomp``) refuses every system call that is not in a short list. There is none in it to open a
  socket, start a process or thread, send a signal, or change a file or its name; `open` works for reading alone.
- *Landlock* (``man 7 landlock``, since Linux 5.13) lets it read Python's own library and nothing else.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
from typing import Any

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
_PLACES = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/dev/null", "/dev/urandom")

_ANYWHERE = (
    # read write close fstat lseek mmap mprotect munmap brk
    (0, 63), (1, 64), (3, 57), (5, 80), (8, 62), (9, 222), (10, 226), (11, 215), (12, 214),
    # rt_sigaction rt_sigprocmask rt_sigreturn pread64 readv writev sched_yield mremap madvise dup
    (13, 134), (14, 135), (15, 139), (17, 67), (19, 65), (20, 66), (24, 124), (25, 216), (28, 233), (32, 23),
    # nanosleep getpid exit uname getdents64 getcwd gettimeofday getrlimit getrusage sysinfo times
    (35, 101), (39, 172), (60, 93), (63, 160), (217, 61), (79, 17), (96, 169), (97, 163), (98, 165), (99, 179),
    (100, 153),
    # getuid getgid geteuid getegid getppid gettid futex clock_gettime clock_getres clock_nanosleep exit_group
    (102, 174), (104, 176), (107, 175), (108, 177), (110, 173), (186, 178), (202, 98), (228, 113), (229, 114),
    (230, 115), (231, 94),
    # newfstatat readlinkat faccessat faccessat2 set_robust_list getrandom statx rseq sigaltstack sched_getaffinity
    (262, 79), (267, 78), (269, 48), (439, 439), (273, 99), (318, 278), (332, 291), (334, 293), (131, 132),
    (204, 123),
    # restart_syscall getcpu membarrier
    (219, 128), (309, 168), (324, 283),
)  # fmt: skip
"""Allowed system calls: their numbers on x86-64 and on arm64."""
_OLD = (4, 6, 7, 21, 23, 33, 89, 270, 271)
"""Allowed on x86-64, which alone has most: stat lstat poll access select dup2 readlink pselect6 ppoll."""
_OPEN, _OPENAT, _FCNTL, _PRLIMIT, _IOCTL = (2, -1), (257, 56), (72, 25), (302, 261), (16, 29)
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_DUPLICATE_AND_FLAGS = (0, 1, 2, 3, 4, 1030)
"""Allowed commands of fcntl; others would have a signal sent to another process."""


def system_call_filter(machine: str) -> bytes | None:
    """Program for the kernel that says which system calls are allowed; None for another processor.

    Its instructions are classic BPF's: (code, jump if true, jump if false, constant), eight bytes each.
    """
    if machine not in _ARCHITECTURES:
        return None
    mark, column = _ARCHITECTURES[machine]
    allow, refuse, no_terminal, kill = 0x7FFF0000, 0x00050001, 0x00050019, 0x80000000
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06

    def argument(number: int) -> tuple[int, int, int, int]:
        return (load, 0, 0, 16 + 8 * number)

    program = [(load, 0, 0, 4), (equal, 1, 0, mark), (give, 0, 0, kill), (load, 0, 0, 0)]
    for numbers in (*_ANYWHERE, *((old, -1) for old in _OLD)):
        if numbers[column] >= 0:
            program += [(equal, 0, 1, numbers[column]), (give, 0, 0, allow)]
    program += [(equal, 0, 1, _IOCTL[column]), (give, 0, 0, no_terminal)]
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    for numbers, flags in ((_OPEN, 1), (_OPENAT, 2)):
        if numbers[column] >= 0:
            block = [argument(flags), (any_bit, 0, 1, writing), (give, 0, 0, refuse), (give, 0, 0, allow)]
            program += [(equal, 0, len(block), numbers[column]), *block]
    block = [argument(1)]
    for command in _DUPLICATE_AND_FLAGS:
        block += [(equal, 0, 1, command), (give, 0, 0, allow)]
    block += [(give, 0, 0, refuse)]
    program += [(equal, 0, len(block), _FCNTL[column]), *block]
    block = [argument(0), (equal, 0, 1, 0), (give, 0, 0, allow), (give, 0, 0, refuse)]  # limits of this process alone
    program += [(equal, 0, len(block), _PRLIMIT[column]), *block, (give, 0, 0, refuse)]
    return b"".join(struct.pack("HBBI", *each) for each in program)


def _filter_system_calls(libc: Any) -> bool:
    content = system_call_filter(platform.machine())
    if content is None:
        return False
    space = ctypes.create_string_buffer(content, len(content))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    program = Program(len(content) // 8, ctypes.cast(space, ctypes.c_void_p))
    return bool(libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0)


def _confine_reading(libc: Any) -> bool:
    """Let this process read what Python needs and open no other file."""
    create, add, restrict = 444, 445, 446
    version = libc.syscall(create, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    rights = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    handled = struct.pack("Q", (1 << rights) - 1)
    rules = libc.syscall(create, handled, ctypes.c_size_t(len(handled)), 0)
    if rules < 0:
        return False
    for place in (*sys.path, f"{sys.base_prefix}/lib", *_LIBRARIES, *_PLACES, "."):
        if not os.path.exists(place):  # noqa: PTH110 - pathlib would double the time to start
            continue
        folder = os.open(place, os.O_PATH | os.O_CLOEXEC)
        read_file, read_folder = 1 << 2, 1 << 3
        allowed = read_file | read_folder if os.path.isdir(place) else read_file  # noqa: PTH112
        libc.syscall(add, rules, 1, struct.pack("=Qi", allowed, folder), 0)
        os.close(folder)
    confined = bool(libc.syscall(restrict, rules, 0) == 0)
    os.close(rules)
    return confined


def _limit(limits: dict[str, int]) -> list[str]:
    """Set the limits that every Unix has; those that hold."""
    values = {
        "memory": (resource.RLIMIT_AS, limits["memory_bytes"]),
        "processor time": (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        "file size": (resource.RLIMIT_FSIZE, 0),
        "open files": (resource.RLIMIT_NOFILE, limits["open_files"]),
        "core": (resource.RLIMIT_CORE, 0),
        "processes": (resource.RLIMIT_NPROC, 0),
    }
    held = []
    for name, (kind, value) in values.items():
        try:
            # At the lower limit of time a signal says so; whoever ignores it is killed a second later.
            resource.setrlimit(kind, (value, value + (kind == resource.RLIMIT_CPU)))
        except (ValueError, OSError):
            continue
        held.append(name)
    return held


def _refuse_in_python() -> None:
    """Refuse sockets, processes and writing by Python's own audit events; code that means it finds a way around."""
    refused = ("socket.", "subprocess.", "os.", "ctypes.", "shutil.", "pty.", "webbrowser.", "ftplib.", "urllib.")
    harmless = ("os.listdir", "os.scandir", "os.walk", "os.fwalk")

    def hook(event: str, details: tuple[Any, ...]) -> None:
        writes = event == "open" and (details[1] is None or not set(str(details[1])) <= set("rbt"))
        if writes or (event.startswith(refused) and event not in harmless):
            raise PermissionError(f"{event} is refused")

    sys.addaudithook(hook)


def give_up_rights(limits: dict[str, int]) -> list[str]:
    """Give up rights for good; names of the guards that hold."""
    held: list[str] = []
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # dies with the process that started it
        libc.prctl(38, 1, 0, 0, 0)  # no new privileges, which both guards ask for
        held += ["landlock"] * _confine_reading(libc)
        held += _limit(limits)
        held += ["seccomp"] * _filter_system_calls(libc)
    else:
        held += _limit(limits)
    if "seccomp" not in held:
        _refuse_in_python()
    return held


def main() -> None:
    """Read the order, give up rights, run the code, and say what its calls return."""
    order = json.loads(sys.stdin.buffer.read())
    answer = os.dup(1)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def say(content: Any) -> None:
        rest = memoryview(json.dumps(content).encode() + b"\n")
        while rest:
            rest = rest[os.write(answer, rest) :]

    held = give_up_rights(order["limits"])
    say(held)
    if "seccomp" in held or order["unconfined"]:
        try:
            space: dict[str, Any] = {"__name__": "solution", "__builtins__": __builtins__}
            exec(compile(order["code"], "solution.py", "exec"), space)
            for call in order["calls"]:
                say({"value": eval(call, space)})
        except BaseException as error:
            say({"error": type(error).__name__})
    os._exit(0)  # nothing that the code left for the end of the program is run


if __name__ == "__main__":
    main()
