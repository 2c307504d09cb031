"""One training loop for every model here: a step function in, a resumable run out.

The run lives in a folder:

    state.pt       all that the next step needs: step, model, EMA, optimizers, generator (= data position)
    losses.jsonl   one line per `log_every` steps
    card.json      config, seed, commit, steps, hardware, wall time, metrics

It may be cut into slices of seconds or steps; the schedule is a function of the declared `total_steps`, so
any cutting gives the run that an uncut one would have given. `state.pt` is replaced atomically. Under a
`Group` of processes (distributed.py) all of them hold the same run and process 0 writes the files.
"""

from __future__ import annotations

import io
import json
import math
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from wm_env.model.storage.atomic import write_atomic
from wm_env.model.storage.checkpoint import check_tensors, save_checkpoint
from wm_env.model.training.distributed import (
    SOLO,
    Group,
    averaging,
    distribute,
    gathered,
    split_like,
    split_state,
)
from wm_env.model.training.muon import ShardedMuon

LONGEST_STEP = 300.0  # seconds; a process that was stopped for longer is not training for all of that

Rule = Literal["adamw", "muon", "slow", "frozen"]
StepFn = Callable[[nn.Module, torch.Generator, int], tuple[Tensor, dict[str, float]]]
Report = Callable[[int, int, float], None]
EvalFn = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What the loop needs to know.

    total_steps: declared length; the learning rate depends on the share of the run that is done (`done`).
    total_seconds: length in seconds of training beside it, None for no limit: what is over first counts. A
        run with one depends on the machine.
    lr, muon_lr: peak rates of AdamW and Muon; `slow_factor` scales lr for parameters ruled "slow".
    warmup_steps: linear warm-up; then constant for `constant_fraction` of the run, then linear to
        `final_lr_fraction` of the peak.
    ema_decay: limit of the exponential moving average (shorter at the start); 0 for none.
    microbatches: draws of the step function whose mean gradient is one step (distributed.py).
    eval_seconds: evaluate whenever so many seconds of training are over, beside `eval_every` steps.
    patience: after so many evaluations without a new best `val_loss` (by 0.2%) the rest of the constant part
        is left out and the rate falls; 0 never.
    """

    total_steps: int
    lr: float = 1e-3
    muon_lr: float = 1e-3
    slow_factor: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    warmup_steps: int = 50
    constant_fraction: float = 0.4
    final_lr_fraction: float = 0.02
    grad_clip: float = 1.0
    ema_decay: float = 0.998
    seed: int = 0
    microbatches: int = 1
    log_every: int = 20
    eval_every: int = 500
    save_every_seconds: float = 120.0
    total_seconds: float | None = None
    eval_seconds: float | None = None
    patience: int = 0

    def __post_init__(self) -> None:
        for name in ("total_steps", "log_every", "eval_every", "microbatches"):
            if self.__dict__[name] < 1:
                raise ValueError(f"{name}={self.__dict__[name]} must be at least 1")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps={self.warmup_steps} must not be negative")
        for name in ("total_seconds", "eval_seconds"):
            value = self.__dict__[name]
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be positive, or None")
        if not 0 <= self.constant_fraction <= 1 or not 0 <= self.ema_decay < 1 or self.lr <= 0:
            raise ValueError(f"constant_fraction in [0,1], ema_decay in [0,1) and lr > 0 are needed: {self}")


class Progress(NamedTuple):
    """Where a slice ended: steps done in all, whether the declared total is reached, last metrics."""

    step: int
    finished: bool
    metrics: dict[str, float]


class Clock(NamedTuple):
    """Where a run stands. step: steps taken; seconds: of training; skipped: share of the schedule left out;
    warm_from: step at which the optimizers began without moments."""

    step: int = 0
    seconds: float = 0.0
    skipped: float = 0.0
    warm_from: int = 0

    def done(self, config: LoopConfig) -> float:
        """Return the share of the run that is over, by steps or by seconds, 1 at its end."""
        by_time = self.seconds / config.total_seconds if config.total_seconds else 0.0
        return max(self.step / config.total_steps, by_time) + self.skipped


def lr_scale(clock: Clock, config: LoopConfig) -> float:
    """Return the factor on the peak learning rate: warm-up, constant, linear decay."""
    warm = min(1.0, (clock.step - clock.warm_from + 1) / max(1, config.warmup_steps))
    done = clock.done(config)
    if done <= config.constant_fraction:
        return warm
    left = (1 - done) / max(1e-9, 1 - config.constant_fraction)
    return warm * (config.final_lr_fraction + (1 - config.final_lr_fraction) * max(0.0, left))


def default_rule(name: str, parameter: nn.Parameter) -> Rule:
    """Return "adamw" for every parameter."""
    return "adamw"


def freeze(model: nn.Module, rule: Callable[[str, nn.Parameter], Rule]) -> None:
    """Let the parameters ruled "frozen" have no gradient."""
    for name, parameter in model.named_parameters():
        if rule(name, parameter) == "frozen":
            parameter.requires_grad_(False)


def make_optimizers(
    model: nn.Module, config: LoopConfig, rule: Callable[[str, nn.Parameter], Rule]
) -> list[torch.optim.Optimizer]:
    """Return AdamW (normal and slow group) and, where `rule` asks for it, Muon; none has "frozen" ones."""
    groups: dict[str, list[nn.Parameter]] = {"adamw": [], "muon": [], "slow": [], "frozen": []}
    for name, parameter in model.named_parameters():
        groups[rule(name, parameter)].append(parameter)
    adamw = [
        {"params": groups[kind], "lr": config.lr * factor, "peak": config.lr * factor}
        for kind, factor in (("adamw", 1.0), ("slow", config.slow_factor))
        if groups[kind]
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if adamw:
        optimizers.append(
            torch.optim.AdamW(adamw, betas=config.betas, eps=1e-8, weight_decay=config.weight_decay)
        )
    if groups["muon"]:
        split = any(isinstance(parameter, DTensor) for parameter in groups["muon"])
        optimizers.append(
            (ShardedMuon if split else torch.optim.Muon)(
                [{"params": groups["muon"], "lr": config.muon_lr, "peak": config.muon_lr}],
                momentum=0.95,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimizers


def git_commit() -> str | None:
    """Return the commit of the source tree, or None outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def hardware(device: torch.device) -> str:
    """Return a short description of what the run used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s), {capability}"


def different_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return `key: old -> new` for every entry that differs between two nested configs."""
    found: list[str] = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += different_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return found


