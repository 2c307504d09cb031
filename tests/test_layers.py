"""Imports point one way, and `import wm_env` brings in almost nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("kernels", "model", "wm_env", "agents", "examples")

# Within wm_env a file imports only from files to its left.
ORDER = (
    *(
        "documented",
        "forks",
        "moved",
        "progress",
        "registration",
        "actions",
        "images",
        "observations",
        "outputs",
        "contexts",
        "context_check",
        "annotation",
        "episodes",
        "tasks",
        "answers",
        "trust",
        "core",
        "infos",
    ),
    *("profiling", "snapshots", "twin", "worlds", "surprises", "config", "modes", "slots", "whole", "vector"),
    *("env", "distributed", "torchrl", "parallel", "sb3", "wrappers", "recording", "export"),
    *("bench", "play", "cli"),
)

# Within these three a file imports only from files before it, line by line and from left to right. The files
# of a folder stand together, so no two folders import each other. An `__init__` without imports has no place.
FILES = {
    "model": {
        "signals": "interrupts",
        "files on disk": """storage.atomic storage.facts storage.array_files storage.folder
            storage.film storage.weight_names storage.tensor_files storage.checkpoint""",
        "values": """names config chunks frame_counts placement geometry intrinsics kinematics pixels state
            world text visiting gemma png pictures marked_pages plain_arrays isolation options workers""",
        "depth": "contact open_ground depth_estimator",
        "metrics": """metrics.images metrics.appearance metrics.edges metrics.motion metrics.camera
            metrics.warping metrics.intervals metrics.frechet metrics.told_apart metrics.forecasts metrics""",
        "judge of pictures": "judge.network",
        "transformer": """camera layers attention.projections attention.gdn attention.softmax attention.cross
            attention dit flow
            point_memory composed_view context_depth""",
        "autoencoders": "vae.normalisation vae.tiny vae.ltx2",
        "refiners": "refiner.tiny refiner.truncated refiner.ltx2 refiner.ltx2_text refiner.ltx2_weights",
        "scenes": """scenes.materials scenes.layouts scenes.worlds scenes.captions scenes.detail
            scenes.raycast scenes.free_space scenes.paths""",
        "embedded worlds": "rollout_state rollout embedded cards",
        "trust": "signals seen_directions trust_model surprise_null trust_calibration surprise",
        "released worlds": """released.names released.precision released.quantise released.stage1
            released.parts released.rollout released.variants released.sizes released.plan released.room
            released.presets released.clip released.download released.report released.measure.budget
            released.measure.record released.measure.runner released.measure.step released.measure.parts
            released.measure.pages released.measure.against_diffusers released.measure.__main__""",
        "data": """data.clip data.lens data.recorded data.layouts.pictures data.layouts.video
            data.layouts.re10k data.layouts.episodes data.layouts.saved data.layouts.transforms
            data.layouts.phones data.layouts.tum data.layouts.colmap data.layouts.detect data.layouts
            data.clip_files data.posed_clip data.importing data.latents data.latent_zip
            data.procedural data.rendered data.stream data.pose_check.warping data.pose_check.free_motion
            data.pose_check.hypotheses data.pose_check.search data.pose_check.scale_steps
            data.pose_check.evidence data.pose_check.check""",
        "training, the loop": """training.recipe training.schedule training.distributed training.muon
            training.optimizers training.precision training.card training.loss_log training.export
            training.run training.lora training.cost""",
        "training, what it reads": """training.autoencoder training.transformer training.keyframes
            training.batches training.clip_rollouts training.world_folder training.inputs""",
        "training, losses": """training.losses.codec training.losses.flow_matching training.losses.clip
            training.losses.appearance training.losses.distillation""",
        "training, parts of a world": """training.parts.vae training.parts.depth training.parts.refiner
            training.parts.world training.parts.refiner_rollouts training.parts.self_forcing
            training.parts.distill_steps training.parts.distill training.parts.judge""",
        "training, stages in one recipe": """training.images training.clip_stream training.own_walks
            training.few_steps training.adversary training.imagination.recipe
            training.imagination.carried training.imagination.stages training.imagination.made
            training.imagination.walking training.imagination.kinds training.imagination.driver
            training.imagination""",
        "training, the command": "training.table training.command training.__main__",
    },
    "wm_env/bench": {
        "shared by benchmarks": "records provenance glossary page row_file worlds walks seen",
        "fidelity": """fidelity.rows fidelity.imagination fidelity.standing fidelity.figure
            fidelity.imagination_report fidelity.report fidelity.score fidelity.run fidelity""",
        "annotate": """annotate.films annotate.rows annotate.report annotate.score annotate.figure
            annotate.run annotate""",
        "context": "context.rows context.report context.score context.run context",
        "drift": """drift.bins drift.rollouts drift.survival drift.revisit drift.pose_estimate drift.telemetry
            drift.error_split drift.clip_metrics drift.rows_table drift.columns drift.report drift.probes
            drift.rows drift.behaviour drift.score drift.figures drift.figures_walks drift.verdict
            drift.page drift.run drift""",
        "trust": """trust.samples trust.violations trust.settings trust.fit trust.films trust.figure
            trust.report trust.score trust.run trust""",
        "throughput": """throughput.rows throughput.report throughput.score throughput.run throughput""",
        "published": """published.folder published.table published.report published.rows published.film
            published.score published.results published.run published""",
    },
    "agents": {
        "players": """evaluate scripted planning goal_features key_combinations episode_starts shipped
            sb3_files policies run_folder players training_work ppo""",
        "transfer": """transfer.settings transfer.quantities transfer.players transfer.rows transfer.report
            transfer.score transfer.figures transfer.page transfer.run""",
    },
}


def python_files(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


@cache
def imported_modules(path: Path, *, named: bool = False) -> frozenset[str]:
    """Return every module named by an import statement of `path`, with `from x import y` as `x`.

    named: and as `x.y`, which may be a module or a name in one.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write the dotted wm_env name"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if named else set()
    return frozenset(names)


