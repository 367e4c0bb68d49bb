"""Training on images: folders to model files, resume to the bit, averages, mixed labels, schedules, evaluation."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import subprocess
import sys
import tarfile
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from rich.console import Console

from kinn import progress
from kinn.train.images import ImageSettings, evaluate_images, fit_images, fitting, load_classifier, open_images
from kinn.train.images.data import evaluation_batches, training_batches
from kinn.train.images.sources import class_names
from kinn.train.images.task import Counts, ImageTask
from kinn.train.processes import Process

STATS = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
QUICK = ImageSettings(
    model="kinn_nano",
    model_arguments={"depths": (1, 1), "dims": (8, 16)},
    image_size=16,
    epochs=3,
    batch_size=8,
    warmup_epochs=1,
    lr=4e-3,
    workers=0,
    device="cpu",
    crop=1.0,
    drop_path=0.1,
)
CLASSES = ("dark", "light", "striped")


def picture(label: str, index: int) -> Image.Image:
    noise = np.random.default_rng([index, CLASSES.index(label)]).integers(0, 40, (20, 24, 3))
    level = {"dark": 20, "light": 200, "striped": 20 + 180 * (np.arange(24) // 3 % 2)[None, :, None]}[label]
    return Image.fromarray((level + noise).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for part, count in (("train", 16), ("validation", 7)):
        for label in CLASSES:
            (root / part / label).mkdir(parents=True)
            for index in range(count):
                picture(label, index + 100 * (part == "train")).save(root / part / label / f"{index}.png")
    return root


def fit(folder, output, settings=QUICK, **options):
    parts = open_images(folder, "train"), open_images(folder, "validation")
    return fit_images(settings, *parts, output, progress=False, **options)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    settings = replace(QUICK, epochs=12, mixup=0.0, cutmix=0.0, auto_augment="", scale=None, erasing=0.0)
    return fit(folder, tmp_path_factory.mktemp("run") / "run", settings)


def test_a_folder_becomes_a_classifier_that_knows_its_classes(folder, trained):
    assert class_names(open_images(folder, "train")) == list(CLASSES)
    assert trained.curves["ema_top1"][-1] > 90  # a third by chance
    model, about = load_classifier(trained.folder / "model.safetensors")
    assert (about["weights"], about["classes"], about["epoch"]) == ("ema", list(CLASSES), 12)
    assert about["validation"]["ema_top1"] == trained.curves["ema_top1"][-1]
    assert not model.training


def test_files_hold_the_average_the_best_of_it_and_the_weights_themselves(trained):
    found = {name: load_classifier(trained.folder / f"{name}.safetensors")[1] for name in ("model", "best", "raw")}
    assert [about["weights"] for about in found.values()] == ["ema", "ema", "raw"]
    assert found["best"]["epoch"] == trained.best_epoch
    assert found["best"]["validation"]["ema_top1"] == max(trained.curves["ema_top1"])
    raw, ema = (load_classifier(trained.folder / f"{name}.safetensors")[0].state_dict() for name in ("raw", "model"))
    assert any(not torch.equal(raw[name], ema[name]) for name in raw)


def test_evaluation_gives_the_numbers_of_the_training_at_any_batch_size(folder, trained):
    for name, weights in (("model", "ema"), ("raw", "raw")):
        for batch_size in (1, 64):
            found = evaluate_images(
                trained.folder / f"{name}.safetensors", open_images(folder, "validation"), batch_size=batch_size,
                workers=0, device="cpu",
            )  # fmt: skip
            assert found["images"] == 21
            assert found["top1"] == pytest.approx(trained.curves[f"{weights}_top1"][-1])
            assert found["loss"] == pytest.approx(trained.curves[f"{weights}_loss"][-1], rel=1e-5)


def test_evaluation_draws_its_bar_on_a_terminal(folder, trained, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=out, force_terminal=True, width=100))
    images = open_images(folder, "validation")
    evaluate_images(trained.folder / "model.safetensors", images, batch_size=8, workers=0, device="cpu", progress=True)
    assert "3/3 batches" in out.getvalue()


def test_evaluation_at_another_resolution(folder, trained):
    images = open_images(folder, "validation")
    found = evaluate_images(trained.folder / "model.safetensors", images, size=24, workers=0, device="cpu")
    assert images.transform.transforms[-1].mean is not None
    assert next(iter(images))[0].shape == (3, 24, 24)
    assert found["top5"] == 100  # three classes


def test_timm_reads_the_file(trained):
    settings = {"depths": (1, 1), "dims": (8, 16), "num_classes": 3}
    model = timm.create_model("kinn_nano", checkpoint_path=trained.folder / "model.safetensors", **settings).eval()
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(x), load_classifier(trained.folder / "model.safetensors")[0](x))


class StopError(Exception):
    pass


@pytest.fixture
def stopping(monkeypatch):
    """Stops a training at the beginning of its third epoch."""

    def stops(self):
        if self.current_epoch == 2:
            raise StopError
        start(self)

    start = ImageTask.on_train_epoch_start

    @contextmanager
    def stopped():
        with monkeypatch.context() as change, pytest.raises(StopError):
            change.setattr(ImageTask, "on_train_epoch_start", stops)
            yield

    return stopped


def assert_equal_runs(one, other):
    for name in ("train_loss", "validation_loss", "raw_loss", "ema_top1"):
        assert one.curves[name] == other.curves[name], name
    weights, others = (load_classifier(run.folder / "model.safetensors")[0].state_dict() for run in (one, other))
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_an_interrupted_training_goes_on_to_the_same_numbers(folder, tmp_path, stopping):
    whole = fit(folder, tmp_path / "whole")
    with stopping():
        fit(folder, tmp_path / "parts")
    assert_equal_runs(fit(folder, tmp_path / "parts", replace(QUICK, workers=2)), whole)  # whoever reads the images


def test_a_finished_training_returns_at_once_and_another_needs_its_own_folder(folder, tmp_path, monkeypatch):
    first = fit(folder, tmp_path)
    monkeypatch.setattr(fitting, "_train", None)
    assert fit(folder, tmp_path).curves == first.curves
    with pytest.raises(ValueError, match=r"lr is 0.004, this run has 0.001"):
        fit(folder, tmp_path, replace(QUICK, lr=1e-3))


def test_accumulated_parts_take_the_steps_of_the_whole_batch(folder, tmp_path):
    plain = replace(QUICK, mixup=0.0, cutmix=0.0, auto_augment="", scale=None, erasing=0.0, drop_path=0.0, epochs=2)
    whole = fit(folder, tmp_path / "whole", plain)
    parts = fit(folder, tmp_path / "parts", replace(plain, accumulate=2))
    assert parts.curves["raw_loss"] == pytest.approx(whole.curves["raw_loss"], rel=1e-4)


@pytest.mark.parametrize("count", [1, 3])
def test_every_image_is_seen_once_an_epoch_but_for_an_incomplete_batch(folder, count):
    settings = replace(QUICK, batch_size=9)
    orders = []
    for rank in range(count):
        loader = training_batches(open_images(folder, "train"), settings, STATS, Process(rank, count))
        orders.append([index for batch in loader.batch_sampler for _, index in batch])
    seen = [index for order in orders for index in order]
    assert len(seen) == len(set(seen)) == 45  # of 48
    loader.batch_sampler.sampler.set_epoch(1)
    assert [index for batch in loader.batch_sampler for _, index in batch] != orders[-1]


def test_processes_share_out_the_validation(folder):
    parts = [evaluation_batches(open_images(folder, "validation"), QUICK, STATS, Process(r, 4)) for r in range(4)]
    assert sum(len(batch[1]) for loader in parts for batch in loader) == 21


def test_counts_against_a_written_example():
    logits = torch.tensor([[3.0, 1, 0, 0, 0, 0, 2], [0, 0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]])
    counts = Counts()
    counts.add(logits[:1], torch.tensor([0]))
    counts.add(logits[1:], torch.tensor([3, 0]))
    found = counts.result()
    assert found["top1"] == pytest.approx(100 / 3)
    assert found["top5"] == pytest.approx(200 / 3)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 3, 0])).item()
    assert found["loss"] == pytest.approx(expected)


def test_the_average_follows_the_weights_and_decay_spares_what_it_should(folder):
    model = timm.create_model("kinn_nano", num_classes=3)
    task = ImageTask(model, replace(QUICK, layer_decay=0.5), classes=3, steps_per_epoch=4, process=Process())
    optimizer = task.configure_optimizers()["optimizer"]
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    spared = model.no_weight_decay()
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (name not in spared), name
    rates = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    first, last = model.stem.down1.conv.weight, model.head.fc.weight
    assert rates[id(last)] == QUICK.lr
    assert rates[id(first)] < rates[id(last)] / 16


def write_tar(path, entries):
    with tarfile.open(path, "w") as archive:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def png(label, index):
    file = io.BytesIO()
    picture(label, index).save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    pytest.importorskip("webdataset")
    root = tmp_path_factory.mktemp("shards")
    for part in ("train", "validation"):
        (root / part).mkdir()
        for shard in range(4):
            entries = []
            for index in range(8):
                label = (index + shard) % 3
                entries.append((f"{shard}-{index}.png", png(CLASSES[label], index)))
                entries.append((f"{shard}-{index}.cls", str(label).encode()))
            write_tar(root / part / f"{shard:04}.tar", entries)
    return root


def open_shards(root, names="{0000..0003}.tar"):
    return [
        open_images(root, f"{part}/{names}", dataset="wds/", training=part == "train", samples=32, batch_size=8)
        for part in ("train", "validation")
    ]


def test_shards_are_read_as_folders_are(shards, tmp_path):
    with pytest.raises(ValueError, match="how many classes"):
        fit_images(QUICK, *open_shards(shards), tmp_path / "run", progress=False)
    run = fit_images(replace(QUICK, epochs=1), *open_shards(shards), tmp_path / "run", num_classes=3, progress=False)
    found = evaluate_images(run.folder / "raw.safetensors", open_shards(shards)[1], workers=0, device="cpu")
    assert found["images"] == 32
    assert found["top1"] == run.curves["raw_top1"][-1]
    with pytest.raises(ValueError, match="the model has 2 classes, but the images hold class 2, counted from 0"):
        fit_images(QUICK, *open_shards(shards), tmp_path / "few", num_classes=2, progress=False)
    with pytest.raises(FileNotFoundError, match=r"has no shard train/0004.tar and 1 more, of 6"):
        open_shards(shards, "{0000..0005}.tar")


def test_an_interrupted_training_on_shards_goes_on_to_the_same_numbers(shards, tmp_path, stopping):
    whole = fit_images(QUICK, *open_shards(shards), tmp_path / "whole", num_classes=3, progress=False)
    with stopping():
        fit_images(QUICK, *open_shards(shards), tmp_path / "parts", num_classes=3, progress=False)
    parts = fit_images(QUICK, *open_shards(shards), tmp_path / "parts", num_classes=3, progress=False)
    assert_equal_runs(parts, whole)


def test_epochs_of_shards_have_orders_of_their_own(shards):
    loader = training_batches(open_shards(shards)[0], QUICK, STATS, Process())
    orders = []
    for epoch in (0, 0, 1):
        loader.dataset.set_epoch(epoch)
        orders.append(torch.cat([classes for _, classes in loader]).tolist())
    assert orders[0] == orders[1] != orders[2]


def test_a_tar_file_for_every_part(folder, trained, tmp_path):
    for part in ("train", "validation"):
        files = sorted((folder / part).rglob("*.png"))
        write_tar(tmp_path / f"{part}.tar", [(f"{file.parent.name}/{file.name}", file.read_bytes()) for file in files])
    archives, folders = ([open_images(root, part) for part in ("train", "val")] for root in (tmp_path, folder))
    assert [len(part) for part in archives] == [len(part) for part in folders] == [48, 21]
    assert class_names(archives[0]) == list(CLASSES)
    pickle.dumps(archives[0])  # as workers that are not forked get it: no archive is open yet
    file = trained.folder / "raw.safetensors"
    found = evaluate_images(file, open_images(tmp_path / "validation.tar", ""), workers=0, device="cpu")
    assert found["loss"] == pytest.approx(trained.curves["raw_loss"][-1])


def test_a_part_is_never_taken_for_another(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no part 'test'; it holds train, validation"):
        open_images(folder, "test")
    assert len(open_images(folder, "")) == 48 + 21
    whole = open_images(folder / "train", "")
    with pytest.raises(ValueError, match=r"training and validation images are the same, those of .*train"):
        fit_images(QUICK, whole, open_images(folder, "train"), tmp_path / "run")


def test_evaluation_goes_by_the_names_of_classes(folder, trained, tmp_path):
    for label in ("striped", "light"):
        (tmp_path / label).symlink_to(folder / "validation" / label)
    found = evaluate_images(trained.folder / "raw.safetensors", open_images(tmp_path, ""), workers=0, device="cpu")
    assert (found["images"], found["top1"] > 90) == (14, True)
    (tmp_path / "spotted").symlink_to(folder / "validation" / "dark")
    with pytest.raises(ValueError, match="does not know the classes spotted; it knows dark, light, striped"):
        evaluate_images(trained.folder / "raw.safetensors", open_images(tmp_path, ""), workers=0, device="cpu")


def test_images_of_sixteen_bits_are_refused(tmp_path):
    (tmp_path / "train" / "one").mkdir(parents=True)
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "train" / "one" / "0.png")
    with pytest.raises(ValueError, match=r"one/0\.png has more than 8 bits a channel \(mode I;16\)"):
        open_images(tmp_path, "train")


def test_a_model_without_stochastic_depth_is_trained_without(folder, tmp_path):
    settings = replace(QUICK, model="ghostnet_100", model_arguments={})
    with pytest.raises(ValueError, match="ghostnet_100 knows no stochastic depth: leave drop_path out"):
        fit(folder, tmp_path / "asked", settings)
    with pytest.raises(ValueError, match="stochastic depth is the setting drop_path"):
        fit(folder, tmp_path / "other", replace(QUICK, model_arguments={"drop_path_rate": 0.5}))
    with pytest.warns(UserWarning, match="ghostnet_100 knows no stochastic depth"):
        made = fitting._model(replace(settings, drop_path=None), 3)
    assert made.num_classes == 3


def test_grey_images(folder, tmp_path):
    grey = replace(QUICK, model_arguments={**QUICK.model_arguments, "in_chans": 1})
    run = fit(folder, tmp_path / "run", grey)
    model, about = load_classifier(run.folder / "model.safetensors")
    assert model.stem.down1.conv.in_channels == len(about["mean"]) == 1
    found = evaluate_images(run.folder / "raw.safetensors", open_images(folder, "validation"), workers=0, device="cpu")
    assert found["loss"] == pytest.approx(run.curves["raw_loss"][-1], rel=1e-5)
    with pytest.raises(ValueError, match="3 channels, or 1 if they are grey, but the model expects 2"):
        fit(folder, tmp_path / "two", replace(grey, model_arguments={"in_chans": 2}))


def test_the_recipe_augments_whatever_it_draws(folder):
    images = open_images(folder, "train")
    training_batches(images, replace(ImageSettings(), workers=0), STATS, Process())  # sets the transform
    (policy,) = [step for step in images.transform.transforms if hasattr(step, "ops")]
    harshest = [op for op in policy.ops if op.name.startswith("Posterize")]
    assert harshest
    for op in harshest:
        op.prob, op.magnitude, op.magnitude_std = 1.0, 10, 0
        op(picture("light", 0))


def test_two_processes_under_torchrun_agree_with_one(folder, tmp_path):
    plain = {"mixup": 0.0, "cutmix": 0.0, "auto_augment": "", "erasing": 0.0, "drop_path": 0.0, "epochs": 2}
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\nfrom dataclasses import replace\nfrom kinn.train.images import *\n"
        f"settings = replace(ImageSettings(), **{ {**vars(QUICK), **plain, 'scale': None}!r})\n"
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


def test_what_cannot_be_trained(folder, tmp_path):
    with pytest.raises(ValueError, match="there is no model 'kinn_tinny'; similar ones: kinn_base, kinn_nano"):
        fit(folder, tmp_path, replace(QUICK, model="kinn_tinny"))
    with pytest.raises(ValueError, match="similar ones: swin_tiny_patch4_window7_224"):
        fit(folder, tmp_path, replace(QUICK, model="swin_tiny"))
    with pytest.raises(ValueError, match="num_classes is 2, but the images have 3 classes"):
        fit(folder, tmp_path, num_classes=2)
    with pytest.raises(ValueError, match="precision 16 needs a GPU"):
        fit(folder, tmp_path, replace(QUICK, precision="16"))
    with pytest.raises(ValueError, match=r"multiple of accumulate times processes \(3\), but is 8"):
        fit(folder, tmp_path, replace(QUICK, accumulate=3))
    with pytest.raises(FileNotFoundError, match="there is no image folder"):
        open_images(tmp_path / "nowhere", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError):
        open_images(tmp_path / "empty", "train")
    other = tmp_path / "other" / "validation" / "blue"
    other.mkdir(parents=True)
    picture("dark", 0).save(other / "0.png")
    with pytest.raises(ValueError, match="different classes: blue, dark, light, striped occur in one alone"):
        fit_images(QUICK, open_images(folder, "train"), open_images(tmp_path / "other", "validation"), tmp_path / "r")
    (tmp_path / "foreign.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged, or no model file"):
        load_classifier(tmp_path / "foreign.safetensors")
    for change, message in (
        ({"epochs": 0}, "epochs must be at least 1, but is 0"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1"),
        ({"crop": 0}, "crop must be above 0 and at most 1"),
        ({"scale": (0.5, 0.1)}, "scale must be None or two numbers, above 0, at most 1, the lower first"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers, at least 0 and below 1"),
        ({"precision": "fp16"}, "precision must be one of 32, bf16, 16, but is 'fp16'"),
        ({"device": "gpu"}, "device must be one of auto, cpu, cuda, mps, but is 'gpu'"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(QUICK, **change)
