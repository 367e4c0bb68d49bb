"""The folder of a training run: its files, and whether it belongs to the run at hand.

`config.yaml` says what is trained and how (`kinn train --config` replays it), `last.ckpt` is where an interrupted
run goes on, `model.safetensors` the best model so far, `metrics.csv` one row per epoch, `tensorboard/` the same and
more for TensorBoard, `result.json` the summary of a finished run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import yaml

from kinn.files import write_text
from kinn.locks import alone
from kinn.records import plain

FREE = ("device", "devices", "workers", "compile", "log_every", "checkpoint_every", "in_memory")
"""Settings that may change when a run goes on: beyond rounding they do not change what is learned."""

_BY_DIGEST = ("init", "initial")
"""Where the file of first weights lies, which may change: its digest is among the data."""


class RunFolder:
    """The files of one training run.

    Args:
        path: of the folder; made by `claim`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.checkpoint = self.path / "last.ckpt"
        self.model = self.path / "model.safetensors"
        self.result = self.path / "result.json"

    def alone(self) -> AbstractContextManager[None]:
        """Hold the folder: of two processes that train in it each would spoil the other's files.

        Raises:
            ValueError: on entering, if another process holds it.
        """

        def refuse(_: str) -> None:
            raise ValueError(f"another process trains in {self.path}: wait for it, or choose another folder")

        return alone(self.path, refuse)  # the lock lies beside the folder: what is refused leaves none

    def claim(self, config: Mapping[str, Any], data: Mapping[str, Any], *, free: Collection[str] = ()) -> None:
        """Take the folder for the run of this configuration on this data; an interrupted run of the same may lie there.

        Args:
            config: all settings; of those that `free` names, too, a difference does not matter.
            data: what tells the data from others.
            free: names of settings.

        Raises:
            ValueError: if the folder holds another run, naming the first difference.
            OSError: if the folder cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} should be a folder for the run, but is a file")
        config = plain(config)
        for left in self.path.glob(".*.part"):  # by a process that was killed while it wrote
            if any(left.name.startswith(f".{path.name}.") for path in self._files()):
                left.unlink(missing_ok=True)
        if self.config.exists() and any(path.exists() for path in (self.checkpoint, self.model, self.result)):
            there, here = (
                {
                    key: value
                    for key, value in _flat(settings).items()
                    if key.rpartition(".")[2] not in {*FREE, *free} and key not in _BY_DIGEST
                }
                for settings in (self._read_config(), config)
            )
            self._check_same(there, here, "of another run", "this run has")
            known = self.finished() or self._progress()
            if known is not None:
                self._check_same(_flat(known["data"]), _flat(plain(data)), "of a run on other data", "these have")
        elif self.checkpoint.exists() or self.model.exists():  # before its first epoch ended a run has nothing to lose
            raise ValueError(f"{self.path} holds a model but no config.yaml: choose another folder for this run")
        if not self.finished():  # of a finished run it says where that ran
            write_text(self.config, yaml.safe_dump(config, sort_keys=False))

    def digest(self, initial: str | Path) -> str:
        """SHA-256 of the file of weights that the run starts from; once there is a checkpoint, the file may be gone.

        Raises:
            FileNotFoundError: if there is neither the file nor a run that knows it.
        """
        if Path(initial).is_file():
            digest = hashlib.sha256()
            with Path(initial).open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
            return digest.hexdigest()
        known = self.finished() or self._progress() or {"data": {}}
        if "initial" not in known["data"]:
            raise FileNotFoundError(f"there is no model file {initial} to start from")
        return known["data"]["initial"]

    def _files(self) -> tuple[Path, ...]:
        return self.config, self.checkpoint, self.model, self.result, self.path / "metrics.csv"

    def finished(self) -> dict[str, Any] | None:
        """The summary of a finished run, or None."""
        if not (self.result.exists() and self.model.exists()):
            return None
        return json.loads(self.result.read_text())

    def finish(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Mark the run as finished; returns the summary as `finished` will."""
        found = plain(summary)
        write_text(self.result, json.dumps(found, indent=1, allow_nan=False) + "\n")
        return found

    def _progress(self) -> dict[str, Any] | None:
        if not self.checkpoint.exists():
            return None
        try:
            return torch.load(self.checkpoint, map_location="cpu", weights_only=True)["callbacks"]["History"]
        except Exception as error:  # torch raises many kinds for a damaged file
            raise ValueError(
                f"{self.checkpoint} cannot be read ({type(error).__name__}): delete it to start this run anew"
            ) from error

    def _read_config(self) -> dict[str, Any]:
        try:
            config = yaml.safe_load(self.config.read_text())
        except yaml.YAMLError as error:
            raise ValueError(f"{self.config} is not YAML: choose another folder for this run") from error
        if not isinstance(config, dict):
            raise ValueError(f"{self.config} is not the configuration of a run: choose another folder for this run")
        return config

    def _check_same(self, there: dict[str, Any], here: dict[str, Any], whose: str, ours: str) -> None:
        for key in [*here, *there]:
            if there.get(key) != here.get(key):
                raise ValueError(
                    f"{self.path} is the folder {whose}: its {key} is {there.get(key)!r}, {ours} {here.get(key)!r}; "
                    "choose another folder, or delete this one"
                )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    parts = (_flat(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items())
    return {key: item for part in parts for key, item in part.items()}
