"""The command line of every training, on torch, numpy and safetensors alone.

`wm-env train ...` calls it, and `python -m wm_env.model.training ...` is the same on a bare checkout, such as
a GPU machine; trainings that can run on several processes do so under torchrun:

    torchrun --nproc-per-node 8 -m wm_env.model.training world --device cuda --microbatches 8 --out runs/base

The same command again goes on where an earlier one stopped. What a training is not given it makes in its own
folder (inputs.py), and it leaves `OUT/world`, which `gym.make` takes (`judge` is no part of one).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from wm_env.model.embedded import world_path
from wm_env.model.interrupts import terminated_like_interrupted
from wm_env.model.names import did_you_mean
from wm_env.model.options import LEAST, POSITIVE, check_options, check_result
from wm_env.model.storage.atomic import check_folder, write_text
from wm_env.model.storage.checkpoint import load_card
from wm_env.model.training import recipe, table
from wm_env.model.training.distributed import joined
from wm_env.model.training.inputs import Bars, Inputs, Progress, Resources, completed

PROG = "python -m wm_env.model.training"
SPLITS = ("train", "val", "heldout")
INPUTS = {
    "data": "folder with train/ and val/ clips",
    "latents": "folder with their latents",
    "vae": "vae.safetensors that makes the latents",
    "world": "world preset or folder",
    "teacher": "world preset or folder, or a dit.safetensors (then --world has its other parts)",
    "init": "safetensors of the part to start from",
    "refiner": "refiner.safetensors for OUT/world, where the transformer has a memory",
    "far_data": "long clips (e.g. 261 frames), for --far",
    "far_latents": "their latents",
}
MADE = {
    "data": "rendered into OUT/data if not given",
    "latents": "encoded into OUT/latents if not given",
    "vae": "the embedded world's if not given",
    "world": "tiny if not given",
    "teacher": "tiny-pure if not given",
}
RENAMED = {
    "--config": "--recipe",
    "--render-workers": "--workers",
    "--method": "--preset tiny (ode) or --preset tiny-dmd",
}


class Parser(argparse.ArgumentParser):
    """A parser that raises `ValueError` with one sentence, which names the option meant or the new name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        hint = did_you_mean(choice[1], re.findall(r"[\w-]+", choice[2])) if choice else ""
        raise ValueError(f"{message}{hint}")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        known = self.options_of(words[0] if words else "")
        for word in words[1:] if known else ():
            name = word.partition("=")[0]
            if name.startswith("--") and name not in known:
                if name in RENAMED:
                    raise ValueError(f"{name} is now {RENAMED[name]}")
                hint = did_you_mean(name, known) or "; --help lists the options"
                raise ValueError(f"unknown option {name}{hint}")
        found, unknown = self.parse_known_args(words, namespace)
        if unknown:
            raise ValueError(f"{unknown[0]!r} belongs to no option; --help lists the options")
        return found

    def options_of(self, command: str) -> dict[str, argparse.Action]:
        """Return the options of a command by their names, such as "--out"."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                chosen = action.choices.get(command)
                return dict(chosen._option_string_actions) if chosen else {}
        return dict(self._option_string_actions)


def duration(text: str) -> float:
    """Return the seconds of "90", "90s", "18m" or "6h"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    seconds = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time; write 90s, 18m or 6h")
    return seconds


def build_parser(prog: str = PROG) -> Parser:
    """Return the parser of all commands."""
    parser = Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in table.names():
        _add_part(
            commands.add_parser(name, help=table.PARTS[name].text, description=table.PARTS[name].text), name
        )
    _add_data(commands.add_parser("data", help="render clips of procedural scenes into OUT/SPLIT"))
    _add_latents(
        commands.add_parser("latents", help="encode clips with a trained autoencoder into OUT/SPLIT")
    )
    _add_imagine(
        commands.add_parser(
            "imagine", help="train the embedded worlds by one recipe, within a budget of time"
        )
    )
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; two processes beat two threads")
    parser.add_argument("--json", type=Path, help="file for the result as JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --json if it exists")


