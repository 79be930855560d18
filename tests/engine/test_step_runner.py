"""One optimizer step: gradients do not depend on how a batch is split; what is not finite never reaches a weight."""

import gc

import pytest
import torch
from detectron2.utils.events import EventStorage

from usg_psg.engine import GradientClipper, ModelEMA, StepRunner
from usg_psg.engine.averaging import GradientAverage

from ..programs import run, run_job
from ..tiny import tiny_input, tiny_model


def gradients(tmp_path, name: str, processes: int, accumulation_steps: int, compile_mode: str = "none") -> dict:
    output = tmp_path / f"{name}.pth"
    run_job(processes, "-m", "tests.engine.job", output, accumulation_steps, compile_mode)
    return torch.load(output, weights_only=True)


def test_gradients_of_two_processes_and_of_accumulated_batches_are_those_of_the_whole_batch(tmp_path):
    alone = gradients(tmp_path, "alone", 1, 1)
    assert sum(g.abs().sum() for g in alone["gradients"].values()) > 0
    runs = [
        ("two", 2, 1),
        ("accumulated", 1, 4),
        ("both", 2, 2),
        ("recorded", 1, 1, "graphs"),
        ("two, recorded", 2, 1, "graphs"),
    ]
    for name, *settings in runs:
        other = gradients(tmp_path, name, *settings)
        assert set(other["gradients"]) == set(alone["gradients"])
        for key, expected in alone["gradients"].items():
            # Of the largest number: sums in another order round it, too, where they nearly cancel.
            error = (other["gradients"][key] - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
            assert error <= 1e-5, f"{name}: {key}"
        assert other["losses"] == pytest.approx(alone["losses"], rel=1e-5)


@pytest.mark.slow
def test_torchrun_starts_such_a_run(tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    done = run(*torchrun, "-m", "tests.engine.job", tmp_path / "two.pth", 1, "none", fresh=True)
    assert done.returncode == 0 and (tmp_path / "two.pth").is_file(), done.stderr[-3000:]


class Loader:
    """The same batch again and again."""

    def __init__(self, batch, seed=0):
        self.batch, self.seed = batch, seed

    def __iter__(self):
        while True:
            yield self.batch

    def start_at(self, position, seed=None):
        self.seed = seed


def make_runner(model, batch=None, **kwargs):
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    return StepRunner(model, Loader(batch or [tiny_input()]), optimizer, clipper=GradientClipper(), **kwargs)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_images():
    model = tiny_model()
    bad = {**tiny_input(), "file_name": "coco/broken.jpg"}
    bad["image"] = torch.full((3, 64, 96), float("nan"))
    reports = []
    runner = make_runner(model, [{**tiny_input(), "file_name": "coco/good.jpg"}, bad], on_nonfinite=reports.append)
    before = weights(model)
    with EventStorage(), pytest.raises(FloatingPointError, match=r"not finite at iteration 0.*loss_.*nan.*broken\.jpg"):
        runner.run_step()
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    (report,) = reports
    assert report.images == ["coco/good.jpg", "coco/broken.jpg"] and report.losses[0]["loss_class"] != 0


class Exploding(torch.autograd.Function):
    """Its value is that of the input, its gradient is not a number."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


def test_gradients_that_are_not_finite_skip_the_update_and_are_counted():
    model = tiny_model()
    runner = make_runner(model, ema=ModelEMA(model, 0.5))
    with EventStorage() as storage:
        runner.run_step()
        assert storage.latest()["skipped_steps"][0] == 0
        before = weights(model)
        handle = model.class_head.register_forward_hook(lambda module, inputs, output: Exploding.apply(output))
        runner.run_step()
        handle.remove()
        assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
        runner.run_step()
        assert storage.latest()["skipped_steps"][0] == 1
        assert not all(torch.equal(before[name], p) for name, p in model.named_parameters())
        assert storage.latest()["data_time"][0] >= 0 and "total_loss" in storage.latest()


def test_training_stops_after_too_many_skipped_steps():
    """In a row: step 1 is a good one. The error names the parameter."""
    model = tiny_model()
    runner = make_runner(model)
    runner.SKIP_LIMIT = 2
    weight = model.class_head.projection.layers[-1].weight
    weight.register_hook(lambda grad: grad * (float("nan") if runner.iter != 1 else 1.0))
    message = (
        "^2 steps in a row, up to iteration 3, .*: of 1 of [0-9]+ parameters, class_head.projection.layers.2.weight$"
    )
    with EventStorage(), pytest.raises(FloatingPointError, match=message):
        for runner.iter in range(5):
            runner.run_step()


def test_a_norm_beyond_float32_counts_as_not_finite():
    model = tiny_model()
    runner = make_runner(model)
    runner.SKIP_LIMIT = 2
    before = weights(model)
    model.class_head.projection.layers[-1].weight.register_hook(lambda grad: torch.full_like(grad, 1e30))
    with EventStorage(), pytest.raises(FloatingPointError, match="up to iteration 1, .*: by their norm alone$"):
        for runner.iter in range(5):
            runner.run_step()
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_step_draws_the_same_numbers_whatever_was_drawn_before():
    losses = []
    for noise in (0, 7):
        torch.manual_seed(3)
        model = tiny_model()
        torch.manual_seed(3)
        runner = make_runner(model, [tiny_input()])
        torch.rand(noise + 1)
        runner.iter = 5
        with EventStorage() as storage:
            runner.run_step()
            losses.append(storage.latest()["total_loss"][0])
    assert losses[0] == losses[1]


def test_what_lives_as_long_as_the_run_is_not_searched_for_garbage(monkeypatch):
    monkeypatch.setattr(StepRunner, "SETTLED_AFTER", 2)
    runner = make_runner(tiny_model())
    enabled = []
    model_call = runner.model.forward
    monkeypatch.setattr(
        runner.model, "forward", lambda *a, **k: (enabled.append(gc.isenabled()), model_call(*a, **k))[1]
    )
    gc.unfreeze()  # what another test may have left
    few = 1000  # Python 3.12 itself leaves some hundred frozen
    with EventStorage():
        for _ in range(runner.SETTLED_AFTER):
            assert gc.get_freeze_count() < few
            runner.run_step()
    assert gc.get_freeze_count() > 10_000 and len(gc.get_objects()) < gc.get_freeze_count()
    runner.close()
    assert gc.get_freeze_count() < few
    assert enabled == [False, True] and gc.isenabled(), "the first step compiles"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("exchanges", "pilot_noise"), [(False, None), (True, None), (False, 0.2)])
def test_a_step_does_not_wait_for_the_device(exchanges, pilot_noise, tmp_path):
    """The host only waits for what it needs of this step, by events, and launches what follows meanwhile."""
    torch.distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/meet", world_size=1, rank=0)
    try:
        model = tiny_model(freeze=True, pilot_noise=pilot_noise).cuda()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3, fused=True)
        runner = StepRunner(
            model, Loader([tiny_input()]), optimizer, clipper=GradientClipper(), autocast_dtype=torch.bfloat16
        )
        if exchanges:
            runner.average_gradients = GradientAverage(model)
        with EventStorage(start_iter=1):  # every 20th iteration looks at more
            for _ in range(3):  # the first steps set up what stays
                runner.run_step()
            torch.cuda.set_sync_debug_mode("error")
            runner.run_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.distributed.destroy_process_group()


def test_state_that_belongs_to_another_trainer():
    with pytest.raises(ValueError, match="lacks counters, samples_seen, seed"):
        make_runner(tiny_model()).load_state_dict({"optimizer": {}, "grad_scaler": {}})


def test_moving_average():
    layer = torch.nn.Linear(2, 2)
    ema = ModelEMA(layer, 0.75)
    start = weights(layer)
    with torch.no_grad():
        layer.weight.add_(4.0)
    ema.update(26)  # (1 + 26) / (10 + 26), the decay from there on
    moved = weights(layer)
    with ema.applied():
        torch.testing.assert_close(layer.weight, start["weight"] + 1.0)
        torch.testing.assert_close(layer.bias, start["bias"])
    assert torch.equal(layer.weight, moved["weight"])
    ema.update(0)
    torch.testing.assert_close(ema.state_dict()["weight"], start["weight"] + 0.1 + 0.9 * 4.0)
    with pytest.raises(ValueError, match="other weights"):
        ema.load_state_dict({"weight": start["weight"]})
    with pytest.raises(ValueError, match="decay: expected"):
        ModelEMA(layer, 1.0)
