"""Images that nobody has split: of each class a part is held out, the same one whenever it is asked for."""

from __future__ import annotations

import tarfile

import pytest

from kinn.train.images import open_images
from kinn.train.images.parts import hold_out
from kinn.train.images.sources import class_names


def names(part):
    return part._images.filenames()


def test_of_every_class_as_large_a_part_is_held_out(folder, tmp_path):
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(folder / "train", arcname=".")
    for root in (folder / "train", tmp_path / "all.tar"):
        whole = open_images(root, "")
        train, held = hold_out(whole, 0.25, seed=0)
        assert class_names(train) == class_names(held) == ["dark", "light", "striped"]
        assert [sum(label == kind for _, label in held) for kind in range(3)] == [4, 4, 4]
        assert len(train) == 36
        assert sorted(names(train) + names(held)) == sorted(whole.filenames())
        assert names(hold_out(open_images(root, ""), 0.25, seed=0)[1]) == names(held)
        assert names(hold_out(whole, 0.25, seed=1)[1]) != names(held)
        train.transform, held.transform = lambda _: "train", lambda _: "held"
        assert (train[0][0], held[0][0]) == ("train", "held")


def test_what_cannot_be_split(folder):
    whole = open_images(folder, "train")
    with pytest.raises(ValueError, match=r"between 0 and 1, but is 1\.0"):
        hold_out(whole, 1.0, seed=0)
    with pytest.raises(ValueError, match="class dark has 16 images: too few for training and validation"):
        hold_out(whole, 0.99, seed=0)
    with pytest.raises(ValueError, match="not of other data sets: name their validation part"):
        hold_out([], 0.5, seed=0)
