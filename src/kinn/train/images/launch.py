"""Which process this is, where `torchrun` or a cluster's scheduler started several."""

from __future__ import annotations

import os

import torch

from kinn.train.processes import Process


def launched() -> tuple[Process, int]:
    """This process among all, and the number of nodes: what `torchrun` and Slurm say; else it is alone.

    >>> launched()
    (Process(rank=0, count=1), 1)
    """
    for rank, count, local in (("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS", "")):
        if rank in os.environ and count in os.environ:
            world = int(os.environ[count])
            nodes = world // int(os.environ[local]) if local in os.environ else int(os.environ.get("SLURM_NNODES", 1))
            return Process(int(os.environ[rank]), world), nodes
    return Process(), 1


def meet() -> None:
    """Connect the processes, for readers that share out shards by it; the trainer goes on with that."""
    if launched()[0].count > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
