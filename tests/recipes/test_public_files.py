"""Public files in the place of generated ones: who trains on what, normalised by what, evaluated on which grids."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from kinn.data import export_dataset, generate_darcy, generate_navier_stokes, generate_poisson, open_dataset
from kinn.recipes import files, loading, runner
from kinn.recipes.experiment import Experiment, Source, Variant
from kinn.report import load_records
from kinn.train import OptimizerSettings, Rollout, TrainSettings

SIZES = {"train": 8, "validation": 2, "test": 3}
POISSON = Experiment(
    name="tiny-poisson",
    title="Tiny Poisson",
    source=Source("tiny-poisson", generate_poisson, {"samples": 13, "resolution": 32, "max_mode": 4, "seed": 0}),
    sizes=SIZES,
    variants=(Variant("UKNO", "UKNO", "ours", {"order": 1, "width": 4}),),
    loss="relative_l1",
    primary_metric="relative_l1_median_normalized",
    normalize="min-max",
    optimizer=OptimizerSettings(),
    training=TrainSettings(epochs=1, batch_size=4, device="cpu"),
    resolutions=(32, 128),
)
FLOW = Experiment(
    name="tiny-flow",
    title="Tiny flow",
    source=Source(
        "tiny-flow",
        generate_navier_stokes,
        {"samples": 4, "resolution": 16, "solver_resolution": 32, "final_time": 6, "seed": 0},
    ),
    sizes={"train": 2, "validation": 1, "test": 1},
    variants=(
        Variant("FNO", "FNO", "baseline", {"width": 4, "n_modes": [4, 4]}),
        Variant("FKNO", "FKNO", "ours", {"width": 4, "n_modes": [4, 4], "routes": 1}),
    ),
    loss="relative_l2",
    primary_metric="relative_l2",
    normalize="none",
    optimizer=OptimizerSettings(),
    training=TrainSettings(epochs=1, batch_size=4, device="cpu"),
    rollout=Rollout(n_history=2),
    unroll=2,
    resolutions=(16,),
)


def run(experiment, output, data):
    paths = runner.run_experiment(
        experiment,
        recipe="test",
        budget="demo",
        seeds=(0,),
        device="cpu",
        output=output,
        data=data,
        progress=False,
    )
    return [json.loads(path.read_text()) for path in paths]


def parts_of(experiment, *public):
    return loading.load_parts(experiment, None, files.files_of(experiment, public), progress=False)


def transfer_of(experiment, path):
    return loading.load_transfer(experiment, None, files.files_of(experiment, [path]), progress=False)


def at(experiment, resolution):
    return replace(experiment, source=experiment.source.but("x", resolution=resolution))


def poisson(path, resolution=64, **changes):
    return generate_poisson(path, **{**POISSON.source.parameters, "resolution": resolution, **changes})


@pytest.fixture
def cno(tmp_path):
    """CNO's file, with constants that are nobody's smallest and largest values."""
    data = open_dataset(poisson(tmp_path / "ours.h5"))
    with h5py.File(tmp_path / "IN.h5", "w") as file:
        for n, (source, potential) in enumerate(data):
            file[f"Sample_{n}/input"], file[f"Sample_{n}/output"] = source[0].numpy(), potential[0].numpy()
        file["min_inp"], file["max_inp"], file["min_out"], file["max_out"] = -20.0, 20.0, -0.5, 0.25
    return tmp_path / "IN.h5"


def test_a_finer_file_is_trained_on_at_the_grid_of_the_budget_and_evaluated_at_both(tmp_path, cno):
    out = poisson(tmp_path / "OUT.h5", max_mode=6)
    experiment = replace(POISSON, tests={"beyond": POISSON.source.but("beyond", max_mode=6, samples=5)})
    (record,) = run(experiment, tmp_path / "run", [cno, out])
    found = record["data"].pop("files")
    assert [(file["name"], file["bytes"]) for file in found] == [
        (path.name, path.stat().st_size) for path in (cno, out)
    ]
    assert found[0]["checksum"] != found[1]["checksum"]
    assert record["data"] == {**SIZES, "resolution": 32, "last": SIZES["test"]}
    assert record["command"].startswith("kinn reproduce test --budget demo --seeds 0 --variants ")
    assert record["command"].endswith("--data IN.h5 OUT.h5")
    assert not (tmp_path / "run" / "data").exists()
    coarse, fine = record["transfer"]
    assert (coarse["resolution"], coarse["dt_scale"], coarse["samples"]) == (32, 1, 3)
    assert (fine["resolution"], fine["dt_scale"], fine["samples"]) == (64, pytest.approx(31 / 63), 3)
    assert coarse["metrics"] == pytest.approx(record["metrics"]["test"], rel=1e-4)  # the table's samples
    assert set(fine["metrics"]) == set(coarse["metrics"])
    assert fine["metrics"] != coarse["metrics"]
    assert set(record["metrics"]) == {"test", "validation", "beyond"}
    assert load_records(tmp_path / "run" / "records")[0].resolution == 32


def test_poissons_coarser_grid_has_both_ends_of_the_square(tmp_path, cno):
    """At every second of 64 nodes the boundary at one end would be missing."""
    expected = open_dataset(poisson(tmp_path / "coarse.h5", resolution=32))
    parts = parts_of(POISSON, cno)
    for given, truth in zip(parts["train"].batch(range(8)), expected.batch(range(8))):
        torch.testing.assert_close(given, truth, rtol=0, atol=1e-6 * truth.abs().max().item())


def test_no_sample_of_an_evaluation_was_trained_or_selected_on(tmp_path):
    """Whatever the grid, and wherever the test part lies in the file: first, as in PDEBench's."""
    path = generate_darcy(tmp_path / "darcy.h5", samples=13, resolution=64)
    source = Source("tiny-darcy", generate_darcy, {"samples": 13, "resolution": 32, "seed": 0})
    experiment = replace(POISSON, source=source, sizes={"test": 3, "validation": 2, "train": 8})
    transfer, _ = transfer_of(experiment, path)
    file, parts = open_dataset(path), parts_of(experiment, path)
    coarse, fine = transfer
    assert (coarse.grid, fine.grid) == ((32, 32), (64, 64))
    assert torch.equal(fine.batch(range(3))[0], file.batch(range(3))[0])
    means = file.batch(range(3))[0].unflatten(-1, (32, 2)).unflatten(-3, (32, 2)).mean((-3, -1))
    assert torch.equal(coarse.batch(range(3))[0], means)
    for part, size in (("train", 8), ("validation", 2)):
        used = parts[part].batch(range(size))[0]
        assert not (used[:, None] == means[None]).flatten(2).all(2).any()


