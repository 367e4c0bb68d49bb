"""Two processes on the CPU give what one gives.

They are forked, which takes no time but is safe only with one thread; one test starts them as users do.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from kinn.cli import main
from kinn.data import Standard, generate_poisson, split
from kinn.models import register_model, registry
from kinn.recipes import Experiment, Source, Variant, run_experiment
from kinn.train import (
    OperatorTask,
    OptimizerSettings,
    Rollout,
    RolloutTask,
    TrainSettings,
    callbacks,
    evaluate,
    fit,
    fitting,
    load_model,
    processes,
)
from kinn.train.callbacks import AtomicCheckpoints
from kinn.train.processes import Process, run_processes
from kinn.train.settings import expect_devices

CPU = torch.device("cpu")


@register_model
class PartlyIdle(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.used = torch.nn.Parameter(torch.ones(8, 8))
        self.idle = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.used * x


@register_model
class Normed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(1)

    def forward(self, x):
        return self.norm(x)


OWN = {name: registry._MODELS.pop(name) for name in ("PartlyIdle", "Normed")}  # other tests go through all models


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    monkeypatch.setattr(processes, "_START_METHOD", "fork")
    monkeypatch.setattr(registry, "_MODELS", {**registry._MODELS, **OWN})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    assert multiprocessing.active_children() == []


@pytest.fixture
def parts(pairs):
    return split(pairs, {"train": 17, "validation": 7}, seed=0)


@pytest.fixture
def run(parts, small_fno, tmp_path):
    def run(folder, devices, *, lr=3e-3, epochs=3, **settings):
        normalizers = {
            "input_normalizer": Standard.fit(parts["train"].inputs),
            "output_normalizer": Standard.fit(parts["train"].outputs),
        }
        optimizer = OptimizerSettings(lr=lr, schedule="one-cycle", clip=0.5)
        task = OperatorTask(small_fno(), **normalizers, optimizer=optimizer)
        settings = TrainSettings(**{"epochs": epochs, "batch_size": 4, "device": "cpu", "devices": devices, **settings})
        return fit(task, parts["train"], parts["validation"], settings, tmp_path / folder, progress=False), task

    return run


def add_to_trainer(monkeypatch, callback):
    trainer = fitting.lightning.Trainer
    monkeypatch.setattr(
        fitting.lightning, "Trainer", lambda callbacks, **kw: trainer(callbacks=[*callbacks, callback], **kw)
    )


def same_numbers(found, expected, *, rel=1e-5):
    assert list(found.curves) == list(expected.curves)
    for name in set(expected.curves) - {"seconds"}:
        assert found.curves[name] == pytest.approx(expected.curves[name], rel=rel), name


def far_apart(a, b):
    """The largest relative distance of the weights of two models."""
    return max(((p - q).norm() / p.norm()).item() for p, q in zip(a.parameters(), b.parameters(), strict=True))


def speak(process, folder, tensors):
    """For the test below, in each process."""
    if process.rank > 0:
        tensors = [torch.zeros_like(tensor) for tensor in tensors]
    process.take_over(tensors)
    everyone = process.gather(process.rank * "x")
    torch.save((process, everyone, *tensors), f"{folder}/{process.rank}")


def test_what_processes_tell_one_another(tmp_path):
    tensors = torch.arange(6.0).reshape(2, 3).T, torch.tensor(2 - 1j), torch.tensor(True)
    run_processes(speak, [tmp_path, tensors], device=CPU, count=3)
    for rank in range(3):
        process, everyone, *found = torch.load(tmp_path / str(rank), weights_only=False)
        assert process == Process(rank, 3)
        assert everyone == ["", "x", "xx"]
        assert all(torch.equal(a, b) for a, b in zip(found, tensors, strict=True))


def test_processes_meet_in_a_folder_of_any_name(tmp_path, monkeypatch):
    (tmp_path / "a b#%20?").mkdir()
    monkeypatch.setattr(processes.tempfile, "tempdir", str(tmp_path / "a b#%20?"))
    run_processes(speak, [tmp_path, []], device=CPU, count=2)
    assert torch.load(tmp_path / "1", weights_only=False) == (Process(1, 2), ["", "x"])


@pytest.mark.parametrize("batch_size", [4, 10])
def test_two_processes_learn_what_one_does(run, batch_size):
    """17 samples: in batches of 4 the last has one sample, and one process nothing of it; of 10, they get 3 and 4."""
    (one, a), (two, b) = run("one", 1, batch_size=batch_size), run("two", 2, batch_size=batch_size)
    same_numbers(two, one)
    assert (one.devices, two.devices) == (1, 2)
    assert two.best_epoch == one.best_epoch
    assert far_apart(a.model, b.model) < 1e-4


def test_forecasts_see_the_same_noise(trajectories, small_fno, tmp_path):
    def forecast(devices):
        # what is predicted is added to the last frame, noise and all
        task = RolloutTask(
            small_fno(2), rollout=Rollout(n_history=2, predict_increment=True), unroll=2, input_noise=0.3
        )
        parts = split(trajectories, {"train": 5, "validation": 3}, seed=None)  # 30 windows
        settings = TrainSettings(epochs=2, batch_size=8, device="cpu", devices=devices)
        return fit(task, parts["train"], parts["validation"], settings, tmp_path / str(devices), progress=False)

    same_numbers(forecast(2), forecast(1))


def test_parameters_that_are_not_used_stay_as_they_are(parts, tmp_path):
    def train(devices):
        torch.manual_seed(0)
        task = OperatorTask(PartlyIdle(), optimizer=OptimizerSettings(name="adam", weight_decay=0.1, decay_all=True))
        settings = TrainSettings(epochs=2, batch_size=8, device="cpu", devices=devices)
        fit(task, parts["train"], parts["validation"], settings, tmp_path / str(devices), progress=False)
        return task.model

    one, two = train(1), train(2)
    assert two.idle.item() == one.idle.item() == 1
    assert far_apart(one, two) < 1e-5
    assert not torch.equal(two.used, torch.ones(8, 8))


@pytest.mark.parametrize("fresh", [True, False])
def test_batch_norms_are_saved_as_they_were_validated(fresh, parts, tmp_path):
    """Measured anew they are those of the epoch's whole batches, of which the last is smaller."""
    task = OperatorTask(Normed(), optimizer=OptimizerSettings(lr=0.1))
    settings = TrainSettings(epochs=2, batch_size=8, device="cpu", devices=2, batch_norm_batches=32 if fresh else 0)
    result = fit(task, parts["train"], parts["validation"], settings, tmp_path, progress=False)
    found = evaluate(load_model(result.model_path), parts["validation"]).metrics
    assert found == pytest.approx({name: result.curves[name][result.best_epoch - 1] for name in found}, rel=1e-5)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["model.norm.running_var"].item()
    order = torch.randperm(17, generator=torch.Generator().manual_seed(1)).tolist()  # of the second epoch
    variances = [parts["train"].batch(order[i : i + 8])[0].var().item() for i in (0, 8, 16)]
    assert (kept == pytest.approx(sum(variances) / 3, rel=1e-5)) is fresh


