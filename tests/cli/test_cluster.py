"""The templates for clusters: shells and YAML can read them, torchrun and clearseek their commands."""

from __future__ import annotations

import re
import shlex
import subprocess
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from clearseek.cli import build_parser
from clearseek.cli.exits import USER_ERROR
from clearseek.plan.hardware import find_hardware
from clearseek.plan.layout import check_layout, parse_layout
from clearseek.plan.placement import USABLE, Placement
from clearseek.recipe import load_recipe

CLUSTER = Path(__file__).parents[2] / "cluster"
VALUES = {
    "NODES:-4": "4", "PER_NODE:-8": "8", "RUN_ID:-clearseek": "clearseek", "HEAD": "node0",
    "SLURM_NNODES": "4", "SLURM_JOB_ID": "123", "SKYPILOT_NUM_NODES": "4", "SKYPILOT_NUM_GPUS_PER_NODE": "8",
    "SKYPILOT_TASK_ID": "job", "logs": "/tmp/logs",
}  # fmt: skip
"""What the shell would put in."""


def kubernetes() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text()))


def skypilot() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())
    return found


def container() -> dict[str, Any]:
    found: dict[str, Any] = kubernetes()[2]["spec"]["template"]["spec"]["containers"][0]
    return found


def in_shell(text: str) -> list[str]:
    """Words of the call of torchrun in a script."""
    (call,) = re.findall(r"^(?:exec |srun .*? |)torchrun (.*?)(?: &)?$", text.replace("\\\n", " "), re.M)
    return shlex.split(re.sub(r"\$(?:\{(.+?)\}|(\w+))", lambda found: VALUES[found[1] or found[2]], call))


def commands() -> dict[str, list[str]]:
    """Arguments of torchrun in each template."""
    return {
        "nodes": in_shell((CLUSTER / "nodes.sh").read_text()),
        "slurm": in_shell((CLUSTER / "slurm.sbatch").read_text()),
        "kubernetes": in_shell(container()["args"][0]),
        "skypilot": in_shell(skypilot()["run"]),
    }


@pytest.mark.parametrize("name", ["nodes", "slurm", "kubernetes", "skypilot"])
def test_torchrun_and_clearseek_read_the_command(name: str) -> None:
    job: Namespace = get_args_parser().parse_args(commands()[name])
    assert job.module and job.training_script == "clearseek" and job.rdzv_backend == "c10d" and job.max_restarts >= 3
    assert job.rdzv_endpoint.endswith(":29400") and job.rdzv_id
    train = build_parser().parse_args(job.training_script_args)
    assert (train.command, train.go_on, train.device) == ("train", True, "cuda")
    layout = parse_layout(train.layout, int(job.nnodes) * int(job.nproc_per_node))
    recipe = load_recipe(train.recipe, train.overrides)
    check_layout(layout, recipe)
    assert Placement(recipe).memory(layout).total <= USABLE * find_hardware("h100").memory


@pytest.mark.parametrize("script", ["nodes.sh", "slurm.sbatch"])
def test_bash_reads_the_scripts(script: str) -> None:
    assert subprocess.run(["bash", "-n", CLUSTER / script], check=False).returncode == 0


def test_every_start_has_a_store_of_its_own() -> None:
    """The agents' store would still have the keys of lost processes."""
    switch = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
    for script in ("nodes.sh", "slurm.sbatch"):
        assert f"export {switch}=1" in (CLUSTER / script).read_text()
    assert {"name": switch, "value": "1"} in container()["env"]
    assert skypilot()["envs"][switch] == "1"


def test_slurm_is_told_before_the_end_and_queues_again() -> None:
    lines = (CLUSTER / "slurm.sbatch").read_text().splitlines()
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
    assert options["exclusive"] == "" and options["mem"] == "0"  # a machine's cores and memory are the job's
    assert options["signal"] == "B:TERM@120" and options["requeue"] == "" and options["ntasks-per-node"] == "1"
    assert "scontrol requeue" in "\n".join(lines)


def stand_ins(folder: Path, **programs: str) -> dict[str, str]:
    """Programs in place of a cluster's, and the environment that has them."""
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n", "SLURM_NNODES": "4", "SLURM_CPUS_ON_NODE": "64"}
    return {"PATH": f"{folder}:/usr/bin:/bin", "TMPDIR": str(folder), **slurm}


