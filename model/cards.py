"""Model cards of the embedded worlds: pages for people, made from the JSON cards beside the weights.

    python -m wm_env.model.cards docs/cards       writes one page for every embedded world

A page holds nothing that is not in the JSON card or true of every embedded world; a test makes the pages
again and compares bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wm_env.model.embedded import EMBEDDED, MAX_ROTATION_DEG, MAX_TRANSLATION, EmbeddedConfig, world_path
from wm_env.model.storage.atomic import write_text
from wm_env.model.storage.checkpoint import Card, load_card

FPS = 16
PARTS = {"vae": "autoencoder with depth network", "dit": "transformer", "refiner": "pixel refiner"}
METRICS = {  # of a training's end, on clips of the split `val`; the number at the end counts pixel frames
    "psnr": "PSNR of the autoencoder's frames, dB",
    "psnr_start": "PSNR of the start frame, dB",
    "depth_codec": "median relative error of decoded depth",
    "depth_image": "median relative error of depth predicted from one picture",
    **{f"psnr_{n}": f"PSNR of a rollout at frame {n}, as decoded, dB" for n in (4, 16, 64)},
    **{f"contrast_{n}": f"contrast of a rollout over that of the truth at frame {n}" for n in (4, 16, 64)},
    **{f"decoded_{n}": f"PSNR of a rollout at frame {n}, as decoded, dB" for n in (4, 16, 64)},
    **{f"refined_{n}": f"PSNR of a rollout at frame {n}, refined, dB" for n in (4, 16, 64)},
    "val_loss": "held-out loss of its stage",
    "val_pure": "the same, drawn from noise alone",
    "val_late": "the same after a long walk of its own",
}
KINDS = {  # of the stages of a recipe, in words
    "images": "single frames of ever new rooms",
    "clips": "walks through ever new rooms",
    "rollouts": "the world's own walks, with the truth as aim",
    "few_steps": "its own walks, drawn in few steps as in many",
}

# links are written from the root of the repository, as all citations in code are, and made relative in `page`
PAGE = """# Model card: {name}

Made from `model/weights/{name}.json` by `python -m wm_env.model.cards docs/cards`. Do not edit.

## Model

`{name}` is an embedded world of wm_env: it imagines what a camera sees that moves through a small procedural
room, chunk by chunk. A diffusion transformer of the SANA-WM family
([equations](docs/reference/transformer.md); {depth} blocks of width {hidden} with {heads} heads, every
{softmax}th one softmax, the others frame-wise gated delta rule) works on the latents of a causal video
autoencoder.

{memory}

| | |
| --- | --- |
| licence | Apache-2.0, as the code |
| weights | `model/weights/{name}.safetensors`, {megabytes:.1f} MB, {values:,} values in bfloat16 |
| SHA-256 | `{sha256}` |

## Inputs and outputs

{interface}

One step draws one latent frame in {calls} ({levels}).
Prompts are bags of words; words that the captions of the training scenes do not have carry no meaning.

## Parts

{parts}

## Training

{training}

{origin}Earlier trainings of a part are not in the JSON card; the [training guide](docs/training.md) describes
them. All data are procedural: rooms, walks and captions that `wm-env train data` renders, no pictures or
videos from elsewhere. Training, `val` and `heldout` scenes come from disjoint streams of seeds.

## Metrics

As each training ended, on clips of the split `val`:

{metrics}

With baselines and intervals these weights are measured in [fidelity](docs/performance/fidelity.md);
definitions are in the [reference](docs/reference/evaluation.md).

## Intended use

Trying algorithms on a world model without a GPU or a download: environments, snapshots, planning, training of
agents, benchmarks of drift and transfer. The scenes have a renderer, so every result can be compared with it.

## Limits

- {size}x{size} pixels and one kind of place. What the start picture does not show is invented, softly, and is
  not what is there.
- Quality falls with the horizon{contrast}.
- Depth is predicted from the start picture. Other pictures than renderings of such rooms were not measured.
- {limit}
- Not for decisions about real places, vehicles or people.
"""

WITH_MEMORY = """Of the past it keeps a recurrent state{window}, and frames with depth as a 3D
point memory, which is splatted into the view of the next chunk and shown to the transformer and to a pixel
refiner."""
WITHOUT_MEMORY = """Of the past it keeps a recurrent state{window} and nothing else: it has neither 3D point
memory nor refiner."""
LIMIT_MEMORY = "At short horizons most of the sharpness comes from the point memory and the refiner."
LIMIT_PURE = "A view that was left comes back only as far as the recurrent state holds it."


def table(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    """Return a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def trainings(parts: Mapping[str, Card]) -> Iterator[tuple[str, Card]]:
    """Yield (title, card) of every training that a world's card holds, earlier ones of a part first."""
    for name, title in PARTS.items():
        if name in parts:
            if "codec" in parts[name]:
                yield "autoencoder", parts[name]["codec"]
                title = "its depth network, further"
            yield title, parts[name]