def test_early_stopping_is_decided_alike(run):
    one, two = (run(str(devices), devices, epochs=20, lr=0.3, patience=2)[0] for devices in (1, 2))
    assert one.epochs < 20
    assert (two.epochs, two.best_epoch) == (one.epochs, one.best_epoch)


def test_a_run_goes_on_with_another_number_of_devices(run, monkeypatch, tmp_path):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.current_epoch == 1:
                raise KeyboardInterrupt

    whole, _ = run("whole", 1)
    for first, then in ((2, 2), (2, 1)):
        folder = f"{first} then {then}"
        with monkeypatch.context() as patch:
            add_to_trainer(patch, Stop())
            with pytest.raises(KeyboardInterrupt):
                run(folder, first)
        assert not (tmp_path / folder / "result.json").exists()
        resumed, _ = run(folder, then)
        assert resumed.devices == then
        same_numbers(resumed, whole)


def test_a_comparison_on_two_processes_has_the_numbers_of_one(tmp_path):
    mine = Experiment(
        name="mine",
        title="Mine",
        source=Source("poisson", generate_poisson, {"samples": 12, "resolution": 16, "max_mode": 4, "seed": 0}),
        sizes={"train": 8, "validation": 2, "test": 2},
        variants=(Variant("FNO", "FNO", "baseline", {"width": 4, "n_modes": (4, 4)}),),
        loss="relative_l2",
        primary_metric="relative_l2",
        normalize="standard",
        optimizer=OptimizerSettings(lr=1e-2),
        training=TrainSettings(epochs=2, batch_size=4),
    )
    one, two = (
        json.loads(path.read_text())
        for devices in (1, 2)
        for path in run_experiment(mine, output=tmp_path / str(devices), device="cpu", devices=devices, progress=False)
    )
    assert (one["devices"], two["devices"]) == (1, 2)
    for part, found in two["metrics"].items():
        assert found == pytest.approx(one["metrics"][part], rel=1e-4)


