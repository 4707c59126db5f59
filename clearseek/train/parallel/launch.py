"""Starting the processes of a run on this machine, by torchrun's own launcher.

``torchrun`` would do the same from the shell, and does across machines. Here it runs inside the command: its agent
starts N processes, starts all again when one is lost, and passes signals on. It says how a process ended that could not
say so itself.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import clearseek
from clearseek.cores import usable_cores
from clearseek.errors import UserError
from clearseek.train.parallel import worker

if TYPE_CHECKING:
    from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

RESTARTS = 3
"""How often lost processes are replaced."""
_SAVING = 24 * 3600
"""Seconds that processes may take to save and end after a signal; a second Ctrl-C ends them at once.

PyTorch before 2.12 takes no such number, and 30: :func:`grace_warning` says it.
"""
_INTERRUPTED = 130


def refuse_inside() -> None:
    """Raise UserError in a process that a launcher has started: it is one of several already."""
    if worker.in_job() or "RANK" in os.environ:
        raise UserError(
            "--processes under torchrun (RANK is set): torchrun starts the processes: leave --processes out, or unset "
            "RANK and WORLD_SIZE"
        )


def crowd_warning(processes: int) -> str | None:
    """What to say where there are more processes than cores."""
    cores = usable_cores()
    if processes <= cores:
        return None
    return f"{processes} processes on {cores} {'core' if cores == 1 else 'cores'}: they will wait for each other"


def grace_warning() -> str | None:
    """What to say where torchrun, or the launcher here, cannot be told how long processes may take to save."""
    from torch.distributed.launcher.api import LaunchConfig

    if "TORCHELASTIC_RUN_ID" not in os.environ or "shutdown_timeout" in LaunchConfig.__dataclass_fields__:
        return None
    return (
        "this PyTorch kills the processes 30 s after Ctrl-C or SIGTERM, whether they have saved or not; PyTorch 2.12 "
        "waits (with torchrun: TORCH_ELASTIC_SHUTDOWN_TIMEOUT)"
    )


def launch(processes: int, module: str, arguments: Sequence[str], restarts: int = RESTARTS) -> int:
    """Run a module in several processes until it ends, and return its exit code.

    Args:
        processes: How many.
        module: Module to run as ``python -m`` does; it calls :func:`worker.begin` and :func:`worker.record_end`.
        arguments: Its arguments.
        restarts: How often lost processes are replaced.

    Raises:
        UserError: processes were lost more often than that.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logs = Path(tempfile.mkdtemp(prefix="clearseek-"))
    known = {field.name for field in fields(LaunchConfig)}
    settings: dict[str, Any] = {
        "min_nodes": 1, "max_nodes": 1, "nproc_per_node": processes, "run_id": uuid.uuid4().hex,
        # Its agents meet in a file that only this user reads: they unpickle what they find, and a port is anybody's.
        "rdzv_backend": "c10d", "rdzv_endpoint": str(logs / "store"), "rdzv_configs": {"store_type": "file"},
        "local_addr": "127.0.0.1",
        "max_restarts": restarts, "monitor_interval": 0.1, "logs_specs": DefaultLogsSpecs(log_dir=str(logs)),
        "signals_to_handle": "SIGQUIT", "shutdown_timeout": _SAVING,
    }  # fmt: skip
    config = LaunchConfig(**{name: value for name, value in settings.items() if name in known})
    command = ["-P", "-m", module, *arguments]
    code: int | None = 0
    logging.disable()  # torchelastic's account of each process: what matters is said below
    try:
        with _environment(_workers_environment()), _signals(SignalException, logs), _telling(logs, restarts):
            elastic_launch(config, sys.executable)(*command)
    except SignalException:
        code = _INTERRUPTED
    except ChildFailedError as failed:
        code = None
        failures: Mapping[int, ProcessFailure] = failed.failures
    finally:
        logging.disable(logging.NOTSET)
        note = _note(logs)
        shutil.rmtree(logs, ignore_errors=True)
    if note is not None:
        return note
    if code is None:
        raise UserError(_loss(failures, restarts))
    return code


def _workers_environment() -> dict[str, str]:
    """Environment variables of the processes, beside torchelastic's."""
    package = str(Path(clearseek.__file__).parents[1])
    loopback = "lo" if sys.platform == "linux" else "lo0"
    return {
        worker.STARTED_BY: str(os.getpid()),
        # The code of this process, whatever lies in the working directory.
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")])),
        # A new store for every start: the agent's still has the keys of lost processes.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # Nothing is to be reached from other machines.
        **{name: os.environ.get(name, loopback) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")},
    }


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _signals(exception: type[Exception], logs: Path) -> Iterator[None]:
    """Have the first signal raise torchelastic's exception, by which its agent passes it on once and waits.

    A second Ctrl-C ends this process at once, and the system the others with it.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise exception("asked to end", signal.Signals(number))
        if number == signal.SIGINT:
            print("clearseek: interrupted", file=sys.stderr, flush=True)
            shutil.rmtree(logs, ignore_errors=True)
            os._exit(_INTERRUPTED)

    wanted = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        wanted.append(signal.SIGHUP)
    before = {number: signal.signal(number, ask) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _telling(logs: Path, restarts: int) -> Iterator[None]:
    """Have torchelastic's agent say, for a block, which process was lost and how, before it starts all again."""
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

    launcher: Any = import_module("torch.distributed.launcher.api")

    class Agent(LocalElasticAgent):
        lost = 0

        def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
            result: RunResult = super()._monitor_workers(worker_group)
            if result.is_failed() and _note(logs) is None and self.lost < restarts:
                self.lost += 1
                ends = "".join(f"{each}: " for each in _ends(result.failures))
                print(f"clearseek: {ends}all processes start again (restart {self.lost} of {restarts})",
                      file=sys.stderr, flush=True)  # fmt: skip
            return result

    launcher.LocalElasticAgent = Agent
    try:
        yield
    finally:
        launcher.LocalElasticAgent = LocalElasticAgent


def _note(logs: Path) -> int | None:
    """The exit code that a process noted when the job ended for good; None where none did."""
    return next((worker.read_end(file) for file in logs.glob(f"*/{worker.END}")), None)


def _ends(failures: Mapping[int, ProcessFailure]) -> list[str]:
    """How processes ended that did not end because another one was lost, the first of them first."""
    told = (-signal.SIGTERM, worker.LOST)
    first = sorted(failures, key=lambda rank: failures[rank].timestamp)
    return [_end(rank, failures[rank].exitcode) for rank in first if failures[rank].exitcode not in told]


def _end(rank: int, code: int) -> str:
    """How a process ended."""
    how = f"ended with exit code {code}"
    if code < 0:
        name = signal.Signals(-code).name
        how = f"was killed by signal {-code} ({name}{', perhaps for want of memory' * (name == 'SIGKILL')})"
    return f"process {rank} ({socket.gethostname()}) {how}"


def _loss(failures: Mapping[int, ProcessFailure], restarts: int) -> str:
    """What to say where processes were lost too often."""
    ends = "; ".join([*_ends(failures), f"processes were lost {restarts + 1} times, and are not started again"])
    return (
        f"{ends}. {worker.LOGS}/ in the run's folder has what the processes but the first one said; where a checkpoint "
        "was saved, go on with --resume"
    )
