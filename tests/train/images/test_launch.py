"""Several processes that train on images together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from kinn.train.images.launch import launched
from kinn.train.processes import Process


def test_two_processes_under_torchrun_agree_with_one(folder, tmp_path, quick):
    plain = {"mixup": 0.0, "cutmix": 0.0, "auto_augment": "", "erasing": 0.0, "drop_path": 0.0, "epochs": 2}
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\nfrom dataclasses import replace\nfrom kinn.train.images import *\n"
        f"settings = replace(ImageSettings(), **{ {**vars(quick), **plain, 'scale': None}!r})\n"
        f"parts = [open_images({str(folder)!r}, part) for part in ('train', 'validation')]\n"
        "fit_images(settings, *parts, sys.argv[1], progress=False)\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    curves = []
    for count in (1, 2):
        run = [*torchrun, f"--nproc-per-node={count}", script, tmp_path / str(count)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(run, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        curves.append(json.loads((tmp_path / str(count) / "result.json").read_text())["curves"])
    assert curves[1]["raw_loss"] == pytest.approx(curves[0]["raw_loss"], rel=1e-4)
    assert curves[1]["raw_top1"] == curves[0]["raw_top1"]


@pytest.mark.parametrize(
    ("told", "process"),
    [
        ({"STEP_ID": "0", "STEP_NUM_TASKS": "4"}, Process(1, 4)),
        ({"STEP_ID": "3"}, Process(1, 4)),
        ({"STEP_ID": "1", "STEP_NUM_TASKS": "2"}, Process(1, 2)),
        ({}, Process()),
        ({"STEP_ID": "batch"}, Process()),
        ({"STEP_ID": "4294967291", "STEP_NUM_TASKS": "1"}, Process()),
        ({"STEP_ID": "4294967290"}, Process()),
    ],
)
def test_slurm_is_believed_within_a_step_alone(monkeypatch, told, process):
    for name in [name for name in os.environ if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE")]:
        monkeypatch.delenv(name)
    for name, value in {"PROCID": "1", "NTASKS": "4", "NNODES": "2", **told}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert launched() == (process, 2 if process.count > 1 else 1)


def test_a_batch_script_trains_alone(tmp_path, quick, fit, monkeypatch):
    """Lightning would believe the number of tasks, too."""
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"PROCID": "0", "NTASKS": "4", "JOB_NAME": "job", "NODEID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert len(fit(replace(quick, epochs=1, warmup_epochs=0), tmp_path / "run").curves["ema_top1"]) == 1


def test_two_processes_under_srun_meet(tmp_path):
    script = tmp_path / "meet.py"
    script.write_text(
        "import torch\nfrom torch import distributed\nfrom kinn.train.images.launch import meet\nmeet()\n"
        "ranks = torch.tensor([distributed.get_rank()])\ndistributed.all_reduce(ranks)\n"
        "print(distributed.get_world_size(), ranks.item())\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODELIST": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    others = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}
    processes = [
        subprocess.Popen(
            [sys.executable, script],
            env={**others, **told, "SLURM_PROCID": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        assert [process.communicate(timeout=120)[0] for process in processes] == ["2 1\n", "2 1\n"]
    finally:
        for process in processes:
            process.kill()