def page(card: Card) -> str:
    """Return the page of an embedded world's JSON card; `ValueError` for one with unknown metrics."""
    config = EmbeddedConfig.from_dict(card["world"])
    unknown = {name for _, t in trainings(card["parts"]) for name in t["metrics"]} - set(METRICS)
    if unknown:
        raise ValueError(f"metrics without words for them: {sorted(unknown)}; describe them in METRICS")
    parts, dit, sigmas = card["parts"], config.dit, config.sampler.sigmas
    frames, size = dit.temporal_stride, config.vae.size
    calls = len(sigmas) - 1
    window = f", softmax keys of the latest chunks ({dit.window_chunks})" if dit.window_chunks else ""
    interface_rows = (
        ("reset", f"one {size}x{size} RGB picture, its intrinsics, a prompt, a noise seed", "the picture"),
        (
            "step",
            f"{frames} camera poses relative to the start, one per pixel frame, at full speed "
            f"{MAX_TRANSLATION} m and {MAX_ROTATION_DEG} degrees apart",
            f"{frames} RGB frames of {size}x{size} at {FPS} per second, their depth in metres, "
            f"a latent of {config.vae.channels}x{size // 8}x{size // 8}",
        ),
    )
    part_rows = (
        (PARTS[name], f"{part['values']:,}", f"`{part['sha256']}`")
        for name, part in sorted(parts.items(), key=lambda item: list(PARTS).index(item[0]))
    )
    training_rows = (
        (
            title,
            t["steps"],
            f"{t['wall_seconds']:.0f}",
            t["hardware"],
            t["torch"],
            t["seed"],
            f"`{(t['commit'] or 'unknown')[:12]}`",
        )
        for title, t in trainings(parts)
    )
    metric_rows = (
        (title, METRICS[name], f"{value:.3f}" if value < 1 else f"{value:.1f}")
        for title, t in trainings(parts)
        for name, value in sorted(t["metrics"].items(), key=lambda item: list(METRICS).index(item[0]))
    )
    init = parts["dit"]["settings"].get("init_sha256")
    total = sum(t["wall_seconds"] for _, t in trainings(parts))
    data = parts.get("refiner", {}).get("data")
    return PAGE.replace("](docs/", "](../").format(
        name=card["name"],
        depth=dit.depth,
        hidden=dit.hidden,
        heads=dit.heads,
        softmax=dit.softmax_every,
        memory=(WITH_MEMORY if dit.memory_channels else WITHOUT_MEMORY).format(window=window),
        megabytes=card["bytes"] / 1e6,
        values=card["values"],
        sha256=card["sha256"],
        size=size,
        calls="one call of the transformer" if calls == 1 else f"{calls} calls of the transformer",
        levels=f"noise levels {', '.join(f'{sigma:g}' for sigma in sigmas)}",
        interface=table(("at", "input", "output"), interface_rows),
        parts=table(("part", "values", "SHA-256 as trained"), part_rows),
        training=table(("training", "steps", "seconds", "hardware", "torch", "seed", "commit"), training_rows)
        + f"\n\nTogether {total:.0f} seconds."
        + (f" The refiner saw {data['clips']} clips of {data['frames']} frames." if data else ""),
        origin=_stages(card)
        + ("" if init is None else f"The transformer was continued from the world\n`{init}`.\n"),
        metrics=table(("training", "metric", "value"), metric_rows),
        contrast=_late_contrast(card),
        limit=LIMIT_MEMORY if dit.memory_channels else LIMIT_PURE,
    )


def _stages(card: Card) -> str:
    """Return a table of the stages that the transformer was trained in; nothing where the card has none."""
    if not card.get("stages"):
        return ""
    rows = [
        (
            f"`{one['name']}`",
            KINDS.get(one["kind"], one["kind"]),
            one["steps"],
            f"{one['seconds'] / 3600:.2f}",
        )
        for one in card["stages"]
    ]
    hours = sum(one["seconds"] for one in card["stages"]) / 3600
    head = ("stage", "on", "steps", "core-hours")
    return f"The transformer was trained in stages, {hours:.1f} core-hours:\n\n{table(head, rows)}\n\n"


def _late_contrast(card: Card) -> str:
    """Return how much contrast is left after four seconds, in words; nothing where the card does not say."""
    if "contrast_64" not in card["metrics"]:
        return ""
    share = card["metrics"]["contrast_64"]
    return f": at frame 64 ({64 / FPS:g} s) a rollout has {share:.0%} of the true\n  contrast"


def write_pages(folder: Path) -> list[Path]:
    """Write the page of every embedded world into `folder`; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.md" for name in EMBEDDED]
    for path in paths:
        write_text(path, page(load_card(world_path(path.stem))))
    return paths


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m wm_env.model.cards FOLDER")
    for written in write_pages(Path(sys.argv[1])):
        print(written)
