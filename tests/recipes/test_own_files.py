"""A file of one's own as the source of an experiment: any channels and axes, its own order, other grids if told."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from kinn.data import export_dataset, generate_poisson, open_dataset, split
from kinn.data.stores import ArrayFileStore, TensorStore
from kinn.models import register_model, registry
from kinn.recipes import Experiment, File, Source, Variant, run_experiment
from kinn.recipes.files import files_of
from kinn.recipes.loading import load_parts
from kinn.report import load_records, write_report
from kinn.train import OptimizerSettings, Rollout, TrainSettings

SMALL = {"width": 4, "n_modes": [4, 4]}


def written(path, grid=(16, 24), samples=10, **channels):
    """Pairs, or trajectories of eight frames."""
    generator = torch.Generator().manual_seed(0)
    with h5py.File(path, "w") as file:
        for name, count in channels.items():
            frames = (8,) if name == "trajectory" else ()
            file[name] = torch.randn(samples, *frames, count, *grid, generator=generator).numpy()
    return path


def experiment(source, **changes):
    mine = Experiment(
        name="mine",
        title="Mine",
        source=source,
        sizes={"train": 6, "validation": 2, "test": 2},
        variants=(Variant("FNO", "FNO", "baseline", SMALL), Variant("FKNO", "FKNO", "ours", {**SMALL, "routes": 2})),
        loss="relative_l2",
        primary_metric="relative_l2",
        normalize="standard",
        optimizer=OptimizerSettings(),
        training=TrainSettings(epochs=1, batch_size=4, device="cpu"),
    )
    return replace(mine, **changes)


def run(mine, folder):
    return [json.loads(path.read_text()) for path in run_experiment(mine, output=folder, progress=False)]


def parts_of(mine):
    return load_parts(mine, None, files_of(mine), progress=False)


def test_several_channels_on_a_rectangle_are_trained_on_as_they_are(tmp_path):
    path = written(tmp_path / "pairs.h5", input=3, output=2)
    other = written(tmp_path / "other.h5", input=3, output=2, samples=4)
    mine = experiment(File(path, note="Of a rig."), tests={"another_rig": File(other)}, notes=("Rough.",))
    records = run(mine, tmp_path / "run")
    assert [record["notes"] for record in records] == [["Of a rig.", "Rough."]] * 2
    for record in records:
        assert set(record["metrics"]) == {"test", "validation", "another_rig"}
        assert [file["name"] for file in record["data"]["files"]] == ["pairs.h5", "other.h5"]
        assert record["data"]["train"] == 6
        assert record["transfer"] == []
        assert set(record["channels"]) == {"0", "1"}
        assert len(record["fields"][0]["truth"]) == 16
        assert len(record["fields"][0]["truth"][0]) == 24
    assert write_report(tmp_path / "run/records", tmp_path / "report.html").exists()
    assert len(load_records(tmp_path / "run/records")[0].variants) == 2
    assert not (tmp_path / "run/data").exists()


def test_flows_of_several_channels_are_rolled_out(tmp_path):
    path = written(tmp_path / "flow.h5", trajectory=3)
    mine = experiment(File(path), rollout=Rollout(n_history=2), unroll=2, field_steps=(1, -1))
    for record in run(mine, tmp_path / "run"):
        assert len(record["curves"]["rollout_relative_l2"]) == 6
        assert [field["step"] for field in record["fields"]] == [1, 6]


@pytest.mark.parametrize("grid", [(32,), (6, 8, 10)])
def test_lines_and_volumes_train_a_model_of_ones_own(tmp_path, monkeypatch, grid):
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))

    @register_model
    class Own(nn.Module):
        def __init__(self, in_channels: int, out_channels: int) -> None:
            super().__init__()
            self.convolve = {1: nn.Conv1d, 3: nn.Conv3d}[len(grid)](in_channels, out_channels, 3, padding=1)

        def forward(self, x):
            return self.convolve(x)

    path = written(tmp_path / "pairs.h5", grid, input=1, output=2)
    [record] = run(experiment(File(path), variants=(Variant("Own", "Own", "ours"),)), tmp_path / "run")
    assert record["metrics"]["test"]["relative_l2"] > 0
    shape = (32, 1) if len(grid) == 1 else (8, 10)  # a line as a column, of a volume the middle slice
    assert np.asarray(record["fields"][0]["truth"]).shape == shape
    page = write_report(tmp_path / "run/records", tmp_path / "report.html").read_text()
    assert "data:image/png" in page


def test_data_stay_in_the_file_where_that_is_asked_for(tmp_path, monkeypatch):
    path = written(tmp_path / "pairs.h5", input=1, output=1)
    monkeypatch.setattr("kinn.data.datasets.FITS", 1)
    for asked, store in ((None, ArrayFileStore), (True, TensorStore), (False, ArrayFileStore)):
        assert type(parts_of(experiment(File(path, in_memory=asked)))["train"].inputs.store) is store
    monkeypatch.undo()
    assert type(parts_of(experiment(File(path, in_memory=False)))["test"].inputs.store) is ArrayFileStore
    assert "in_memory" not in File(path, in_memory=False).parameters  # the records of a run are of the same data


def test_parts_are_drawn_by_chance_where_a_seed_is_given(tmp_path):
    path = written(tmp_path / "pairs.h5", input=1, output=1)
    sizes, whole = {"train": 6, "validation": 2, "test": 2}, open_dataset(path)
    for seed in (None, 3):
        parts = parts_of(experiment(File(path, split_seed=seed)))
        for name, expected in split(whole, sizes, seed=seed).items():
            assert torch.equal(parts[name].batch(range(len(expected)))[0], expected.batch(range(len(expected)))[0])
    few = parts_of(experiment(File(written(tmp_path / "more.h5", samples=40, input=1, output=1), 10, split_seed=3)))
    more = open_dataset(tmp_path / "more.h5")
    assert sum(map(len, few.values())) == 10
    for part in few.values():
        for source, _ in (part[i] for i in range(len(part))):
            assert any(torch.equal(source, more[i][0]) for i in range(10)), "of the first samples alone"


def test_other_grids_where_points_are_told(tmp_path):
    path = generate_poisson(tmp_path / "poisson.h5", samples=10, resolution=32, max_mode=4, points="centers")
    mine = experiment(File(path, resolution=16, points="centres"), resolutions=(8, 16, 24))
    fno, fkno = run(mine, tmp_path / "run")
    assert [(place["resolution"], place["dt_scale"]) for place in fkno["transfer"]] == [(8, 2), (16, 1), (32, 0.5)]
    assert {place["dt_scale"] for place in fno["transfer"]} == {None}
    assert fkno["data"]["resolution"] == 16
    assert load_records(tmp_path / "run/records")[0].resolution == 16


def test_the_same_file_is_the_same_run_and_another_split_is_not(tmp_path):
    path = written(tmp_path / "pairs.h5", input=1, output=1)
    mine = experiment(File(path), variants=(Variant("FNO", "FNO", "baseline", SMALL),))
    run(mine, tmp_path / "run")
    before = [record.stat().st_mtime_ns for record in (tmp_path / "run/records").rglob("*.json")]
    run(mine, tmp_path / "run")
    assert [record.stat().st_mtime_ns for record in (tmp_path / "run/records").rglob("*.json")] == before
    written(tmp_path / "other.h5", input=1, output=1, samples=4)
    for changes, what in (
        ({"source": File(path, split_seed=1)}, "data"),
        ({"source": File(path, samples=10)}, "data"),
        ({"source": File(path, points="nodes")}, "data"),
        ({"sizes": {"test": 2, "train": 6, "validation": 2}}, "data"),
        ({"tests": {"other": File(tmp_path / "other.h5")}}, "data"),
    ):
        with pytest.raises(ValueError, match=f"is the result of another run: its {what} is"):
            run(replace(mine, **changes), tmp_path / "run")
    beside = replace(mine, tests={"other": File(tmp_path / "other.h5")})
    run(beside, tmp_path / "beside")
    with pytest.raises(ValueError, match="is the result of another run: its tests is"):
        run(replace(beside, tests={"other": File(tmp_path / "other.h5", samples=3)}), tmp_path / "beside")


def test_files_that_do_not_fit(tmp_path):
    pairs = written(tmp_path / "pairs.h5", input=1, output=1)
    other = written(tmp_path / "other.h5", input=2, output=1)
    flow = written(tmp_path / "flow.h5", trajectory=1)
    line = written(tmp_path / "line.h5", (24,), input=1, output=1)
    made = Source("made", generate_poisson, {"samples": 10, "resolution": 16, "seed": 0})
    for mine, message in (
        (experiment(File(flow)), r"flow\.h5 holds trajectories, but experiment 'mine' needs pairs of fields"),
        (experiment(File(pairs), rollout=Rollout()), r"pairs\.h5 holds pairs of fields, .* needs trajectories"),
        (experiment(File(flow), rollout=Rollout(n_history=8)), r"flow\.h5 has 8 frames, but 'mine' needs at least 9"),
        (experiment(File(pairs, samples=11)), r"pairs\.h5 holds 10 samples, but experiment 'mine' takes 11"),
        (experiment(File(pairs, samples=9)), "need 10 samples"),
        (experiment(File(pairs), resolutions=(8,)), r"has resolutions \(8,\): its File must tell the resolution"),
        (
            experiment(File(pairs, resolution=8, points="centres")),
            r"grid \(16, 24\), but experiment 'mine' takes 8 points a side: the grid is not square",
        ),
        (
            experiment(File(pairs), tests={"other": File(other)}),
            r"other\.h5 holds fields of 2 and 1 channels on 2 axes, but .*pairs\.h5, to train on, of 1 and 1 on 2",
        ),
        (
            experiment(File(pairs), tests={"line": File(line)}),
            r"line\.h5 holds fields of 1 and 1 channels on 1 axes, but .*pairs\.h5, to train on, of 1 and 1 on 2",
        ),
        (
            experiment(File(pairs), tests={"other": File(other, points="centres")}),
            "the File of the test 'other' takes a path and samples alone",
        ),
        (experiment(File(pairs), tests={"same": File(pairs)}), "holds the training's samples: it is the same file"),
        (experiment(File(pairs), tests={"made": made}), "mixes files and generated data"),
        (experiment(made, tests={"pairs": File(pairs)}), "mixes files and generated data"),
    ):
        with pytest.raises(ValueError, match=message):
            run(mine, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="experiment 'mine' reads its own files: give no others"):
        run_experiment(experiment(File(pairs)), output=tmp_path / "run", data=[pairs], progress=False)
    with pytest.raises(FileNotFoundError, match="there is no data file"):
        run(experiment(File(tmp_path / "none.h5")), tmp_path / "run")
    for wrong, message in (
        ({"resolution": 16}, r"File\('mine\.h5'\) has a resolution, and must tell its points"),
        ({"points": "centers"}, "points must be one of centres, nodes, periodic, but are 'centers'"),
        ({"samples": 0}, "samples must be at least 1, but is 0"),
        ({"samples": 9, "last": 10}, "last must be from 0 to samples, 9, but is 10"),
        ({"last": 1}, "last must be from 0 to samples, 0, but is 1"),
        ({"resolution": -1, "points": "nodes"}, "resolution must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            File("mine.h5", **wrong)


def test_what_a_file_says_of_itself_is_no_reason_to_stop(tmp_path):
    path = written(tmp_path / "pairs.h5", input=1, output=1)
    data = open_dataset(path)
    data.metadata.update(viscosity=None, gravity=[0.0, -9.81], max_mode="many")
    export_dataset(data, tmp_path / "told.h5", layout="kinn")
    mine = experiment(File(tmp_path / "told.h5"), variants=(Variant("FNO", "FNO", "baseline", SMALL, paper={"x": 1}),))
    [record] = run(mine, tmp_path / "run")
    assert record["notes"] == []
