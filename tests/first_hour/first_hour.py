"""What a newcomer does in the first hour: twenty actions, in order, in an empty folder.

    python tests/first_hour/first_hour.py                    all of them, in a temporary folder
    python tests/first_hour/first_hour.py --list             their names and what they are
    python tests/first_hour/first_hour.py --only step play   some of them, and those that they need

Run by the interpreter of an environment that holds wm_env with the extras rl, bench, data and web; `wm-env`
is the program beside it. Of this checkout only what the pages of docs/ print is used. An action that fails
ends the hour with what was said, and exit status 1. Sizes are those of toys.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).parent / "wm-env"
PATIENCE = 240.0  # seconds that a single command may take, on a busy machine


class Stuck(Exception):
    """An action did not do what it should; the text is what a newcomer would have seen."""


class Action(NamedTuple):
    """One of the twenty. needs: names of actions whose files it goes on with."""

    name: str
    does: Callable[[], None]
    needs: tuple[str, ...] = ()


def wm(line: str, status: int = 0) -> str:
    """Run `wm-env` and return what it printed; another exit status than expected is being stuck."""
    return _finished([str(PROGRAM), *line.split()], status)


def python(code: str) -> str:
    """Run a script and return what it printed."""
    Path("script.py").write_text(code, encoding="utf-8")
    return _finished([sys.executable, "script.py"], 0)


def expect(true: bool, what: str) -> None:
    """Be stuck where something is not so."""
    if not true:
        raise Stuck(what)


def printed(page: str, first: str) -> str:
    """Return the Python block of a page of docs/ that holds a line."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    found = [block for block in blocks if first in block]
    expect(len(found) == 1, f"{page} has {len(found)} blocks with {first!r}")
    return found[0]


def _finished(words: Sequence[str], status: int) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired as late:
        raise Stuck(f"{' '.join(words)} took more than {PATIENCE:.0f} s") from late
    if done.returncode != status:
        raise Stuck(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout}{done.stderr}"[-4000:])
    return done.stdout + done.stderr


def _film(path: str) -> None:
    expect(Path(path).stat().st_size > 1000, f"{path} is empty")


def install() -> None:
    """The package is there, says its version, and knows its worlds."""
    version = wm("--version").split()[-1]
    told = python("import wm_env; print(wm_env.__version__, [name for name in dir(wm_env)])")
    expect(told.split()[0] == version and "snapshot" in told, told)
    expect("tiny" in wm("info"), "`wm-env info` does not name tiny")


def demo() -> None:
    """A film of the learned world beside the truth, as `make demo` makes."""
    wm("record --out demo.mp4 --context turn --policy wander --steps 8 --compare --overlay")
    _film("demo.mp4")
    _film("demo.png")


def step() -> None:
    """Make, reset and step an environment."""
    python(
        "import gymnasium as gym, wm_env\n"
        "env = gym.make('SanaWM-v0')\n"
        "first, info = env.reset(seed=0)\n"
        "for _ in range(4):\n"
        "    seen, reward, terminated, truncated, info = env.step(1)\n"
        "assert seen.shape == (64, 64, 3) and (seen != first).any() and info['c2w'][2, 3] > 0.1\n"
    )


def twin() -> None:
    """Measure against the truth: same seed, same start."""
    python(
        "import gymnasium as gym, wm_env\n"
        "starts = [gym.make(name).reset(seed=0)[0] for name in ('SanaWM-v0', 'SanaWM-Twin-v0')]\n"
        "assert (starts[0] == starts[1]).all()\n"
    )


def task() -> None:
    """The task of one's own that docs/environment.md prints."""
    python("import gymnasium as gym, wm_env\n" + printed("docs/environment.md", "class Spin:"))


def world() -> None:
    """The world of one's own that docs/environment.md prints."""
    python("import gymnasium as gym, wm_env\n" + printed("docs/environment.md", "class Poster:"))


def picture() -> None:
    """Walk into a picture of one's own."""
    python(
        "import numpy as np\nfrom PIL import Image\n"
        "y, x = np.mgrid[:90, :160]\n"
        "sky = np.stack([90 + y, 120 + y, 200 - x // 2], -1)\n"
        "Image.fromarray(np.where((y > 50)[..., None], 80, sky).astype(np.uint8)).save('photo.png')\n"
    )
    wm("record --image photo.png --policy forward --steps 4 --out inside.mp4")
    _film("inside.mp4")


def episodes() -> None:
    """Record labelled episodes."""
    wm("record --format folder --episodes 2 --steps 8 --world twin --out walks")
    expect(Path("walks/episode_000001").is_dir(), "the second episode is missing")


