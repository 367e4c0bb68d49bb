"""Where images come from: folders, shards and tar files; orders, parts, augmentation."""

from __future__ import annotations

import io
import pickle
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from kinn.train.images import ImageSettings, evaluate_images, fit_images, open_images
from kinn.train.images.data import evaluation_batches, training_batches
from kinn.train.images.sources import class_names
from kinn.train.processes import Process

CLASSES = ("dark", "light", "striped")
STATS = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def write_tar(path, entries):
    with tarfile.open(path, "w") as archive:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def png(image):
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="module")
def shards(picture, tmp_path_factory):
    pytest.importorskip("webdataset")
    root = tmp_path_factory.mktemp("shards")
    for part in ("train", "validation"):
        (root / part).mkdir()
        for shard in range(4):
            entries = []
            for index in range(8):
                label = (index + shard) % 3
                entries.append((f"{shard}-{index}.png", png(picture(CLASSES[label], index))))
                entries.append((f"{shard}-{index}.cls", str(label).encode()))
            write_tar(root / part / f"{shard:04}.tar", entries)
    return root


def open_shards(root, names="{0000..0003}.tar"):
    return [
        open_images(root, f"{part}/{names}", dataset="wds/", training=part == "train", samples=32, batch_size=8)
        for part in ("train", "validation")
    ]


def test_shards_are_read_as_folders_are(shards, tmp_path, quick):
    with pytest.raises(ValueError, match="how many classes"):
        fit_images(quick, *open_shards(shards), tmp_path / "run", progress=False)
    run = fit_images(replace(quick, epochs=1), *open_shards(shards), tmp_path / "run", num_classes=3, progress=False)
    found = evaluate_images(run.folder / "raw.safetensors", open_shards(shards)[1], workers=0, device="cpu")
    assert found["images"] == 32
    assert found["top1"] == run.curves["raw_top1"][-1]
    with pytest.raises(ValueError, match="the model has 2 classes, but the images hold class 2, counted from 0"):
        fit_images(quick, *open_shards(shards), tmp_path / "few", num_classes=2, progress=False)
    with pytest.raises(FileNotFoundError, match=r"has no shard train/0004.tar and 1 more, of 6"):
        open_shards(shards, "{0000..0005}.tar")


def test_an_interrupted_training_on_shards_goes_on(shards, tmp_path, stopping, quick, assert_equal_runs):
    whole = fit_images(quick, *open_shards(shards), tmp_path / "whole", num_classes=3, progress=False)
    with stopping():
        fit_images(quick, *open_shards(shards), tmp_path / "parts", num_classes=3, progress=False)
    parts = fit_images(quick, *open_shards(shards), tmp_path / "parts", num_classes=3, progress=False)
    assert_equal_runs(parts, whole)


def test_epochs_of_shards_have_orders_of_their_own(shards, quick):
    loader = training_batches(open_shards(shards)[0], quick, STATS, Process())
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


def test_a_part_is_never_taken_for_another(folder, tmp_path, quick):
    with pytest.raises(FileNotFoundError, match="has no part 'test'; it holds train, validation"):
        open_images(folder, "test")
    assert len(open_images(folder, "")) == 48 + 21
    whole = open_images(folder / "train", "")
    with pytest.raises(ValueError, match=r"training and validation images are the same, those of .*train"):
        fit_images(quick, whole, open_images(folder, "train"), tmp_path / "run")


def test_images_of_sixteen_bits_are_refused(tmp_path):
    (tmp_path / "train" / "one").mkdir(parents=True)
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "train" / "one" / "0.png")
    with pytest.raises(ValueError, match=r"one/0\.png has more than 8 bits a channel \(mode I;16\)"):
        open_images(tmp_path, "train")


@pytest.mark.parametrize("count", [1, 3])
def test_every_image_is_seen_once_an_epoch_but_for_an_incomplete_batch(folder, count, quick):
    settings = replace(quick, batch_size=9)
    orders = []
    for rank in range(count):
        loader = training_batches(open_images(folder, "train"), settings, STATS, Process(rank, count))
        orders.append([index for batch in loader.batch_sampler for _, index in batch])
    seen = [index for order in orders for index in order]
    assert len(seen) == len(set(seen)) == 45  # of 48
    loader.batch_sampler.sampler.set_epoch(1)
    assert [index for batch in loader.batch_sampler for _, index in batch] != orders[-1]


def test_processes_share_out_the_validation(folder, quick):
    parts = [evaluation_batches(open_images(folder, "validation"), quick, STATS, Process(r, 4)) for r in range(4)]
    assert sum(len(batch[1]) for loader in parts for batch in loader) == 21


def test_the_recipe_augments_whatever_it_draws(folder, picture):
    images = open_images(folder, "train")
    training_batches(images, replace(ImageSettings(), workers=0), STATS, Process())  # sets the transform
    (policy,) = [step for step in images.transform.transforms if hasattr(step, "ops")]
    harshest = [op for op in policy.ops if op.name.startswith("Posterize")]
    assert harshest
    for op in harshest:
        op.prob, op.magnitude, op.magnitude_std = 1.0, 10, 0
        op(picture("light", 0))
