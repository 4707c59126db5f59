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
from clearseek.plan.hardware import find_hardware
from clearseek.plan.layout import check_layout, parse_layout
from clearseek.plan.placement import USABLE, Placement
from clearseek.recipe import load_recipe

CLUSTER = Path(__file__).parents[2] / "cluster"
VALUES = {
    "NODES:-4": "4", "PER_NODE:-8": "8", "RUN_ID:-clearseek": "clearseek", "HEAD": "node0",
    "SLURM_NNODES": "4", "SLURM_JOB_ID": "123", "SKYPILOT_NUM_NODES": "4", "SKYPILOT_NUM_GPUS_PER_NODE": "8",
    "SKYPILOT_TASK_ID": "job",
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
    (call,) = re.findall(r"^(?:exec |srun .*? )torchrun (.*?)(?: &)?$", text.replace("\\\n", " "), re.M)
    return shlex.split(re.sub(r"\$(?:\{(.+?)\}|(\w+))", lambda found: VALUES[found[1] or found[2]], call))


def commands() -> dict[str, list[str]]:
    """Arguments of torchrun in each template."""
    return {
        "nodes": in_shell((CLUSTER / "nodes.sh").read_text()),
        "slurm": in_shell((CLUSTER / "slurm.sbatch").read_text()),
        "kubernetes": container()["args"],
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
    assert options["signal"] == "B:TERM@120" and options["requeue"] == "" and options["ntasks-per-node"] == "1"
    assert "scontrol requeue" in "\n".join(lines)


@pytest.mark.parametrize(("code", "asked", "queued"), [(1, True, True), (0, True, False), (1, False, False)])
def test_the_slurm_script_queues_what_was_cut_off(tmp_path: Path, code: int, asked: bool, queued: bool) -> None:
    """With stand-ins for Slurm's programs."""
    said = tmp_path / "said"
    programs = {
        "srun": f"trap 'exit {code}' USR1; touch {tmp_path}/began; sleep 0.3 & wait; exit {code}",
        "scontrol": f'[ "$1" = show ] && echo node0 || echo "$@" >> {said}',
        "scancel": f'echo "$@" >> {said}',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    job = subprocess.Popen(
        ["bash", CLUSTER / "slurm.sbatch"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n", "SLURM_NNODES": "4"},
    )
    while not (tmp_path / "began").exists():
        assert job.poll() is None
    if asked:
        job.terminate()
    assert job.wait(20) == code
    lines = said.read_text().splitlines() if said.exists() else []
    assert lines == ["--signal=TERM 7.0"] * asked + ["requeue 7"] * queued


def test_kubernetes_finds_its_first_pod() -> None:
    service, _, job = kubernetes()
    name, own, spec = service["metadata"]["name"], job["metadata"]["name"], job["spec"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {"job-name": own}
    assert spec["template"]["spec"]["subdomain"] == name and spec["completionMode"] == "Indexed"
    assert f"--rdzv-endpoint={own}-0.{name}:{service['spec']['ports'][0]['port']}" in container()["args"]
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
