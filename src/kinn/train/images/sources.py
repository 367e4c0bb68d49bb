"""Labelled images from folders, archives, shards and hubs, through timm's readers."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from PIL import Image
from timm.data import ImageDataset, create_dataset
from torch.utils.data import IterableDataset

from kinn.train.images.launch import meet

_STREAMS = ("wds", "tfds", "hfids")  # readers that yield images in an order of their own
_PACKAGES = {"wds": "webdataset", "hfds": "datasets", "hfids": "datasets", "tfds": "tensorflow_datasets"}
_LOOKED_AT = 16  # images of a part, whose depth stands for all
_SYNONYMS = ("train", "training"), ("validation", "val", "valid", "eval", "evaluation")

Images = Any
"""A data set of timm's: items are (image, class); `transform` makes tensors of images."""


def open_images(
    root: str | Path, split: str, *, dataset: str = "", training: bool = False, samples: int | None = None,
    batch_size: int = 1, seed: int = 0, class_map: str = "",
) -> Images:  # fmt: skip
    """One part of an image data set.

    Args:
        root: a folder with a folder or a tar file for every part, and in it a folder for every class; a folder of
            shards; or where a hub's data set is kept.
        split: the part: "train", "validation" (or "val", "valid", "eval"), or the data set's own name for it; for
            shards their names, as in `train-{0000..0099}.tar`; "" if all of `root`, a folder or a tar file, is one.
        dataset: "" for folders and tar files; `wds/` for tar shards (webdataset); `hfds/NAME` and, streamed,
            `hfids/NAME` for Hugging Face data sets; `torch/NAME` for torchvision's.
        training: whether shards are shuffled.
        samples: number of images, for shards that do not tell.
        batch_size: of the loader, for shards.
        seed: of the order of shards.
        class_map: file with the names of the classes in their order; "" sorts the folders.

    Raises:
        FileNotFoundError: if there is no such folder, part or shard, or no image in it.
        ImportError: if the reader needs a package that is not there.
    """
    reader = dataset.partition("/")[0].lower()
    if not dataset:
        root = _part(Path(root), split)
    package = _PACKAGES.get(reader)
    if package and find_spec(package) is None:
        raise ImportError(f"data sets by {reader}/ need the package {package}: pip install {package}")
    streams = {"num_samples": samples, "batch_size": batch_size, "seed": seed} if reader in _STREAMS else {}
    if streams:
        meet()
    try:
        found: Images = create_dataset(
            dataset, root=str(root), split=split, is_training=training, class_map=cast(Any, class_map),
            search_split=bool(dataset), **streams,
        )  # fmt: skip
    except RuntimeError as error:  # timm's: no image or shard found
        raise FileNotFoundError(f"{root}: {error}") from error
    if reader == "wds":
        _check_shards(Path(root), found.reader.split_info.filenames)
    elif not isinstance(found, IterableDataset) and len(found) == 0:
        raise FileNotFoundError(f"{root} holds no images for part {split!r}")
    if isinstance(found, ImageDataset):
        _check_depth(found)
    return found


def _check_depth(images: Any) -> None:
    """Refuse images of more than 8 bits a channel, all of whose values would become white; some stand for all."""
    reader = copy.deepcopy(images.reader)  # an archive that this process opened is not for its workers
    for index in range(0, len(images), -(-len(images) // _LOOKED_AT)):
        try:
            with reader[index][0] as file, Image.open(file) as image:
                mode = image.mode
        except OSError:
            continue  # told when it is read
        if mode[0] in "IF":
            raise ValueError(
                f"image {images.filename(index)} has more than 8 bits a channel (mode {mode}): convert all to 8 bits"
            )


def class_names(images: Images) -> list[str] | None:
    """Names of the classes in the order of their numbers, where a data set has them."""
    for holder in (getattr(images, "reader", None), images):
        for name in ("class_to_idx", "class_name_to_idx"):  # of folders and of tar files
            if indices := getattr(holder, name, None):
                return sorted(indices, key=indices.__getitem__)
    return None


def place(images: Images) -> str | None:
    """The folder or tar file that a part is read from, where it has one to itself."""
    reader: Any = getattr(images, "reader", None)
    return str(reader.root) if hasattr(reader, "samples") else None


def _part(root: Path, split: str) -> Path:
    """The folder or tar file of a part; never another part's, or that of all parts."""
    if not root.exists():
        raise FileNotFoundError(f"there is no image folder {root}")
    if not split:
        return root
    names = next((group for group in _SYNONYMS if split in group), ())
    for name in (split, *names) if root.is_dir() else ():
        for path in (root / name, root / f"{name}.tar"):
            if path.exists():
                return path
    inside = sorted(root.iterdir()) if root.is_dir() else []
    held = [path.name for path in inside if path.is_dir() or path.suffix == ".tar"]
    what = f"; it holds {', '.join(held[:8])}{', ...' if len(held) > 8 else ''}" if held else ""
    raise FileNotFoundError(f"{root} has no part {split!r}{what} (name the part '' if all of {root} is one)")


def _check_shards(root: Path, names: tuple[str, ...]) -> None:
    lost = [n for n in names if not any(mark in f"{root}{n}" for mark in (":/", "pipe:")) and not (root / n).exists()]
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise FileNotFoundError(f"{root} has no shard {lost[0]}{more}, of {len(names)}")
