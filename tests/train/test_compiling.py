from __future__ import annotations

import shutil
import signal
import warnings
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from kinn.data import split
from kinn.models import build
from kinn.train import OperatorTask, OptimizerSettings, Rollout, RolloutTask, TrainSettings, evaluate, fit, load_model
from kinn.train.compiling import AUTO_STEPS, CompiledLoss, chosen_mode

GOES_ON = "goes on without compiling its steps, because"


@pytest.mark.parametrize(
    ("setting", "device", "steps", "mode"),
    [
        ("auto", "cpu", 10**6, "none"),
        ("auto", "mps", 10**6, "none"),
        ("auto", "cuda", AUTO_STEPS, "cuda-graphs"),
        ("auto", "cuda", AUTO_STEPS - 1, "none"),
        ("none", "cuda", 10**6, "none"),
        ("kernels", "cpu", 1, "kernels"),
        ("kernels", "cuda", 1, "kernels"),
        ("cuda-graphs", "cuda", 1, "cuda-graphs"),
    ],
)
def test_what_is_compiled(setting, device, steps, mode):
    assert chosen_mode(setting, device=device, steps=steps) == (mode, None)


def test_steps_on_several_devices_are_not_compiled():
    assert chosen_mode("auto", device="cuda", steps=10**6, devices=2) == ("none", None)
    mode, reason = chosen_mode("kernels", device="cuda", steps=1, devices=2)
    assert mode == "none"
    assert reason == "steps on several devices are not compiled"


@pytest.fixture(autouse=True)
def one_thread():
    """The tensors are too small to be shared out, and threads wait for one another on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights_of(node):
    """The weights that a gradient arrives at, going back from a node."""
    if hasattr(node, "variable"):
        return {node.variable}
    return {weight for before, _ in node.next_functions if before is not None for weight in weights_of(before)}


def fail_on_the_way_back(loss):
    """When the gradient arrives at the third weight."""
    arrived = []

    def note(gradient):
        arrived.append(gradient)
        if len(arrived) == 3:
            raise RuntimeError("capture failed\nin detail")

    for weight in weights_of(loss.grad_fn):
        weight.register_hook(note)


def failing(where, step):
    """In the place of `torch.compile`: calls the function itself, and fails at a step, counted from 0."""
    calls = []

    def compile_(function, **_):
        if where == "call":
            raise RuntimeError("capture failed\nin detail")

        def compiled(*batch):
            calls.append(batch)
            loss = function(*batch)  # runs to its end: buffers and random numbers move on
            if len(calls) == step + 1:
                if where == "forward":
                    raise RuntimeError("capture failed\nin detail")
                fail_on_the_way_back(loss)
            return loss

        return compiled

    compile_.calls = calls
    return compile_


def train(steps=5, *, through=None, sizes=(), dropout=0.3):
    """Weights, buffers and losses of a model with batch norm and dropout, trained on its loss or through another."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(dropout), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)

    def loss(x, y):
        return (model(x) - y).square().mean()

    step = through(loss, model) if through else None
    losses = []
    for index in range(steps):
        x = torch.randn(sizes[index] if sizes else 6, 3)
        found = (step or loss)(x, x.sum(1, keepdim=True))
        optimizer.zero_grad()
        (step.backward if step else torch.Tensor.backward)(3 * found)  # scaled, as a rollout's
        optimizer.step()
        losses.append(found.item())
    return losses, {**model.state_dict(), "random": torch.get_rng_state()}


def compiled(loss, model):
    return CompiledLoss(loss, model, cuda_graphs=False, context=nullcontext)


def same(a, b):
    return a[0] == b[0] and all(torch.equal(value, b[1][name]) for name, value in a[1].items())


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("where", ["call", "forward", "backward"])
def test_after_a_failure_everything_is_as_without_compiling(where, step, monkeypatch):
    monkeypatch.setattr(torch, "compile", failing(where, step))
    with pytest.warns(UserWarning, match=f"{GOES_ON} RuntimeError: capture failed$") as caught:
        found = train(through=compiled)
    assert len(caught) == 1
    assert same(found, train())