def clip() -> None:
    """Show the world a clip of one's own, and walk on from where it ends."""
    wm("record --context walks/episode_000000 --policy forward --steps 4 --out on.mp4")
    _film("on.mp4")


def vector() -> None:
    """Several at once, in one model call."""
    python(
        "import gymnasium as gym, wm_env\n"
        "envs = gym.make_vec('SanaWM-v0', num_envs=4, task='objectnav')\n"
        "envs.reset(seed=0)\n"
        "seen, *_ = envs.step(envs.action_space.sample())\n"
        "assert seen['image'].shape == (4, 64, 64, 3)\n"
    )


def workers() -> None:
    """Several in processes of their own, after this one has used torch."""
    python(
        "import gymnasium as gym, torch, wm_env\n"
        "torch.ones(512, 512) @ torch.ones(512, 512)\n"
        "if __name__ == '__main__':\n"
        "    envs = gym.make_vec('SanaWM-Twin-v0', num_envs=2, vectorization_mode='async')\n"
        "    envs.reset(seed=0)\n"
        "    assert envs.step([1, 2])[0].shape == (2, 64, 64, 3)\n"
        "    envs.close()\n"
    )


PPO = (
    "agent train --world twin --task pointnav --num-envs 4 --max-episode-steps 8 --rollout 16 "
    "--batch-size 64 --epochs 1 --evaluate-episodes 4 --threads 1"
)


def train() -> None:
    """Train a policy by PPO."""
    told = wm(f"{PPO} --steps 128 --out run")
    expect("success" in told and Path("run/policy.safetensors").is_file(), told)


def film_policy() -> None:
    """Watch the policy, and score it with a film."""
    wm("record --policy run --steps 4 --world twin --out policy.mp4")
    _film("policy.mp4")
    wm("agent eval run --world twin --episodes 2 --video scored.gif")
    _film("scored.gif")


