"""The recipe of stages: budgets, resuming, carrying to another machine, and the worlds it leaves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wm_env.model.config import tiny
from wm_env.model.dit import DiT
from wm_env.model.embedded import embedded_vae, load_embedded
from wm_env.model.png import png_bytes
from wm_env.model.point_memory import MEMORY_CHANNELS
from wm_env.model.storage.checkpoint import load_card
from wm_env.model.training.images import ImageConfig, ImagePool, mask_of_frame
from wm_env.model.training.imagination import RECIPE, Carried, Place, imagine, read_recipe, without_memory
from wm_env.model.training.imagination.driver import superseded
from wm_env.model.training.imagination.recipe import WALKERS, RefinerLossConfig
from wm_env.model.training.schedule import Clock

ROOT = Path(__file__).resolve().parents[3]
TOY = """
autoencoder = "tiny"
half_lives = [8.0, 100.0]
[dit]
hidden = 32
heads = 2
depth = 4
[[stages]]
name = "images"
kind = "images"
share = 0.3
loss = { batch = 4, pool = 48 }
loop = { warmup_steps = 2 }
[[stages]]
name = "tiny"
kind = "clips"
start = "images"
world = true
share = 0.3
loss = { batch = 2, frames = 4, own_history = 0.5 }
[[stages]]
name = "tiny-pure"
kind = "clips"
start = "images"
memory = false
world = true
share = 0.2
loss = { batch = 2, frames = 4 }
[[stages]]
name = "tiny-own"
kind = "rollouts"
start = "tiny"
world = true
share = 0.05
loss = { batch = 2, frames = 3, drawn = 2, shown = 2, contexts = 1.0 }
[[stages]]
name = "tiny-few"
kind = "few_steps"
start = "tiny-own"
world = true
share = 0.05
loss = { batch = 2, frames = 3, drawn = 2, shown = 2, levels = [1.0, 0.5, 0.0], path = 2 }
[[stages]]
name = "tiny-judged"
kind = "adversary"
start = "tiny-few"
teacher = "tiny-own"
world = true
share = 0.05
loss = { batch = 2, frames = 3, drawn = 2, shown = 2, levels = [1.0, 0.5, 0.0], path = 2, width = 8 }
[[stages]]
name = "tiny-refiner"
kind = "refiner"
start = "tiny-judged"
share = 0.05
loss = { batch = 2, chunks = 2, still = 0.5 }
"""
BARE = """
import sys
ALLOWED = {"torch", "numpy", "safetensors", "triton", "wm_env", "mpmath", "sympy", "networkx", "filelock",
           "fsspec", "jinja2", "markupsafe", "typing_extensions", "packaging", "setuptools", "functorch",
           "torchgen", "nvidia", "yaml", "optree", "opt_einsum"}
class Bare:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top in sys.stdlib_module_names or top in ALLOWED or top.startswith("_"):
            return self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Bare(finder) for finder in sys.meta_path]
import wm_env.model.training.__main__ as command
command.main(sys.argv[1:])
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "toy.toml"
    path.write_text(TOY)
    return path


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_recipe_of_the_embedded_worlds_fits_them() -> None:
    cpu, cuda = read_recipe(RECIPE, "cpu"), read_recipe(RECIPE, "cuda")
    assert [stage.name for stage in cpu.stages] == [stage.name for stage in cuda.stages]
    assert cuda.stages[0].loss["batch"] > cpu.stages[0].loss["batch"]
    vae, _ = embedded_vae(cpu.autoencoder)
    values = sum(p.numel() for p in DiT(cpu.dit).parameters()) + sum(p.numel() for p in vae.parameters())
    assert values <= 8_000_000 - 222_000, "a world with its refiner has at most 8 M parameters"
    assert len(cpu.half_lives) == cpu.dit.heads


