"""The training loop: slices equal one run, kills lose nothing, bad runs stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from wm_env.model.training.run import Run
from wm_env.model.training.schedule import Clock, LoopConfig, lr_scale

CONFIG = LoopConfig(total_steps=12, lr=1e-2, muon_lr=1e-2, warmup_steps=3, log_every=1, eval_every=5, seed=3)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def step(model: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
    x = torch.randn(4, 3, generator=generator)
    loss = (model(x) - x[:, :2].sin()).square().mean()
    return loss, {"size": float(x.norm())}


def rule(name: str, parameter: nn.Parameter) -> str:
    return "muon" if name == "0.weight" else "slow" if name == "0.bias" else "adamw"


def run_in(out: Path, config: LoopConfig = CONFIG, **settings: int) -> Run:
    return Run(model=net(), step_fn=step, config=config, out=out, rule=rule, settings=settings)  # type: ignore[arg-type]


def curve(out: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]
    return [(line["step"], line["train"]["loss"]) for line in lines if "train" in line]


def test_slices_give_the_run_that_an_uncut_one_gives(tmp_path: Path) -> None:
    whole = run_in(tmp_path / "whole")
    assert whole.advance().finished
    for steps in (1, 4, 7):
        part = run_in(tmp_path / "parts")
        part.advance(steps=steps)
    assert part.finished
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    for name, tensor in whole.ema_weights().items():
        assert tensor.equal(part.ema_weights()[name])


@pytest.mark.slow
def test_a_run_killed_in_the_middle_resumes_on_the_same_curve(tmp_path: Path) -> None:
    run_in(tmp_path / "whole").advance()
    script = f"""
import sys, time, torch
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_loop as t
def slow(model, generator, number):
    time.sleep(0.1)
    return t.step(model, generator, number)
t.Run(model=t.net(), step_fn=slow, config=t.CONFIG, out=Path({str(tmp_path / "killed")!r}), rule=t.rule,
      settings={{}}).advance()
"""
    saves_every_step = script.replace("t.CONFIG", "replace(t.CONFIG, save_every_seconds=0.0)")
    process = subprocess.Popen([sys.executable, "-c", saves_every_step])
    log = tmp_path / "killed" / "losses.jsonl"
    deadline = time.monotonic() + 60
    while (not log.exists() or len(curve(tmp_path / "killed")) < 4) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resumed = run_in(tmp_path / "killed", replace(CONFIG, save_every_seconds=0.0))
    assert 3 <= resumed.step < CONFIG.total_steps
    resumed.advance()
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")


@pytest.mark.parametrize("killed_at", [2, 7])
def test_the_log_agrees_with_the_state_whenever_a_run_was_killed(killed_at: int, tmp_path: Path) -> None:
    """Lines come every 5 steps: a kill at 2 leaves no state, one at 7 that of step 4, between two lines."""
    config = replace(CONFIG, log_every=5)
    run_in(tmp_path / "whole", config).advance()

    class Killed(BaseException):
        pass

    def stops(done: int, total: int, loss: float) -> None:
        if done == 4 and killed_at > 4:
            killed.save()
        if done == killed_at:
            raise Killed

    killed = run_in(tmp_path / "killed", config)
    with pytest.raises(Killed):
        killed.advance(report=stops)
    with open(tmp_path / "killed" / "losses.jsonl", "a", encoding="utf-8") as log:
        log.write('{"step": 9, "train": {"loss": 0.0}}\n{"step": 10, "tr')  # of the run that was killed
    (tmp_path / "killed" / ".state-0123abcd.pt").write_bytes(b"half a state")
    (tmp_path / "killed" / ".my-settings").write_text("of somebody else")
    run_in(tmp_path / "killed", config).advance()
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert [path.name for path in (tmp_path / "killed").glob(".*")] == [".my-settings"]


SLOW = """
import os, sys, time, torch
from pathlib import Path
sys.path.insert(0, {here!r})
import test_loop as t
from wm_env.model.interrupts import Interrupted
def step(model, generator, number):
    loss = t.step(model, generator, number)
    if number == {number} and {where!r} == "step":
        Path({out!r}, "now").touch()
        for _ in range(600): time.sleep(0.1)
    return loss
def evaluate(model):
    if {where!r} == "evaluation":
        Path({out!r}, "now").touch()
        for _ in range(600): time.sleep(0.1)
    return {{"weights": float(sum(p.detach().sum() for p in model.parameters()))}}
