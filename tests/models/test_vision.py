"""Image backbones: published counts, images of any size and batch, numbers that stay numbers, timm's registry."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import Tensor

import kinn
from kinn.models.vision import KINN, VMAMBA, kinn_base, kinn_nano, kinn_small, kinn_tiny, multiply_adds
from kinn.models.vision.backbone import Stem
from kinn.nn import KirchhoffBlock


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("make", "count", "work"),
    [(kinn_tiny, 32_298_136, 4.899), (kinn_small, 50_277_448, 8.184), (kinn_base, 88_673_384, 14.354)],
)
def test_parameters_and_multiply_adds_of_the_paper(make, count, work) -> None:
    model = make(device="meta")
    assert parameters(model) == count
    assert multiply_adds(model) / 1e9 == pytest.approx(work, abs=5e-4)


@pytest.mark.parametrize(
    ("depths", "width", "expand", "count", "work"),
    [
        ((2, 2, 8, 2), 96, 1.0, 30_249_064, 4.9),
        ((2, 2, 15, 2), 96, 2.0, 50_147_752, 8.7),
        ((2, 2, 15, 2), 128, 2.0, 88_557_800, 15.4),
    ],
)
def test_vmamba_is_a_setting_with_its_published_counts(depths, width, expand, count, work) -> None:
    settings = {**VMAMBA, "expand": expand}
    model = KINN(depths=depths, dims=[width * 2**i for i in range(4)], device="meta", **settings)
    assert parameters(model) == count
    assert multiply_adds(model) / 1e9 == pytest.approx(work, abs=0.05)


def test_work_grows_with_the_image_alone() -> None:
    model = kinn_nano(num_classes=0)
    once, four = multiply_adds(model, (64, 64)), multiply_adds(model, (128, 128))
    assert four == 4 * once


def test_a_classifier_at_every_position_works_at_every_position() -> None:
    how = {"depths": (1, 1), "dims": (8, 16), "num_classes": 10}
    pooled, unpooled = (multiply_adds(KINN(**how, global_pool=pool), (64, 64)) for pool in ("avg", ""))
    assert unpooled - pooled == (8 * 8 - 1) * 16 * 10


@pytest.mark.parametrize("size", [(160, 160), (224, 192), (97, 61), (512, 512), (1, 1)])
def test_images_of_any_size_with_the_same_weights(size) -> None:
    model = kinn_nano(num_classes=7, in_chans=5).eval()
    with torch.no_grad():
        features = model.forward_features(images(2, 5, *size))
        assert features.shape == (2, *(-(-side // 32) for side in size), 192)
        assert model.forward_head(features).shape == (2, 7)


def test_an_image_does_not_see_its_batch() -> None:
    torch.manual_seed(0)
    model, batch = kinn_nano().eval().double(), images(5, 3, 64, 64).double()
    with torch.no_grad():
        together = model(batch)
        alone = torch.cat([model(image[None]) for image in batch])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e4])
def test_extreme_images_stay_finite_under_autocast(dtype, scale) -> None:
    torch.manual_seed(0)
    model, x = kinn_nano(num_classes=3), scale * images(2, 3, 64, 64)
    with torch.autocast("cpu", dtype):
        y = model(x)
    y.float().square().sum().backward()
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_half_precision_is_near_single() -> None:
    torch.manual_seed(0)
    model, x = kinn_nano().eval(), images(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(x).float()
        half = model.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (mixed - expected).norm() < 0.03 * expected.norm()
    assert (half.float() - expected).norm() < 0.05 * expected.norm()


def test_table_7_is_a_matter_of_arguments() -> None:
    """Each row of the ablation is another function of the same image; the cells' wiring costs no parameters."""
    rows = {
        "baseline": {"order": 1, "injection": "euler"},
        "parallel": {"wiring": "parallel", "injection": "euler"},
        "series": {"injection": "euler"},
        "series, exact": {},
    }
    models = {}
    for name, arguments in rows.items():
        torch.manual_seed(0)
        models[name] = kinn_nano(**arguments, dtype=torch.float64).eval()
    assert len({parameters(models[name]) for name in ("parallel", "series", "series, exact")}) == 1
    assert parameters(models["baseline"]) < parameters(models["series"])
    with torch.no_grad():
        outputs = torch.stack([model(images(1, 3, 64, 64).double())[0] for model in models.values()])
    apart = torch.cdist(outputs, outputs) + torch.eye(4)
    assert apart.min() > 1e-8  # at first, cells couple weakly; rounding is a thousand times below