class Run:
    """A training run in a folder. `advance` does a slice of it; see the module docstring.

    step_fn(model, generator, step) -> (loss, metrics) draws its batch and its noise from `generator` (a CPU
    generator) and from nowhere else; its state is the data position. evaluate(model) -> metrics is called
    with the EMA weights in place. `settings` (JSON values) is what else decides the run; a resumed run
    whose settings or config differ is refused. `facts` (JSON values, such as the data) go on the card and
    are not compared. `group` says who computes it and decides nothing else. `begin`: where a run stands that
    was begun elsewhere, its weights already in `model`; a `state.pt` in the folder goes before it.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        step_fn: StepFn,
        config: LoopConfig,
        out: Path,
        settings: Mapping[str, Any] | None = None,
        evaluate: EvalFn | None = None,
        rule: Callable[[str, nn.Parameter], Rule] = default_rule,
        resume: bool = True,
        facts: Mapping[str, Any] | None = None,
        group: Group = SOLO,
        begin: Clock | None = None,
    ) -> None:
        self.on_save: Callable[[Run], None] | None = None  # called after every save, of the main process
        self.facts = dict(facts or {})
        self.model, self.config, self.out, self.evaluate, self.group = model, config, out, evaluate, group
        self.draws = group.own(config.microbatches)
        # through JSON, so that a config read back compares equal (tuples become lists)
        self.settings = json.loads(json.dumps({"loop": asdict(config), **(settings or {})}))
        freeze(model, rule)
        self.compute = distribute(model, lambda generator, step: step_fn(model, generator, step), group)
        self.optimizers = make_optimizers(model, config, rule)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.clock = begin or Clock()
        self.metrics: dict[str, float] = {}
        self.best, self.worse = math.inf, 0  # held-out loss, and evaluations since it was reached
        self.device = next(model.parameters()).device
        self.ema = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        out.mkdir(parents=True, exist_ok=True)
        if (out / "state.pt").exists():
            if not resume:
                raise ValueError(f"{out} already holds a run; resume it or choose another folder")
            self._load()

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.clock.step

    @property
    def wall_seconds(self) -> float:
        """Seconds of training."""
        return self.clock.seconds

    @property
    def finished(self) -> bool:
        return self.clock.done(self.config) >= 1

    def advance(
        self, *, seconds: float | None = None, steps: int | None = None, report: Report | None = None
    ) -> Progress:
        """Train until `seconds` or `steps` are over or the declared total is reached, and save.

        report(step, total_steps, loss) is called after every step.
        """
        started = saved = time.monotonic()
        stop = self.config.total_steps if steps is None else min(self.config.total_steps, self.step + steps)
        window, evaluated, before = _Window(), self.wall_seconds, started
        self.model.train()
        while True:
            now = time.monotonic()
            running = self.step < stop and not self.finished
            running = running and (seconds is None or now - started < seconds)
            running, due = self.group.decide(running, now - saved > self.config.save_every_seconds)
            if not running:
                break
            if due:
                self.save()
                saved = now
            metrics = self._train_step()
            window.add(metrics)
            if report is not None and self.group.main:
                report(self.step, self.config.total_steps, metrics["loss"])
            self.clock = self.clock._replace(
                seconds=self.wall_seconds + min(time.monotonic() - before, LONGEST_STEP)
            )
            before = time.monotonic()
            last = self.step == stop
            every = self.config.eval_seconds
            asked = every is not None and self.wall_seconds - evaluated >= every
            if self.evaluate is not None and (
                asked or self.step % self.config.eval_every == 0 or self.finished
            ):
                self._evaluate()
                evaluated = self.wall_seconds
            if self.step % self.config.log_every == 0 or last:
                self._log({"train": window.mean()})
                window = _Window()
        self.save()
        return Progress(self.step, self.finished, dict(self.metrics))

    def ema_weights(self) -> dict[str, Tensor]:
        """Return the averaged weights (and the buffers), by state-dict name; all processes call it together.

        Split weights (FSDP) are whole in process 0 and empty elsewhere.
        """
        return {name: gathered(tensor, self.group.main).clone() for name, tensor in self.ema.items()}

    def export(
        self,
        path: Path,
        change: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
        **entries: Any,
    ) -> None:
        """Write `change` of the averaged weights as `path` (`NAME.safetensors`), `entries` in the card."""
        weights = self.ema_weights()
        if self.group.main:
            save_checkpoint(path, change(weights), {**entries, **self.card()})

    def card(self) -> dict[str, Any]:
        """Return the provenance of the weights as JSON values."""
        return {
            "settings": self.settings,
            "seed": self.config.seed,
            "commit": git_commit(),
            "steps": self.step,
            "finished": self.finished,
            "wall_seconds": round(self.wall_seconds, 1),
            "hardware": hardware(self.device),
            "processes": self.group.size,
            "torch": torch.__version__,
            "metrics": self.metrics,
            **self.facts,
        }

    def save(self) -> None:
        """Write `state.pt` and `card.json`, each atomically; all processes call it together."""
        state = gathered(
            {
                "settings": json.dumps(self.settings),
                "step": self.step,
                "wall_seconds": self.wall_seconds,
                "clock": {"skipped": self.clock.skipped, "warm_from": self.clock.warm_from},
                "plateau": {"best": self.best, "worse": self.worse},
                "metrics": self.metrics,
                "model": self.model.state_dict(),
                "ema": self.ema,
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "generator": self.generator.get_state(),
                "torch_rng": torch.get_rng_state(),
            },
            self.group.main,
        )
        if not self.group.main:
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.out / "state.pt", buffer.getvalue())
        write_atomic(self.out / "card.json", (json.dumps(self.card(), indent=2) + "\n").encode())
        if self.on_save is not None:
            self.on_save(self)

    def _train_step(self) -> dict[str, float]:
        scale = lr_scale(self.clock, self.config)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * scale
            optimizer.zero_grad(set_to_none=True)
        before = self.generator.get_state()
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        metrics = self._gradients()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        clipped = nn.utils.clip_grad_norm_(trained, self.config.grad_clip)
        norm, value = float(gathered(clipped, True)), metrics["loss"]
        if not math.isfinite(value) or not math.isfinite(norm):
            self.generator.set_state(before)
            for buffer, kept in buffers:  # running statistics have already seen what was wrong
                buffer.copy_(kept)
            self.save()  # weights of the last good step; the update that would have spoilt them is not made
            raise FloatingPointError(
                f"step {self.step}: loss {value}, gradient norm {norm}; stopped with the weights before this "
                f"step saved in {self.out}"
            )
        for optimizer in self.optimizers:
            optimizer.step()
        self.clock = self.clock._replace(step=self.step + 1)
        self._update_ema()
        return {**metrics, "grad_norm": norm}

    def _gradients(self) -> dict[str, float]:
        """Leave the gradient of the global batch in the parameters; return the mean loss and metrics.

        Running statistics (float buffers) become the mean of what every draw would have made of them.
        """
        count = self.config.microbatches
        if count == 1:
            generators = [self.generator]
            buffers: list[Tensor] = []
        else:
            seeds = torch.randint(2**62, (count,), generator=self.generator).tolist()
            generators = [torch.Generator().manual_seed(seeds[draw]) for draw in self.draws]
            buffers = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        before = [buffer.clone() for buffer in buffers]
        sums = [torch.zeros_like(buffer) for buffer in buffers]
        found: list[dict[str, float]] = []
        for i, generator in enumerate(generators):
            for buffer, start in zip(buffers, before, strict=True):
                buffer.copy_(start)
            with averaging(self.compute, now=i == len(generators) - 1):
                loss, metrics = self.compute(generator, self.step)
                (loss / len(generators)).backward()
            found.append({"loss": float(loss.detach()), **metrics})
            for total, buffer in zip(sums, buffers, strict=True):
                total += buffer / len(generators)
        self.group.mean_(sums)
        for buffer, total in zip(buffers, sums, strict=True):
            buffer.copy_(total)
        window = _Window()
        for metrics in self.group.collect(found):
            window.add(metrics)
        return window.mean()

    @torch.no_grad()
    def _update_ema(self) -> None:
        decay = min(self.config.ema_decay, self.step / (self.step + 10))
        floats, targets = [], []
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point():
                floats.append(self.ema[name])
                targets.append(tensor)
            else:
                self.ema[name].copy_(tensor)
        torch._foreach_lerp_(floats, targets, 1 - decay)

    @torch.no_grad()
    def _evaluate(self) -> None:
        assert self.evaluate is not None
        current = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.ema)
        self.model.eval()
        self.metrics = {name: float(value) for name, value in self.evaluate(self.model).items()}
        self.model.load_state_dict(current)
        self.model.train()
        self._log({"eval": self.metrics})
        self._note_plateau()

    def _note_plateau(self) -> None:
        """Leave out the rest of the constant part once the held-out loss has stopped falling."""
        if not self.config.patience or "val_loss" not in self.metrics:
            return
        better = self.metrics["val_loss"] < 0.998 * self.best
        self.best = self.metrics["val_loss"] if better else self.best
        self.worse = 0 if better else self.worse + 1
        left = self.config.constant_fraction - self.clock.done(self.config)
        if self.worse >= self.config.patience and left > 0:
            self.clock = self.clock._replace(skipped=self.clock.skipped + left)

    def _log(self, entry: dict[str, Any]) -> None:
        if not self.group.main:
            return
        line = {"step": self.step, "wall_seconds": round(self.wall_seconds, 1), **entry}
        with open(self.out / "losses.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    def _load(self) -> None:
        saved = torch.load(self.out / "state.pt", map_location="cpu", weights_only=True)
        settings = json.loads(saved["settings"])
        # a field younger than the run has its default: what the loop did before there was a choice
        defaults = json.loads(json.dumps(asdict(LoopConfig(total_steps=self.config.total_steps))))
        different = different_keys({**settings, "loop": defaults | settings["loop"]}, self.settings)
        if different:
            raise ValueError(
                f"the run in {self.out} was started with other settings ({'; '.join(different)})"
            )
        check_tensors(saved["model"], self.model.state_dict(), str(self.out / "state.pt"))
        own = self.model.state_dict()
        self.model.load_state_dict({name: split_like(t, own[name]) for name, t in saved["model"].items()})
        self.ema = {name: split_like(tensor, self.ema[name]) for name, tensor in saved["ema"].items()}
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(split_state(optimizer, state))
        self.generator.set_state(saved["generator"])
        torch.set_rng_state(saved["torch_rng"])
        clock = saved.get("clock", {"skipped": 0.0, "warm_from": 0})  # runs of 0.1 have none
        self.clock = Clock(int(saved["step"]), float(saved["wall_seconds"]), **clock)
        plateau = saved.get("plateau", {"best": math.inf, "worse": 0})
        self.best, self.worse = plateau["best"], plateau["worse"]
        self.metrics = dict(saved["metrics"])
        if self.group.main:
            self._drop_lines_after(self.step)

    def _drop_lines_after(self, step: int) -> None:
        log = self.out / "losses.jsonl"
        if not log.exists():
            return
        kept = []
        for line in log.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # cut off by a kill while writing
                break
            if entry["step"] > step:
                break
            kept.append(line)
        write_atomic(log, "".join(f"{line}\n" for line in kept).encode())


class _Window:
    """Mean of the metrics of the last few steps, each over the steps that reported it."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
            self.counts[name] = self.counts.get(name, 0) + 1

    def mean(self) -> dict[str, float]:
        return {name: total / self.counts[name] for name, total in self.sums.items()}
