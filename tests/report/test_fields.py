from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from kinn.report import load_records
from kinn.report.fields import draw_rollout, draw_sample, field_pictures
from kinn.report.shots import field_scale, samples
from kinn.report.style import LIGHT


def images(figure: Figure) -> dict[str, list]:
    """Images by colour map, in the order they were drawn; colour bars hold none."""
    found: dict[str, list] = {}
    for axes in figure.axes:
        for image in axes.images:
            found.setdefault(image.get_cmap().name, []).append(image)
    return found


def test_one_picture_for_each_sample(records):
    navier_stokes, poisson = load_records(records)
    assert [p.name for p in field_pictures(poisson)] == ["demo-poisson-fields-1", "demo-poisson-fields-2"]
    (rollout,) = field_pictures(navier_stokes)
    assert "rolled out from step 1 to step 40" in rollout.caption
    assert all(p.kind == "png" and p.render(LIGHT).startswith(b"\x89PNG") for p in field_pictures(poisson))


def test_truth_and_predictions_share_one_scale_and_errors_another(records):
    records[0]["fields"][0]["prediction"][18][8] = 0.7  # the widest value lies in one prediction only
    (poisson,) = load_records(records[:2])
    shots = samples(poisson)["test sample 0"][None]
    shown = images(draw_sample(shots, LIGHT))
    source, truth, first, second = shown["RdBu_r"]
    assert truth.get_clim() == first.get_clim() == second.get_clim() == (-0.7, 0.7)
    assert source.get_clim() != truth.get_clim()
    low, high = shown["PuOr"][0].get_clim()
    assert low == -high
    assert high == pytest.approx(max(np.abs(s.error).max() for s in shots.values()))
    assert [image.get_clim() for image in shown["PuOr"]] == [(low, high)] * 2
    np.testing.assert_array_equal(truth.get_array(), shots["UKNO K=0"].truth.T)  # first axis to the right
    np.testing.assert_allclose(shown["PuOr"][1].get_array(), (shots["UKNO K=2"].prediction - shots["UKNO K=2"].truth).T)


def test_a_rollout_shares_its_scales_over_all_steps(records):
    navier_stokes = load_records(records[2:])[0]
    moments = sorted(samples(navier_stokes)["test sample 3"].items())
    shown = images(draw_rollout(moments, LIGHT))
    assert len(shown["RdBu_r"]) == 4 * 3
    assert len(shown["magma_r"]) == 4 * 2
    assert all(len({image.get_clim() for image in group}) == 1 for group in shown.values())


def test_errors_of_unlike_size_share_a_logarithmic_scale_that_hides_none(records):
    truth = np.asarray(records[0]["fields"][0]["truth"])
    waves = np.sin(np.arange(32) / 3)[:, None] * np.ones(32)
    for record, size in zip(records[:2], (0.5, 0.002)):
        record["fields"][0]["prediction"] = (truth + size * waves).tolist()
    (poisson,) = load_records(records[:2])
    picture = field_pictures(poisson)[0]
    wild, good = images(picture.draw(LIGHT))["magma_r"]
    assert "logarithmic" in picture.caption
    assert wild.norm is not good.norm
    assert wild.get_clim() == good.get_clim()
    for image, size in ((wild, 0.5), (good, 0.002)):
        np.testing.assert_allclose(image.get_array().max(), size, rtol=0.02)
        assert not np.ma.getmaskarray(image.norm(image.get_array())).any()  # an error of zero is no gap
    shades = good.norm(good.get_array())
    assert shades.max() - shades.min() > 0.15  # of the colour map: not blank beside 250 times as much
    assert "logarithmic" not in field_pictures(load_records(records[:2])[0])[1].caption


def panels(figure: Figure) -> list:
    """Boxes of the panels that hold an image."""
    return [axes.get_position() for axes in figure.axes if axes.images]


def apart(boxes: list) -> bool:
    return not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_few_steps_stand_beside_their_errors_and_the_last_input(tables):
    (rollout,) = load_records(tables("ns-rollout")[:2])
    moments = sorted(samples(rollout)["test sample 3"].items())
    figure = draw_rollout(moments, LIGHT)
    shown = images(figure)
    assert [len(shown[name]) for name in ("RdBu_r", "magma_r")] == [1 + 3 * 3, 3 * 2]
    assert len({image.get_clim() for image in shown["RdBu_r"]}) == 1
    for prediction, error in zip(shown["RdBu_r"][-2:], shown["magma_r"][-2:]):
        left, right = (image.axes.get_position() for image in (prediction, error))
        assert right.x0 > left.x1
        assert right.y0 == pytest.approx(left.y0)
    assert apart(panels(figure))
    assert "at the right" in field_pictures(rollout)[0].caption
    assert "“Last input” is the newest frame" in field_pictures(rollout)[0].caption


