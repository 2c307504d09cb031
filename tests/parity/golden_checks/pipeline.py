"""Checks around the network: schedules, samplers, the refiner's loop, latent normalisation."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from golden_checks.fixture import Fixture
from golden_checks.transformer import per_frame
from wm_env.model import flow
from wm_env.model.frame_counts import streaming_bounds
from wm_env.model.refiner.truncated import Span, pack, refine_blocks, refine_clip, unpack
from wm_env.model.vae.normalisation import LatentScale, denormalise, normalise

Calls = list[tuple[Tensor, Tensor, Tensor, Any]]


def samplers(fixture: Fixture) -> None:
    schedules(fixture)
    for name, case in fixture.meta["cases"].items():
        calls: Calls = []
        out = {"LTXFlowEuler": _clip, "ChunkFlowEuler": _staggered, "SelfForcing": _streaming}[case["cls"]](
            fixture, name, case, calls
        )
        assert len(calls) == case["n_calls"], f"{name}: {len(calls)} calls, not {case['n_calls']}"
        for i, (x, timestep, v, _) in enumerate(calls):
            fixture.check(f"{name}.call{i}.x", x)
            fixture.check(f"{name}.call{i}.v", v)
            recorded = fixture[f"{name}.call{i}.timestep"]
            fixture.check_value(f"{name}.call{i}.timestep", timestep, per_frame(recorded, timestep))
        fixture.check(f"output.{name}", out)


def schedules(fixture: Fixture) -> None:
    for name in sorted({name.rpartition(".")[0] for name in fixture.names("schedule.")}):
        recorded = fixture[f"{name}.timesteps"]
        if match := re.fullmatch(r"schedule\.shift([\d.]+)\.steps(\d+)", name):
            schedule = flow.shifted_schedule(int(match[2]), float(match[1]))
        else:  # an explicit list, used verbatim
            schedule = flow.listed_schedule(recorded.tolist())
        fixture.check(f"{name}.sigmas", schedule.sigmas)
        fixture.check(f"{name}.timesteps", schedule.timesteps)
        if f"{name}.timesteps_truncated_to_int" in fixture:
            fixture.check(f"{name}.timesteps_truncated_to_int", schedule.timesteps.long())


def _toy(fixture: Fixture, calls: Calls) -> Callable[[Tensor, Tensor, Any, Tensor], Tensor]:
    """Return v = a x + b t/1000 + c mean(text), which also notes what it was called with."""
    toy = fixture.meta["config"]["toy"]

    def network(x: Tensor, timestep: Tensor, extra: Any, text: Tensor) -> Tensor:
        time = timestep[:, None, :, None, None] / 1000  # (B, 1, T, 1, 1)
        v = toy["a"] * x + toy["b"] * time + toy["c"] * text.flatten(1).mean(1)[:, None, None, None, None]
        calls.append((x, timestep, v, extra))
        return v

    return network


def _setting(fixture: Fixture, case: dict[str, Any], key: str) -> Any:
    return case.get(key, fixture.meta["config"].get(key))


def _held(case: dict[str, Any]) -> dict[int, float]:
    return {int(frame): weight for frame, weight in case["condition_frame_info"].items()}


def _text(fixture: Fixture) -> tuple[Tensor, Tensor]:
    return fixture["input.uncondition"], fixture["input.condition"]


def _clip(fixture: Fixture, name: str, case: dict[str, Any], calls: Calls) -> Tensor:
    schedule = flow.shifted_schedule(_setting(fixture, case, "steps"), _setting(fixture, case, "flow_shift"))
    velocity = flow.guide(_toy(fixture, calls), *_text(fixture), case["cfg_scale"])
    return flow.flow_euler_ltx(
        velocity,
        fixture["input.latents"],
        schedule,
        held=_held(case),
        noise=lambda step: fixture[f"{name}.noise{step}"],
    )


def _staggered(fixture: Fixture, name: str, case: dict[str, Any], calls: Calls) -> Tensor:
    schedule = flow.shifted_schedule(_setting(fixture, case, "steps"), _setting(fixture, case, "flow_shift"))
    velocity = flow.guide(_toy(fixture, calls), *_text(fixture), case["cfg_scale"])
    out = flow.chunk_flow_euler(
        velocity,
        fixture["input.latents"],
        schedule,
        starts=_setting(fixture, case, "chunk_index"),
        interval=case.get("interval_k"),
        held=_held(case),
    )
    assert [list(starts) for *_, starts in calls] == case["chunk_index_per_call"], f"{name}: active chunks"
    return out


def _streaming(fixture: Fixture, name: str, case: dict[str, Any], calls: Calls) -> Tensor:
    steps = case["denoising_step_list"]
    schedule = (
        flow.shifted_schedule(_setting(fixture, case, "steps"), _setting(fixture, case, "flow_shift"))
        if steps is None
        else flow.listed_schedule(steps)
    )
    latents, scale = fixture["input.latents"], case["cfg_scale"]
    bounds = streaming_bounds(latents.shape[2], fixture.meta["config"]["base_chunk_frames"])
    assert list(bounds) == case["segments"], f"{name}: chunk boundaries {bounds}"
    uncondition, condition = _text(fixture)
    text = condition if scale == 1.0 else torch.cat([uncondition, condition])
    toy = _toy(fixture, calls)

    def network(x: Tensor, timestep: Tensor, frame: Any) -> tuple[Tensor, Any]:
        span = (frame, frame + x.shape[2])
        return toy(x, timestep, span, text), span[1]  # the state is the number of frames committed

    noises = iter(range(len(fixture.names(f"{name}.noise"))))
    out, _ = flow.stream(
        flow.guide_streaming(network, scale),
        latents,
        0,
        schedule,
        bounds=bounds,
        held=list(_held(case)),
        rule=case.get("update_rule", "euler"),
        noise=lambda chunk, step: fixture[f"{name}.noise{next(noises)}"],
    )
    for (_, _, _, span), recorded in zip(calls, case["calls"], strict=True):
        assert span == (recorded["start_f"], recorded["end_f"]), f"{name}: a call covers {span}"
    return out


def refiner(fixture: Fixture) -> None:
    toy = fixture.meta["config"]["toy"]
    by_x, by_time, by_index = (_factor(toy, symbol) for symbol in ("x", "timestep", "token_index"))
    latents = fixture["input.latent"]
    sigmas = fixture["sigmas"].tolist()
    for name, case in fixture.meta["cases"].items():
        calls: list[tuple[Tensor, Tensor]] = []

        def network(
            tokens: Tensor, timestep: Tensor, span: Span, memory: Any, calls: Any = calls
        ) -> tuple[Tensor, Any]:
            if bool((timestep > 0).any()):  # the pass that captures memory is not recorded
                calls.append((tokens, timestep))
            count = tokens.shape[1]
            place = torch.arange(count)[:, None] / count
            return by_x * tokens + by_time * timestep[..., None] / 1000 + by_index * place, None

        sink = case["sink_size"]
        if "block_size" in case:
            out = refine_blocks(
                network,
                latents,
                lambda block, name=name: fixture[f"{name}.noise{block}"],  # type: ignore[misc]
                block=case["block_size"],
                sigmas=sigmas,
                sink=sink,
            )
        else:
            out = refine_clip(network, latents, fixture[f"{name}.noise"], sigmas=sigmas, sink=sink)
        assert len(calls) == case["n_calls"], f"{name}: {len(calls)} calls, not {case['n_calls']}"
        for i, (tokens, timestep) in enumerate(calls):
            fixture.check(f"{name}.call{i}.tokens", tokens)
            fixture.check(f"{name}.call{i}.timestep", timestep)
        fixture.check(f"output.{name}", out)
    _packing(fixture)


def _packing(fixture: Fixture) -> None:
    x = fixture["pack.x"]
    for name in fixture.names("pack.tokens_p"):
        patch = int(name.removeprefix("pack.tokens_p"))
        fixture.check(name, pack(x, patch))
        span = Span(0, x.shape[2], x.shape[3] // patch, x.shape[4] // patch)
        assert torch.equal(unpack(pack(x, patch), span, patch), x), f"{name} does not unpack"


def _factor(formula: str, symbol: str) -> float:
    """Return the signed number that multiplies `symbol` in a recorded formula such as v = 0.6*x - 0.3*t."""
    match = re.search(rf"([+-]?)\s*([\d.]+)\s*\*\s*{symbol}\b", formula)
    assert match, f"the toy formula {formula!r} has no {symbol}"
    return float(match[1] + match[2])


def latent_norm(fixture: Fixture) -> None:
    def each(prefix: str, fn: Callable[[Tensor, LatentScale], Tensor], source: str) -> None:
        for name in fixture.names(f"{prefix}.sf"):
            factor = name.removeprefix(f"{prefix}.sf")
            scale = LatentScale(fixture["mean"], fixture["std"], float(factor))
            fixture.check(name, fn(fixture[source.format(factor)], scale))

    each("normalised", normalise, "raw")
    each("denormalised", denormalise, "normalised.sf{}")


__all__: Sequence[str] = ("latent_norm", "refiner", "samplers")