run = t.Run(model=t.net(), step_fn=step, config=t.replace(t.CONFIG, eval_every=5), out=Path({out!r}),
            rule=t.rule, settings={{}}, evaluate=evaluate)
try:
    run.advance()
except Interrupted as stop:
    print(stop)
    sys.exit(128 + stop.signal)
"""


@pytest.mark.parametrize(("where", "number"), [("step", 7), ("evaluation", 0)])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_throws_away_the_step_in_work_and_saves_the_rest(
    where: str, number: int, sent: signal.Signals, tmp_path: Path
) -> None:
    def measured(model: nn.Module) -> dict[str, float]:
        return {"weights": float(sum(p.detach().sum() for p in model.parameters()))}

    def run(out: Path) -> Run:
        config = replace(CONFIG, eval_every=5)
        return Run(
            model=net(), step_fn=step, config=config, out=out, rule=rule, settings={}, evaluate=measured
        )  # type: ignore[arg-type]

    whole = run(tmp_path / "whole")
    whole.advance()
    out = tmp_path / "stopped"
    out.mkdir()
    code = SLOW.format(here=str(Path(__file__).parent), out=str(out), where=where, number=number)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (out / "now").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(sent)
    said, _ = process.communicate(timeout=30)  # the step would take a minute
    assert process.returncode == 128 + sent
    assert f"stopped by a signal after step {number or 5} of" in said and "the same command goes on" in said
    resumed = run(out)
    assert resumed.step == (number or 5) and resumed.owes_evaluation == (where == "evaluation")
    resumed.advance()
    assert curve(out) == curve(tmp_path / "whole")
    assert resumed.metrics == whole.metrics
    for name, tensor in whole.ema_weights().items():
        assert tensor.equal(resumed.ema_weights()[name])


def test_the_folder_of_a_run_of_0_1_goes_on(tmp_path: Path) -> None:
    """Its state has no clock and no plateau, and one setting has another name since."""
    run_in(tmp_path / "whole", appearance=1).advance()
    run_in(tmp_path / "old", appearance=1).advance(steps=5)
    state = torch.load(tmp_path / "old" / "state.pt", weights_only=True)
    settings = json.loads(state["settings"])
    settings["vivid"] = settings.pop("appearance")
    for name in ("total_seconds", "eval_seconds", "patience"):
        del settings["loop"][name]
    for name in ("clock", "plateau", "owes_evaluation"):
        del state[name]
    torch.save({**state, "settings": json.dumps(settings)}, tmp_path / "old" / "state.pt")
    again = run_in(tmp_path / "old", appearance=1)
    assert again.step == 5
    again.advance()
    assert curve(tmp_path / "old") == curve(tmp_path / "whole")


def test_resuming_with_other_settings_names_them(tmp_path: Path) -> None:
    run_in(tmp_path, batch=4).advance(steps=2)
    with pytest.raises(ValueError, match=r"batch: 4 -> 5; loop\.lr: 0\.01 -> 0\.02"):
        run_in(tmp_path, replace(CONFIG, lr=0.02), batch=5)


def test_a_loss_that_is_not_finite_stops_with_the_last_good_weights(tmp_path: Path) -> None:
    def poisoned(
        model: nn.Module, generator: torch.Generator, number: int
    ) -> tuple[Tensor, dict[str, float]]:
        loss, metrics = step(model, generator, number)
        return (loss * float("nan") if number == 5 else loss), metrics

    run = Run(model=net(), step_fn=poisoned, config=CONFIG, out=tmp_path, rule=rule)  # type: ignore[arg-type]
    with pytest.raises(FloatingPointError, match="step 5"):
        run.advance()
    resumed = Run(model=net(), step_fn=step, config=CONFIG, out=tmp_path, rule=rule)  # type: ignore[arg-type]
    assert resumed.step == 5
    assert all(bool(torch.isfinite(p).all()) for p in resumed.model.parameters())


def test_the_rate_warms_up_stays_and_falls_to_its_end() -> None:
    config = LoopConfig(total_steps=100, warmup_steps=10, constant_fraction=0.4, final_lr_fraction=0.1)
    assert lr_scale(Clock(step=0), config) == pytest.approx(0.1)
    assert lr_scale(Clock(step=30), config) == 1.0
    assert lr_scale(Clock(step=70), config) == pytest.approx(0.1 + 0.9 * 0.5)
    assert lr_scale(Clock(step=100), config) == pytest.approx(0.1)


class Counting(nn.Module):
    """A linear model whose buffer moves half-way to the mean of its input, as running statistics do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 1)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.seen.lerp_(x.mean(0), 0.5)
        return self.linear(x).square().mean()