def layer_of(module: str) -> str | None:
    """Return the layer a dotted name belongs to, None for other packages."""
    parts = module.split(".")
    if parts[0] != "wm_env":
        return None
    if len(parts) > 1 and parts[1] in ("kernels", "model", "agents"):
        return parts[1]
    return "wm_env"


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_itself_and_lower_layers(layer: str) -> None:
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    for path in python_files(layer):
        reached = {layer_of(module) for module in imported_modules(path)} - {None}
        assert reached <= allowed, f"{path.relative_to(ROOT)} imports from {sorted(reached - allowed)}"


@pytest.mark.parametrize("layer", LAYERS)
def test_nobody_imports_the_bare_folder_names(layer: str) -> None:
    for path in python_files(layer):
        bare = {module.split(".")[0] for module in imported_modules(path)} & {"kernels", "model", "agents"}
        assert not bare, f"{path.relative_to(ROOT)} imports {bare}; write wm_env.<name>"


def test_wm_env_files_import_only_files_before_them() -> None:
    for path in python_files("wm_env"):
        name = path.relative_to(ROOT / "wm_env").parts[0].removesuffix(".py")
        if name == "__init__":
            continue
        assert name in ORDER, f"wm_env/{name} has no place in ORDER"
        for module in imported_modules(path):
            if layer_of(module) == "wm_env" and module != "wm_env":
                other = module.split(".")[1]
                assert ORDER.index(other) <= ORDER.index(name), f"wm_env/{name} imports {module}"


def own_files(folder: str) -> dict[str, Path]:
    """Return the files of a folder by dotted name below it, an `__init__` that imports by its folder's."""
    found = {}
    for path in python_files(folder):
        parts = path.relative_to(ROOT / folder).with_suffix("").parts
        if parts[-1] != "__init__" or imported_modules(path) - {"__future__"}:
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def misplaced(order: list[str], files: dict[str, Path], package: str) -> list[str]:
    """Return what is wrong with an order of `files`, which are imported as `package`.NAME."""
    wrong = [f"{name} is listed {order.count(name)} times" for name in files if order.count(name) != 1]
    wrong += [f"{name} is no file" for name in order if name not in files]
    folders = [name.split(".")[0] for name in order if "." in name]
    apart = [folder for folder, _ in groupby(name.split(".")[0] for name in order) if folder in folders]
    wrong += [f"the files of {folder} are not together" for folder in set(apart) if apart.count(folder) > 1]
    for name, path in files.items():
        for module in imported_modules(path, named=True) if name in order else ():
            other = module.removeprefix(f"{package}.")
            if other != module and other in files and other in order[order.index(name) + 1 :]:
                wrong.append(f"{name} imports {other}, which comes after it")
    return wrong


