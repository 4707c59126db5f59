"""Programs that a model wrote: what they may do, and that nothing they do is rewarded but right results."""

from __future__ import annotations

import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from clearseek.errors import UserError
from clearseek.problems import cell, sandbox
from clearseek.problems.rewards import Scored
from clearseek.problems.sandbox import LONGEST_CODE, Call, Limits, code_reward, run

confined = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="the kernel's guards"
)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no limits of processes")
SHORT = Limits(seconds=1.5, unconfined=True)
LONG = Limits(seconds=30, unconfined=True)
FORGED = """
import os
for n in range(16):
    try: os.write(n, b'{"value": 1}\\n')
    except OSError: pass
def f(): return 1
"""
DOUBLE = [Call("f(2)", 4), Call("f('a')", "aa")]


def note(code: str, calls: list[Call] | None = None, limits: Limits = LONG) -> str:
    return run(code, calls or [Call("f()", 1)], limits).note


def test_right_wrong_and_raised() -> None:
    assert code_reward("def f(x):\n    return x * 2", DOUBLE, LONG) == Scored(1.0, "right")
    assert code_reward("def f(x):\n    return x + x + x", DOUBLE, LONG) == Scored(0.0, "wrong")
    outcome = run("def f(x):\n    return 1 / 0", DOUBLE, LONG)
    assert (outcome.note, outcome.detail) == ("raised", "ZeroDivisionError")
    assert note("import math, collections, re, json, random, hashlib, decimal, datetime\ndef f(): return 1") == "right"
    assert note("print('noise', flush=True)\ndef f(): print('more'); return 1") == "right"
    assert run("class A(Exception): pass\nA.__name__ = 'x\\n' * 99\nraise A", DOUBLE, LONG).detail.count("\n") == 0


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f(): return True", "wrong"),
        ("def f(): return 1.0", "wrong"),
        ("def f(): return '1'", "wrong"),
        ("def f(): return float('nan')", "wrong"),
        ("def f(): return 10 ** 5000", "raised"),
        ("def f(): return {1, 2}", "raised"),
        ("class One:\n  def __eq__(self, other): return True\nf = One", "raised"),
        ("class One(int):\n  def __eq__(self, other): return True\ndef f(): return One(2)", "wrong"),
        ("import json\njson.dumps = lambda *_, **__: '{\"value\": 2}'\ndef f(): return 3", "wrong"),
        ("import sys\nsys.exit(0)", "raised"),
        ("import os\nos._exit(0)", "ended early"),
        (FORGED, "ended early"),
        ("import os\nos.closerange(0, 99)", "raised"),
        ("import ctypes\nctypes.string_at(0)", "ended early"),
        ("f = 1 +", "raised"),
        ("def f(): return 1\0", "raised"),
        ("f = '\ud800'", "raised"),
        ("x = " + "(" * 20_000, "raised"),
        ("x = " + "-" * 50_000 + "1", "raised"),
        ("def f():\n  x = []\n  for _ in range(100_000): x = [x]\n  return x", "raised"),
        ("def f(): return f()", "raised"),
        ("raise KeyboardInterrupt", "raised"),
        ("#" * (LONGEST_CODE + 1), "too long"),
        ("x = bytearray(1 << 30)", "raised"),
        ("x = []\nwhile True: x.append(bytes(1 << 20))", "raised"),
        ("while True: print('x' * 1000)", "too much output"),
        ("def f(): return 'x' * 1_000_000", "too much output"),
    ],
)  # fmt: skip
def test_nothing_else_is_rewarded(code: str, expected: str) -> None:
    found = note(code)
    assert found == expected or (expected in ("raised", "ended early") and found in ("raised", "ended early", "wrong"))
    assert found != "right"


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time\ntime.sleep(99)",
        "input()\nwhile True: pass",
        "9**9**9**9",
        "import time\ntry:\n  time.sleep(99)\nfinally:\n  time.sleep(99)",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()",
    ],
)
def test_a_program_that_goes_on_is_stopped(code: str) -> None:
    start = time.monotonic()
    assert note(code, limits=SHORT) in ("out of time", "raised")
    assert time.monotonic() - start < 20


def test_processor_time_is_limited_by_itself() -> None:
    assert note("while True: pass", limits=Limits(seconds=60, cpu_seconds=1, unconfined=True)) == "out of time"