@pytest.mark.parametrize(
    ("sizes", "places"),
    [
        ({"train": 4, "validation": 2, "test": 3}, {"train": range(4), "validation": [4, 5], "test": [10, 11, 12]}),
        ({"test": 3, "validation": 2, "train": 4}, {"test": range(3), "validation": [3, 4], "train": range(5, 9)}),
    ],
)
def test_of_a_longer_file_the_test_is_where_its_publishers_have_it(tmp_path, cno, sizes, places):
    source = POISSON.source.but("fewer", samples=9, resolution=64)
    experiment, file = replace(POISSON, source=source, sizes=sizes, resolutions=()), open_dataset(cno)
    for name, part in parts_of(experiment, cno).items():
        assert torch.equal(part.batch(range(len(part)))[0], file.batch(list(places[name]))[0]), name


def test_flows_are_rolled_out_on_the_files_own_grid(tmp_path):
    path = generate_navier_stokes(tmp_path / "flow.h5", **{**FLOW.source.parameters, "resolution": 32})
    fno, fkno = run(FLOW, tmp_path / "run", [path])
    assert [(place["resolution"], place["dt_scale"]) for place in fkno["transfer"]] == [(16, 1), (32, 0.5)]
    assert [(place["resolution"], place["dt_scale"]) for place in fno["transfer"]] == [(16, None), (32, None)]
    assert torch.equal(parts_of(FLOW, path)["test"][0], open_dataset(path)[3][..., ::2, ::2])


def test_a_file_as_fine_as_the_training_gives_half_its_grid(tmp_path, cno):
    (record,) = run(replace(at(POISSON, 64), resolutions=(64, 128)), tmp_path / "run", [cno])
    assert [(place["resolution"], place["dt_scale"]) for place in record["transfer"]] == [
        (32, pytest.approx(63 / 31)),
        (64, 1),
    ]


@pytest.mark.parametrize(
    ("resolution", "points", "reason"),
    [(32, "nodes", "fewer than 32 would be too coarse"), (64, "centers", "fields do not vanish on all edges")],
)
def test_why_there_is_no_other_grid_is_said(tmp_path, resolution, points, reason):
    path = poisson(tmp_path / "in.h5", resolution, points=points)
    (record,) = run(at(POISSON, resolution), tmp_path / "run", [path])
    assert record["transfer"] == []
    expected = f"Not evaluated at other resolutions: in.h5 has {resolution} x {resolution} points, and {reason}"
    assert record["notes"][-1].startswith(expected)
    _, silent = transfer_of(replace(at(POISSON, resolution), resolutions=()), path)
    assert silent == ""