def _add_part(parser: argparse.ArgumentParser, name: str) -> None:
    part = table.PARTS[name]
    both = [part, table.PARTS["refiner-rollouts"]] if name == "refiner" else [part]
    presets = sorted(
        {preset for one in (name, "refiner-rollouts")[: len(both)] for preset in recipe.presets(one)}
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the run: state, losses, weights, card, world")
    add("--preset", help=f"recipe that comes with the package: {', '.join(presets)}; default {part.preset}")
    add("--recipe", type=Path, help="recipe of your own (.toml or .json) instead of a preset")
    for which in dict.fromkeys(need for one in both for need in (*one.needs, *one.takes)):
        made = f"; {MADE[which]}" if which in part.needs else ""
        add(f"--{which.replace('_', '-')}", type=Path, help=INPUTS[which] + made)
    for flag, option in {key: o for one in both for key, o in (one.options or {}).items()}.items():
        if option.kind is bool:
            add(flag, action="store_const", const=True, help=option.help)
        else:
            add(flag, type=option.kind, help=f"{option.help}; default: the recipe's")
    add("--total-steps", type=int, help="declared length, over which the rate falls; default: the recipe's")
    add("--learning-rate", type=float, help="peak rate of both optimizers; default: the recipe's")
    add("--microbatches", type=int, help="batches drawn for one step; their mean gradient is used")
    add("--steps", type=int, help="stop after so many steps; the same command goes on")
    add("--seconds", type=float, help="stop after so many seconds")
    add("--seed", type=int, default=0, help="seed of initialisation, batches and noise")
    add("--resume", action="store_true", help="go on, and fail where there is nothing to go on from")
    add("--workers", type=int, default=0, help="processes that render clips that are rendered when read")
    if part.devices:
        add("--device", default="cpu", help="torch device")
    if part.strategies:
        add("--strategy", default="ddp", choices=part.strategies, help="under torchrun")
    _common(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the data set")
    add("--split", default="train", choices=SPLITS, help="scene split; no scene is in two")
    add(
        "--clips",
        type=int,
        default=4000,
        help="clips in all; shards that exist are kept; 64 are plenty for val",
    )
    add("--frames", type=int, default=69, help="pixel frames of a clip, 4k+1")
    add("--rank", type=int, default=0, help="number of this worker, of several that fill OUT together")
    add("--of", type=int, default=1, help="how many workers there are")
    add(
        "--on-the-fly",
        action="store_true",
        help="write only the recipe: clips are rendered when they are read",
    )
    add("--seed", type=int, default=0, help="first scene seed; clip i has seed SEED + i")
    _common(parser)


def _add_latents(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with SPLIT/ clips")
    add("--vae", type=Path, required=True, help="vae.safetensors")
    add("--out", type=Path, required=True, help="folder of the latents")
    add("--split", default="train", choices=SPLITS, help="which clips")
    add("--seed", type=int, default=0, help="accepted everywhere; nothing is random here")
    add("--device", default="cpu", help="torch device")
    _common(parser)


def _add_imagine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the whole training; the same command goes on")
    add("--total", type=duration, required=True, help="training in all, such as 18m or 6h")
    add("--budget", type=duration, help="of this command; none trains to the end")
    add("--carry", type=Path, help="folder of small files to go on from on another machine")
    add("--recipe", type=Path, help="recipe (.toml) instead of the embedded worlds'")
    add("--workers", type=int, default=0, help="processes that plan clips ahead")
    add("--seed", type=int, default=0, help="accepted everywhere; the recipe has its own seeds")
    add("--device", default="cpu", help="torch device")
    _common(parser)


def main(
    arguments: Sequence[str] | None = None, prog: str = PROG, bars: Bars | None = None
) -> dict[str, Any]:
    """Run one command line and return its result as JSON values.

    bars(unit): a progress report for things of a kind; by default lines on standard output. Raises
    `ValueError` or `OSError` with one sentence for bad input, `Interrupted` after a signal.
    """
    parser = build_parser(prog)
    options = parser.parse_args(arguments)
    check_options(vars(options), LEAST | {"total_steps": 1, "workers": 0}, (*POSITIVE, "learning_rate"))
    if getattr(options, "kl", None) is not None and options.kl < 0:
        raise ValueError(f"--kl {options.kl} is a weight and cannot be negative")
    if options.json is not None:
        check_result(vars(options))
    torch.set_num_threads(options.threads)
    run = {"data": _data, "latents": _latents, "imagine": _imagine}.get(options.command, _train)
    with terminated_like_interrupted():
        result = run(options, bars or lines)
    if options.json is not None:
        text = json.dumps(result, indent=2) + "\n"
        write_text(options.json, text, overwrite=options.overwrite)
    return result


def lines(unit: str) -> Progress:
    """Return a progress report that prints a line now and then: first, last, one every ten seconds."""
    told = 0.0

    def report(done: int, total: int, loss: float | None = None) -> None:
        nonlocal told
        now = time.monotonic()
        if done == total or now - told > 10:
            told = now
            print(f"{unit} {done}/{total}" + ("" if loss is None else f", loss {loss:.4f}"), flush=True)

    return report


def _train(options: argparse.Namespace, bars: Bars) -> dict[str, Any]:
    name, given = options.command, vars(options)
    if name == "refiner" and options.world is not None:
        if options.latents is not None or options.vae is not None:
            raise ValueError("give --latents and --vae to train on imitated errors, or --world alone")
        name = "refiner-rollouts"
    elif name == "refiner" and options.lora:
        raise ValueError(f"--lora {options.lora} corrects a trained refiner; give its --world")
    part = table.PARTS[name]
    values = table.chosen(name, options.preset, options.recipe)
    for flag, option in (part.options or {}).items():
        value = given[flag.strip("-").replace("-", "_")]
        values = values if value is None else table.changed(values, option.field, value)
    rates = ("loop.lr", "loop.muon_lr")
    loop = {"loop.seed": options.seed, "loop.total_steps": options.total_steps}
    loop |= dict.fromkeys(rates, options.learning_rate) | {"loop.microbatches": options.microbatches}
    for field, value in loop.items():
        values = values if value is None else table.changed(values, field, value)
    config = table.configured(name, values, options.recipe)
    inputs = Inputs(**{which: given[which] for which in (*part.needs, *part.takes)})
    part.check(config, inputs)
    _check_files(inputs)
    check_folder(options.out)
    if options.resume and not (options.out / "state.pt").is_file():
        raise ValueError(f"{options.out} holds no run to resume; leave --resume out to begin one")
    with joined(given.get("strategy", "ddp"), given.get("device", "cpu")) as (group, device):
        if group.size > 1 and not part.strategies:
            raise ValueError(f"{name} trains in one process, not under torchrun; world and vae can")
        place = Resources(out=options.out, device=device, group=group, workers=options.workers)
        size = recipe.data_size(values)
        if group.main:
            inputs = completed(inputs, part.needs, size, place, part.base, bars)
        group.decide(True)  # the others wait until all is there
        inputs = completed(inputs, part.needs, size, place, part.base, bars)
        with part.build(config, inputs, place) as run:
            run.advance(seconds=options.seconds, steps=options.steps, report=bars("step"))
        leaves_world = run.exports is not None and run.exports.world is not None
        world = options.out / "world" if leaves_world else None
        if group.main:
            end = "" if run.finished else "; the same command goes on"
            print(f"{options.out}: step {run.step} of {run.config.total_steps}, {run.metrics}{end}")
            if world is not None:
                print(f"{world}: a world for gym.make and --world{_note(world)}")
        return {"out": str(options.out), "world": None if world is None else str(world), **run.card()}


def _note(world: Path) -> str:
    """Return what a user should know of a world of parts that were not trained together."""
    cards = load_card(world_path(world))["parts"]
    if cards["dit"].get("untrained"):
        return "; its transformer is untrained, and what it draws is noise: `train world` comes next"
    return ""


def _check_files(inputs: Inputs) -> None:
    for field in dataclasses.fields(inputs):
        path: Path | None = getattr(inputs, field.name)
        if path is not None and path.suffix == ".safetensors" and not path.is_file():
            raise FileNotFoundError(f"--{field.name} {path} is missing")
        folder = field.name in ("data", "latents", "far_data", "far_latents")
        if path is not None and folder and not path.is_dir():
            raise FileNotFoundError(f"--{field.name.replace('_', '-')} {path} is not a folder")


def _data(options: argparse.Namespace, bars: Bars) -> dict[str, Any]:
    from wm_env.model.data.procedural import RenderConfig, render_shards
    from wm_env.model.data.rendered import write_recipe

    config = RenderConfig(
        split=options.split, clips=options.clips, frames=options.frames, first_seed=options.seed
    )
    target = options.out / options.split
    if options.on_the_fly:
        write_recipe(target, config)
    else:
        render_shards(target, config, bars("clip"), rank=options.rank, of=options.of)
    return {"out": str(target), **dataclasses.asdict(config)}


def _latents(options: argparse.Namespace, bars: Bars) -> dict[str, Any]:
    from wm_env.model.data.latents import encode_shards
    from wm_env.model.training.autoencoder import load_vae

    vae, card = load_vae(options.vae)
    source, target = options.data / options.split, options.out / options.split
    encode_shards(vae.to(options.device), card["sha256"], source, target, bars("clip"))
    return {"out": str(target), "vae_sha256": card["sha256"]}


def _imagine(options: argparse.Namespace, bars: Bars) -> dict[str, Any]:
    from wm_env.model.training.imagination import RECIPE, Place, imagine, read_recipe

    place = Place(
        out=options.out, total=options.total, carry=options.carry, device=options.device,
        workers=options.workers,
    )  # fmt: skip
    stages = read_recipe(options.recipe or RECIPE, options.device)
    done = imagine(place, stages, options.budget, lambda line: print(line, flush=True))
    return {"out": str(options.out), "finished": done}