RAW = "import ctypes\nc = ctypes.CDLL(None)\nif "
REFUSED = {
    "socket": "import socket\nsocket.socket()",
    "socket of the raw call": RAW + "c.socket(2, 1, 0) < 0: raise OSError",
    "pair": "import socket\nsocket.socketpair()",
    "fork": "import os\nos.fork()",
    "spawn": "import os\nos.posix_spawn('/bin/true', ['true'], os.environ)",
    "exec": "import os\nos.execv('/bin/true', ['true'])",
    "system": "import os\nif os.system('true'): raise OSError",
    "subprocess": "import subprocess\nsubprocess.run(['true'])",
    "thread": "import threading\nthreading.Thread(target=print).start()",
    "own file": "open('x', 'w')",
    "file": "open({outside!r}, 'w')",
    "append": "open({outside!r}, 'a')",
    "raw file": "import os\nos.open({outside!r}, os.O_RDONLY | os.O_CREAT)",
    "remove": "import os\nos.remove({victim!r})",
    "rename": "import os\nos.rename({victim!r}, {outside!r})",
    "truncate": "import os\nos.truncate({victim!r}, 0)",
    "mode": "import os\nos.chmod({victim!r}, 0)",
    "times": "import os\nos.utime({victim!r})",
    "link": "import os\nos.link({victim!r}, {outside!r})",
    "folder": "import os\nos.mkdir({outside!r})",
    "read": "open({victim!r}).read()",
    "read the account": "open('/etc/passwd').read()",
    "read processes": "open('/proc/self/environ').read()",
    "list": "import os\nos.listdir({folder!r})",
    "kill": "import os\nos.kill({parent}, 0)",
    "kill by a pipe": "import fcntl, os\nfcntl.fcntl(1, 8, {parent})",
    "kill the group": "import os\nos.killpg(0, 0)",
    "limits of the parent": "import resource\nresource.prlimit({parent}, resource.RLIMIT_CPU, (1, 1))",
    "more memory": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))\nbytearray(1 << 30)",
    "session": "import os\nos.setsid()",
    "trace": RAW + "c.ptrace(16, {parent}, 0, 0) < 0: raise OSError",
    "rings": RAW + "c.syscall(425, 8, ctypes.create_string_buffer(120)) < 0: raise OSError",
    "a 32-bit number": RAW + "c.syscall(0x40000000 + 41, 2, 1, 0) < 0: raise OSError",
    "undo": RAW + "c.prctl(22, 2, 0) < 0: raise OSError",
    "mount": RAW + "c.unshare(0x10000000) < 0: raise OSError",
}  # fmt: skip