def test_microbatches_average_gradients_metrics_and_running_statistics(tmp_path: Path) -> None:
    inputs: list[Tensor] = []

    def draw(model: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        inputs.append(torch.randn(4, 3, generator=generator))
        return model(inputs[-1]), {"first": float(inputs[-1][0, 0])}

    config = replace(CONFIG, total_steps=1, microbatches=3, grad_clip=1e9)
    model = Counting()
    Run(model=model, step_fn=draw, config=config, out=tmp_path).advance()
    assert len({float(x.sum()) for x in inputs}) == 3
    reference = Counting()
    torch.stack([reference.linear(x).square().mean() for x in inputs]).mean().backward()
    for mine, expected in zip(model.linear.parameters(), reference.linear.parameters(), strict=True):
        assert mine.grad is not None and expected.grad is not None
        assert torch.allclose(mine.grad, expected.grad, atol=1e-6)
    assert torch.allclose(model.seen, torch.stack([0.5 * x.mean(0) for x in inputs]).mean(0), atol=1e-6)
    line = json.loads((tmp_path / "losses.jsonl").read_text().splitlines()[0])
    assert line["train"]["first"] == pytest.approx(sum(float(x[0, 0]) for x in inputs) / 3, abs=1e-6)


def test_a_run_from_before_a_setting_existed_goes_on_with_its_default(tmp_path: Path) -> None:
    run_in(tmp_path).advance(steps=2)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    settings = json.loads(saved["settings"])
    del settings["loop"]["microbatches"]
    torch.save({**saved, "settings": json.dumps(settings)}, tmp_path / "state.pt")
    assert run_in(tmp_path).step == 2
    with pytest.raises(ValueError, match=r"loop\.microbatches: 1 -> 2"):
        run_in(tmp_path, replace(CONFIG, microbatches=2))


def test_a_stopped_run_keeps_its_running_statistics_too(tmp_path: Path) -> None:
    def broken(model: nn.Module, generator: torch.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        return model(torch.full((4, 3), float("inf") if number == 1 else 1.0)), {}

    run = Run(model=Counting(), step_fn=broken, config=CONFIG, out=tmp_path)
    with pytest.raises(FloatingPointError, match="step 1"):
        run.advance()
    assert torch.load(tmp_path / "state.pt", weights_only=True)["model"]["seen"].tolist() == [0.5] * 3


def test_a_run_ends_by_seconds_and_a_pause_is_not_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock driven by hand: steps of 10 s, in one of which the process was stopped for a day."""
    now = 0.0

    def slow_step(
        model: nn.Module, generator: torch.Generator, number: int
    ) -> tuple[Tensor, dict[str, float]]:
        nonlocal now
        now += 86_400 if number == 2 else 10
        return step(model, generator, number)

    monkeypatch.setattr("wm_env.model.training.run.time.monotonic", lambda: now)
    config = replace(CONFIG, total_steps=1000, total_seconds=400.0)
    run = Run(model=net(), step_fn=slow_step, config=config, out=tmp_path)
    run.advance()
    # 10 + 10 + 300 (the longest that counts) + 8 x 10 = 400
    assert (run.step, run.wall_seconds, run.finished) == (11, 400.0, True)


def test_a_flat_held_out_loss_ends_the_constant_part_of_the_schedule(tmp_path: Path) -> None:
    values = iter([1.0, 0.5, 0.5, 0.4999, *[0.5] * 20])
    config = replace(CONFIG, total_steps=40, constant_fraction=0.8, eval_every=2, patience=2, warmup_steps=1)
    run = Run(
        model=net(), step_fn=step, config=config, out=tmp_path, evaluate=lambda _: {"val_loss": next(values)}
    )
    run.advance()
    # best at step 4; two more without 0.2% of progress: at step 8, done 0.2, the schedule jumps to 0.8
    assert run.clock.skipped == pytest.approx(0.8 - 8 / 40)
    assert run.finished and run.step == 16
    again = Run(model=net(), step_fn=step, config=config, out=tmp_path, evaluate=lambda _: {"val_loss": 1.0})
    assert again.clock == run.clock and again.finished