@pytest.mark.parametrize("folder", FILES)
def test_a_file_imports_only_from_files_before_it(folder: str) -> None:
    order = [name for group in FILES[folder].values() for name in group.split()]
    package = "wm_env." + folder.removeprefix("wm_env/")
    assert misplaced(order, own_files(folder), package) == []


def test_an_import_that_goes_back_is_found(tmp_path: Path) -> None:
    for name, text in (
        ("low", ""),
        ("middle", "from wm_env.x import low"),
        ("high", "import wm_env.x.middle\ndef f():\n    from wm_env.x.low import a"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
    files = {path.stem: path for path in tmp_path.iterdir()}
    assert misplaced(["low", "middle", "high"], files, "wm_env.x") == []
    assert misplaced(["middle", "low", "high"], files, "wm_env.x") == [
        "middle imports low, which comes after it"
    ]
    assert sorted(misplaced(["high", "low", "middle"], files, "wm_env.x")) == [
        "high imports low, which comes after it",
        "high imports middle, which comes after it",
    ]
    assert misplaced(["low", "middle", "gone"], files, "wm_env.x") == [
        "high is listed 0 times",
        "gone is no file",
    ]
    parts = {"a.b": files["low"], "c.d": files["low"], "a.e": files["low"]}
    assert misplaced([*parts], parts, "wm_env.x") == ["the files of a are not together"]


def test_what_a_learned_world_is_made_of_imports_no_scenes() -> None:
    seen: set[str] = set()
    todo = ["wm_env.model.rollout"]
    while todo:
        module = todo.pop()
        base = ROOT.joinpath(*module.split(".")[1:])
        path = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"
        if module in seen or not path.is_file():
            continue
        seen.add(module)
        assert not module.startswith("wm_env.model.scenes"), "the learned world reaches the scenes"
        todo += [name for name in imported_modules(path) if layer_of(name) in ("kernels", "model")]
    assert len(seen) > 3


def test_the_packages_of_pyproject_are_the_folders_that_hold_code() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = set()
    for layer in ("kernels", "model", "wm_env", "agents"):
        for path in python_files(layer):
            dotted = ".".join(path.parent.relative_to(ROOT).parts)
            found.add(dotted if layer == "wm_env" else f"wm_env.{dotted}")
    data_only = {"wm_env.model.weights", "wm_env.agents.weights", "wm_env.play.page"}
    assert found - listed == set(), "folders with code that pyproject.toml does not list"
    assert listed - found - data_only == set(), "packages of pyproject.toml without code"


def test_no_layer_root_shadows_a_package_of_its_name() -> None:
    assert not [layer for layer in ("kernels", "agents") if (ROOT / layer / "__init__.py").exists()]


def imported_by(code: str) -> set[str]:
    """Return the modules that `code` adds to a fresh interpreter, those of the standard library left out."""
    told = f"import json, sys; old = set(sys.modules)\n{code}\nprint(json.dumps([*(set(sys.modules) - old)]))"
    out = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=60)
    standard = sys.stdlib_module_names | {"__mp_main__"}  # multiprocessing's own name of __main__
    return {name for name in json.loads(out.stdout) if name.split(".")[0] not in standard}


def test_importing_wm_env_imports_gymnasium_and_no_other_package_and_registers_the_ids() -> None:
    """What keeps it cheap: no torch, no file of the layers; measured times are in the README."""
    code = "import gymnasium, wm_env\nassert 'SanaWM-v0' in gymnasium.registry"
    own = imported_by(code) - imported_by("import gymnasium")
    assert own == {"wm_env", "wm_env.forks", "wm_env.moved", "wm_env.registration"}


def test_without_gymnasium_importing_wm_env_imports_the_standard_library_alone() -> None:
    absent = "import importlib.util as util; find = util.find_spec; "
    absent += "util.find_spec = lambda name, *rest: None if name == 'gymnasium' else find(name, *rest)"
    assert imported_by(f"{absent}\nimport wm_env") == {"wm_env", "wm_env.forks", "wm_env.moved"}


def test_importing_under_a_second_name_does_not_register_twice() -> None:
    code = (
        "import warnings; warnings.simplefilter('error'); import wm_env, importlib; importlib.reload(wm_env)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
