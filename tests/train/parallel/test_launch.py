"""Processes that are started here: what users see of them, and that none is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from torch.distributed.launcher.api import LaunchConfig

from clearseek.cli import exits, main
from clearseek.errors import UserError
from clearseek.train.parallel import launch, worker
from clearseek.train.run import Run
from clearseek.train.session import exclusively
from tests.train.parallel.jobs import STANDIN, end, environment, living, start


def steps(folder: Path) -> list[list[int]]:
    """Step, sum, number of restarts and process number of each line."""
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def wait_for_step(folder: Path) -> None:
    while not (folder / "steps.jsonl").exists():
        time.sleep(0.1)


def test_a_lost_process_brings_all_back_where_they_were(tmp_path: Path) -> None:
    code, out, err = end(start("count", tmp_path, "kill"))
    assert code == 0 and out == "printed by 0\n" * 2
    host = socket.gethostname()
    assert sorted(err.splitlines()) == [
        f"clearseek: process 2 ({host}) was killed by signal 9 (SIGKILL, perhaps for want of memory): all processes "
        "start again (restart 1 of 3)",
        f"standin: process 0 ({host}) lost contact with another one",
    ]
    assert [line[:3] for line in steps(tmp_path)] == [[n, 4 * n, int(n > 4)] for n in range(1, 13)]
    assert not living(tmp_path)


def test_an_error_is_said_once_and_never_tried_again(tmp_path: Path) -> None:
    code, out, err = end(start("fail", tmp_path, "inside"))  # found in a collective, which the others wait in
    assert (code, out) == (2, "printed by 0\n")
    assert err == f"clearseek: process 1 ({socket.gethostname()}): no such file\n"
    assert len(list(tmp_path.glob("*.pid"))) == 4 and not living(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_after_a_step(tmp_path: Path, number: signal.Signals) -> None:
    job = start("count", tmp_path, "wait")
    wait_for_step(tmp_path)
    job.send_signal(number)
    code, _, err = end(job)
    assert (code, err) == (130, "") and len(steps(tmp_path)) < 30 and not living(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's tables of sockets")
def test_no_port_is_open_to_other_machines(tmp_path: Path) -> None:
    job = start("count", tmp_path, "wait", processes=2)
    wait_for_step(tmp_path)
    sockets = {file.readlink().name for process in (job.pid, *living(tmp_path))
               for file in Path(f"/proc/{process}/fd").iterdir() if file.is_symlink()}  # fmt: skip
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    listening = [row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    job.terminate()
    end(job)
    assert listening and set(listening) == {"0100007F"}  # 127.0.0.1


def test_nobody_outlives_a_killed_launcher(tmp_path: Path) -> None:
    job = start("count", tmp_path, "wait")
    wait_for_step(tmp_path)
    job.kill()
    end(job)
    deadline = time.monotonic() + 10
    while living(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not living(tmp_path)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_all_at_once(tmp_path: Path) -> None:
    job = start("count", tmp_path, "wait")
    wait_for_step(tmp_path)
    job.send_signal(signal.SIGTERM)
    job.send_signal(signal.SIGINT)
    code, _, err = end(job)
    assert code == 130 and err in ("", "clearseek: interrupted\n")
    time.sleep(1)
    assert not living(tmp_path)


@pytest.mark.slow
def test_a_stopped_process_counts_as_lost(tmp_path: Path) -> None:
    code, _, err = end(start("count", tmp_path, "stop"))
    assert code == 0 and "process 1" in err and "no sign of life for 5 s" in err
    assert [line[:3] for line in steps(tmp_path)] == [[n, 4 * n, int(n > 4)] for n in range(1, 13)]


@pytest.mark.slow
def test_processes_that_are_lost_again_and_again_are_given_up(tmp_path: Path) -> None:
    code, _, err = end(start("count", tmp_path, "always"))
    *_, last = err.splitlines()
    assert code == 2 and "was killed by signal 9 (SIGKILL" in last and "processes were lost 4 times" in last
    assert err.count("all processes start again") == 3


@pytest.mark.slow
@pytest.mark.parametrize(("what", "code"), [("count", 0), ("fail", 2)])
def test_torchrun_starts_the_same_program(tmp_path: Path, what: str, code: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4", "--max-restarts=2"]
    done = subprocess.run(
        [*command, "-m", STANDIN, what, str(tmp_path), "kill" if code == 0 else "one"],
        env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == (code == 0)
    if code:
        assert len([line for line in done.stderr.splitlines() if line.startswith("standin:")]) == 1
        assert len(list(tmp_path.glob("*.pid"))) == 4  # those started again ended before they began
    else:
        assert [line[:3] for line in steps(tmp_path)] == [[n, 4 * n, int(n > 4)] for n in range(1, 13)]


def test_a_port_in_use_is_one_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        variables = {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        done = subprocess.run(
            [sys.executable, "-m", "clearseek", "train", "quickstart", "--run", str(tmp_path / "run")],
            env=environment(**variables), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert len(done.stderr.splitlines()) == 1 and f"port {port} of 127.0.0.1 is in use" in done.stderr


def test_what_cannot_be_started_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert main(["train", "quickstart", "--processes", "4", "--layout", "dp=2"]) == 2
    assert main(["train", "quickstart", "--processes", "0"]) == 2
    assert main(["train", "no-such-recipe", "--processes", "4"]) == 2
    assert main(["train", "quickstart", "--layout", "dp=4"]) == 2
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main(["train", "quickstart", "--processes", "4"]) == 2
    monkeypatch.delenv("WORLD_SIZE")
    assert main(["train", "quickstart", "--processes", "4"]) == 2
    assert main(["train", "quickstart", "--processes", "4", "--patience", "nan"]) == 2
    layout, none, recipe, alone, rank, half, patience = capsys.readouterr().err.splitlines()
    assert "RANK is set" in half and "--patience nan" in patience
    assert "dp=2" in layout and "--processes 0" in none and "no-such-recipe" in recipe and "RANK is set" in rank
    assert "--layout dp=4" in alone


def test_half_of_a_jobs_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for there, missing in (("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")):
        monkeypatch.delenv(missing, raising=False)
        monkeypatch.setenv(there, "1")
        assert main(["train", "quickstart"]) == 2
        assert f"{there} is set without {missing}: start with torchrun" in capsys.readouterr().err


def test_who_waits_says_for_whom(tmp_path: Path) -> None:
    """Also a process whose output goes to its log."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code = (
        "from clearseek.cli import main; from clearseek.train.parallel import store, world;"
        "world.WAITING = store.WAITING = 0.0; world.JOIN_SECONDS = store.JOIN_SECONDS = 6.0;"
        "raise SystemExit(main(['train', 'quickstart', '--run', 'run']))"
    )
    for rank, said in (("0", "waiting for 1 of 2 processes at {}: 1"), ("1", "waiting for process 0 at {}")):
        variables = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        variables["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # before torch is loaded, which is before the command here
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment(**variables), cwd=tmp_path, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        first, last = done.stderr.splitlines()
        assert done.returncode == 2 and first == f"clearseek: {said.format(f'127.0.0.1:{port}')}"
        assert ("missing: 1" if rank == "0" else "no connection to process 0") in last
    assert not (tmp_path / "run").exists()


def test_more_processes_than_cores_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "usable_cores", lambda: 2)
    assert launch.crowd_warning(2) is None
    assert launch.crowd_warning(4) == "4 processes on 2 cores: they will wait for each other"


