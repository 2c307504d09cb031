"""`wm-env record`: walk through a world and write a video and a contact sheet."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from wm_env.cli.export import export, exporter_of
from wm_env.cli.options import (
    CameraDtype,
    Context,
    Device,
    Dtype,
    FrameSize,
    Image,
    Offload,
    Precision,
    Prompt,
    Refiner,
    RefinerHistory,
    Scene,
    Split,
    Task,
    Weights,
    Window,
    World,
)
from wm_env.cli.record_path import Clip, record_clip
from wm_env.config import EnvConfig
from wm_env.contexts import SCENE_CONTEXTS
from wm_env.distributed.cluster import ray
from wm_env.env import SanaWMEnv
from wm_env.export.collect import EPISODES, RECORDING, Job, collect
from wm_env.model.released.presets import ReleasedSettings
from wm_env.model.storage.atomic import (
    check_folder,
    check_writable,
    expanded,
    remove_leftovers,
    same_file,
)
from wm_env.progress import over
from wm_env.recording import (
    Layout,
    Player,
    Shot,
    check_encoder,
    contact_sheet,
    film_player,
    record_video,
    save_png,
)
from wm_env.twin import twin_like

_PLAYERS = "wm_env.agents.players"  # an upper layer, named by string


@dataclass(frozen=True, kw_only=True)
class Record:
    """Watch a walker or a policy in a world: write OUT (mp4 or gif) and a contact sheet (png).

    With --format folder, minari or lerobot, OUT is a new folder of labelled episodes instead. Run again with
    the same options to continue an interrupted recording.
    """

    out: Path
    """Video file to write, .mp4 or .gif; its folder must exist. Other formats: a new folder."""
    format: Literal["video", "folder", "minari", "lerobot"] = "video"
    """A video to watch, or a dataset: frames, poses, actions and rewards of many episodes."""
    episodes: int = 1
    """Episodes of a dataset; episode i has seed --seed + i."""
    workers: int = 1
    """Processes that record a dataset; each loads the world once."""
    ray: str | None = None
    """Record a dataset with Ray actors: local, or the address of a cluster whose machines all see --out."""
    world: World = "tiny"
    policy: str = "wander"
    """Who plays: wander, forward, orbit, goal (walks to it), random; objectnav, objectnav-blind (shipped);
    folder or file of a run of `agent train`; module:function, called with (observations, state, starts)."""
    deterministic: bool = False
    """Let a trained policy take its most likely action instead of drawing."""
    task: Task | None = None
    """Task; a trained policy's own by default, pointnav for goal, else explore."""
    steps: int = 60
    """Env steps (chunks) to record."""
    seed: int = 0
    """Seed of scene, start, noise and policy."""
    compare: bool = False
    """Put the true twin beside the world: same start, same actions; world left, twin right."""
    overlay: bool = False
    """Draw the held keys and a top-down track."""
    trust: bool = False
    """Draw how far the world's frames can be trusted, as a bar; worlds with a calibration have it."""
    scene: Scene = None
    split: Split = "val"
    image: Image = None
    context: Context = "none"
    prompt: Prompt = None
    trajectory: Path | None = None
    """Draw this whole camera path at once (released worlds that are not stepped): .npy or .npz or .json with
    c2w (F, 4, 4), or .txt with an action string; needs --image."""
    sampler_steps: int = 60
    """Denoising steps of a whole path."""
    weights: Weights = None
    refiner: Refiner = "default"
    dtype: Dtype = None
    offload: Offload = ("text",)
    frame_size: FrameSize = None
    precision: Precision = "bf16"
    refiner_history: RefinerHistory = 10
    window: Window = None
    camera_dtype: CameraDtype = "float32"
    device: Device = "cpu"
    threads: int = 1
    """CPU threads of torch; one is fastest at batch 1 on a busy machine."""
    json: Path | None = None
    """File for the result as JSON."""
    overwrite: bool = False
    """Replace files that exist already."""

    def run(self) -> dict[str, Any]:
        if self.trajectory is not None:
            return self._whole_path(self.trajectory)
        return self._video() if self.format == "video" else self._dataset()

    def _whole_path(self, trajectory: Path) -> dict[str, Any]:
        """Draw one clip along a camera path that is known in advance."""
        if self.image is None or self.scene is not None or self.format != "video":
            raise ValueError("--trajectory needs --image and writes a video; it takes no --scene")
        if self.compare or self.overlay or self.trust or self.context != "none":
            raise ValueError(
                "--compare, --overlay, --trust and --context belong to what is stepped, not to a --trajectory"
            )
        if self.out.suffix.lower() != ".mp4":
            raise ValueError(f"--out {str(self.out)!r} must end in .mp4")
        if self.sampler_steps < 1:
            raise ValueError(f"--sampler-steps {self.sampler_steps} must be at least 1")
        self._check_files(None)
        torch.set_num_threads(self.threads)
        clip = Clip(
            world=self.world,
            trajectory=trajectory,
            image=self.image,
            prompt=self.prompt or "",
            seed=self.seed,
            device=self.device,
            sampler_steps=self.sampler_steps,
            overwrite=self.overwrite,
            settings=ReleasedSettings(
                **self._released() | {"refiner": "none" if self.refiner == "default" else self.refiner}
            ),
        )
        return record_clip(clip, self.out)

    def _released(self) -> dict[str, Any]:
        """Return the settings of released worlds as keyword arguments of an environment."""
        return {
            "weights": None if self.weights is None else str(self.weights),
            "refiner": self.refiner,
            "dtype": self.dtype,
            "offload": self.offload,
            "frame_size": self.frame_size,
            "precision": self.precision,
            "refiner_history": self.refiner_history,
            "window": self.window,
            "camera_dtype": self.camera_dtype,
        }

    def _dataset(self) -> dict[str, Any]:
        """Record episodes as folders, then export them where another format is asked for."""
        self._check_numbers()
        if self.compare or self.overlay or self.trust or self.image is not None:
            raise ValueError(
                f"--compare, --overlay, --trust and --image go with videos, not with --format {self.format}"
            )
        check_folder(self.out)
        if self.ray is not None:
            ray()  # a missing extra is told first
        exporter = exporter_of(self.format)  # a missing extra is told before anything is recorded
        begun = exporter is None and (self.out / RECORDING).is_file()
        if exporter is None:
            remove_leftovers(self.out, "recording")  # of a recording that was killed at its first file
        if self.out.exists() and any(self.out.iterdir()) and not begun:
            raise FileExistsError(f"--out {str(self.out)!r} must be a new or empty folder")
        home = self.out if exporter is None else self.out.with_name(f"{self.out.name}{EPISODES}")
        found = self._player()
        plays = found.shown()
        plain = {"action_type": "multikeys", "obs_type": "rgb", "obs_size": None}
        if plays.get("obs_size") is not None:
            config = EnvConfig(world=self.world, device=self.device, **self._released())
            height, width = config.load_world().spec.frame_size
            if plays["obs_size"] == height == width:
                plays["obs_size"] = None
        if {**plain, **plays} != {**plays, **plain}:
            raise ValueError(
                f"a dataset holds keys and pictures of the world's size; {self.policy!r} plays with "
                f"{', '.join(f'{name}={value}' for name, value in plays.items())}"
            )
        job = Job(
            settings={
                "world": self.world,
                "task": plays["task"],
                "split": self.split,
                "context": self.context,
                "device": self.device,
                "scene": self.scene,
                "prompt": self.prompt,
                "action_type": "multikeys",
                **self._released(),
            },
            make_player=self._maker(),
            policy=self.policy,
            policy_sha256=found.sha256,
            steps=self.steps,
            seed=self.seed,
            out=home,
        )
        torch.set_num_threads(self.threads)
        jobs = collect(job, self.episodes, self.workers, self.ray)
        done = sorted(over(jobs, self.episodes, "recording", unit="episode"))
        if exporter is not None:
            export(exporter, done, self.out)
        print(f"{self.out}: {len(done)} episodes as {self.format}")
        return {
            "out": str(self.out),
            "format": self.format,
            "episodes": [str(path) for path in done],
            "world": self.world,
            "task": plays["task"],
            "policy": self.policy,
            "seed": self.seed,
        }

    def _video(self) -> dict[str, Any]:
        sheet = self.out.with_suffix(".png")
        self._check(sheet)
        torch.set_num_threads(self.threads)
        plays = self._player().shown()
        env = SanaWMEnv(
            **plays,
            world=self.world,
            scene=self.scene,
            split=self.split,
            context=self.context,
            image=None if self.image is None else str(self.image),
            prompt=self.prompt,
            device=self.device,
            threads=self.threads,
            trust=self.trust,
            **self._released(),
        )
        envs = [env]
        if self.compare:
            twin = twin_like(env.world.spec, self.device)
            envs.append(
                SanaWMEnv(
                    **plays,
                    world=twin,
                    scene=self.scene,
                    split=self.split,
                    prompt=self.prompt,
                    threads=self.threads,
                )
            )
        for each in envs:
            each.reset(seed=self.seed)
        player = self._maker()(self.policy, self.seed)
        spec = env.world.spec
        layout = Layout(labels=(self.world, "twin (truth)")[: len(envs)], overlay=self.overlay)

        started = time.perf_counter()
        rewards: list[float] = []
        trusts: list[float | None] = []
        shots = _watched(film_player(envs, player, self.steps), self.steps, rewards, trusts)
        frames = record_video(self.out, shots, layout, spec.fps, env.state, overwrite=self.overwrite)
        elapsed = time.perf_counter() - started
        picture = contact_sheet(frames, layout.labels, env.frames_per_step / spec.fps)
        save_png(sheet, picture, overwrite=self.overwrite)
        steps = len(frames) - 1
        end = ", then the task ended it" if bool(env.state.terminated[0]) else ""
        frames_in_all = steps * env.frames_per_step + 1
        print(f"{self.out}: {steps} steps{end}, {frames_in_all} frames; contact sheet {sheet}")
        return {
            "out": str(self.out),
            "contact_sheet": str(sheet),
            "world": spec.label,
            "weights_sha256": spec.weights_sha256,
            "policy": self.policy,
            "task": plays["task"],
            "terminated": bool(env.state.terminated[0]),
            "seed": self.seed,
            "scene": int(env.state.scene_seed[0]),
            "split": self.split,
            "context_frames": int(env.state.context_frames[0]),
            "prompt": env.prompt,
            "steps": steps,
            "frames": frames_in_all,
            "fps": spec.fps,
            "reward": sum(rewards),
            **({"trust": trusts} if self.trust else {}),
            "seconds": elapsed,
        }

    def _check(self, sheet: Path) -> None:
        if self.out.suffix.lower() not in (".mp4", ".gif"):
            raise ValueError(f"--out {str(self.out)!r} must end in .mp4 or .gif")
        if self.episodes != 1 or self.workers != 1 or self.ray is not None:
            raise ValueError(
                "--episodes, --workers and --ray record a dataset; add --format folder, minari or lerobot"
            )
        self._check_numbers()
        if self.image is not None and (self.compare or self.scene is not None):
            raise ValueError("--image has no true scene: it goes with neither --compare nor --scene")
        if self.compare and self.context not in ("none", *SCENE_CONTEXTS):
            raise ValueError(
                f"--context {self.context!r} has no true scene to --compare with; use turn or walk"
            )
        check_encoder(self.out)
        self._check_files(sheet)

    def _check_files(self, sheet: Path | None) -> None:
        """Raise `ValueError` where a file that is read would be replaced, `OSError` where one cannot be."""
        written = {"the video": self.out, "the contact sheet": sheet, "--json": self.json}
        read = {"--image": self.image, "--trajectory": self.trajectory}
        if self.context not in ("none", *SCENE_CONTEXTS):
            read["--context"] = expanded(self.context)
        taken: dict[str, Path] = {name: path for name, path in read.items() if path is not None}
        for name, path in written.items():
            if path is None:
                continue
            for other, there in taken.items():
                if same_file(path, there):
                    raise ValueError(f"{name} would replace {other} {str(there)!r}; rename --out or --json")
            taken[name] = path
            check_writable(path, overwrite=self.overwrite)

    def _player(self) -> Any:
        """Return who plays; what is wrong with it is told before anything is made."""
        return importlib.import_module(_PLAYERS).find_player(
            self.policy, task=self.task, deterministic=self.deterministic
        )

    def _maker(self) -> Callable[[str, int], Player]:
        """Return what makes the player of one episode, in other processes too."""
        make: Callable[..., Player] = importlib.import_module(_PLAYERS).make_player
        return functools.partial(make, task=self.task, deterministic=self.deterministic)

    def _check_numbers(self) -> None:
        if self.episodes < 1 or self.workers < 1:
            raise ValueError(f"--episodes {self.episodes} and --workers {self.workers} must be at least 1")


def _watched(
    shots: Iterable[Shot], steps: int, rewards: list[float], trusts: list[float | None]
) -> Iterable[Shot]:
    """Pass shots through a progress bar and keep their rewards, and the trust in them."""
    for shot in over(shots, steps + 1, "recording"):
        rewards.append(shot.reward)
        trusts.append(shot.trust)
        yield shot
