"""LeRobot's own reader on a data set of `wm-env record --format lerobot`; run by `make lerobot`.

    python tests/first_hour/lerobot_reads.py FOLDER

Needs lerobot (tried: 0.4.4), which pins another torch than this package: an environment of its own, and no
wm_env in it. Films are read by PyAV, which brings its ffmpeg along.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(folder: Path) -> int:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data = LeRobotDataset("wm-env/first-hour", root=folder, video_backend="pyav")
    assert data.fps == 16 and data.num_episodes > 0 and len(data) == data.num_frames > 0
    for index in (0, len(data) - 1):
        row = data[index]
        assert tuple(row["observation.images.front"].shape) == (3, 64, 64), row[
            "observation.images.front"
        ].shape
        assert row["action"].shape == (8,) and row["observation.state"].ndim == 1
    print(f"LeRobot reads {data.num_episodes} episodes, {data.num_frames} frames, {sorted(data.features)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
