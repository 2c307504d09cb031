"""Check before you trust: whether the poses of a clip fit the motion that its pictures show.

The depth of the pictures is predicted by the network of an embedded world; the rest is
`wm_env.model.data.pose_check`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from wm_env.model.data.pose_check.check import PoseCheck, check_poses
from wm_env.model.data.pose_check.hypotheses import fixed
from wm_env.model.data.posed_clip import PosedClip
from wm_env.model.embedded import EMBEDDED, embedded_vae
from wm_env.model.isolation import undisturbed


@undisturbed()
def check_context(clip: PosedClip | str | Path, *, world: str | Path = "tiny") -> PoseCheck:
    """Return whether the poses of a clip, or of the one that a path holds, fit the motion of its pictures.

    Pairs of frames up to half a second apart are laid over each other, by their predicted depth, as the poses
    say and as they would say if they were world-to-camera, in OpenGL's or other axes, of another scale or
    taken with another focal length (`wm_env.model.data.pose_check.hypotheses`). Photometric error: mean
    absolute difference of colours, 0 perfect, 1 what pixels without relation have.

    world: "tiny", "tiny-pure" or the folder of an embedded world: whose depth network looks. It knows rooms
    like the rendered ones; what it makes of other places decides how well scale and focal length are told.

    The result's `verdict` is "fits", "does not fit" or "cannot tell", `sentence` says why, `best` names what
    is wrong and `pairs` has the error of every pair of frames. Raises `ValueError` in one sentence for what
    is no clip, for frames smaller than the world's and for a world without a depth network,
    `FileNotFoundError` where there is nothing.
    """
    depth_of, size = depth_network(world)
    found = clip if isinstance(clip, PosedClip) else PosedClip.load(clip, size=size)
    return check_poses(found.resized(*size), depth_of)


@undisturbed()
def fixed_clip(clip: PosedClip, check: PoseCheck) -> PosedClip:
    """Return the clip with poses and focal length as the best hypothesis of its check reads them.

    Raises `ValueError` where there is nothing to mend: the poses fit, or nobody can tell what is wrong.
    """
    if check.best is None:
        raise ValueError(f"nothing can be mended: {check.sentence}")
    if check.verdict == "fits":
        raise ValueError(f"nothing has to be mended: {check.sentence}")
    return fixed(clip, check.best)


def depth_network(world: str | Path) -> tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, int]]:
    """Return what predicts the depth of pictures (`DepthOf`), and the height and width that it takes."""
    if str(world) not in EMBEDDED and not Path(world).is_dir():
        raise ValueError(
            f"world {str(world)!r} has no depth network; expected {', '.join(EMBEDDED)} or "
            "the folder of an embedded world"
        )
    vae, _ = embedded_vae(world)

    @torch.no_grad()
    def depth_of(frames: Tensor, intrinsics: Tensor) -> Tensor:
        return vae.predict_depth(frames, intrinsics.float().expand(len(frames), 4))

    return depth_of, (vae.config.size, vae.config.size)