def test_many_variants_take_several_bands_on_one_scale(tables):
    (orders,) = load_records(tables("poisson-order"))
    figure = draw_sample(samples(orders)["test sample 0"][None], LIGHT)
    shown = images(figure)
    predictions = shown["RdBu_r"][2:]
    assert len(predictions) == len(shown["PuOr"]) == 6
    assert len({image.get_clim() for image in shown["RdBu_r"][1:]}) == 1
    assert len({image.get_clim() for image in shown["PuOr"]}) == 1
    assert len({image.axes.get_position().y0 for image in predictions}) == 2
    assert apart([axes.get_position() for axes in figure.axes])
    assert min(box.width for box in panels(figure)) * figure.get_size_inches()[0] > 1  # inches: wide enough to read


@pytest.mark.parametrize(("width", "aspect"), [(16, 0.5), (4, 0.25), (1, 0.25)])
def test_panels_lie_within_the_figure_and_keep_the_shape_of_the_grid(records, width, aspect):
    """But for long fields and lines, which would be threads."""
    for record in records[:2]:
        for sample in record["fields"]:
            for name in ("input", "truth", "prediction"):
                sample[name] = [row[:width] for row in sample[name]]
    (poisson,) = load_records(records[:2])
    figure = draw_sample(samples(poisson)["test sample 0"][None], LIGHT)
    wide, high = figure.get_size_inches()
    for axes in figure.axes:
        box = axes.get_position()
        assert 0 <= box.x0 < box.x1 <= 1
        assert 0 <= box.y0 < box.y1 <= 1
        if axes.images:
            assert box.height * high / (box.width * wide) == pytest.approx(aspect)


def test_a_field_of_one_sign_has_no_diverging_map(records):
    for record in records[:2]:
        sample = record["fields"][0]
        for name in ("truth", "prediction"):
            sample[name] = (np.asarray(sample[name]) + 5).tolist()
    (poisson,) = load_records(records[:2])
    shown = images(draw_sample(samples(poisson)["test sample 0"][None], LIGHT))
    assert len(shown["viridis"]) == 3


def test_gaps_are_drawn_and_named(records):
    records[0]["fields"][0]["prediction"][0][0] = None  # diverged
    records[1]["fields"] = []
    (poisson,) = load_records(records[:2])
    picture = field_pictures(poisson)[0]
    assert "not finite" in picture.alt
    assert "No field was kept for UKNO K=2" in picture.caption
    assert picture.render(LIGHT)


def test_differing_truths_under_one_label_are_named(records):
    truth = records[1]["fields"][0]["truth"]
    records[1]["fields"][0]["truth"] = [[value + 1e-5 for value in row] for row in truth]  # as machines round
    assert "differ" not in field_pictures(load_records(records[:2])[0])[0].caption
    records[1]["fields"][0]["truth"][5][5] += 1.0
    assert "truths kept under this label differ" in field_pictures(load_records(records[:2])[0])[0].caption


def test_number_over_an_error_is_its_relative_norm(records):
    (poisson,) = load_records(records[:2])
    assert "UKNO K=0 3.12 % and UKNO K=2 1.87 %" in field_pictures(poisson)[0].alt


def test_predictions_that_are_all_far_off_by_unlike_amounts_are_drawn(records):
    rng = np.random.default_rng(0)
    for record, far in zip(records[:2], (50, 1000)):
        for sample in record["fields"]:
            truth = np.asarray(sample["truth"])
            sample["prediction"] = (truth + far * rng.standard_normal(truth.shape)).tolist()
    for picture in field_pictures(load_records(records[:2])[0]):
        assert picture.render(LIGHT).startswith(b"\x89PNG")


def test_a_wild_prediction_does_not_wash_out_the_others(records):
    records[0]["fields"][0]["prediction"][3][4] = 1e6
    (poisson,) = load_records(records[:2])
    shots = samples(poisson)["test sample 0"][None]
    figure = draw_sample(shots, LIGHT)
    largest = np.abs(shots["UKNO K=2"].truth).max()
    for image in [*images(figure)["RdBu_r"][1:], *images(figure)["magma_r"]]:
        assert image.get_clim()[1] < 4 * largest
    assert field_scale([shots["UKNO K=0"].truth], [shots["UKNO K=0"].prediction]).clipped
