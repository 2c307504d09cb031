"""The transformer gives the same velocity, state and gradients with every implementation of its kernel."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from wm_env.kernels.inputs import relative_error
from wm_env.model.camera import CameraInput
from wm_env.model.config import DiTConfig
from wm_env.model.dit import DiT
from wm_env.model.state import leaves
from wm_env.model.text import TextTokens

FLOAT32 = 1e-4  # gradients cross several blocks; the implementations sum in different orders
FRAMES, HEIGHT, WIDTH, SPLIT = 3, 2, 3, 2
CONFIG = DiTConfig(
    latent_channels=4, hidden=32, heads=2, depth=2, softmax_every=2, caption_channels=8, temporal_stride=2,
    window_chunks=3, chunk_frames=1,
)  # fmt: skip


def results(impl: str) -> dict[str, torch.Tensor]:
    """Return a call's velocity, state and gradients: two frames, then one from the state they leave."""
    torch.manual_seed(0)
    model = DiT(CONFIG, impl=impl)
    with torch.no_grad():
        for parameter in model.parameters():  # away from the silent initialisation of the camera branch
            parameter.add_(0.05 * torch.randn_like(parameter))
    latents = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH)
    poses = torch.eye(4).repeat(1, FRAMES, 1, 1)
    poses[..., :3, 3] = 0.3 * torch.randn(1, FRAMES, 3)
    conditions = torch.cat([poses.flatten(-2), torch.tensor([2.0, 2.0, 1.5, 1.0]).expand(1, FRAMES, 4)], -1)
    plucker = torch.randn(1, 12, FRAMES, HEIGHT, WIDTH)
    text = TextTokens(torch.randn(1, 5, 8), torch.ones(1, 5))
    timestep = torch.full((1, FRAMES), 500.0)

    parts, state = [], None
    for cut in (slice(0, SPLIT), slice(SPLIT, FRAMES)):
        camera = CameraInput(conditions[:, cut], plucker[:, :, cut])
        velocity, state = model(latents[:, :, cut], timestep[:, cut], text, camera, state)
        parts.append(velocity)
    velocity = torch.cat(parts, 2)
    velocity.square().sum().backward()
    assert state is not None
    found = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"velocity": velocity.detach()} | {name: leaf.detach() for name, leaf in leaves(state)} | found


@pytest.mark.parametrize("impl", ["chunk", "triton"])
def test_the_whole_transformer_does_not_depend_on_the_implementation(impl: str) -> None:
    if impl == "triton" and (find_spec("triton") is None or torch.cuda.is_available()):
        pytest.skip("needs Triton, and its interpreter: the model under test is on the CPU")
    actual, expected = results(impl), results("naive")
    assert actual.keys() == expected.keys()
    errors = {name: relative_error(actual[name].float(), expected[name].float()) for name in expected}
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] < FLOAT32, worst
