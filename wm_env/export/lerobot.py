"""Recorded episodes in the LeRobot dataset layout, version 3.0, written with pyarrow. Needs the extra `data`.

    meta/info.json  meta/stats.json  meta/tasks.parquet  meta/episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet                      one row a pixel frame
    videos/observation.images.front/chunk-000/file-000.mp4

A row is a pixel frame at 16 fps with the action held from it to the next frame (an episode's last frame has
no action and no row). `observation.state` is the camera's pose relative to the start, the first three rows of
c2w. `next.reward` is paid on the last frame of an env step. The lerobot package itself is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wm_env.export.episode import Recording, load_recording
from wm_env.export.statistics import VIDEO, Counted, aggregate, looked_at, statistics
from wm_env.model.storage.atomic import atomic_folder
from wm_env.model.storage.film import film_file

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError("the LeRobot exporter needs pyarrow: pip install 'wm-env[data]'") from error

VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
_POSE_NAMES = [f"c2w_{row}{column}" for row in range(3) for column in range(4)]


def export_lerobot(
    episodes: Sequence[Path], out: str | Path, *, watch: Callable[[Iterable[Path]], Iterable[Path]] = iter
) -> Path:
    """Write the episode folders as one LeRobot v3.0 dataset; `out` appears when it is complete.

    watch: passes the episodes on one by one, for a progress bar.
    """
    if not episodes:
        raise ValueError("there are no episodes to export")
    with atomic_folder(out) as temporary:
        _write_dataset(episodes, temporary, watch)
    return Path(out)


def _write_dataset(
    episodes: Sequence[Path], target: Path, watch: Callable[[Iterable[Path]], Iterable[Path]]
) -> None:
    video = target / VIDEO_PATH.format(video_key=VIDEO, chunk_index=0, file_index=0)
    data = target / DATA_PATH.format(chunk_index=0, file_index=0)
    for path in (video, data, target / EPISODES_PATH):
        path.parent.mkdir(parents=True, exist_ok=True)
    first = load_recording(episodes[0])
    fps = int(first.facts["fps"])
    tasks: dict[str, int] = {}
    tables, rows, stats = [], [], []
    done = 0
    counted = Counted()
    with film_file(video, fps=fps, crf=5) as append:
        for index, path in enumerate(watch(episodes)):
            recording = load_recording(path)
            length = len(recording.frames) - 1
            if length < 1 or recording.frames.shape[1:] != first.frames.shape[1:]:
                raise ValueError(f"{str(path)!r} is empty or of another frame size than {str(episodes[0])!r}")
            task = f"{recording.facts['settings']['task']}: {recording.facts['prompt']}"
            columns = _columns(recording, index, done, tasks.setdefault(task, len(tasks)), fps)
            tables.append(_table(columns))
            for frame in recording.frames[:-1]:
                append(frame)
            seen = looked_at(recording.frames[:-1])
            stats.append(statistics(columns, seen))
            counted.add(columns, seen)
            rows.append(_episode_row(index, task, done, length, fps, stats[-1]))
            done += length
    with pq.ParquetWriter(data, tables[0].schema) as writer:
        for table in tables:  # one row group an episode
            writer.write_table(table)
    pq.write_table(pa.Table.from_pylist(rows), target / EPISODES_PATH)
    pq.write_table(_tasks(tasks), target / "meta/tasks.parquet")
    height, width = first.frames.shape[1:3]
    _write(target / "meta/info.json", _info(len(episodes), done, len(tasks), fps, height, width, first))
    _write(target / "meta/stats.json", aggregate(stats, counted))


def _columns(recording: Recording, episode: int, done: int, task: int, fps: int) -> dict[str, np.ndarray]:
    """Return the rows of one episode, each column `(n,)` or `(n, width)` with n = S K."""
    per_step = recording.frames_per_step
    length = len(recording.frames) - 1
    frame = np.arange(length)
    last_of_step = frame % per_step == per_step - 1
    return {
        "observation.state": recording.c2w[:-1, :3].reshape(length, 12).astype(np.float32),
        "action": recording.actions.repeat(per_step, axis=0).astype(np.float32),
        "next.reward": np.where(last_of_step, recording.rewards.repeat(per_step), 0.0).astype(np.float32),
        "next.done": frame == length - 1,
        "next.success": (frame == length - 1) & bool(recording.facts["is_success"]),
        "timestamp": (frame / fps).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.full(length, episode),
        "index": done + frame,
        "task_index": np.full(length, task),
    }


def _table(columns: dict[str, np.ndarray]) -> Any:
    arrays = {}
    for name, values in columns.items():
        if values.ndim == 1:
            arrays[name] = pa.array(values)
        else:
            arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.table(arrays)


def _episode_row(
    index: int, task: str, done: int, length: int, fps: int, stats: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "episode_index": index,
        "tasks": [task],
        "length": length,
        "data/chunk_index": 0,
        "data/file_index": 0,
        "dataset_from_index": done,
        "dataset_to_index": done + length,
        f"videos/{VIDEO}/chunk_index": 0,
        f"videos/{VIDEO}/file_index": 0,
        f"videos/{VIDEO}/from_timestamp": done / fps,
        f"videos/{VIDEO}/to_timestamp": (done + length) / fps,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }
    return row | {
        f"stats/{feature}/{name}": np.asarray(value).tolist()
        for feature, found in stats.items()
        for name, value in found.items()
    }


def _tasks(tasks: dict[str, int]) -> Any:
    """Return the table whose pandas index is the task's text, as LeRobot reads it."""
    table = pa.table(
        {"task_index": pa.array(list(tasks.values()), pa.int64()), "task": pa.array(list(tasks))}
    )
    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    described = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": pandas, "numpy_type": kind, "metadata": None}
            for name, (pandas, kind) in kinds.items()
        ],
        "pandas_version": "2.2.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(described)})


def _info(
    episodes: int, frames: int, tasks: int, fps: int, height: int, width: int, first: Recording
) -> dict[str, Any]:
    video = {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
        },
    }
    one = {"shape": [1], "names": None}
    return {
        "codebase_version": VERSION,
        "robot_type": first.facts["world"],
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": {
            VIDEO: video,
            "observation.state": {"dtype": "float32", "shape": [12], "names": _POSE_NAMES},
            "action": {"dtype": "float32", "shape": [8], "names": list(first.facts["keys"])},
            "next.reward": {"dtype": "float32", **one},
            "next.done": {"dtype": "bool", **one},
            "next.success": {"dtype": "bool", **one},
            "timestamp": {"dtype": "float32", **one},
            **{
                name: {"dtype": "int64", **one}
                for name in ("frame_index", "episode_index", "index", "task_index")
            },
        },
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