@confined
@pytest.mark.parametrize("name", REFUSED)
def test_the_kernel_refuses(name: str, tmp_path: Path) -> None:
    victim, outside = tmp_path / "victim", tmp_path / "outside"
    victim.write_text("text")
    before = victim.stat()
    code = REFUSED[name].format(victim=str(victim), outside=str(outside), folder=str(tmp_path), parent=os.getpid())
    outcome = run(f"{code}\ndef f(): return 1", [Call("f()", 1)], Limits(seconds=30))
    if "landlock" not in outcome.guards and name in ("read", "read the account", "read processes", "list"):
        pytest.skip("this kernel has no Landlock")
    assert outcome.note == "raised", outcome
    assert outcome.detail in (
        "PermissionError",
        "OSError",
        "RuntimeError",
        "BlockingIOError",
        "MemoryError",
        "ValueError",
    )
    assert victim.read_text() == "text" and list(tmp_path.iterdir()) == [victim]
    assert (victim.stat().st_mode, victim.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


@confined
def test_the_program_begins_in_an_empty_folder_with_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    with socket.socket() as connection:
        connection.set_inheritable(True)
        code = (
            "import os, sys\n"
            "def opened():\n  found = []\n  for n in range(200):\n"
            "    try: os.fstat(n); found.append(n)\n    except OSError: pass\n  return len(found)"
        )
        calls = [
            Call("os.listdir('.')", []), Call("[n for n in os.environ if n != 'LC_CTYPE']", ["PYTHONHASHSEED"]),
            Call("opened()", 4), Call("'clearseek' in sys.modules", False), Call("sys.stdin.read()", ""),
            Call("[n for n in sys.path if 'site-packages' in n]", []),
        ]  # fmt: skip
        for call in calls:
            assert run(code, [call], Limits(seconds=30)).note == "right", call


def test_order_of_sets_is_the_same_in_every_process() -> None:
    texts = [str(number) for number in range(50)]
    assert run_value(f"list(set({texts!r}))") == run_value(f"list(set({texts!r}))")


def run_value(expression: str) -> str:
    """Canonical JSON of an expression's value in the cell."""
    answer, *_ = watched(expression)
    return answer.splitlines()[1].decode()


def watched(expression: str) -> tuple[bytes, str, int]:
    import json
    import tempfile
    from dataclasses import asdict

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as file:
        order = {"code": "", "calls": [expression], "limits": asdict(LONG), "unconfined": True}
        file.write(json.dumps(order).encode())
        file.seek(0)
        return sandbox._watched(file, folder, LONG)


def test_no_process_and_no_folder_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    begin = subprocess.Popen.__init__
    monkeypatch.setattr(
        subprocess.Popen, "__init__", lambda self, *a, **k: (started.append(self), begin(self, *a, **k))[1]
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for code in ("while True: pass", "def f(): return 1", "import os\nos.kill(os.getpid(), 9)"):
        run(code, [Call("f()", 1)], SHORT)
    assert not list(tmp_path.iterdir())
    assert len(started) >= 3
    for process in started:  # other tests of this process may have children of their own
        with pytest.raises(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)


@confined
def test_the_program_dies_with_the_process_that_started_it() -> None:
    code = (
        "from clearseek.problems.sandbox import *\nimport subprocess, clearseek.problems.sandbox as s\n"
        "class Told(subprocess.Popen):\n"
        "  def __init__(self, *a, **k):\n    super().__init__(*a, **k)\n    print(self.pid, flush=True)\n"
        "s.subprocess.Popen = Told\nrun('while True: pass', [Call('1', 1)], Limits(seconds=99, cpu_seconds=60))"
    )
    root = str(Path(sandbox.__file__).parents[2])
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.5)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_threads_may_run_programs_at_the_same_time() -> None:
    notes: list[str] = []
    threads = [threading.Thread(target=lambda: notes.append(note("def f(): return 1"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert notes == ["right"] * 4


@pytest.mark.parametrize("name", ["socket", "spawn", "system", "subprocess", "own file", "append", "remove", "rename"])
def test_without_a_kernel_s_guard_python_refuses(name: str, tmp_path: Path) -> None:
    victim, outside = tmp_path / "victim", tmp_path / "outside"
    victim.write_text("text")
    code = REFUSED[name].format(victim=str(victim), outside=str(outside))
    start = (
        f"import sys\nsys.path.append({str(Path(cell.__file__).parents[2])!r})\nimport clearseek.problems.cell as c\n"
    )
    script = f"{start}import math, json\nc._refuse_in_python()\nimport fractions\ntry:\n"
    script += "".join(f"  {line}\n" for line in code.splitlines()) + "except PermissionError: print('refused')"
    done = subprocess.run([sys.executable, "-B", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "refused\n", done.stderr
    assert list(tmp_path.iterdir()) == [victim]


def test_a_system_without_guards_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weak = tmp_path / "cell.py"
    text = Path(cell.__file__).read_text(encoding="utf-8")
    weak.write_text(text.replace('held += ["seccomp"]', "held += [][:0]  # "), encoding="utf-8")
    monkeypatch.setattr(sandbox, "_CELL", weak)
    with pytest.raises(UserError, match="unconfined = true"):
        run("def f(): return 1", [Call("f()", 1)], Limits(seconds=30))
    assert note("def f(): return 1") == "right"
    weak.write_text("raise SystemExit(3)", encoding="utf-8")
    with pytest.raises(UserError, match="status 3"):
        run("def f(): return 1", [Call("f()", 1)], LONG)
    monkeypatch.setattr(sys, "executable", "/no/python")
    with pytest.raises(UserError, match="/no/python"):
        run("def f(): return 1", [Call("f()", 1)], LONG)


def decision(machine: str, call: int, *arguments: int, mark: int | None = None) -> int:
    """What the filter gives for a system call: its program run as the kernel would."""
    content = cell.system_call_filter(machine)
    assert content is not None and len(content) // 8 < 4096
    marks = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
    fields = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("IIQ6Q", call, marks[machine] if mark is None else mark, 0, *fields)
    program, place, value = list(struct.iter_unpack("HBBI", content)), 0, 0
    while True:
        code, jump, otherwise, constant = program[place]
        if code == 0x06:
            return int(constant)
        if code == 0x20:
            value = struct.unpack_from("I", data, constant)[0]
        else:
            place += jump if (value == constant if code == 0x15 else value & constant) else otherwise
        place += 1


ALLOW, REFUSE, NO_TERMINAL, KILL = 0x7FFF0000, 0x00050001, 0x00050019, 0x80000000


@pytest.mark.parametrize(
    ("machine", "read", "socket_call", "ioctl", "openat", "fcntl", "prlimit", "clone", "kill"),
    [("x86_64", 0, 41, 16, 257, 72, 302, 56, 62), ("aarch64", 63, 198, 29, 56, 25, 261, 220, 129)],
)
def test_the_filter(
    machine: str, read: int, socket_call: int, ioctl: int, openat: int, fcntl: int, prlimit: int, clone: int, kill: int
) -> None:
    """By the numbers of Linux's asm/unistd.h."""
    assert decision(machine, read) == ALLOW
    assert decision(machine, read, mark=0x40000003) == KILL
    for refused in (socket_call, clone, kill, 425, 435, 437, socket_call + 0x40000000, read + 0x40000000):
        assert decision(machine, refused) == REFUSE
    assert decision(machine, ioctl) == NO_TERMINAL
    assert decision(machine, openat, 0, 0, os.O_RDONLY | 0x80000) == ALLOW
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_RDONLY | os.O_APPEND):
        assert decision(machine, openat, 0, 0, flags) == REFUSE
    assert [decision(machine, fcntl, 1, command) == ALLOW for command in (0, 3, 8, 10, 1030)] == [1, 1, 0, 0, 1]
    assert (decision(machine, prlimit, 0), decision(machine, prlimit, 77)) == (ALLOW, REFUSE)


def test_other_processors_have_no_filter() -> None:
    assert cell.system_call_filter("riscv64") is None