def test_without_a_failure_there_is_no_warning(monkeypatch):
    monkeypatch.setattr(torch, "compile", failing("nowhere", -1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(train(through=compiled), train())


def test_the_models_own_error_is_not_the_compilers(monkeypatch):
    monkeypatch.setattr(torch, "compile", failing("nowhere", -1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="Expected more than 1 value per channel") as caught:
            train(sizes=[1], steps=1, through=compiled)
    assert caught.value.__context__ is None


def test_a_batch_of_another_shape_is_not_compiled(monkeypatch):
    compile_ = failing("nowhere", -1)
    monkeypatch.setattr(torch, "compile", compile_)
    sizes = [6, 6, 4, 6, 4]
    assert same(train(through=compiled, sizes=sizes), train(sizes=sizes))
    assert [len(x) for x, _ in compile_.calls] == [6, 6, 6]


def test_every_step_begins_a_round_of_cuda_graphs(monkeypatch):
    """After one eager pass, which leaves no trace: what operators keep must not lie in the graphs' own memory."""
    begun, options, calls = [], [], []

    def compile_(function, **given):
        options.append(given)
        assert calls == [False]
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(True))

    def recorded(loss, model):
        def noted(*batch):
            calls.append(torch.is_grad_enabled())
            return loss(*batch)

        return CompiledLoss(noted, model, cuda_graphs=True, context=nullcontext)

    assert same(train(through=recorded), train())
    assert calls == [False, True, True, True, True, True]
    assert len(begun) == 5
    assert options == [{"mode": "reduce-overhead", "dynamic": False}]


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were found to compile; they run as they are."""
    found, compile_ = [], torch.compile

    def backend(graph, inputs):
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_(function, backend=backend, **options))
    return found


@pytest.fixture
def run(pairs, tmp_path):
    parts = split(pairs, {"train": 16, "validation": 8}, seed=0)

    def run(folder, compile_, *, epochs=3):
        torch.manual_seed(0)
        model = build("UKNO", {"in_channels": 1, "out_channels": 1, "order": 0, "width": 4, "levels": 1})
        task = OperatorTask(model, optimizer=OptimizerSettings(lr=3e-3, clip=1.0))
        settings = TrainSettings(epochs=epochs, batch_size=6, device="cpu", compile=compile_)
        return fit(task, parts["train"], parts["validation"], settings, tmp_path / folder, progress=False), task

    run.validation = parts["validation"]
    return run


def test_a_compiled_run_gives_the_numbers_and_files_of_one_that_is_not(run, graphs, tmp_path):
    """With batch norms, and a smaller last batch in every epoch."""
    (plain, _), (result, task) = run("plain", "none"), run("compiled", "kernels")
    assert len(graphs) == 1
    assert task.compiled is None
    assert (plain.compiled, result.compiled) == ("none", "kernels")
    for name in ("train_loss", "validation_loss", "relative_l2"):
        assert result.curves[name] == pytest.approx(plain.curves[name], rel=1e-3)
    kept = [torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("plain", "compiled")]
    assert list(kept[0]["state_dict"]) == list(kept[1]["state_dict"])
    found = evaluate(load_model(result.model_path), run.validation).metrics["relative_l2"]
    assert found == pytest.approx(result.curves["relative_l2"][result.best_epoch - 1], rel=1e-4)


@pytest.mark.parametrize(("first", "then"), [("kernels", "none"), ("none", "kernels")])
def test_a_run_goes_on_with_or_without_compiling(first, then, run, graphs, monkeypatch):
    from kinn.train import callbacks

    whole, _ = run("whole", "none")
    with monkeypatch.context() as patch:
        end = callbacks.History.on_train_epoch_start

        def stop(self, trainer, module):
            if trainer.current_epoch == 2:
                raise KeyboardInterrupt
            end(self, trainer, module)

        patch.setattr(callbacks.History, "on_train_epoch_start", stop)
        handler = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            run("cut", first)
        assert signal.getsignal(signal.SIGINT) is handler
    resumed, _ = run("cut", then)
    assert len(graphs) == 1
    assert resumed.curves["epoch"] == [1, 2, 3]
    assert resumed.curves["validation_loss"] == pytest.approx(whole.curves["validation_loss"], rel=1e-3)


def test_a_failing_run_is_bit_for_bit_one_that_does_not_compile(run, monkeypatch):
    monkeypatch.setattr(torch, "compile", failing("backward", 4))
    plain, a = run("plain", "none")
    with pytest.warns(UserWarning, match=GOES_ON) as caught:
        result, b = run("failed", "kernels")
    assert [str(w.message) for w in caught if "kinn" in str(w.message)] == [
        f"kinn: the training {GOES_ON} RuntimeError: capture failed"
    ]
    assert result.compiled == "failed"
    assert result.curves["train_loss"] == plain.curves["train_loss"]
    assert result.curves["validation_loss"] == plain.curves["validation_loss"]
    assert all(torch.equal(value, b.model.state_dict()[name]) for name, value in a.model.state_dict().items())


def test_cuda_graphs_on_another_device_are_refused_with_a_message(run):
    with pytest.warns(UserWarning, match=f"{GOES_ON} CUDA graphs need a CUDA device, and this run is on 'cpu'"):
        run("run", "cuda-graphs", epochs=1)


def test_a_rollout_with_noise_is_one_graph(trajectories, graphs, tmp_path):
    def forecast(compile_):
        torch.manual_seed(0)
        model = build("FNO", {"in_channels": 2, "out_channels": 1, "width": 4, "n_modes": [3, 3], "n_layers": 1})
        task = RolloutTask(model, rollout=Rollout(n_history=2), unroll=3, input_noise=0.1)
        parts = split(trajectories, {"train": 6, "validation": 2}, seed=None)
        settings = TrainSettings(epochs=2, batch_size=8, device="cpu", compile=compile_)
        return fit(task, parts["train"], parts["validation"], settings, tmp_path / compile_, progress=False)

    found, plain = forecast("kernels"), forecast("none")
    assert len(graphs) == 1
    assert found.curves["train_loss"] == pytest.approx(plain.curves["train_loss"], rel=1e-4)


def test_with_the_real_compiler():
    """Where there is no C++ compiler, this is the fallback."""
    steps = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*{GOES_ON}")
        found = train(through=lambda *a: steps.append(compiled(*a)) or steps[0], sizes=[6, 6, 6, 6, 4], dropout=0.0)
    assert steps[0].outcome == ("kernels" if shutil.which("c++") else "failed")
    expected = train(sizes=[6, 6, 6, 6, 4], dropout=0.0)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-4)
    assert found[0] == pytest.approx(expected[0], rel=1e-3)
