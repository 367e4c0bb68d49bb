"""Recipes: records that hold what the tables need, alike for all variants, made once."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace

import h5py
import lightning
import numpy as np
import pytest
import torch

from kinn import recipes
from kinn.data import export_dataset, generate_navier_stokes, generate_poisson, open_dataset
from kinn.data.stores import ArrayFileStore
from kinn.recipes import headers, loading, runner
from kinn.recipes.experiment import Experiment, Source, Variant
from kinn.report import load_records
from kinn.train import OptimizerSettings, Rollout, TrainSettings, fitting

POISSON = Experiment(
    name="tiny-poisson",
    title="Tiny Poisson",
    source=Source(
        "tiny-poisson", generate_poisson, {"samples": 12, "resolution": 16, "max_mode": 4, "points": "nodes", "seed": 0}
    ),
    sizes={"train": 8, "validation": 2, "test": 2},
    variants=(
        Variant("UKNO K=0", "UKNO", "baseline", {"order": 0, "width": 4}),
        Variant("UKNO K=1", "UKNO", "ours", {"order": 1, "width": 4}, paper={"relative_l1_median": 0.307}),
    ),
    loss="relative_l1",
    primary_metric="relative_l1_median_normalized",
    normalize="min-max",
    optimizer=OptimizerSettings(),
    training=TrainSettings(epochs=2, batch_size=4, device="cpu"),
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
    variants=(Variant("FNO", "FNO", "baseline", {"width": 4, "n_modes": [4, 4]}),),
    loss="relative_l2",
    primary_metric="relative_l2",
    normalize="none",
    optimizer=OptimizerSettings(),
    training=TrainSettings(epochs=1, batch_size=4, device="cpu"),
    rollout=Rollout(n_history=2),
    unroll=2,
    field_steps=(1, -1),
)


def run(experiment, output, seeds=(0,)):
    return runner.run_experiment(
        experiment,
        recipe="test",
        budget="demo",
        seeds=seeds,
        device="cpu",
        output=output,
        progress=False,
    )


@pytest.fixture(scope="module")
def poisson_run(tmp_path_factory):
    """Folder and records of two seeds."""
    folder = tmp_path_factory.mktemp("poisson")
    torch.manual_seed(1)
    return folder, run(POISSON, folder, seeds=(0, 1))


@pytest.fixture(scope="module")
def flow_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow")
    return folder, run(FLOW, folder)


def test_records_hold_the_tables_and_are_made_once(poisson_run, monkeypatch):
    folder, paths = poisson_run
    assert len(paths) == 4
    records = [json.loads(path.read_text()) for path in paths]
    assert len({json.dumps(r["config"]["optimizer"]) for r in records}) == 1
    assert records[0]["config"]["training"]["seed"] == 0
    assert records[2]["config"]["training"]["seed"] == 1
    for record in records:
        assert set(record["metrics"]) == {"test", "validation"}
        assert len(record["curves"]["validation_loss"]) == 2
        assert record["curves"]["validation_loss"][record["best_epoch"] - 1] == min(record["curves"]["validation_loss"])
        assert len(record["fields"][0]["truth"]) == 16
        assert record["hardware"]["cpu"]
        assert record["versions"]["torch"] == torch.__version__
        assert record["time"]["train_seconds"] > 0
        assert record["time"]["seconds_per_epoch"] > 0
        assert record["memory"]["peak_rss_bytes"] > 2**20
        assert record["date"]
        assert (record["device"], record["compiled"]) == ("cpu", "none")
        [spectrum] = record["spectra"]
        assert (spectrum["step"], spectrum["samples"], len(spectrum["truth"])) == (None, 2, len(spectrum["error"]))
    assert records[1]["parameters"] > records[0]["parameters"]
    assert records[0]["metrics"] != records[2]["metrics"], "seeds must differ"
    experiment = load_records(folder / "records")[0]
    assert {variant.name for variant in experiment.variants} == {"UKNO K=0", "UKNO K=1"}

    monkeypatch.setattr(runner, "fit", lambda *a, **k: pytest.fail("a finished variant was trained again"))
    before = [path.read_bytes() for path in paths]
    assert run(POISSON, folder, seeds=(0, 1)) == paths
    assert [path.read_bytes() for path in paths] == before


def test_a_stopped_recipe_goes_on_with_the_variant_at_which_it_stopped(tmp_path, monkeypatch):
    trained, fit = [], runner.fit

    def stops_at_the_second(*arguments, **options):
        trained.append(options["title"])
        if len(trained) == 2:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    monkeypatch.setattr(runner, "fit", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(POISSON, tmp_path)
    assert len(run(POISSON, tmp_path)) == 2
    assert trained == ["UKNO K=0", "UKNO K=1", "UKNO K=1"]


def test_forecasts_come_out_the_same_again_and_when_stopped_in_an_epoch(tmp_path, monkeypatch):
    """Of every kind of model that the tables roll out, batch norms and scans among them."""
    small = {"width": 4, "n_modes": [4, 4]}
    flow = replace(
        FLOW,
        variants=(
            Variant("FNO", "FNO", "baseline", small),
            Variant("U-Net", "UNet", "baseline", {"width": 2, "boundary": "periodic"}),
            Variant("FKNO", "FKNO", "ours", {**small, "routes": 4}),
        ),
        training=replace(FLOW.training, epochs=2),
    )

    def metrics(folder):
        return [json.loads(path.read_text())["metrics"] for path in run(flow, tmp_path / folder)]

    whole = metrics("whole")
    assert metrics("again") == whole
    start, epochs = fitting.lightning.Trainer, []

    class Stop(lightning.Callback):
        def on_train_epoch_start(self, trainer, *_):
            epochs.append(trainer.current_epoch)
            if len(epochs) == 4:  # the second epoch of the second model
                raise KeyboardInterrupt

    monkeypatch.setattr(
        fitting.lightning, "Trainer", lambda callbacks, **options: start(callbacks=[*callbacks, Stop()], **options)
    )
    with pytest.raises(KeyboardInterrupt):
        metrics("stopped")
    assert metrics("stopped") == whole
    assert epochs == [0, 1, 0, 1, 1, 0, 1]


def test_data_too_large_for_memory_stay_in_the_file_and_give_the_same_numbers(poisson_run, tmp_path, monkeypatch):
    folder, paths = poisson_run
    monkeypatch.setattr("kinn.data.datasets.FITS", 1000)
    parts = loading.load_parts(POISSON, folder / "data", (), progress=False)
    assert isinstance(parts["train"].inputs.store, ArrayFileStore)
    (path,) = run(replace(POISSON, variants=POISSON.variants[:1]), tmp_path)
    assert json.loads(path.read_text())["metrics"] == json.loads(paths[0].read_text())["metrics"]


def test_the_same_seed_gives_the_same_numbers_whatever_was_drawn_before(poisson_run, tmp_path):
    torch.manual_seed(2)
    for path, before in zip(run(POISSON, tmp_path), poisson_run[1]):
        assert json.loads(path.read_text())["metrics"] == json.loads(before.read_text())["metrics"]


def test_rollout_records_have_an_error_per_step_and_fields_at_the_steps_asked_for(flow_run):
    record = json.loads(flow_run[1][0].read_text())
    assert record["curves"]["rollout_step"] == [1, 2, 3, 4]
    assert len(record["curves"]["rollout_relative_l2"]) == 4
    assert [field["step"] for field in record["fields"]] == [1, 4]


def test_sizes_may_come_from_numpy_and_their_order_counts(flow_run, monkeypatch):
    folder, before = flow_run
    monkeypatch.setattr(runner, "fit", lambda *a, **k: pytest.fail("a finished variant was trained again"))
    assert run(replace(FLOW, sizes={part: np.int64(n) for part, n in FLOW.sizes.items()}), folder) == before
    with pytest.raises(ValueError, match=r"result of another run: its data is .*'parts': \['train', 'validation'"):
        run(replace(FLOW, sizes=dict(reversed(FLOW.sizes.items()))), folder)


def test_a_folder_of_another_run_is_refused(flow_run):
    with pytest.raises(ValueError, match=r"result of another run: its config"):
        run(replace(FLOW, unroll=1), flow_run[0])


def test_words_may_change_without_running_again(flow_run, monkeypatch):
    folder, before = flow_run
    monkeypatch.setattr(runner, "fit", lambda *a, **k: pytest.fail("a finished variant was trained again"))
    training = replace(FLOW.training, workers=1, log_every=3)  # how fast, not what
    assert run(replace(FLOW, title="The same flow", notes=("in other words",), training=training), folder) == before


def test_transfer_evaluates_the_same_functions_on_other_grids_with_the_spacing_between_their_points(tmp_path):
    experiment = replace(POISSON, resolutions=(16, 32), transfer_samples=3, variants=POISSON.variants[1:])
    record = json.loads(run(experiment, tmp_path)[0].read_text())
    coarse, fine = record["transfer"]
    assert (coarse["resolution"], coarse["dt_scale"]) == (16, 1)
    assert (fine["resolution"], fine["dt_scale"]) == (32, pytest.approx(15 / 31))  # nodes: the boundary is included
    assert set(fine["metrics"]) == set(record["metrics"]["test"])
    assert fine["metrics"] != coarse["metrics"]


def test_a_training_that_diverges_does_not_stop_the_others(tmp_path):
    wild = replace(POISSON.variants[0], name="wild", lr=1e30)
    experiment = replace(POISSON, resolutions=(), variants=(wild, POISSON.variants[1]))
    with pytest.warns(UserWarning, match="wild diverged with seed 0: the training loss became"):
        first, second = (json.loads(path.read_text()) for path in run(experiment, tmp_path))
    assert first["metrics"]["test"] == {POISSON.primary_metric: None}
    assert first["notes"][-1].startswith("wild diverged with seed 0")
    assert second["metrics"]["test"][POISSON.primary_metric] > 0


def test_a_model_that_knows_no_spacing_is_given_none(tmp_path):
    record = json.loads(run(replace(FLOW, resolutions=(32,), transfer_samples=1), tmp_path)[0].read_text())
    assert [(entry["resolution"], entry["dt_scale"]) for entry in record["transfer"]] == [(32, None)]


def test_further_tests_are_measured_and_part_of_what_a_record_is(tmp_path):
    source = POISSON.source.but("tiny-poisson-beyond", max_mode=6, samples=3)
    experiment = replace(POISSON, tests={"beyond": source}, variants=POISSON.variants[:1])
    path = run(experiment, tmp_path)[0]
    record = json.loads(path.read_text())
    assert set(record["metrics"]) == {"test", "validation", "beyond"}
    assert record["metrics"]["beyond"] != record["metrics"]["test"]
    with pytest.raises(ValueError, match="its tests is"):
        run(POISSON, tmp_path)


def test_experiments_of_the_same_data_share_the_file(tmp_path):
    run(FLOW, tmp_path)
    run(replace(FLOW, name="another", unroll=1), tmp_path)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["tiny-flow.h5"]


def test_a_contender_trains_at_its_own_learning_rate(flow_run, tmp_path):
    (path,) = run(replace(FLOW, variants=(replace(FLOW.variants[0], lr=1e-2),)), tmp_path)
    one, other = json.loads(flow_run[1][0].read_text()), json.loads(path.read_text())
    assert one["config"]["optimizer"] == {**other["config"]["optimizer"], "lr": FLOW.optimizer.lr}
    assert other["config"]["optimizer"]["lr"] == 1e-2
    assert one["metrics"]["test"] != other["metrics"]["test"]


def test_a_contender_unrolls_its_own_number_of_steps_in_as_many_fewer_epochs(tmp_path):
    variants = (FLOW.variants[0], replace(FLOW.variants[0], name="longer", unroll=4))
    paths = run(replace(FLOW, variants=variants, training=replace(FLOW.training, epochs=2)), tmp_path)
    for path, unroll, epochs in zip(paths, (2, 4), (2, 1)):
        record = json.loads(path.read_text())
        assert record["config"]["rollout"]["unroll"] == unroll
        assert record["config"]["training"]["epochs"] == len(record["curves"]["epoch"]) == epochs


def test_a_record_does_not_depend_on_whether_steps_are_compiled():
    def identity(compile_):
        experiment = replace(FLOW, training=replace(FLOW.training, compile=compile_))
        return headers.identity_of(experiment, experiment.variants[0], 0)

    assert identity("kernels") == identity("none")


def test_a_device_that_is_not_there_is_refused_before_data_are_made(tmp_path):
    for device in ("tpu", "cuda:1"):
        with pytest.raises(ValueError, match=f"device must be one of auto, cpu, cuda, mps, but is '{device}'"):
            recipes.run("darcy", device=device, output=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"a multiple of devices \(3\), but is 16"):
        recipes.run("darcy", device="cpu", devices=3, output=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_an_experiment_says_itself_where_it_trains_unless_told_otherwise(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(runner, "_train", lambda e, v, settings, *rest: seen.append(settings) or {"metrics": {}})
    experiment = replace(FLOW, training=replace(FLOW.training, devices=2))
    runner.run_experiment(experiment, output=tmp_path, progress=False)
    runner.run_experiment(replace(experiment, name="told"), output=tmp_path, devices=1, progress=False)
    assert [(settings.device, settings.devices) for settings in seen] == [("cpu", 2), ("cpu", 1)]


def test_generators_work_where_the_training_does():
    seen = []

    def on_a_device(path, *, progress, device, samples):
        seen.append((device, samples))

    Source("x", on_a_device, {"samples": 3}).make(tmp := __file__, lambda *_: None, "cuda")
    Source("x", lambda path, *, progress, samples: seen.append(samples), {"samples": 4}).make(
        tmp, lambda *_: None, "cuda"
    )
    assert seen == [("cuda", 3), 4]


def test_an_experiment_of_ones_own(tmp_path):
    """A generator that knows nothing of folders, a title with LaTeX's braces, files of an equation of one's own."""

    def plain(path, *, progress, samples, resolution, seed):
        values = torch.randn(samples, 1, resolution, resolution, generator=torch.Generator().manual_seed(seed)).numpy()
        with h5py.File(path, "w") as file:
            file["input"], file["output"] = values, 2 * values
        progress(samples, samples)

    source = Source("own", plain, {"samples": 8, "resolution": 16, "seed": 0}, equation="doubling")
    sizes = {"train": 4, "validation": 2, "test": 2}
    variants = (Variant("FNO", "FNO", "baseline", {"width": 4, "n_modes": (4, 4)}),)
    title = r"$\mathcal{O}(h)$"
    own = replace(POISSON, source=source, sizes=sizes, variants=variants, title=title, tests={}, resolutions=())
    paths = recipes.run_experiment(own, output=tmp_path / "run", seeds=[1, 1, 0], device="cpu", progress=False)
    records = [json.loads(path.read_text()) for path in paths]
    assert [(record["seed"], record["title"], record["recipe"]) for record in records] == [
        (1, title, ""),
        (0, title, ""),
    ]
    file = tmp_path / "mine.h5"
    with h5py.File(file, "w") as out:
        out["input"] = out["output"] = torch.rand(8, 1, 16, 16).numpy()
    for equation, fits in (("doubling", True), ("halving", False)):
        data = open_dataset(file)
        data.metadata["equation"] = equation
        path = export_dataset(data, tmp_path / f"{equation}.h5", layout="kinn")
        how = nullcontext() if fits else pytest.raises(ValueError, match=r"data of 'halving', .* is about 'doubling'")
        with how:  # one path stands for a list of one
            recipes.run_experiment(own, output=tmp_path / equation, data=str(path), device="cpu", progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"primary_metric": "mse"}, "primary_metric must be one of rmse, .*, but is 'mse'"),
        ({"sizes": {"train": 4, "test": 2}}, "sizes must name train, validation and test"),
        (
            {"variants": [replace(POISSON.variants[0], name=name) for name in ("a+b", "a-b")]},
            r"but are \['a\+b', 'a-b'\]",
        ),
        ({"variants": [POISSON.variants[0]] * 2}, "variants need names that differ"),
        ({"sizes": {"train": 4, "validation": 0, "test": 2}}, "none of them empty"),
        ({"sizes": {"train": 4000, "validation": 1, "test": 2}}, "needs 4003 samples, but its source makes"),
        ({"tests": {"train": POISSON.source}}, "names other than train, validation, test, but one is called 'train'"),
    ],
)
def test_an_experiment_that_contradicts_itself_makes_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        recipes.run_experiment(replace(POISSON, **changes), output=tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("later", "changes", "message"),
    [
        ({"arguments": {"widht": 2}}, {}, "unexpected keyword argument 'widht'"),
        (
            {"model": "UNet", "arguments": {"boundary": "periodic"}},
            {"source": FLOW.source.but("odd", resolution=8)},
            "divisible by 16",
        ),
        ({}, {"field_steps": (1, 99)}, "there is no rollout step 99"),
    ],
)
def test_what_ends_a_later_training_is_told_before_the_first(tmp_path, monkeypatch, later, changes, message):
    monkeypatch.setattr(runner, "fit", lambda *a, **k: pytest.fail("a variant was trained first"))
    variants = FLOW.variants[0], replace(FLOW.variants[0], name="later", **later)
    with pytest.raises((ValueError, IndexError), match=message):
        run(replace(FLOW, variants=variants, **changes), tmp_path)
