"""Four machines on one: network namespaces, a bridge, and on each an agent of torchrun that is started again.

A supervisor stands for what a cluster has: Slurm's requeue, or the kubelet of Kubernetes. It starts an agent again when
it is gone, and knows nothing else. Faults are done to single machines; what is measured is when the others noticed, and
when the run went on.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Thread, Timer
from typing import Any

ROOT = Path(__file__).parents[1]
HOSTS = 4
PORT = 29400
OUTAGE = 60.0
"""Seconds that a process is stopped, or a link down."""
FAULTS = ("worker killed", "agent killed", "agent told to stop", "worker stopped", "link down")
RECIPE = """name = "faults"
[model]
vocab_size = 300
hidden_size = 64
num_hidden_layers = 3
num_attention_heads = 2
q_lora_rank = 16
kv_lora_rank = 16
qk_nope_head_dim = 8
qk_rope_head_dim = 8
v_head_dim = 16
intermediate_size = 96
moe_intermediate_size = 32
n_routed_experts = 8
num_experts_per_tok = 2
first_k_dense_replace = 1
max_position_embeddings = 64
num_nextn_predict_layers = 1
[data]
source = "files"
paths = ["{text}/*.txt"]
sequence_length = 32
licence = "CC0-1.0"
[optimizer]
learning_rate = 3e-3
[train]
steps = {steps}
batch_size = 16
micro_batch_size = 2
lanes = 8
precision = "fp32"
kernels = "torch"
threads = 1
checkpoint_every = 5
hash_every = 10
"""


def prepare(folder: Path, steps: int) -> Path:
    """Texts and a recipe for them."""
    text = folder / "text"
    text.mkdir()
    for number in range(30):
        lines = [f"line {i} of file {number}: {'the quick brown fox ' * (i % 5)}{i * number}" for i in range(40)]
        (text / f"{number:02}.txt").write_text("\n".join(lines))
    recipe = folder / "faults.toml"
    recipe.write_text(RECIPE.replace("{text}", str(text)).replace("{steps}", str(steps)))
    return recipe


def environment(**variables: str) -> dict[str, str]:
    """Environment variables of a process of a job."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TORCHELASTIC", "RANK"))}
    return {**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


def undisturbed(recipe: Path, run: Path) -> str:
    """SHA-256 of the transcript of a run on one process that nothing happens to."""
    command = [sys.executable, "-m", "clearseek", "train", str(recipe), "--run", str(run)]
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    return transcript(run)


def transcript(run: Path) -> str:
    """SHA-256 of a run's transcript."""
    return subprocess.run(
        ["sha256sum", run / "transcript.jsonl"], capture_output=True, text=True, check=True
    ).stdout.split()[0]


def step(run: Path) -> int:
    """Steps in a run's transcript."""
    with suppress(FileNotFoundError):
        return max(0, (run / "transcript.jsonl").read_bytes().count(b"\n") - 1)
    return 0


def lives(process: int | None) -> bool:
    """Whether a process runs, or is stopped."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def wait(condition: Callable[[], bool], seconds: float) -> float:
    """Wait for something to be so; the seconds that it took. Raises TimeoutError after `seconds`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - began


class Host:
    """One machine: a network namespace, and a supervisor that keeps an agent running in it."""

    def __init__(self, number: int, network: str, recipe: Path, run: Path) -> None:
        self.number, self.name = number, f"{network}-{number}"
        self.address = f"10.77.0.{number + 1}"
        self._network, self._recipe, self._run = network, recipe, run
        self._agent: subprocess.Popen[bytes] | None = None
        self._over = False
        self.log = (run.parent / f"host{number}.log").open("ab")
        self._supervisor = Thread(target=self._supervise, daemon=True)

    def start(self) -> None:
        """Connect the machine, and start what runs on it."""
        there = f"{self._network[:8]}p{self.number}"
        ip("netns", "add", self.name)
        ip("link", "add", "eth0", "netns", self.name, "type", "veth", "peer", "name", there, "netns", self._network)
        ip("-n", self._network, "link", "set", there, "master", "bridge", "up")
        ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")
        ip("-n", self.name, "link", "set", "lo", "up")
        self._supervisor.start()

    def end(self) -> None:
        """Switch the machine off."""
        self._over = True
        if self._agent is not None:
            self._agent.kill()
        self._supervisor.join(30)
        self.log.close()
        ip("netns", "del", self.name, check=False)

    @property
    def agent(self) -> int | None:
        """Number of the agent's process."""
        return None if self._agent is None or self._agent.poll() is not None else self._agent.pid

    @property
    def worker(self) -> int | None:
        """Number of the process that trains."""
        with suppress(OSError):
            for child in Path(f"/proc/{self.agent}/task/{self.agent}/children").read_text().split():
                if b"\0RANK=" in Path(f"/proc/{child}/environ").read_bytes():
                    return int(child)
        return None

    @property
    def done(self) -> bool:
        """Whether the agent has ended in peace, which it does when training has."""
        return self._over

    def link(self, up: bool) -> None:
        """Plug the cable in, or pull it."""
        ip("-n", self._network, "link", "set", f"{self._network[:8]}p{self.number}", "up" if up else "down")

    def _supervise(self) -> None:
        arguments = [
            "--nnodes", str(HOSTS), "--nproc-per-node", "1", "--max-restarts", "100", "--monitor-interval", "0.5",
            "--rdzv-backend", "c10d", "--rdzv-endpoint", f"10.77.0.1:{PORT}", "--rdzv-id", "faults",
            "--rdzv-conf", f"is_host={int(self.number == 0)}", "--local-addr", self.address,
            "-m", "--", "clearseek", "train", str(self._recipe), "--run", str(self._run), "--continue",
        ]  # fmt: skip
        program = ["ip", "netns", "exec", self.name, sys.executable, "-m", "torch.distributed.run"]
        variables = environment(GLOO_SOCKET_IFNAME="eth0", TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
        while not self._over:
            self._agent = subprocess.Popen([*program, *arguments], env=variables, stdout=self.log, stderr=self.log)
            if self._agent.wait() == 0:
                self._over = True
            time.sleep(1)


def ip(*arguments: str, check: bool = True) -> None:
    """Call iproute2's ``ip``."""
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


def why_not() -> str | None:
    """Why there can be no network namespaces here; None where there can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need root and iproute2"
    name = f"probe{os.getpid()}"
    try:
        ip("netns", "add", name)
        ip("-n", name, "link", "add", "first", "type", "veth", "peer", "name", "second")
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.decode().strip()}"
    finally:
        ip("netns", "del", name, check=False)
    return None


@contextmanager
def hosts(recipe: Path, run: Path) -> Iterator[list[Host]]:
    """Four machines that train a run."""
    network = f"cs{os.getpid()}"
    ip("netns", "add", network)
    made = [Host(number, network, recipe, run) for number in range(HOSTS)]
    try:
        ip("-n", network, "link", "add", "bridge", "type", "bridge")
        ip("-n", network, "link", "set", "bridge", "up")
        for host in made:
            host.start()
        yield made
    finally:
        for host in made:
            host.end()
        ip("netns", "del", network, check=False)


@dataclass
class Faults:
    """Faults of a running job, one after the other."""

    hosts: list[Host]
    run: Path
    found: list[dict[str, Any]] = field(default_factory=list)
    patience: float = 900.0
    """Seconds that anything may take."""

    def happen(self, what: str, number: int, dice: random.Random) -> dict[str, Any]:
        """A fault at a random moment; what was seen of it."""
        host, begun = self.hosts[number], step(self.run)
        wait(lambda: step(self.run) > begun and self._all_work(), self.patience)
        time.sleep(dice.uniform(0, 1.5))
        before = {each.number: each.worker for each in self.hosts}
        others = [process for other, process in before.items() if other != number]
        at = step(self.run)
        undo = self._do(what, host)
        noticed = wait(lambda: not all(map(lives, others)), self.patience)
        back = wait(lambda: self._all_work(set(before.values())) and step(self.run) > at, self.patience)
        undo.join()
        seen = {"fault": what, "host": number, "after_step": at, "noticed": round(noticed, 1),
                "went_on": round(noticed + back, 1)}  # fmt: skip
        self.found.append(seen)
        return seen

    def finish(self) -> str:
        """Let the run end; SHA-256 of its transcript."""
        wait(lambda: self.hosts[0].done, self.patience)
        return transcript(self.run)

    def _all_work(self, than: set[int | None] | None = None) -> bool:
        """Whether every machine has a process that trains, another `than` before."""
        return not {host.worker for host in self.hosts} & ((than or set()) | {None})

    def _do(self, what: str, host: Host) -> Thread:
        """Do it, and undo it after a while."""
        worker, seconds = host.worker, 0.0
        undo: Callable[[], None] = partial(host.link, up=True)
        if what == "worker killed":
            _signal(worker, signal.SIGKILL)
        elif what == "agent killed":
            _signal(host.agent, signal.SIGKILL)
        elif what == "agent told to stop":
            _signal(host.agent, signal.SIGTERM)
        elif what == "worker stopped":
            _signal(worker, signal.SIGSTOP)
            undo, seconds = partial(_signal, worker, signal.SIGCONT), OUTAGE
        else:
            host.link(up=False)
            seconds = OUTAGE
        timer = Timer(seconds, undo)
        timer.start()
        return timer


def _signal(process: int | None, number: int) -> None:
    assert process is not None
    with suppress(ProcessLookupError):
        os.kill(process, number)


def show(seen: dict[str, Any]) -> None:
    """Print what was seen of a fault."""
    print(json.dumps(seen), flush=True)
