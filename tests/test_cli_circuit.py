"""`kinn circuit`: what it measures, and the circuit that it shows."""

from __future__ import annotations

import json

import pytest
import torch

from kinn.circuit import Bank, Cascade, RCNode
from kinn.cli import main
from kinn.data import Standard, export_dataset, from_arrays, from_trajectories
from kinn.models import FKNO, UKNO
from kinn.nn import circuit_of, time_scales
from kinn.train import Rollout, load_model, save_model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model of few numbers, whose blocks see half and a quarter of the input's points, and data for it."""
    folder = tmp_path_factory.mktemp("circuit")
    torch.manual_seed(0)
    model = UKNO(1, 1, width=2, levels=2, d_state=2, routes=2, skip_blocks=0, neck_blocks=0)
    save_model(folder / "model.safetensors", model)
    x = torch.randn(3, 1, 16, 8)
    export_dataset(from_arrays(x, x), folder / "data.h5", layout="kinn")
    return folder, x


def shown(capsys, *arguments) -> tuple[str, dict]:
    """What the command prints, and its record."""
    capsys.readouterr()
    assert main(["circuit", *map(str, arguments)]) == 0
    return capsys.readouterr().out, json.loads(arguments[-1].read_text())


def test_time_constants_in_points_of_the_input_too(files, tmp_path, capsys):
    folder, _ = files
    options = folder / "model.safetensors", "--data", folder / "data.h5", "--output", tmp_path / "c.json"
    text, record = shown(capsys, *options)
    assert record["input_grid"] == [16, 8]
    assert {cell["block"]: cell["grid"] for cell in record["cells"]} == {
        "down_blocks.1": [8, 4], "neck_block": [4, 2], "up_blocks.1": [8, 4],
    }  # fmt: skip
    for cell, times in zip(record["cells"], (2, 2, 2, 2, 4)):
        row = [f"{value:.3g}" for value in (*cell["time_constant"], times * cell["time_constant"][1])]
        assert any(row == [word for word in line.split() if word != "│"][-4:] for line in text.splitlines())
    assert "circuit" not in record


def test_the_circuit_of_a_channel(files, tmp_path, capsys):
    folder, x = files
    model = load_model(folder / "model.safetensors").model
    place = {"block": "neck_block", "route": 1, "channel": 3, "position": [1, 0]}
    given = folder / "model.safetensors", "--data", folder / "data.h5", "--channel", 3
    chosen = "--block", "neck_block", "--route", 1, "--position", 1, 0
    text, record = shown(capsys, *given, *chosen, "--output", tmp_path / "c.json")
    expected, found = circuit_of(model, lambda: model(x), **place), record["circuit"]
    assert {name: found[name] for name in place} == place
    banks = [Bank([RCNode(**node) for node in stage["nodes"]], stage["d"]) for stage in found["stages"]]
    times, values = found["step_response"]["points"], found["step_response"]["values"]
    assert times[:4] == [0, 1, 4, 16]
    for circuit in (expected, Cascade(banks, dense=found["dense"])):
        assert found["poles"] == pytest.approx(circuit.poles)
        assert found["dc_gain"] == pytest.approx(circuit.dc_gain)
        assert values == pytest.approx(circuit.step_response(times))
    assert values[-1] == pytest.approx(expected.dc_gain, abs=0.05 * abs(expected.dc_gain - expected.feedthrough))
    for value in (*(node.time_constant for node in expected.nodes), *(bank.dc_gain for bank in expected.banks)):
        assert f" {value:.3g} " in text
    assert f"Order 4, of 4 potentials. Gain {expected.feedthrough:.4g} at once, {expected.dc_gain:.4g}" in text
    middle = shown(capsys, *given, "--output", tmp_path / "c.json")[1]["circuit"]
    assert (middle["block"], middle["route"], middle["position"]) == ("down_blocks.1", 0, [4, 2])


def test_a_forecaster_takes_one_step_from_the_datas_own_frames(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    frames, normalizer = 3 + 2 * torch.randn(2, 6, 1, 8, 8), Standard(3.0, 2.0)
    save_model(
        tmp_path / "m.safetensors",
        FKNO(2, 1, width=4, n_modes=(2, 2), d_state=2),
        input_normalizer=normalizer, output_normalizer=normalizer, rollout=Rollout(n_history=2),
    )  # fmt: skip
    export_dataset(from_trajectories(frames), tmp_path / "data.h5", layout="kinn")
    seen, forward = [], FKNO.forward
    monkeypatch.setattr(FKNO, "forward", lambda self, x, **options: seen.append(x) or forward(self, x, **options))
    _, record = shown(
        capsys, tmp_path / "m.safetensors", "--data", tmp_path / "data.h5", "--output", tmp_path / "c.json"
    )
    (given,) = seen
    trained = load_model(tmp_path / "m.safetensors")
    torch.testing.assert_close(given, trained.output_normalizer.encode(frames[:, :2]).flatten(1, 2))
    expected = time_scales(trained.model, lambda: trained.model(given))
    assert [cell["step"] for cell in record["cells"]] == [pytest.approx(scale.step) for scale in expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--channel", "3"], "--channel needs --data: a cell at rest injects nothing"),
        (["--position", "3", "1"], "--position chooses a circuit: give its --channel, too"),
        (["--data", "{0}/data.h5", "--channel", "9"], "channel must lie in 0 .. 3, got 9"),
        (["--data", "{0}/data.h5", "--channel", "3", "--block", "trunk"], "the blocks are down_blocks.1, neck_block,"),
        (["--data", "{0}/data.h5", "--channel", "3", "--position", "4"], "position must have 2 indices"),
    ],
)
def test_a_circuit_that_is_not_there(files, capsys, options, message):
    folder, _ = files
    assert main(["circuit", f"{folder}/model.safetensors", *(option.format(folder) for option in options)]) == 2
    assert message in capsys.readouterr().err