def test_cnos_files_are_normalised_by_the_constants_that_they_state(tmp_path, cno, monkeypatch):
    monkeypatch.setattr(runner, "fit", lambda *a, **k: None)  # what is asked for is there before

    def normalizers(path, **changes):
        experiment, folder = replace(POISSON, **changes), tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        variant, parts = experiment.variants[0], parts_of(experiment, path)
        task, _ = runner.train_variant(experiment, variant, experiment.training, parts, folder, progress=False)
        return task.input_normalizer.state(), task.output_normalizer.state(), parts["train"]

    stated = {"kind": "minmax", "low": -20.0, "high": 20.0}, {"kind": "minmax", "low": -0.5, "high": 0.25}
    assert normalizers(cno)[:2] == stated
    assert normalizers(cno, normalize="standard")[0]["kind"] == "standard"
    # ours hold constants of all samples, the test's among them
    ours = export_dataset(open_dataset(tmp_path / "ours.h5"), tmp_path / "exported.h5", layout="cno")
    found, _, train = normalizers(ours)
    assert (found["low"], found["high"]) == tuple([[[value.item()]]] for value in train.inputs.read(range(8)).aminmax())
    again = export_dataset(open_dataset(ours).subset(slice(None)), tmp_path / "again.h5", layout="cno")
    assert normalizers(again)[0] == found


def test_as_many_samples_of_a_further_test_as_its_publisher_takes(tmp_path, cno):
    out = poisson(tmp_path / "OUT.h5", max_mode=6)
    experiment = replace(POISSON, tests={"beyond": POISSON.source.but("beyond", samples=5)})
    beyond = parts_of(experiment, cno, out)["beyond"]
    assert len(beyond) == 5
    torch.testing.assert_close(beyond[0][0], open_dataset(poisson(tmp_path / "c.h5", 32, max_mode=6))[0][0])
    with pytest.raises(ValueError, match=r"OUT\.h5 holds 13 samples, but this budget takes 14"):
        parts_of(replace(POISSON, tests={"beyond": POISSON.source.but("beyond", samples=14)}), cno, out)


@pytest.mark.parametrize(
    ("files", "change", "message"),
    [
        (["in"], {}, r"reads 2 files \(the data, beyond\), but 1 were given"),
        (["in", "in"], {}, r"in\.h5, given for the test 'beyond', holds the training's samples: it is the same file"),
        (["in", "out"], {"sizes": {**SIZES, "test": 4}}, "sizes .* need 14 samples"),
        (["out", "in"], {}, r"out\.h5 holds 12 samples, but this budget takes 13; choose another"),
        (
            ["in", "out"],
            {"source": POISSON.source.but("x", resolution=24)},
            r"grid \(16, 16\), but this budget takes 24 points a side: 24 are more than there are; choose another",
        ),
    ],
)
def test_public_files_that_do_not_fit(tmp_path, files, change, message):
    for name, samples in (("in", 13), ("out", 12)):
        poisson(tmp_path / f"{name}.h5", 16, samples=samples)
    experiment = replace(at(POISSON, 16), tests={"beyond": POISSON.source.but("beyond", samples=3)})
    with pytest.raises(ValueError, match=message):
        run(replace(experiment, **change), tmp_path / "run", [tmp_path / f"{name}.h5" for name in files])