def torchrun(folder: Path, code: int, note: int | None) -> str:
    """A stand-in for it, which is told the folder of logs, waits for a moment, and may leave the note of an end."""
    leave = f"echo -n {note} > $logs/7_x/clearseek-ended" if note is not None else ":"
    find = 'while [ "$1" != --log-dir ]; do shift; done; logs=$2; mkdir -p $logs/7_x'
    wait = f"trap 'told=1' TERM; touch {folder}/began; sleep 0.5 & sleep=$!; wait $sleep || wait $sleep"
    return f'{find}; {wait}; {leave}; [ -n "$told" ] && echo told >> {folder}/said; exit {code}'


@pytest.mark.parametrize(
    ("code", "note", "asked", "queued"),
    [
        (1, None, True, True),
        (0, None, True, False),
        (1, None, False, False),
        (1, 130, False, True),
        (1, 2, True, False),
    ],
)
def test_the_slurm_script_queues_what_was_cut_off(
    tmp_path: Path, code: int, note: int | None, asked: bool, queued: bool
) -> None:
    """With stand-ins for Slurm's programs."""
    said = tmp_path / "said"
    variables = stand_ins(
        tmp_path, srun=torchrun(tmp_path, code, note), scancel=f'echo "$@" >> {said}',
        scontrol=f'[ "$1" = show ] && echo node0 || echo "$@" >> {said}',
    )  # fmt: skip
    job = subprocess.Popen(["bash", CLUSTER / "slurm.sbatch"], env=variables)
    while not (tmp_path / "began").exists():
        assert job.poll() is None
    if asked:
        job.terminate()
    assert job.wait(20) == (code if note is None else note)
    lines = said.read_text().splitlines() if said.exists() else []
    assert lines == ["--signal=TERM 7.0"] * asked + ["requeue 7"] * queued


@pytest.mark.parametrize(("code", "note", "ends"), [(1, 2, 2), (1, 130, 130), (1, None, 1), (0, None, 0)])
def test_kubernetes_hears_the_exit_code_of_clearseek(tmp_path: Path, code: int, note: int | None, ends: int) -> None:
    """And torchrun the signal that the pod gets."""
    variables = stand_ins(tmp_path, torchrun=torchrun(tmp_path, code, note))
    pod = subprocess.Popen([*container()["command"], container()["args"][0]], env=variables)
    while not (tmp_path / "began").exists():
        assert pod.poll() is None
    pod.terminate()
    assert pod.wait(20) == ends and (tmp_path / "said").read_text() == "told\n"


def test_kubernetes_tries_again_what_may_succeed() -> None:
    job = kubernetes()[2]["spec"]
    ignored, failed = job["podFailurePolicy"]["rules"]
    assert job["template"]["spec"]["restartPolicy"] == "Never" and job["podReplacementPolicy"] == "Failed"
    assert (ignored["action"], ignored["onPodConditions"]) == ("Ignore", [{"type": "DisruptionTarget"}])
    codes = failed["onExitCodes"]
    assert (failed["action"], codes["operator"], codes["values"]) == ("FailJob", "In", [USER_ERROR])
    assert codes["containerName"] == container()["name"]
    assert set(container()["resources"]["requests"]) == {"cpu", "memory"}


def test_kubernetes_finds_its_first_pod() -> None:
    service, _, job = kubernetes()
    name, own, spec = service["metadata"]["name"], job["metadata"]["name"], job["spec"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {"job-name": own}
    assert spec["template"]["spec"]["subdomain"] == name and spec["completionMode"] == "Indexed"
    assert f"{own}-0.{name}:{service['spec']['ports'][0]['port']}" in commands()["kubernetes"]
    assert spec["completions"] == spec["parallelism"] == 4
    assert container()["resources"]["limits"]["nvidia.com/gpu"] == 8
    mounted = {mount["name"] for mount in container()["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}


def test_kubernetes_lets_nobody_else_in() -> None:
    _, policy, job = kubernetes()
    own = {"matchLabels": {"job-name": job["metadata"]["name"]}}
    assert policy["kind"] == "NetworkPolicy" and policy["spec"] == {
        "podSelector": own, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": own}]}],
    }  # fmt: skip