@pytest.mark.slow
def test_a_machine_with_nothing_but_torch_trains_to_worlds_that_load(tmp_path: Path, recipe: Path) -> None:
    arguments = ["imagine", "--recipe", str(recipe), "--total", "6s"]
    folders = ["--out", str(tmp_path / "out"), "--carry", str(tmp_path / "carry")]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BARE), *arguments, *folders],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tiny-refiner: done" in done.stdout
    for name in ("tiny", "tiny-pure", "tiny-own", "tiny-few", "tiny-judged"):
        world, memory = load_embedded(tmp_path / "out" / "worlds" / name), name != "tiny-pure"
        assert bool(world.dit.cfg.memory_channels) is memory
        assert world.dit.cfg.window_chunks == (1 if memory else 0)
    assert load_embedded(tmp_path / "out" / "worlds" / "tiny-few").sampler.sigmas == (1.0, 0.5, 0.0)
    assert load_embedded(tmp_path / "out" / "worlds" / "tiny-judged").sampler.sigmas == (1.0, 0.5, 0.0)
    parts = load_card(tmp_path / "out" / "worlds" / "tiny-judged" / "tiny-judged.safetensors")["parts"]
    trained = load_card(tmp_path / "out" / "tiny-refiner" / "refiner.safetensors")
    assert parts["refiner"]["sha256"] == trained["sha256"] and trained["steps"] > 0
    assert (tmp_path / "out" / "images" / "sheet.png").read_bytes().startswith(b"\x89PNG")
    carried = list((tmp_path / "carry").iterdir())
    assert len(carried) <= 8 and all(file.stat().st_size <= 15 << 20 for file in carried)

    elsewhere = Place(out=tmp_path / "elsewhere", total=6.0, carry=tmp_path / "carry")
    assert imagine(elsewhere, read_recipe(recipe, "cpu"), 1.0, lambda _: None), "nothing is left to train"
    here, there = (load_embedded(out / "worlds" / "tiny-judged") for out in (tmp_path / "out", elsewhere.out))
    for name, tensor in here.dit.state_dict().items():
        assert torch.equal(tensor.bfloat16(), there.dit.state_dict()[name].bfloat16()), "the carried average"


@pytest.mark.slow
def test_a_budget_ends_a_command_and_the_next_goes_on(tmp_path: Path, recipe: Path) -> None:
    torch.set_num_threads(1)
    place = Place(out=tmp_path / "out", total=1000.0, carry=tmp_path / "carry")
    said: list[str] = []
    assert not imagine(place, read_recipe(recipe, "cpu"), 0.01, said.append)
    first = json.loads((place.out / "images" / "card.json").read_text())
    assert first["steps"] > 0 and not first["finished"] and "goes on" in said[-1]
    assert not imagine(place, read_recipe(recipe, "cpu"), 0.01, said.append)
    second = json.loads((place.out / "images" / "card.json").read_text())
    assert second["steps"] > first["steps"] and second["wall_seconds"] > first["wall_seconds"]

    elsewhere = Place(out=tmp_path / "elsewhere", total=1000.0, carry=tmp_path / "carry")
    before = Carried(place.carry).clock("images")
    assert before == Clock(second["steps"], second["wall_seconds"], 0.0, warm_from=second["steps"])
    imagine(elsewhere, read_recipe(recipe, "cpu"), 0.01, said.append)
    third = json.loads((elsewhere.out / "images" / "card.json").read_text())
    assert third["steps"] > second["steps"], "another machine goes on from the carried files"


@pytest.mark.parametrize("number", range(len(read_recipe(RECIPE, "cpu").stages)))
def test_another_machine_gets_every_world_that_walks_in_a_stage_and_no_file_too_many(number: int) -> None:
    recipe = read_recipe(RECIPE, "cpu")
    carried = {stage.name for stage in recipe.stages[: number + 1]}
    for done in range(number + 1):
        carried -= set(superseded(recipe, done))
    now = recipe.stages[number]
    if now.kind in WALKERS:
        assert carried >= {name for name in (now.start, now.teacher) if name is not None}
    assert carried >= {s.start for s in recipe.stages[number + 1 :]} & {
        s.name for s in recipe.stages[:number]
    }
    assert len(carried) + 1 <= 8, "with progress.json"


