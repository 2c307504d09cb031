"""How well a freshly trained small network tells a world's frames from true ones.

A network that no world has ever met, trained on the frames of half the scenes and asked about the other
half, then the other way round. 0.5 is chance: nothing tells them apart. It looks at the detail of luma, on a
log scale, not at colours: those belong to a scene, and learning them by heart tells nothing of the next one.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_env.model.metrics.images import LUMA

MIN_SCENES = 4  # two a fold
STEPS, BATCH, RATE = 240, 32, 4e-3
FLAT = 0.004  # half a grey level of 127.5


def telling_accuracy(own: Tensor, true: Tensor, seed: int = 0, steps: int = STEPS) -> np.ndarray:
    """Return the share of frames told right, `(S,)` float64, of scenes that it has not been trained on.

    own, true: uint8 `(S, n, h, w, 3)`, frames by scene. Even scenes are one fold, odd ones the other. NaN
    with fewer than four scenes. steps: of training, a fold. The result depends on `seed` alone; torch's own
    generator is left as it is.
    """
    if own.shape != true.shape:
        raise ValueError(f"frames {tuple(own.shape)} and {tuple(true.shape)} must be of one shape")
    scenes = len(own)
    found = np.full(scenes, np.nan)
    if scenes < MIN_SCENES:
        return found
    for fold in (0, 1):
        train, test = range(fold, scenes, 2), range(1 - fold, scenes, 2)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed + fold)
            network = _trained(own[list(train)].flatten(0, 1), true[list(train)].flatten(0, 1), steps)
        for scene in test:
            with torch.no_grad():
                of_own, of_true = (network(_input(x[scene])) for x in (own, true))
            found[scene] = float(torch.cat([of_own > 0, of_true <= 0]).double().mean())
    return found


def _trained(own: Tensor, true: Tensor, steps: int) -> nn.Module:
    """Return a network whose output is above 0 for frames like `own` `(n, h, w, 3)`."""
    network = nn.Sequential(
        *(nn.Conv2d(3, 32, 4, stride=4), nn.GELU()),  # 16 x 16 patches
        *(nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.GELU()),
        *(nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.GELU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1)),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
    x = _input(torch.cat([own, true]))
    y = torch.cat([torch.ones(len(own), 1), torch.zeros(len(true), 1)])
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        rows = torch.randint(len(x), (BATCH,))
        flipped = x[rows].flip(-1) if step % 2 else x[rows]
        loss = F.binary_cross_entropy_with_logits(network(flipped), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def _input(frames: Tensor) -> Tensor:
    """Return the detail of frames uint8 `(n, h, w, 3)`: log |d/dx|, |d/dy| and |luma - its mean over 5 x 5|.

    float32 `(n, 3, h, w)`, about -2 where a frame is flat and 2 at an edge.
    """
    luma = (frames.float() @ torch.tensor(LUMA) / 127.5)[:, None]  # (n, 1, h, w)
    across = F.pad(luma.diff(dim=3), (0, 1))
    along = F.pad(luma.diff(dim=2), (0, 0, 0, 1))
    around = luma - F.avg_pool2d(luma, 5, 1, 2, count_include_pad=False)
    return torch.log(torch.cat([across, along, around], 1).abs() + FLAT) + 3
