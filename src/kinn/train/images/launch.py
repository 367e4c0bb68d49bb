"""Which process this is, where `torchrun` or a cluster's scheduler started several."""

from __future__ import annotations

import os

import torch
from lightning.fabric.plugins.environments import SLURMEnvironment

from kinn.train.processes import Process

_NO_STEPS = 0xFFFFFFFA  # ids from here on are of what Slurm itself opens, such as a batch script's shell


def launched() -> tuple[Process, int]:
    """This process among all, and the number of nodes: what `torchrun` and Slurm's `srun` say; else it is alone.

    A batch script is told of all the tasks that `srun` could start, but runs alone.

    >>> launched()
    (Process(rank=0, count=1), 1)
    """
    told = [("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")]
    step = os.environ.get("SLURM_STEP_ID", "")
    if step.isdecimal() and int(step) < _NO_STEPS:
        known = "SLURM_STEP_NUM_TASKS" in os.environ
        told.append(("SLURM_PROCID", "SLURM_STEP_NUM_TASKS" if known else "SLURM_NTASKS", ""))
    for rank, count, local in told:
        if rank in os.environ and count in os.environ:
            world = int(os.environ[count])
            nodes = world // int(os.environ[local]) if local in os.environ else int(os.environ.get("SLURM_NNODES", 1))
            return Process(int(os.environ[rank]), world), nodes
    return Process(), 1


def take_card() -> None:
    """Each of several processes takes a GPU: else "cuda" means the first for all, until the trainer chooses."""
    if launched()[0].count > 1 and torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
        torch.cuda.set_device(local % torch.cuda.device_count())


def meet() -> None:
    """Connect the processes, for readers that share out shards by it; the trainer goes on with that."""
    process, _ = launched()
    if process.count == 1 or torch.distributed.is_initialized():
        return
    take_card()
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if "RANK" in os.environ:
        torch.distributed.init_process_group(backend)
    else:  # srun does not set what PyTorch looks for
        slurm = SLURMEnvironment()
        place = f"tcp://{slurm.main_address}:{slurm.main_port}"
        torch.distributed.init_process_group(backend, init_method=place, rank=process.rank, world_size=process.count)
