"""The harness: what it refuses, what it counts, what it writes. Nothing here asserts a time."""

from __future__ import annotations

import json

import pytest
import torch

from kinn.bench import CONTENDERS, Contender, Machine, Shape, bench_scans, contenders, scan_cost, take_turns
from kinn.cli import main

MACHINE = Machine(bandwidth=1e10, peak=1e11)
CPU = torch.device("cpu")
TINY = {"tiny": Shape(2, 20, 3, 2)}


@pytest.fixture
def add(monkeypatch):
    """Adds a contender for this test."""
    return lambda name, prepare, **limits: monkeypatch.setitem(CONTENDERS, name, Contender(prepare, **limits))


def rows(**options):
    (result,) = bench_scans(TINY, CPU, MACHINE, repeats=2, **options)
    return result["contenders"]


def test_right_contenders_are_timed():
    found = rows(contenders=["kinn", "kinn, plain loop", "stored loop (as mamba-ssm's reference)"])
    assert all(row["runs"] == 2 and row["error"] < 1e-6 and row["roofline_percent"] > 0 for row in found.values())


def test_a_contender_finds_sequences_as_it_wants_them(add):
    right, seen = contenders.prepare("kinn", CPU)[0], []

    def scan(**arguments):
        seen.append({name: tensor.stride(1) == 1 for name, tensor in arguments.items() if tensor.dim() == 3})
        return right(**arguments)

    add("own", lambda: scan, steps_last=True)
    assert rows(contenders=["own"])["own"]["runs"] == 2
    assert all(all(given.values()) for given in seen)


def test_a_wrong_gradient_is_refused(add):
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y

        @staticmethod
        def backward(ctx, given):
            return 1.001 * given

    right = contenders.prepare("kinn", CPU)[0]
    add("wrong", lambda: lambda **arguments: Wrong.apply(right(**arguments)))
    row = rows(contenders=["wrong"])["wrong"]
    assert "median_s" not in row
    assert row["reason"].startswith("wrong: it differs from float64 by 1.0e-03")


def test_what_is_wrong_at_full_size_alone_is_refused(add):
    right = contenders.prepare("kinn", CPU)[0]

    def scan(**arguments):
        y = right(**arguments)
        return torch.cat((y[:, :-1], 1.01 * y[:, -1:]), 1) if y.shape[1] > 299 else y

    add("long", lambda: scan)
    (result,) = bench_scans({"long": Shape(1, 320, 3, 2)}, CPU, MACHINE, repeats=2, contenders=["long"])
    assert result["contenders"]["long"]["reason"].startswith("ArithmeticError: wrong at full size: it differs")


@pytest.mark.parametrize("of", ["values", "gradients", "shapes"])
def test_what_is_not_finite_or_of_another_shape_is_refused(add, of):
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return {"values": y * float("nan"), "gradients": y.clone(), "shapes": y[:1].clone()}[of]

        @staticmethod
        def backward(ctx, given):
            return given.expand(2, -1, -1) * (float("nan") if of == "gradients" else 1)

    right = contenders.prepare("kinn", CPU)[0]
    add("bad", lambda: lambda **arguments: Bad.apply(right(**arguments)))
    row = rows(contenders=["bad"])["bad"]
    assert "median_s" not in row
    assert "not finite, or of another shape" in row["reason"]
    json.dumps(row, allow_nan=False)


def test_reasons_are_named(add):
    def missing():
        raise ImportError("No module named 'peer'")

    def fails():
        def scan(**arguments):
            raise RuntimeError("one line\nand another")

        return scan

    add("missing", missing)
    add("fails", fails)
    add("elsewhere", missing, devices=("cuda",))
    add("short", missing, longest=10)
    found = rows(contenders=["missing", "fails", "elsewhere"])
    assert found["missing"] == {"reason": "ImportError: No module named 'peer'"}
    assert found["fails"] == {"reason": "RuntimeError: one line"}
    assert found["elsewhere"] == {"reason": "does not run on cpu"}
    add("short", lambda: None, longest=10)
    reason = "its time grows with the square of the length: too long at 20 steps"
    assert rows(contenders=["short"])["short"] == {"reason": reason}


def test_costs_grow_as_they_must():
    """Bytes with b l (d, n), operations with b l d n: moved by hand for one size."""
    moved, done = scan_cost(2, 5, 3, 4, backward=True)
    assert moved == 4 * (8 * 2 * 5 * 3 + 6 * 2 * 5 * 4)
    assert scan_cost(2, 5, 3, 8, backward=True)[1] == 2 * done == scan_cost(2, 10, 3, 4, backward=True)[1]
    assert MACHINE.shortest((1e9, 1e11)) == (1.0, "arithmetic")


def test_turns_alternate():
    order = []
    take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, warm_up=1)
    assert order == ["a", "b"] * 3
    order.clear()
    take_turns({"a": lambda: order.append("a")}, 1, least=1e-3)
    assert len(order) > 10  # short steps fill their turn


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("kinn.bench.QUICK", TINY)
    monkeypatch.setattr("kinn.bench.measure_machine", lambda device, **options: MACHINE)
    for name in ("mambapy", "transformers, without kernels"):  # missing, or slow
        monkeypatch.delitem(CONTENDERS, name)
    output = tmp_path / "bench.json"
    assert main(["bench", "--quick", "--threads", "1", "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    assert {"command", "seed", "hardware", "versions", "threads", "machine", "results"} <= record.keys()
    assert record["command"] == "kinn bench --shapes all --repeats 3 --device cpu --threads 1 --quick"
    said = capsys.readouterr().out
    assert "not timed: mamba-ssm: does not run on cpu" in said
    assert "left out by --quick" in said


def test_an_interrupt_keeps_the_shapes_that_are_done(tmp_path, capsys, monkeypatch):
    def interrupted(*arguments, **options):
        yield from bench_scans(TINY, CPU, MACHINE, repeats=1, contenders=["kinn"])
        raise KeyboardInterrupt

    monkeypatch.setattr("kinn.bench.bench_scans", interrupted)
    monkeypatch.setattr("kinn.bench.measure_machine", lambda device, **options: MACHINE)
    output = tmp_path / "bench.json"
    assert main(["bench", "--quick", "--output", str(output)]) == 130
    assert [result["name"] for result in json.loads(output.read_text())["results"]] == list(TINY)
    assert "the output file, if one was named, has the shapes that were finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--shapes", "huge"], "unknown shape 'huge'; known shapes: fkno, vision-56"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--device", "abacus"], "the device 'abacus' cannot be used here"),
    ],
)
def test_refusals(options, sentence, capsys):
    assert main(["bench", *options]) == 2
    assert sentence in capsys.readouterr().err


def test_a_folder_is_no_output(tmp_path, capsys):
    assert main(["bench", "--quick", "--output", str(tmp_path)]) != 0
    assert f"--output must be a file, but {tmp_path} is a folder" in capsys.readouterr().err
