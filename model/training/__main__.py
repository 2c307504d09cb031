"""`python -m wm_env.model.training COMMAND`: every training on torch, numpy and safetensors alone.

The same as `wm-env train`, for a bare checkout (a GPU machine without the command line's dependencies).
Every command resumes what it finds in its output folder. The world trains on several processes too:

    torchrun --nproc-per-node 8 -m wm_env.model.training world --device cuda --microbatches 8 ...
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import torch

PRESETS = ("base", "tiny-pure", "tiny", "smoke", "smoke-memory")  # `world.PRESETS`, not imported for --help


def positive_float(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def add_world(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("world", help="train the transformer; runs under torchrun too")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/ shards")
    parser.add_argument("--latents", type=Path, required=True, help="folder with train/ and val/ latents")
    parser.add_argument("--vae", type=Path, required=True, help="vae.safetensors that made the latents")
    parser.add_argument("--out", type=Path, required=True, help="run folder, resumed if it exists")
    parser.add_argument("--preset", choices=PRESETS, help="tiny unless --config is given")
    parser.add_argument("--config", type=Path, help="recipe (.toml or .json) instead of a preset")
    parser.add_argument("--init", type=Path, help="dit.safetensors to start from")
    parser.add_argument("--lora", type=int, default=0, help="rank of corrections to --init, frozen itself")
    parser.add_argument("--recompute", action="store_true", help="recompute blocks in the backward pass")
    parser.add_argument("--microbatches", type=int, default=1, help="draws per step, shared by the processes")
    parser.add_argument("--strategy", default="ddp", choices=("ddp", "fsdp"), help="under torchrun")
    parser.add_argument("--seconds", type=positive_float, help="length of this slice")
    parser.add_argument("--steps", type=int, help="steps of this slice")
    parser.add_argument("--device", default="cpu")


def train_world_here(options: argparse.Namespace) -> None:
    from wm_env.model.training import world
    from wm_env.model.training.distributed import joined
    from wm_env.model.training.recipe import chosen, with_options

    config = with_options(
        chosen(options.preset, options.config),
        lora=options.lora,
        recompute=options.recompute,
        microbatches=options.microbatches,
    )
    with joined(options.strategy, options.device) as (group, device):
        run = world.train_world(
            data=options.data,
            latents=options.latents,
            vae=options.vae,
            out=options.out,
            config=config,
            init=options.init,
            seconds=options.seconds,
            steps=options.steps,
            device=device,
            group=group,
        )
        if group.main:
            print(f"step {run.step}: {run.metrics}")


def add_data(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("data", help="render clips of procedural scenes into shards")
    parser.add_argument("--out", type=Path, required=True, help="folder; shards go into OUT/SPLIT")
    parser.add_argument("--split", default="train", choices=("train", "val", "heldout"))
    parser.add_argument("--clips", type=int, default=3000)
    parser.add_argument("--frames", type=int, default=69, help="pixel frames per clip, 4k+1")


def add_latents(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("latents", help="encode shards with a trained autoencoder")
    parser.add_argument("--data", type=Path, required=True, help="folder with SPLIT/shard-*")
    parser.add_argument("--split", default="train", choices=("train", "val", "heldout"))
    parser.add_argument("--vae", type=Path, required=True, help="vae.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder; latents go into OUT/SPLIT")
    parser.add_argument("--device", default="cpu")


def add_training(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str) -> None:
    parser = commands.add_parser(name, help=text)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/ shards")
    parser.add_argument("--out", type=Path, required=True, help="run folder, resumed if it exists")
    more = {"refiner": ("tiny-flow", "smoke-flow"), "self-forcing": ("tiny-vivid",)}.get(name, ())
    parser.add_argument("--preset", default="tiny", choices=("tiny", "smoke", *more))
    parser.add_argument("--seconds", type=positive_float, help="length of this slice")
    parser.add_argument("--steps", type=int, help="steps of this slice")
    if name not in ("distill", "self-forcing"):  # their rollouts run where the worlds are made for, on a CPU
        parser.add_argument("--device", default="cpu")
    if name == "distill":
        parser.add_argument("--latents", type=Path, required=True, help="folder with train/ and val/ latents")
        parser.add_argument("--teacher", type=Path, required=True, help="world, or dit.safetensors (--world)")
        parser.add_argument("--world", type=Path, help="world of the other parts of a dit.safetensors")
        parser.add_argument("--init", type=Path, help="dit.safetensors that the student starts from")
        parser.add_argument("--denoising-steps", type=int, default=1, choices=(4, 2, 1))
        parser.add_argument("--method", default="ode", choices=("ode", "dmd"))
    if name == "self-forcing":
        parser.add_argument("--latents", type=Path, required=True, help="folder with train/ and val/ latents")
        parser.add_argument("--world", type=Path, required=True, help="world folder or preset to train on")
        parser.add_argument("--far-data", type=Path, help="long clips, for a share of the steps")
        parser.add_argument("--far-latents", type=Path, help="their latents")
        parser.add_argument("--init", type=Path, help="dit.safetensors to start from instead")
    if name in ("depth", "refiner"):
        parser.add_argument("--vae", type=Path, required=True, help="vae.safetensors")
    if name == "refiner-rollouts":
        parser.add_argument("--world", type=Path, required=True, help="world folder")
    if name == "refiner":
        parser.add_argument("--latents", type=Path, required=True, help="folder with train/ and val/ latents")


def duration(text: str) -> float:
    """Return the seconds of "90", "90s", "18m" or "6h"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    seconds = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time; write 90s, 18m or 6h")
    return seconds