def test_a_pytorch_that_does_not_wait_for_a_save_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    known = dict(LaunchConfig.__dataclass_fields__)
    known.setdefault("shutdown_timeout", known["max_restarts"])
    monkeypatch.setattr(LaunchConfig, "__dataclass_fields__", known)
    assert launch.grace_warning() is None
    del known["shutdown_timeout"]
    assert "30 s after Ctrl-C or SIGTERM" in (launch.grace_warning() or "")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # nobody waits, and nobody kills
    assert launch.grace_warning() is None


def test_torchruns_single_thread_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_die_with_launcher", lambda: None)
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    worker.begin()
    assert worker.os.environ["OMP_NUM_THREADS"] == "1"  # a user's choice
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    worker.begin()
    assert "OMP_NUM_THREADS" not in worker.os.environ


def test_the_end_of_a_job_is_noted_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    logs = tmp_path / "job/attempt_0/0"
    logs.mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(logs / "error.json"))
    assert worker.ended() is None and worker.exit_code(2) == 2
    worker.record_end(2)
    worker.record_end(130)
    assert worker.ended() == 2 and worker.exit_code(2) == 2
    monkeypatch.setenv(worker.STARTED_BY, "1")
    assert worker.exit_code(2) == 0
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "/dev/null")
    assert worker.ended() is None


def test_torchrun_ends_with_a_job_that_ended_for_good(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(worker.os, "kill", lambda process, number: told.append((process, number)))
    (tmp_path / "attempt_1/0").mkdir(parents=True)
    (tmp_path / worker.END).write_text("2")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "attempt_1/0/error.json"))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert worker.begin() == 2 and not told
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert worker.begin() == 2 and told == [(os.getppid(), signal.SIGTERM)]
    monkeypatch.setenv(worker.STARTED_BY, "1")  # the launcher of --processes reads the note
    assert worker.begin() == 2 and len(told) == 1


def test_exit_codes_are_the_command_lines() -> None:
    assert (worker.USER_ERROR, worker.LOST) == (exits.USER_ERROR, exits.LOST)


def test_a_job_that_is_started_again_waits_for_its_processes_of_before(tmp_path: Path) -> None:
    run, held = Run(tmp_path / "run"), threading.Event()

    def before() -> None:
        with exclusively(run):
            held.set()
            time.sleep(1.5)

    thread = threading.Thread(target=before)
    thread.start()
    assert held.wait(10)
    with pytest.raises(UserError, match="another process is writing"), exclusively(run):
        pass
    with exclusively(run, patience=30.0):
        thread.join()


def test_going_on_by_itself_is_for_recipes() -> None:
    with pytest.raises(UserError, match="--continue"):
        from clearseek.cli import build_parser
        from clearseek.cli.train import _refuse_combinations

        _refuse_combinations(build_parser().parse_args(["train", "--resume", "runs/x", "--continue"]))


def test_what_is_no_number_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(UserError, match="WORLD_SIZE=many is no number"):
        worker.number("WORLD_SIZE", 1)
