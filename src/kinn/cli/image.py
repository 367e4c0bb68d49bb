"""`kinn train image` and `kinn evaluate image`: classifiers on image folders, shards and hubs."""

from __future__ import annotations

import os
from typing import Any

from jsonargparse import Namespace

from kinn.cli.parser import Commands, Parser, add_config, add_settings, config_of, settings_of


def add(commands: Commands) -> None:
    """Declare both commands."""
    parser = Parser(
        usage="kinn train image --data FOLDER --output FOLDER [options]",
        description="Train an image classifier: a KINN, or any other model of timm's. The defaults are VMamba's recipe "
        "for ImageNet-1K. OUTPUT/model.safetensors holds the averaged weights of the last epoch, which are to be "
        "reported, best.safetensors those of the best one, raw.safetensors the last weights without averaging. An "
        "interrupted training goes on when the same command is given again.",
        epilog="Examples:\n"
        "  kinn train image --data flowers --output runs/flowers --epochs 50 --batch-size 64\n"
        "  kinn train image --data imagenet --output runs/t --model kinn_tiny --precision bf16\n"
        "On several GPUs, or several nodes with torchrun's own options:\n"
        "  torchrun --nproc-per-node 8 -m kinn train image --data imagenet --output runs/t --precision bf16",
    )
    commands.add(
        "train-image",
        parser,
        _train_options,
        _train,
        help="train an image classifier (also: train image)",
        after_interrupt="the same command goes on from the last finished epoch",
    )
    parser = Parser(
        usage="kinn evaluate image MODEL DATA [options]",
        description="Measure an image classifier: top-1 and top-5 accuracy, at any resolution.",
        epilog="Example:\n  kinn evaluate image runs/t/model.safetensors imagenet --size 288 --crop 1",
    )
    commands.add(
        "evaluate-image",
        parser,
        _evaluate_options,
        _evaluate,
        help="measure an image classifier (also: evaluate image)",
        after_interrupt="nothing was written",
    )


def _train_options(parser: Parser) -> None:
    from kinn.train.images.settings import ImageSettings

    add_config(parser)
    parser.add_argument("--data", type=str, required=True, help="folder with images by part and class, or with shards")
    parser.add_argument("--output", type=str, required=True, help="folder for the run's files")
    _add_source(parser)
    parser.add_argument("--train-part", type=str, default="train", help="name of the part to learn from")
    parser.add_argument(
        "--validation-part",
        type=str,
        default="validation",
        help="name of the part that is validated; or a fraction, such as 0.1, of each class of the other part",
    )
    parser.add_argument(
        "--split-seed", type=int | None, default=None, help="of the random choice of such a fraction; by default 0"
    )
    parser.add_argument(
        "--samples", type=int, nargs=2, default=None, help="images in both parts, for shards that do not tell"
    )
    parser.add_argument("--num-classes", type=int | None, default=None, help="for data that do not tell")
    parser.add_argument(
        "--init",
        type=str | None,
        default=None,
        help="file of weights to start from, ours or any that timm reads; a classifier for another number of "
        "classes is drawn anew",
    )
    add_settings(parser.add_argument_group("Recipe"), ImageSettings)


def _evaluate_options(parser: Parser) -> None:
    parser.add_argument("model", type=str, help="file of the model, as kinn train image writes it")
    parser.add_argument("data", type=str, help="folder with images by part and class, or with shards")
    _add_source(parser)
    parser.add_argument(
        "--part", type=str, default="validation", help="name of the part that is measured; '' for all there is"
    )
    parser.add_argument("--samples", type=int | None, default=None, help="images, for shards that do not tell")
    parser.add_argument("--size", type=int | None, default=None, help="of square crops; by default the training's")
    parser.add_argument(
        "--crop", type=float | None, default=None, help="part of an image that is looked at; by default the training's"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images at once; does not change the result")
    parser.add_argument("--workers", type=int, default=4, help="processes that read images")
    parser.add_argument("--device", type=str, default="auto", help="where to compute: auto, cpu or cuda")


def _add_source(parser: Parser) -> None:
    parser.add_argument(
        "--dataset",
        type=str,
        default="",
        help="reader: empty for folders and tar files, wds/ for shards, hfds/NAME for a Hugging Face data set",
    )
    parser.add_argument("--class-map", type=str, default="", help="file with the names of the classes, in their order")


def _train(options: Namespace) -> int:
    from kinn.train.images import ImageSettings, fit_images
    from kinn.train.images.launch import launched

    config = config_of(options)
    settings = settings_of(config, ImageSettings)
    batch = max(1, settings.batch_size // settings.accumulate // launched()[0].count)
    train, validation = _parts(options, settings.seed, batch)
    found = fit_images(
        settings,
        train,
        validation,
        options.output,
        num_classes=options.num_classes,
        initial=options.init,
        config=config,
    )
    if launched()[0].rank == 0:
        weights = "ema" if settings.ema else "raw"
        top1, top5 = (found.curves[f"{weights}_{metric}"] for metric in ("top1", "top5"))
        print(
            f"Last of {len(top1)} epochs: top-1 {top1[-1]:.2f} %, top-5 {top5[-1]:.2f} %; best epoch "
            f"{found.best_epoch}: top-1 {top1[found.best_epoch - 1]:.2f} %\n"
            f"Model: {os.path.join(options.output, 'model.safetensors')}"
        )
    return 0


def _parts(options: Namespace, seed: int, batch_size: int) -> tuple[Any, Any]:
    from kinn.train.images import open_images
    from kinn.train.images.parts import hold_out

    source = {"dataset": options.dataset, "class_map": options.class_map, "seed": seed, "batch_size": batch_size}
    samples = options.samples or (None, None)
    train = open_images(options.data, options.train_part, training=True, samples=samples[0], **source)
    try:
        fraction = float(options.validation_part)
    except ValueError:
        fraction = 0.0
    if 0 < fraction < 1:
        return hold_out(train, fraction, seed=options.split_seed or 0)
    return train, open_images(options.data, options.validation_part, samples=samples[1], **source)


def _evaluate(options: Namespace) -> int:
    from kinn.train.images import evaluate_images, open_images

    images = open_images(
        options.data, options.part, dataset=options.dataset, class_map=options.class_map, samples=options.samples,
        batch_size=options.batch_size,
    )  # fmt: skip
    settings: dict[str, Any] = {name: options[name] for name in ("size", "crop", "batch_size", "workers", "device")}
    found = evaluate_images(options.model, images, progress=True, **settings)
    print(
        f"{found['images']:.0f} images: top-1 {found['top1']:.2f} %, top-5 {found['top5']:.2f} %, "
        f"cross entropy {found['loss']:.4f}"
    )
    return 0