def test_features_of_any_number_of_stages() -> None:
    model = timm.create_model("kinn_nano", features_only=True, depths=(1, 1, 1), dims=(8, 16, 32)).eval()
    with torch.no_grad():
        maps = model(images(1, 3, 40, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(10, 16, 8), (5, 8, 16), (3, 4, 32)]  # channels last
    assert model.feature_info.reduction() == [4, 8, 16]


def test_stages_of_equal_width_halve_the_resolution_all_the_same() -> None:
    model = KINN(depths=(1, 1), dims=(8, 8), num_classes=0)
    assert model.forward_features(images(1, 3, 32, 32)).shape == (1, 4, 4, 8)


def test_depth_drops_more_and_more() -> None:
    model = kinn_nano(drop_path_rate=0.4)
    rates = [block.drop_path for block in model.modules() if isinstance(block, KirchhoffBlock)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_no_decay_for_rates_skips_steps_and_norms() -> None:
    model = kinn_nano()
    names = model.no_weight_decay()
    first = "stages.0.blocks.0.cascades.0.0."
    assert {first + "A_log", first + "D", first + "dt_proj.bias", "norm.weight", "head.fc.bias"} <= names
    assert not names & {first + "dt_proj.weight", "head.fc.weight", "stem.down1.conv.weight"}


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"depths and dims must be equally many, got \(1, 2\) and \(8,\)"):
        KINN(depths=(1, 2), dims=(8,))
    with pytest.raises(ValueError, match="output_fmt must be one of 'NCHW', 'NHWC', got 'NLC'"):
        kinn_nano().forward_intermediates(images(1, 3, 32, 32), output_fmt="NLC")


@pytest.mark.parametrize("order", ["timm, kinn", "kinn, timm"])
def test_either_order_of_imports_fills_the_registry(order) -> None:
    code = f"import importlib.util as u; u.find_spec('timm'); import {order}; print(timm.list_models('kinn*'))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(["kinn_base", "kinn_nano", "kinn_small", "kinn_tiny"])


def test_kinn_alone_loads_no_timm() -> None:
    code = "import sys, kinn; assert kinn.FKNO; print([m for m in ('timm', 'torchvision') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_without_timm_the_error_names_the_extra(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"kinn.models.kinn_tiny needs timm: pip install 'kinn-torch\[vision\]'"):
        _ = kinn.models.kinn_tiny


def test_a_timm_that_lacks_something_still_loads(monkeypatch) -> None:
    def fails(name: str):
        raise ImportError("cannot import name 'feature_take_indices'")

    monkeypatch.setattr("kinn._timm.importlib", SimpleNamespace(import_module=fails))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kinn._timm._register()
    assert "not in timm's registry: cannot import name" in str(caught[0].message)


@pytest.mark.skipif(shutil.which("c++") is None, reason="Inductor needs a C++ compiler")
def test_the_compiled_stem_takes_images_of_other_sizes():
    """From the second size on, sizes are symbols to the compiler."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    stem = Stem(3, 8).eval()
    compiled = torch.compile(stem)
    with torch.no_grad():
        for height, width in ((64, 64), (96, 96), (33, 57)):
            x = images(1, 3, height, width)
            torch.testing.assert_close(compiled(x), stem(x), rtol=1e-4, atol=1e-4)