def test_a_public_file_of_another_kind_is_refused_before_any_training(tmp_path):
    flow, pairs = tmp_path / "flow.h5", tmp_path / "pairs.h5"
    generate_navier_stokes(flow, **FLOW.source.parameters)
    generate_poisson(pairs, **POISSON.source.parameters)
    timeless = tmp_path / "timeless.h5"
    with h5py.File(timeless, "w") as file:
        file["trajectory"] = np.zeros((4, 6, 1, 16, 16))
    couple = tmp_path / "couple.h5"
    with h5py.File(couple, "w") as file:
        file["trajectory"] = np.zeros((4, 6, 2, 16, 16))
    arrays = tmp_path / "arrays.h5"
    with h5py.File(arrays, "w") as file:
        file["input"] = file["output"] = np.zeros((12, 1, 16))
    solved = replace(FLOW, variants=(replace(FLOW.variants[0], solve=lambda *_, **__: {}),))
    for experiment, path, message in (
        (POISSON, flow, "holds data of 'navier-stokes', but experiment 'tiny-poisson' is about 'poisson'"),
        (FLOW, pairs, "holds data of 'poisson', but experiment 'tiny-flow' is about 'navier-stokes'"),
        (FLOW, arrays, "holds pairs of fields, but experiment 'tiny-flow' needs trajectories"),
        (POISSON, timeless, "holds trajectories, but experiment 'tiny-poisson' needs pairs of fields"),
        (POISSON, arrays, r"has the grid \(16,\), but experiment 'tiny-poisson' needs two axes"),
        (FLOW, couple, "holds fields of 2 channels, but experiment 'tiny-flow' needs one"),
        (replace(FLOW, unroll=5), timeless, "has 6 frames, but 'tiny-flow' needs at least 7"),
        (replace(FLOW, field_steps=(1, 10)), timeless, "has 6 frames, but 'tiny-flow' needs at least 12"),
        (solved, timeless, "does not tell the times of its frames"),
    ):
        with pytest.raises(ValueError, match=rf"{path.name} {message}"):
            run(experiment, tmp_path / "run", data=[path])
    assert not (tmp_path / "run" / "runs").exists()


def test_the_papers_figures_stand_beside_its_own_equation_alone(tmp_path):
    told = {"title": "Flow{viscosity}: {steps} steps"}
    flow = replace(FLOW, variants=(replace(FLOW.variants[0], paper={"relative_l2": 0.01}),), resolutions=(), **told)
    flow = replace(flow, source=flow.source.but("tiny-flow", viscosity=1e-3))
    for viscosity, title in ((1e-3, "Flow, viscosity 0.001: 4 steps"), (1e-4, "Flow, viscosity 0.0001: 4 steps")):
        path = tmp_path / f"{viscosity}.h5"
        generate_navier_stokes(path, **{**flow.source.parameters, "viscosity": viscosity})
        [record] = run(flow, tmp_path / str(viscosity), [path])
        assert record["title"] == title
        assert record["paper"] == (flow.variants[0].paper if viscosity == 1e-3 else None)
        assert any("viscosity = 0.0001" in note for note in record["notes"]) == (viscosity == 1e-4)
    path = export_dataset(open_dataset(path), tmp_path / "flow.mat", layout="li")  # which states no viscosity
    [record] = run(flow, tmp_path / "mat", [path])
    assert record["title"] == "Flow: 4 steps"
    assert "The paper's figures are for viscosity = 0.001, which these data do not state." in record["notes"]
    for viscosity in ("1e-3", "1E-4"):  # Li's files state it in their names
        named = export_dataset(open_dataset(path), tmp_path / f"ns_V{viscosity}_N9_T4.mat", layout="li")
        [record] = run(flow, tmp_path / viscosity, [named])
        assert record["title"] == f"Flow, viscosity {float(viscosity):g}: 4 steps"
        assert bool(record["paper"]) == (viscosity == "1e-3")
        assert not any("do not state" in note for note in record["notes"])


@pytest.mark.parametrize("changed", [{}, {"high": 12.0}, {"beta": 2.0}])
def test_the_papers_figures_are_for_its_own_medium(tmp_path, changed):
    """What a generator takes by default is a constant, too."""
    source = Source("tiny-darcy", generate_darcy, {"samples": 13, "resolution": 16, "seed": 0})
    variants = (Variant("FNO", "FNO", "baseline", {"width": 4, "n_modes": [4, 4]}, paper_ratio={"relative_l2": 6.4}),)
    path = generate_darcy(tmp_path / "darcy.h5", **source.parameters, **changed)
    [record] = run(replace(POISSON, source=source, variants=variants, resolutions=()), tmp_path / "run", [path])
    assert bool(record["paper_ratio"]) == (not changed)
    for name, value in changed.items():
        assert f"which have {name} = {value:g}: they are not shown" in record["notes"][-1]


def test_another_file_of_the_same_name_is_another_run(tmp_path):
    files = [tmp_path / name / "data.h5" for name in ("one", "other")]
    for seed, path in enumerate(files):
        generate_poisson(path, **{**POISSON.source.parameters, "seed": seed})
    experiment = replace(POISSON, variants=POISSON.variants[:1])
    run(experiment, tmp_path / "run", files[:1])
    run(experiment, tmp_path / "run", files[:1])
    with pytest.raises(ValueError, match="is the result of another run: its data is"):
        run(experiment, tmp_path / "run", data=files[1:])
