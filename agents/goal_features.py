"""What a small policy is told of a picture: where the goal's colour is, and how bright the rest is.

ObjectNav names a colour, so the policy need not learn what colours are. With p a pixel in [0, 1]^3, g the
beacon's colour and x - min(x) what is left of a colour without its grey,

    match(p) = ramp(cos(p - min p, g - min g); 0.9, 1) ramp(max p - min p; 0.3, 0.6)
    ramp(x; a, b) = clip((x - a) / (b - a), 0, 1)

and the features are sqrt(mean of match) over the cells of a coarse grid (a far beacon is a few pixels) and
the mean brightness over a coarser one. Beacons glow: in 60 start pictures of training scenes 98% of their
pixels have max - min above 0.5, as one in ten of the other pixels with their hue. Nothing here is learned: a
policy is a small network on top of it, which a few ten thousand steps can train. A blind policy gets a black
picture: all features are zero.
Needs the extra `rl`.
"""

from __future__ import annotations

import gymnasium as gym
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from wm_env.model.scenes.materials import BEACON_COLORS

try:
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
except ImportError as error:
    raise ImportError(
        "wm_env.agents.goal_features needs Stable-Baselines3: pip install 'wm-env[rl]'"
    ) from error

MATCH_GRID, BRIGHT_GRID = (3, 16), (3, 4)  # rows, columns
SAME_HUE = (0.9, 1.0)  # cosine; those of two beacons are at most 0.78 alike
GLOWING = (0.3, 0.6)  # max - min


def color_match(picture: Tensor, color: Tensor) -> Tensor:
    """Return how much each pixel of `picture` `(B, 3, h, w)` in [0, 1] glows in the hue of `color` `(B, 3)`.

    `(B, h, w)` in [0, 1]; zero for grey and dark pixels.
    """
    hue = picture - picture.amin(1, keepdim=True)  # (B, 3, h, w)
    wanted = color - color.amin(1, keepdim=True)  # (B, 3)
    along = torch.einsum("bchw,bc->bhw", hue, wanted / wanted.norm(dim=1, keepdim=True).clamp_min(1e-6))
    return _ramp(along / hue.norm(dim=1).clamp_min(1e-6), SAME_HUE) * _ramp(hue.amax(1), GLOWING)


def _ramp(x: Tensor, ends: tuple[float, float]) -> Tensor:
    """Return 0 below the first end, 1 above the second, straight between."""
    return ((x - ends[0]) / (ends[1] - ends[0])).clamp(0, 1)


class GoalFeatures(BaseFeaturesExtractor):
    """The features of an ObjectNav observation {"image", "goal"}, as Stable-Baselines3 calls them.

    In: image `(B, 3, h, w)` in [0, 1] (SB3 scales it), goal `(B, 6)` one-hot. Out: `(B, 60)` in [0, 1].
    """

    def __init__(self, observation_space: gym.spaces.Dict) -> None:
        entries = set(observation_space.spaces)
        if entries != {"image", "goal"} or observation_space["goal"].shape != (len(BEACON_COLORS),):
            raise ValueError(
                f"sight='goal-color' needs the entries image and goal of objectnav, got {sorted(entries)}"
            )
        cells = MATCH_GRID[0] * MATCH_GRID[1] + BRIGHT_GRID[0] * BRIGHT_GRID[1]
        super().__init__(observation_space, cells)
        colors = torch.tensor(list(BEACON_COLORS.values()))  # (6, 3)
        self.register_buffer("colors", colors, persistent=False)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        picture, goal = observations["image"], observations["goal"]
        match = color_match(picture, goal @ self.colors)  # (B, h, w)
        where = adaptive_avg_pool2d(match[:, None], MATCH_GRID).flatten(1).sqrt()
        bright = adaptive_avg_pool2d(picture.mean(1, keepdim=True), BRIGHT_GRID).flatten(1)
        return torch.cat([where, bright], 1)
