"""One training loop for every model here: a step function in, a resumable run out.

The run lives in a folder:

    state.pt       all that the next step needs: step, model, EMA, optimizers, generator (= data position)
    losses.jsonl   one line per `log_every` steps
    card.json      config, seed, commit, steps, hardware, wall time, metrics
    PART.safetensors, world/    what is left of it, see `Export`

It may be cut into slices of seconds or steps; the schedule is a function of the declared `total_steps`, so
any cutting gives the run that an uncut one would have given. `state.pt` is replaced atomically. SIGINT and
SIGTERM end a slice before its time: the step in work is thrown away, what was done before it is saved. Under
a `Group` of processes (distributed.py) all of them hold the same run and process 0 writes the files.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wm_env.model.interrupts import Guard, Interrupted, caught
from wm_env.model.storage.atomic import write_atomic
from wm_env.model.storage.checkpoint import check_tensors, save_checkpoint
from wm_env.model.training.card import different_keys, git_commit, hardware
from wm_env.model.training.distributed import (
    SOLO,
    Group,
    averaging,
    distribute,
    gathered,
    split_like,
    split_state,
)
from wm_env.model.training.export import Export
from wm_env.model.training.loss_log import Window, append_line, open_folder
from wm_env.model.training.optimizers import ParameterGroup, default_rule, freeze, make_optimizers
from wm_env.model.training.schedule import Clock, LoopConfig, Plateau, lr_scale

RENAMED = {"vivid": "appearance"}  # settings of runs of 0.1
LONGEST_STEP = 300.0  # seconds; a process that was stopped for longer is not training for all of that

StepFn = Callable[[nn.Module, torch.Generator, int], tuple[Tensor, dict[str, float]]]
Report = Callable[[int, int, float], None]
EvalFn = Callable[[nn.Module], dict[str, float]]


class Progress(NamedTuple):
    """Where a slice ended: steps done in all, whether the declared total is reached, last metrics."""

    step: int
    finished: bool
    metrics: dict[str, float]


class Run:
    """A training run in a folder. `advance` does a slice of it; see the module docstring.

    step_fn(model, generator, step) -> (loss, metrics) draws its batch and its noise from `generator` (a CPU
    generator) and from nowhere else; its state is the data position. evaluate(model) -> metrics is called
    with the EMA weights in place. `settings` (JSON values) is what else decides the run; a resumed run
    whose settings or config differ is refused. `facts` (JSON values, such as the data) go on the card and
    are not compared. `group` says who computes it and decides nothing else. `begin`: where a run stands that
    was begun elsewhere, its weights already in `model`; a `state.pt` in the folder goes before it. `export`:
    what every slice leaves, None for nothing. `close` ends helper processes, at the end of a `with` block.
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
        rule: Callable[[str, nn.Parameter], ParameterGroup] = default_rule,
        resume: bool = True,
        facts: Mapping[str, Any] | None = None,
        group: Group = SOLO,
        begin: Clock | None = None,
        export: Export | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.exports, self.close = export, close
        self.owes_evaluation = False  # a signal came while one was under way
        self.on_save: Callable[[Run], None] | None = None  # called after every save, of the main process
        self.facts, self.window = dict(facts or {}), Window()
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
        self.plateau = Plateau()
        self.device = next(model.parameters()).device
        self.ema = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        out.mkdir(parents=True, exist_ok=True)
        if (out / "state.pt").exists():
            if not resume:
                raise ValueError(f"{out} already holds a run; resume it or choose another folder")
            self._load()
        if group.main:
            open_folder(out, self.step)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        """Train until `seconds` or `steps` are over or the declared total is reached, save and export.

        report(step, total_steps, loss) is called after every step. Raises `Interrupted`, after saving, if a
        signal ended it.
        """
        with caught() as guard:
            self._advance(guard, seconds, steps, report)
            self.save()
            if not guard.asked:
                self.export()
            self.group.decide(True)  # no process goes on to read what process 0 is still writing
        if guard.signal is not None:
            raise Interrupted(
                f"stopped by a signal after step {self.step} of {self.config.total_steps}; all of it is in "
                f"{self.out}, and the same command goes on",
                guard.signal,
            )
        return Progress(self.step, self.finished, dict(self.metrics))

    def _advance(self, guard: Guard, seconds: float | None, steps: int | None, report: Report | None) -> None:
        started = saved = time.monotonic()
        stop = self.config.total_steps if steps is None else min(self.config.total_steps, self.step + steps)
        evaluated, before = self.wall_seconds, started
        self.model.train()
        if self.owes_evaluation and not self._evaluate(guard):
            return
        while True:
            now = time.monotonic()
            running = self.step < stop and not self.finished and not guard.asked
            running = running and (seconds is None or now - started < seconds)
            running, due = self.group.decide(running, now - saved > self.config.save_every_seconds)
            if not running:
                return
            if due:
                self.save()
                saved = now
            metrics = self._train_step(guard)
            if metrics is None:
                return
            self.window.add(metrics)
            if report is not None and self.group.main:
                report(self.step, self.config.total_steps, metrics["loss"])
            self.clock = self.clock._replace(
                seconds=self.wall_seconds + min(time.monotonic() - before, LONGEST_STEP)
            )
            before = time.monotonic()
            last = self.step == stop
            if self.step % self.config.log_every == 0 or last:
                self._log({"train": self.window.mean()})
                self.window = Window()
            every = self.config.eval_seconds
            asked = every is not None and self.wall_seconds - evaluated >= every
            if self.evaluate is not None and (
                asked or self.step % self.config.eval_every == 0 or self.finished
            ):
                if not self._evaluate(guard):
                    return
                evaluated = self.wall_seconds

    def ema_weights(self) -> dict[str, Tensor]:
        """Return the averaged weights (and the buffers), by state-dict name; all processes call it together.

        Split weights (FSDP) are whole in process 0 and empty elsewhere.
        """
        return {name: gathered(tensor, self.group.main).clone() for name, tensor in self.ema.items()}

    def export(self) -> None:
        """Write what `Export` says; all processes call it together."""
        if self.exports is None:
            return
        weights = self.ema_weights()
        if self.group.main:
            path = self.out / f"{self.exports.name}.safetensors"
            save_checkpoint(path, self.exports.change(weights), {**self.exports.entries, **self.card()})
            if self.exports.world is not None:
                self.exports.world(path, self.metrics)

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
                "plateau": self.plateau._asdict(),
                "window": vars(self.window),
                "owes_evaluation": self.owes_evaluation,
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

    def _train_step(self, guard: Guard) -> dict[str, float] | None:
        """Take a step and return its metrics; None, and all is as before it, if a signal came meanwhile."""
        scale = lr_scale(self.clock, self.config)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * scale
            optimizer.zero_grad(set_to_none=True)
        before, global_before = self.generator.get_state(), torch.get_rng_state()
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]

        def undo() -> None:
            self.generator.set_state(before)
            torch.set_rng_state(global_before)
            for buffer, kept in buffers:  # running statistics have already seen the batch
                buffer.copy_(kept)

        if self.group.size > 1:  # no process may leave a collective operation alone
            metrics = self._gradients()
        else:
            try:
                with guard.abandoning():
                    metrics = self._gradients()
            except Interrupted:
                undo()
                return None
        trained = [p for p in self.model.parameters() if p.requires_grad]
        clipped = nn.utils.clip_grad_norm_(trained, self.config.grad_clip)
        norm, value = float(gathered(clipped, True)), metrics["loss"]
        if not math.isfinite(value) or not math.isfinite(norm):
            undo()
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
        window = Window()
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
    def _evaluate(self, guard: Guard) -> bool:
        """Measure the averaged weights; return False, and owe it, if a signal came meanwhile."""
        assert self.evaluate is not None
        current = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.owes_evaluation = True
        try:
            self.model.load_state_dict(self.ema)
            self.model.eval()
            with contextlib.nullcontext() if self.group.size > 1 else guard.abandoning():
                found = self.evaluate(self.model)
        except Interrupted:
            return False
        finally:
            self.model.load_state_dict(current)
            self.model.train()
        self.owes_evaluation = False
        self.metrics = {name: float(value) for name, value in found.items()}
        self._log({"eval": self.metrics})
        self.plateau, self.clock = self.plateau.after(self.metrics, self.clock, self.config)
        return True

    def _log(self, entry: dict[str, Any]) -> None:
        if not self.group.main:
            return
        line = {"step": self.step, "wall_seconds": round(self.wall_seconds, 1), **entry}
        append_line(self.out / "losses.jsonl", line)

    def _load(self) -> None:
        saved = torch.load(self.out / "state.pt", map_location="cpu", weights_only=True)
        settings = {RENAMED.get(key, key): value for key, value in json.loads(saved["settings"]).items()}
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
        self.plateau, self.window = Plateau(**saved.get("plateau", {})), Window(**saved.get("window", {}))
        self.metrics = dict(saved["metrics"])
        self.owes_evaluation = saved.get("owes_evaluation", False)