def add_imagine(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("imagine", help="train the embedded worlds by one recipe, within a budget")
    parser.add_argument("--out", type=Path, required=True, help="folder of the whole training, resumed")
    parser.add_argument("--total", type=duration, required=True, help="training in all, such as 18m or 6h")
    parser.add_argument("--budget", type=duration, help="of this command; none trains to the end")
    parser.add_argument("--carry", type=Path, help="small files to go on from on another machine")
    parser.add_argument("--recipe", type=Path, help="recipe (.toml) instead of the embedded worlds'")
    parser.add_argument("--workers", type=int, default=0, help="processes that plan clips ahead")
    parser.add_argument("--device", default="cpu")


def imagine_here(options: argparse.Namespace) -> None:
    from wm_env.model.training.imagination import RECIPE, Place, imagine, read_recipe

    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"--device {options.device}: torch sees no CUDA device; leave --device out for the CPU"
        )
    place = Place(
        out=options.out, total=options.total, carry=options.carry, device=options.device,
        workers=options.workers,
    )  # fmt: skip
    recipe = read_recipe(options.recipe or RECIPE, options.device)
    imagine(place, recipe, options.budget, lambda line: print(line, flush=True))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m wm_env.model.training", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; two processes beat two threads")
    commands = parser.add_subparsers(dest="command", required=True)
    add_data(commands)
    add_training(commands, "vae", "train the autoencoder and its depth network")
    add_latents(commands)
    add_training(commands, "depth", "train the depth network of an autoencoder further")
    add_training(commands, "refiner", "train the pixel refiner")
    add_training(commands, "refiner-rollouts", "train a world's refiner further, on its own rollouts")
    add_training(commands, "self-forcing", "train a world further on its own rollouts")
    add_training(commands, "distill", "train a world of fewer denoising steps")
    add_world(commands)
    add_imagine(commands)
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    torch.set_num_threads(options.threads)
    if options.command == "data":
        from wm_env.model.data.procedural import RenderConfig, render_shards

        config = RenderConfig(split=options.split, clips=options.clips, frames=options.frames)
        render_shards(
            options.out / options.split, config, lambda done, of: print(f"shard {done}/{of}", flush=True)
        )
    elif options.command == "vae":
        from wm_env.model.training.vae import preset, train_vae

        run = train_vae(
            data=options.data,
            out=options.out,
            config=preset(options.preset),
            seconds=options.seconds,
            steps=options.steps,
            device=options.device,
        )
        print(f"step {run.step}: {run.metrics}")
    elif options.command == "latents":
        from wm_env.model.data.latents import encode_shards
        from wm_env.model.training.vae import load_vae

        vae, card = load_vae(options.vae)
        encode_shards(
            vae.to(options.device),
            card["sha256"],
            options.data / options.split,
            options.out / options.split,
            lambda done, of: print(f"shard {done}/{of}", flush=True),
        )
    elif options.command == "imagine":
        imagine_here(options)
    elif options.command == "world":
        train_world_here(options)
    elif options.command == "self-forcing":
        from wm_env.model.training import self_forcing

        if (options.far_data is None) != (options.far_latents is None):
            parser.error("--far-data and --far-latents go together; give both or none")
        far = None if options.far_data is None else (options.far_data, options.far_latents)
        run = self_forcing.train_self_forcing(
            data=options.data,
            latents=options.latents,
            world=options.world,
            out=options.out,
            config=self_forcing.preset(options.preset),
            far=far,
            init=options.init,
            seconds=options.seconds,
            steps=options.steps,
        )
        print(f"step {run.step}: {run.metrics}")
    elif options.command == "distill":
        from wm_env.model.training import distill

        run = distill.distill(
            data=options.data,
            latents=options.latents,
            teacher=options.teacher,
            world=options.world,
            init=options.init,
            out=options.out,
            config=distill.preset(options.preset, options.method, options.denoising_steps),
            seconds=options.seconds,
            steps=options.steps,
        )
        print(f"step {run.step}: {run.metrics}")
    elif options.command == "depth":
        from wm_env.model.training import depth

        run = depth.train_depth(
            data=options.data,
            vae_path=options.vae,
            out=options.out,
            config=depth.preset(options.preset),
            seconds=options.seconds,
            steps=options.steps,
            device=options.device,
        )
        print(f"step {run.step}: {run.metrics}")
    elif options.command == "refiner-rollouts":
        from wm_env.model.training import refiner_rollouts

        run = refiner_rollouts.train_on_rollouts(
            data=options.data,
            world=options.world,
            out=options.out,
            config=refiner_rollouts.preset(options.preset),
            seconds=options.seconds,
            steps=options.steps,
            device=options.device,
        )
        print(f"step {run.step}: {run.metrics}")
    elif options.command == "refiner":
        from wm_env.model.training import refiner

        run = refiner.train_refiner(
            data=options.data,
            latents=options.latents,
            vae_path=options.vae,
            out=options.out,
            config=refiner.preset(options.preset),
            seconds=options.seconds,
            steps=options.steps,
            device=options.device,
        )
        print(f"step {run.step}: {run.metrics}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"python -m wm_env.model.training: {error}")