def resume() -> None:
    """Ctrl-C in a training, and the same line with --resume."""
    words = [str(PROGRAM), *PPO.split(), "--steps", "4096", "--out", "stopped"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as training:
        deadline = time.monotonic() + PATIENCE
        while not Path("stopped/policy.zip").is_file():
            expect(training.poll() is None and time.monotonic() < deadline, "the training never began")
            time.sleep(0.1)
        time.sleep(1.0)
        training.send_signal(signal.SIGINT)
        told = training.communicate(timeout=PATIENCE)[1]
    expect("go on with --resume" in told, told)
    done = int(re.findall(r"(\d+) of 4096 steps are learned", told)[-1])
    told = wm(f"{PPO} --steps {done + 64} --out stopped --resume")
    expect(f"goes on after step {done}" in told, told)


def snapshot() -> None:
    """Keep a moment, and go on from it in another process: the same frames."""
    walk = (
        "import gymnasium as gym, hashlib, wm_env\n"
        "env = gym.make('SanaWM-v0')\n"
        "{begin}"
        "for _ in range(2):\n    seen, *_ = env.step(1)\n"
        "print(hashlib.sha256(seen.tobytes()).hexdigest())\n"
    )
    begin = "env.reset(seed=0)\nenv.step(4)\nwm_env.snapshot(env).save('moment.safetensors')\n"
    here = python(walk.format(begin=begin))
    there = python(walk.format(begin="wm_env.restore(env, wm_env.load_snapshot('moment.safetensors'))\n"))
    expect(here == there, f"here {here}, there {there}")


def branch() -> None:
    """Live four futures of a moment."""
    python(
        "import gymnasium as gym, wm_env\n"
        "env = gym.make('SanaWM-v0')\n"
        "env.reset(seed=0)\n"
        "seen, *_ = wm_env.branch(env, 4, noise='shared').step([1, 1, 3, 4])\n"
        "assert (seen[0] == seen[1]).all() and (seen[2] != seen[3]).any()\n"
    )


def minari() -> None:
    """Export the episodes and read them back with minari."""
    wm("export --from walks --format minari --out data-minari")
    python(
        "import minari\n"
        "found = minari.MinariDataset('data-minari')\n"
        "assert found.total_episodes == 2 and found.total_steps == 16\n"
        "assert next(found.iterate_episodes()).observations.shape[1:] == (64, 64, 3)\n"
    )


def lerobot() -> None:
    """Export the episodes as LeRobot and as a film, and read the rows with pyarrow."""
    wm("export --from walks --format lerobot --out data-lerobot")
    wm("export --from walks --format mp4 --out walks.mp4")
    told = wm("export --from walks --format mp4 --out walks.mp4", status=2)
    expect("--overwrite" in told, told)
    python(
        "import pyarrow.dataset as ds\n"
        "rows = ds.dataset('data-lerobot/data', format='parquet').to_table()\n"
        "assert rows.num_rows == 2 * 8 * 4 and 'action' in rows.column_names\n"
    )


def drift() -> None:
    """Ask how the world drifts: a report that begins with its verdict."""
    walk = "--scenes 1 --horizon 1.5s --trajectories random_walk --pose-every 0"
    told = wm(f"bench drift --world tiny-pure {walk} --out report")
    expect("Over 1.5 s tiny-pure goes from" in told, told)
    page = Path("report/report.html").read_text(encoding="utf-8")
    expect("<p class='verdict'>Over 1.5 s" in page and page.count("data:image/png") > 5, "an odd page")


def play() -> None:
    """Open the page, walk, keep a moment, lose the connection, come back to it, and end by Ctrl-C."""
    words = [str(PROGRAM), "play", "--port", "0", "--scene", "3"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            told = server.stdout.readline()
            expect(told.startswith("play at http://127.0.0.1:"), told)
            address = told.split()[2]
            with urllib.request.urlopen(address, timeout=PATIENCE) as page:
                expect(b"wm-env play" in page.read(), "another page")
            _walk_on_the_page(f"{address.replace('http', 'ws')}play?walk=first-hour")
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=PATIENCE)
        finally:
            server.kill()


def _walk_on_the_page(address: str) -> None:
    from websockets.sync.client import connect  # of the extra web

    def ask(page: Any, command: str, what: str) -> Any:
        """Send a command; return the first facts afterwards in which `what` is true."""
        page.send(command)
        for _ in range(50):
            facts = json.loads(page.recv(PATIENCE)).get("facts", {})
            if facts.get(what):
                return facts
        raise Stuck(f"{command} led to no {what!r}")

    with connect(address, max_size=None) as page:
        page.send('{"do": "keys", "held": "w"}')
        ask(page, '{"do": "step"}', "paused")
        kept = ask(page, '{"do": "save"}', "kept")
        expect(kept["scene"] == 3 and kept["step"] > 0, f"another scene or no step: {kept}")
        page.socket.close()
    with connect(address, max_size=None) as page:
        back = ask(page, '{"do": "restore"}', "kept")
        expect(back["walk"] == kept["walk"] and back["step"] == kept["step"], f"another walk: {back}")
        labels = [future["label"] for future in ask(page, '{"do": "branch"}', "futures")["futures"]]
        expect(labels == ["forward", "turn left", "turn right", "back"], str(labels))


ACTIONS = (
    *(Action("install", install), Action("demo", demo), Action("step", step), Action("twin", twin)),
    *(Action("task", task), Action("world", world), Action("picture", picture), Action("episodes", episodes)),
    Action("clip", clip, ("episodes",)),
    *(Action("vector", vector), Action("workers", workers), Action("train", train)),
    Action("film_policy", film_policy, ("train",)),
    *(Action("resume", resume), Action("snapshot", snapshot), Action("branch", branch)),
    *(Action("minari", minari, ("episodes",)), Action("lerobot", lerobot, ("episodes",))),
    *(Action("drift", drift), Action("play", play)),
)


def chosen(names: Sequence[str]) -> list[Action]:
    """Return the actions of these names with those that they need, in order; all without names."""
    known = {action.name: action for action in ACTIONS}
    odd = sorted(set(names) - set(known))
    if odd:
        raise SystemExit(f"no action {', '.join(odd)}; there are {', '.join(known)}")
    wanted = {need for name in names for need in (*known[name].needs, name)} or set(known)
    return [action for action in ACTIONS if action.name in wanted]


def hour(actions: Sequence[Action]) -> int:
    """Do the actions in an empty folder; return the exit status."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for action in actions:
            begun = time.monotonic()
            try:
                action.does()
            except (Stuck, OSError, ValueError, subprocess.TimeoutExpired) as stuck:
                print(f"{action.name}: stuck\n{stuck}", flush=True)
                return 1
            finally:
                os.chdir(folder)
            print(f"{time.monotonic() - begun:6.1f} s  {action.name}: {action.does.__doc__}", flush=True)
        os.chdir("/")
    print(f"{time.monotonic() - started:6.1f} s  {len(actions)} actions of the first hour work")
    return 0


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="print the actions and do nothing")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these, and what they need")
    options = parser.parse_args(words)
    actions = chosen(options.only)
    if options.list:
        print("\n".join(f"{action.name:12} {action.does.__doc__}" for action in actions))
        return 0
    return hour(actions)


if __name__ == "__main__":
    sys.exit(main())