@pytest.mark.slow
def test_a_folder_of_another_recipe_is_refused_and_left_alone(tmp_path: Path, recipe: Path) -> None:
    place = Place(out=tmp_path / "out", total=8.0)
    imagine(place, read_recipe(recipe, "cpu"), 0.01, lambda _: None)
    before = files_under(place.out)
    recipe.write_text(TOY.replace("hidden = 32", "hidden = 64"))
    with pytest.raises(ValueError, match=r"another recipe \(dit differ\)"):
        imagine(place, read_recipe(recipe, "cpu"), 0.01, lambda _: None)
    assert files_under(place.out) == before


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('kind = "images"', 'kind = "pictures"', "there are images, clips"),
        ('start = "images"', 'start = "photos"', "no stage before it"),
        ("share = 0.3\n", "share = 0.5\n", "sum to 1"),
        ("[dit]", "[dit]\nwidth = 3", "width"),
        ("share = 0.3\n", "", "share"),
        (
            'start = "tiny"',
            'start = "images"',
            "start must name a stage of kind clips, rollouts, few_steps or",
        ),
        (
            'start = "tiny-few"',
            'start = "images"',
            "start must name a stage of kind clips, rollouts, few_steps or",
        ),
        ('teacher = "tiny-own"\n', "", "a stage of kind adversary names a teacher"),
        ('start = "images"', 'start = "images"\nteacher = "images"', "and no other does"),
        ('teacher = "tiny-own"', 'teacher = "images"', "no stage before it that walks"),
        ('teacher = "tiny-own"', 'teacher = "tiny-judged"', "no stage before it that walks"),
        ("[[stages]]", "[[stages]]\nspeed = 3", "unknown settings speed"),
        ("share = 0.3\n", "share = 0\n", "share = 0; a share of the time, above 0"),
        ("loop = { warmup_steps = 2 }", "loop = { lr = 0 }", "lr > 0 are needed"),
        ("loop = { warmup_steps = 2 }", "loop = { eval_every = 5 }", "unknown settings eval_every"),
        ("chunks = 2", "chunk = 2", r"\[stages.loss\] of stage 'tiny-refiner' has unknown settings chunk"),
        ("chunks = 2", "chunks = 0", "batch and chunks of at least 1"),
        ("width = 8", 'width = "8"', "width = '8' must be of type int"),
        ("levels = [1.0, 0.5, 0.0]", "levels = [1.0, 0.3, 0.0]", "multiples of 1/path"),
        ('start = "tiny-judged"', 'start = "tiny-judged"\nmemory = false', "which needs memory = true"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(recipe: Path, old: str, new: str, says: str) -> None:
    recipe.write_text(TOY.replace(old, new, 1))
    with pytest.raises(ValueError, match=says):
        read_recipe(recipe, "cpu")


@pytest.mark.slow
def test_a_network_without_the_memory_input_does_what_it_did_at_an_empty_view() -> None:
    torch.manual_seed(0)
    config = tiny(MEMORY_CHANNELS)
    small = DiT(config.__class__(**{**config.__dict__, "hidden": 32, "heads": 2, "depth": 4}))
    for parameter in small.parameters():
        nn.init.normal_(parameter, std=0.1)
    pure = DiT(small.cfg.__class__(**{**small.cfg.__dict__, "memory_channels": 0}))
    pure.load_state_dict(without_memory(small.state_dict()))
    world, _ = embedded_vae("tiny")
    pool = ImagePool(ImageConfig(batch=2, pool=48), world, 64)
    batch = pool.draw(0, torch.Generator().manual_seed(1))
    level = torch.full((2, 1), 700.0)
    with torch.no_grad():
        a, _ = small(batch.z, level, batch.text, batch.camera, memory=torch.zeros_like(batch.memory))
        b, _ = pure(batch.z, level, batch.text, batch.camera)
    assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_the_pool_of_a_step_is_a_function_of_the_step() -> None:
    vae, _ = embedded_vae("tiny")
    config = ImageConfig(batch=32, pool=96, reuse=1)
    walked, jumped = ImagePool(config, vae, 64), ImagePool(config, vae, 64)
    for step in range(4):
        pool = walked.images(step)
    again = jumped.images(3)
    assert torch.equal(pool.z, again.z) and torch.equal(pool.view, again.view)
    assert not torch.equal(walked.images(0 + 5).z, again.z), "old rooms leave, new ones come"


@pytest.mark.parametrize("wrong", [{"still": 1.5}, {"still": -0.5}, {"chunks": 0}, {"batch": 0}], ids=str)
def test_a_refiner_stage_of_impossible_shares_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="are needed"):
        RefinerLossConfig(**wrong)


def test_a_masked_view_shows_the_frame_or_nothing() -> None:
    frame = torch.full((64, 4, 64, 64), 0.5)
    view = mask_of_frame(frame, torch.Generator().manual_seed(0))
    shown = view[:, 4:]
    assert set(shown.unique().tolist()) == {0.0, 1.0} and 0.1 < float(shown.mean()) < 0.7
    assert float((view[:, :4] * (1 - shown)).abs().max()) == 0.0
    assert float(((view[:, :4] - 0.5) * shown).abs().max()) < 0.3


def test_a_png_holds_the_pixels(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    data = png_bytes(image)
    body = data[data.index(b"IDAT") + 4 : data.index(b"IEND") - 8]
    rows = np.frombuffer(zlib.decompress(body), np.uint8).reshape(5, 22)
    assert (rows[:, 0] == 0).all() and (rows[:, 1:].reshape(5, 7, 3) == image).all()
    with pytest.raises(ValueError, match="uint8"):
        png_bytes(image.astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("text", ["9", "x", "0.0m", "0s", "3d"])
def test_a_budget_that_is_no_time_is_one_line(text: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wm_env.model.training", "imagine", "--out", str(tmp_path), "--total", text,
         "--device", "cuda"],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "no length of time" in done.stderr or (text == "9" and "no CUDA device" in done.stderr)
    shutil.rmtree(tmp_path, ignore_errors=True)