def test_ctrl_c_stops_all_processes_and_leaves_no_half_file(run, tmp_path, request):
    handler = signal.default_int_handler  # a shell starts what runs in the background with Ctrl-C ignored
    request.addfinalizer(functools.partial(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, handler)))

    def interrupt():
        while not (tmp_path / "run" / "metrics.csv").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run("run", 2, epochs=100_000)
    thread.join()
    assert signal.getsignal(signal.SIGINT) is handler
    assert multiprocessing.active_children() == []
    assert not [name for name in os.listdir(tmp_path / "run") if name.endswith(".part")]


def test_a_loss_that_diverges_in_one_process_stops_all(run, monkeypatch):
    batch_loss = OperatorTask.batch_loss

    def poisoned(self, *batch):
        return batch_loss(self, *batch) * (float("nan") if self.process.rank == 1 and self.global_step == 6 else 1)

    monkeypatch.setattr(OperatorTask, "batch_loss", poisoned)
    with pytest.raises(FloatingPointError, match="became nan in epoch 2, step 2: lower the learning rate") as caught:
        run("run", 2)
    assert "in poisoned" not in str(caught.value)
    assert "training_step" in str(caught.value.__cause__)


def test_of_two_errors_the_first_is_the_cause(tmp_path, monkeypatch):
    for rank, (at, error) in enumerate([(2.0, RuntimeError("connection closed")), (1.0, ValueError("cause"))]):
        monkeypatch.setattr(time, "time", lambda at=at: at)
        processes._write_error(tmp_path / f"error-{rank}", error)
    assert str(processes._first_error(tmp_path, [1, 1])) == "cause"


def test_one_process_writes(run, monkeypatch, tmp_path):
    def noted(place, name):
        function = getattr(place, name)

        def write(*args, **options):
            with (tmp_path / "writers").open("a") as file:
                file.write(f"{name} {os.environ['LOCAL_RANK']}\n")
            return function(*args, **options)

        monkeypatch.setattr(place, name, write)

    noted(callbacks, "write_text")
    noted(fitting, "save_model")
    noted(AtomicCheckpoints, "save_checkpoint")
    run("run", 2, epochs=1)
    written = (tmp_path / "writers").read_text().splitlines()
    assert sorted(written) == ["save_checkpoint 0", "save_model 0", "write_text 0"]


def fall(process, code):
    """For the test below: one process ends without a word, the other would wait for it."""
    if process.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL) if code < 0 else os._exit(code)
    time.sleep(100)


@pytest.mark.parametrize(
    ("code", "message"),
    [(-9, "process 1 of 2 was ended by signal 9: memory may have run out"), (3, r"could not start \(exit code 3\)")],
)
def test_a_process_that_ends_without_a_word_is_named(code, message):
    with pytest.raises(ChildProcessError, match=message):
        run_processes(fall, [code], device=CPU, count=2)


def test_too_few_samples_or_devices_are_refused(run, monkeypatch):
    with pytest.raises(ValueError, match="8 devices need as many validation samples, but there are 7"):
        run("run", 8, batch_size=8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="devices must be at most 1, the number of 'cuda' devices here, but is 2"):
        expect_devices(torch.device("cuda"), 2)
    expect_devices(CPU, 2)


def test_the_command_line_speaks_once(tmp_path, monkeypatch, capfd):
    """With processes that are started afresh, as users' are; what they say comes from them, not from the tests."""
    monkeypatch.setattr(processes, "_START_METHOD", "spawn")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(f"generate poisson --resolution 16 --max-mode 6 --samples 12 --output {tmp_path}/p.h5".split()) == 0
    capfd.readouterr()
    model = "--model FNO --model-arguments.width 4 --model-arguments.n_modes [3,3]"
    settings = "--epochs 1 --batch-size 4 --validation 0.25 --device cpu --devices 2 --compile kernels"
    files = f"--data {tmp_path}/p.h5 --output {tmp_path}/run"
    assert main(["train", *files.split(), *model.split(), *settings.split()]) == 0
    out, err = capfd.readouterr()
    starts = ["FNO, ", "An epoch: ", "Best of 1 epochs", "Model: ", "Measure it on other data"]
    for line, start in zip(out.splitlines(), starts, strict=True):
        assert line.startswith(start)
    message, progress = err.splitlines()
    assert message.endswith("without compiling its steps, because steps on several devices are not compiled")
    assert "3/3 steps" in progress
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["devices"], result["compiled"]) == (2, "none")
