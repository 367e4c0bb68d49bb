from __future__ import annotations

import copy
import csv
import errno
import io
import os
import signal

import pytest
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback

from kinn.data import split
from kinn.models import build
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
)
from kinn.train.callbacks import AtomicCheckpoints


def weights(task):
    return {name: value.clone() for name, value in task.model.state_dict().items()}


def same_weights(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


def numbers(result):
    return {name: values for name, values in result.curves.items() if name != "seconds"}


class StopAfter(Callback):
    """Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, *_):
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


def interrupt(run, monkeypatch, *, epoch, **options):
    trainer = fitting.lightning.Trainer
    with monkeypatch.context() as patch:
        patch.setattr(
            fitting.lightning,
            "Trainer",
            lambda callbacks, **kw: trainer(callbacks=[*callbacks, StopAfter(epoch)], **kw),
        )
        handler = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            run(**options)
        assert signal.getsignal(signal.SIGINT) is handler


def test_training_lowers_the_loss_and_keeps_the_best_model(run, parts, tmp_path):
    result, task = run(epochs=12, lr=2e-2)
    losses = result.curves["validation_loss"]
    assert losses[-1] < 0.6 * losses[0]
    assert result.best_epoch == 1 + losses.index(min(losses))
    trained = load_model(result.model_path)
    assert same_weights(weights(task), trained.model.state_dict())
    found = evaluate(trained, parts["validation"]).metrics
    best = {name: result.curves[name][result.best_epoch - 1] for name in found}
    assert found == pytest.approx(best, rel=1e-4)
    assert trained.metadata["extra"]["epoch"] == result.best_epoch
    assert task.trained.metadata["extra"] == trained.metadata["extra"]
    assert result.train_seconds == pytest.approx(sum(result.curves["seconds"]))
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["validation_loss"]) for row in rows] == pytest.approx(losses)
    assert any((tmp_path / "run" / "tensorboard").iterdir())


def test_curves_that_another_program_holds_do_not_end_a_training(run, monkeypatch, tmp_path):
    def held(path, text):
        raise PermissionError(errno.EACCES, "Access is denied")

    monkeypatch.setattr(callbacks, "write_text", held)
    with pytest.warns(UserWarning, match=r"metrics\.csv lacks epochs until .* \(Access is denied\)") as seen:
        result, _ = run(epochs=2)
    assert len([warning for warning in seen if "metrics.csv" in str(warning.message)]) == 1
    assert result.epochs == 2


def test_same_seed_same_numbers_other_seed_other_numbers(run):
    (first, a), (second, b), (third, c) = run("a"), run("b"), run("c", seed=1)
    assert numbers(first) == numbers(second)
    assert same_weights(weights(a), weights(b))
    assert numbers(first) != numbers(third)
    assert not same_weights(weights(a), weights(c))


@pytest.mark.parametrize("checkpoint_every", [1, 2])
def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(run, monkeypatch, tmp_path, checkpoint_every):
    whole, a = run("whole", checkpoint_every=checkpoint_every)
    interrupt(run, monkeypatch, epoch=3, folder="cut", checkpoint_every=checkpoint_every)
    assert (tmp_path / "cut" / "last.ckpt").exists()
    torch.manual_seed(123)
    resumed, b = run("cut", checkpoint_every=checkpoint_every)
    assert numbers(resumed) == numbers(whole)
    assert same_weights(weights(a), weights(b))
    last = [torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "cut")]
    assert same_weights(last[0]["state_dict"], last[1]["state_dict"])


def test_a_run_resumed_with_readers_gives_the_same_numbers(run, monkeypatch):
    """Readers begin before the epoch does: they must know which one it is."""
    whole, _ = run("whole")
    interrupt(run, monkeypatch, epoch=3, folder="cut", workers=2)
    assert numbers(run("cut", workers=2)[0]) == numbers(whole)


def test_resume_goes_on_instead_of_starting_anew(run, monkeypatch):
    interrupt(run, monkeypatch, epoch=2)
    epochs = []

    class Count(Callback):
        def on_train_epoch_start(self, trainer, *_):
            epochs.append(trainer.current_epoch)

    trainer = fitting.lightning.Trainer
    monkeypatch.setattr(
        fitting.lightning, "Trainer", lambda callbacks, **kw: trainer(callbacks=[*callbacks, Count()], **kw)
    )
    run()
    assert epochs == [2, 3]


def test_a_finished_run_returns_at_once(run, monkeypatch, tmp_path):
    first, a = run()
    told = (tmp_path / "run" / "config.yaml").read_text()
    monkeypatch.setattr(fitting.lightning, "Trainer", None)
    second, b = run(log_every=7)
    assert first == second
    assert (tmp_path / "run" / "config.yaml").read_text() == told  # how it ran, not how it was asked for again
    assert same_weights(weights(a), weights(b))


def test_resume_with_input_noise_repeats_the_noise(trajectories, small_fno, monkeypatch, tmp_path):
    def forecast(folder):
        task = RolloutTask(small_fno(2), rollout=Rollout(n_history=2), unroll=2, input_noise=0.1)
        settings = TrainSettings(epochs=3, batch_size=16, device="cpu")
        parts = split(trajectories, {"train": 6, "validation": 2}, seed=None)
        return fit(task, parts["train"], parts["validation"], settings, tmp_path / folder, progress=False), task

    whole, a = forecast("whole")
    interrupt(lambda: forecast("cut"), monkeypatch, epoch=1)
    resumed, b = forecast("cut")
    assert numbers(resumed) == numbers(whole)
    assert same_weights(weights(a), weights(b))
    assert load_model(whole.model_path).rollout == Rollout(n_history=2)


def test_a_damaged_checkpoint_is_named(run, monkeypatch, tmp_path):
    interrupt(run, monkeypatch, epoch=1)
    checkpoint = tmp_path / "run" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be read .*: delete it to start this run anew"):
        run()


def test_a_model_in_double_precision_is_refused(pairs, small_fno, tmp_path):
    task = OperatorTask(small_fno().double())
    with pytest.raises(ValueError, match=r"trained in float32, .* parameters of torch.complex128, torch.float64"):
        fit(task, pairs, pairs, TrainSettings(device="cpu"), tmp_path, progress=False)


def test_early_stopping(run):
    result, _ = run(epochs=30, lr=0.3, patience=2)
    assert result.epochs < 30
    assert result.epochs == result.best_epoch + 2


def test_without_patience_left_a_run_does_not_train_on(run, tmp_path):
    result, _ = run(epochs=30, lr=0.3, patience=2)
    (result.model_path.parent / "result.json").unlink()  # killed before it was written
    again, _ = run(epochs=30, lr=0.3, patience=2)
    assert numbers(again) == numbers(result)


def test_a_task_of_a_cluster_trains_alone_and_logs(run, monkeypatch):
    for name, value in {"NTASKS": "3", "PROCID": "1", "JOB_NAME": "job", "LOCALID": "1", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    result, _ = run(epochs=1)
    assert list((result.model_path.parent / "tensorboard").glob("events*"))
    assert rank_zero_only.rank == 1


def test_a_diverged_run_stops_with_a_reason(run, small_fno, monkeypatch):
    batch_loss = OperatorTask.batch_loss

    def poisoned(self, *batch):
        return batch_loss(self, *batch) * (float("nan") if self.global_step == 4 else 1)

    monkeypatch.setattr(OperatorTask, "batch_loss", poisoned)
    with pytest.raises(FloatingPointError, match="became nan in epoch 2, step 2: lower the learning rate"):
        run()


def test_the_callers_random_numbers_and_warnings_are_left_alone(run, recwarn):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    run()
    assert torch.equal(torch.rand(3), expected)
    assert [str(w.message) for w in recwarn if not issubclass(w.category, DeprecationWarning)] == []


def test_silence(run, capfd):
    run(epochs=1)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


def test_progress_shows_the_whole_training(parts, small_fno, tmp_path, capfd):
    task = OperatorTask(small_fno())
    settings = TrainSettings(epochs=2, batch_size=8, device="cpu")
    fit(task, parts["train"], parts["validation"], settings, tmp_path / "run", title="FNO")
    assert "FNO: 4/4 steps" in capfd.readouterr().err
    assert not [name for name in os.listdir(tmp_path / "run") if name.endswith(".part")]


def batch_norm_statistics(model):
    return torch.cat([m.running_mean for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)])


@pytest.fixture
def run_ukno(parts, tmp_path):
    def run(folder, *, clip=0.0, **settings):
        torch.manual_seed(0)
        model = build("UKNO", {"in_channels": 1, "out_channels": 1, "order": 0, "width": 4, "levels": 1})
        task = OperatorTask(model, optimizer=OptimizerSettings(lr=3e-3, clip=clip))
        settings = TrainSettings(**{"epochs": 2, "batch_size": 8, "device": "cpu", **settings})
        return fit(task, parts["train"], parts["validation"], settings, tmp_path / folder, progress=False), model

    return run


def test_batch_norms_hold_the_statistics_of_the_final_weights(run_ukno, parts):
    """Also with readers in other processes and in half precision."""
    result, model = run_ukno("fresh")
    assert result.best_epoch == 2
    kept = batch_norm_statistics(model)
    by_hand = copy.deepcopy(model).train()
    for module in by_hand.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1)).tolist()  # of the second epoch
    with torch.no_grad():
        for batch in (order[:8], order[8:]):
            by_hand(torch.stack([parts["train"][i][0] for i in batch]))
    torch.testing.assert_close(kept, batch_norm_statistics(by_hand), rtol=1e-5, atol=1e-6)
    assert all(m.momentum == 0.1 for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))

    other = run_ukno("workers", workers=2)[1]
    assert torch.equal(batch_norm_statistics(other), kept)
    half = batch_norm_statistics(run_ukno("half", precision="bf16")[1])
    assert (half - kept).norm() < 0.1 * kept.norm()
    averaged = run_ukno("averages", batch_norm_batches=0)[1]
    assert not torch.allclose(batch_norm_statistics(averaged), kept, rtol=1e-2)


def test_half_precision_clips_gradients(run_ukno):
    """Also of a model whose parameters are all real, which one kernel would update: Lightning clips none before it."""
    losses = [run_ukno(f"clip{clip}", precision="bf16", clip=clip)[0].curves["train_loss"] for clip in (1e-6, 1.0)]
    assert losses[0] != losses[1]


def test_the_deterministic_mode_ends_with_the_training(run, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what is set here is unset afterwards
    seen = []
    batch_loss = OperatorTask.batch_loss

    def watched(self, *batch):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return batch_loss(self, *batch)

    monkeypatch.setattr(OperatorTask, "batch_loss", watched)
    run(epochs=1, deterministic=True)
    assert all(seen)
    assert not torch.are_deterministic_algorithms_enabled()


def test_models_without_batch_norms_pay_nothing_for_them(parts, small_fno, tmp_path):
    """FNO has batch norms that it does not call."""
    model, calls = small_fno(), []
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    model.register_forward_hook(lambda *_: calls.append(model.training))
    settings = TrainSettings(epochs=2, batch_size=8, device="cpu")
    fit(OperatorTask(model), parts["train"], parts["validation"], settings, tmp_path, progress=False)
    assert calls == [True, True, False] * 2


@pytest.mark.parametrize("room", [0, 64, 1000, 5000])
def test_a_checkpoint_on_a_full_disk_says_so(tmp_path, monkeypatch, room):
    """Wherever in torch's archive the disk is full, the error is the disk's, and no file is left."""

    class FullDisk(io.BufferedWriter):
        left = room

        def write(self, content):
            self.left -= len(content)
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(content)

    monkeypatch.setattr(os, "fdopen", lambda handle, mode: FullDisk(io.FileIO(handle, mode)))
    with pytest.raises(OSError, match=r"No space left on device: '.*last\.ckpt'"):
        AtomicCheckpoints().save_checkpoint({"weights": torch.zeros(1000)}, tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []
