"""The refiner equals diffusers' LTX-2 video path, at once and block after block with explicit memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from released_parts import REFINER
from safetensors.torch import save_file
from torch import Tensor

from wm_env.model.refiner.ltx2 import LTX2Refiner, block_network, clip_network, rotations
from wm_env.model.refiner.ltx2_weights import load_refiner
from wm_env.model.refiner.truncated import Span
from wm_env.model.state import cat, select
from wm_env.model.storage.folder import look_into, only
from wm_env.model.text import TextTokens

TOLERANCE = 5e-6  # float32, values of about 1
ROWS, COLUMNS = 2, 3
N = ROWS * COLUMNS


@pytest.fixture(scope="module")
def refiner(refiner_folder: Path) -> LTX2Refiner:
    return load_refiner(only(look_into(refiner_folder.parent).refiners, "refiner", refiner_folder))


@pytest.fixture(scope="module")
def oracle(refiner_folder: Path) -> Any:
    from diffusers import LTX2VideoTransformer3DModel
    from safetensors.torch import load_file

    model = LTX2VideoTransformer3DModel(**REFINER).eval()
    model.load_state_dict(load_file(refiner_folder / "diffusion_pytorch_model.safetensors"))
    return model


def text(batch: int = 2) -> TextTokens:
    tokens = torch.randn(batch, 5, 24, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(batch, 5)
    mask[0, 3:] = 0
    return TextTokens(tokens, mask)


def latents(batch: int, frames: int) -> Tensor:
    return torch.randn(batch, frames * N, 4, generator=torch.Generator().manual_seed(4))


def ask_oracle(model: Any, x: Tensor, timestep: Tensor, frames: int, mask: Tensor) -> Tensor:
    """Return the video velocity; mask `(M, M)`, 1 where a token (row) may see another (column)."""
    said = text(x.shape[0])
    return model(
        hidden_states=x, audio_hidden_states=torch.zeros(len(x), 1, 4),
        encoder_hidden_states=said.tokens, audio_encoder_hidden_states=said.tokens,
        timestep=timestep, audio_timestep=torch.zeros(len(x), 1), sigma=torch.zeros(len(x)),
        encoder_attention_mask=said.mask, audio_encoder_attention_mask=said.mask,
        num_frames=frames, height=ROWS, width=COLUMNS, fps=16.0, audio_num_frames=1,
        isolate_modalities=True, video_self_attention_mask=mask.expand(len(x), -1, -1), return_dict=False,
    )[0]  # fmt: skip


@torch.inference_mode()
def test_one_shot_equals_the_oracle_with_a_sink_that_sees_itself_alone(
    refiner: LTX2Refiner, oracle: Any
) -> None:
    frames = 5
    x = latents(2, frames)
    timestep = torch.full((2, frames, N), 725.3)
    timestep[:, 0] = 0
    mask = torch.ones(frames * N, frames * N)
    mask[:N, N:] = 0
    expected = ask_oracle(oracle, x, timestep.flatten(1), frames, mask)
    got, _ = clip_network(refiner, text())(x, timestep.flatten(1), Span(0, frames, ROWS, COLUMNS), None)
    assert (got - expected).abs().max() < TOLERANCE


@torch.inference_mode()
def test_blocks_with_memory_equal_one_block_causal_call_of_the_oracle(
    refiner: LTX2Refiner, oracle: Any
) -> None:
    x = latents(2, 7)
    network = block_network(refiner, text())
    _, memory = network(x[:, :N], torch.zeros(2, N), Span(0, 1, ROWS, COLUMNS), None)
    block = Span(1, 3, ROWS, COLUMNS)
    _, memory = network(x[:, N : 4 * N], torch.zeros(2, 3 * N), block, memory)
    got, _ = network(x[:, 4 * N :], torch.full((2, 3 * N), 421.875), block, memory)
    timestep = torch.zeros(2, 7, N)
    timestep[:, 4:] = 421.875
    of = torch.tensor([0, 1, 1, 1, 2, 2, 2]).repeat_interleave(N)
    expected = ask_oracle(oracle, x, timestep.flatten(1), 7, (of[:, None] >= of[None]).float())
    assert (got - expected[:, 4 * N :]).abs().max() < TOLERANCE


@torch.inference_mode()
def test_memory_keeps_its_shape_and_slots_at_different_blocks_share_a_batch(
    refiner: LTX2Refiner,
) -> None:
    x = latents(1, 16)
    network = block_network(refiner, select(text(), [1]))
    _, memory = network(x[:, :N], torch.zeros(1, N), Span(0, 1, ROWS, COLUMNS), None)
    memories, outs = [memory], []
    for block in x[:, N:].split(3 * N, dim=1):
        out, memory = network(block, torch.full((1, 3 * N), 421.875), Span(0, 3, ROWS, COLUMNS), memory)
        outs.append(out)
        memories.append(memory)
    assert [int(m.filled) for m in memories] == [0, 3, 6, 9, 10, 10]
    assert [int(m.frame) for m in memories] == [1, 4, 7, 10, 13, 16]
    assert memories[1].layers[0].k.shape == memories[5].layers[0].k.shape
    both = block_network(refiner, cat([select(text(), [1])] * 2))
    blocks = torch.cat([x[:, N : 4 * N], x[:, 13 * N :]])
    got, _ = both(
        blocks, torch.full((2, 3 * N), 421.875), Span(0, 3, ROWS, COLUMNS), cat([memories[0], memories[4]])
    )
    torch.testing.assert_close(got, torch.cat([outs[0], outs[4]]), rtol=0, atol=TOLERANCE)


def test_the_sink_slides_along_directly_before_the_history(refiner: LTX2Refiner) -> None:
    """Its position is block start - history - 1: 0 until the history is full, then one block on at a time."""
    start, filled = torch.tensor([1, 4, 10, 13, 16]), torch.tensor([0, 3, 9, 10, 10])
    assert (start - filled - 1).tolist() == [0, 0, 0, 2, 5]
    here = rotations(torch.tensor([[2]]), ROWS, COLUMNS, refiner.cfg)
    assert here.cos.shape == (1, 2, N, 8)
    assert not torch.equal(here.cos, rotations(torch.tensor([[5]]), ROWS, COLUMNS, refiner.cfg).cos)


def test_a_lora_is_merged_in_float32(refiner_folder: Path, refiner: LTX2Refiner, tmp_path: Path) -> None:
    down, up = torch.randn(3, 32), torch.randn(32, 3)
    key = "diffusion_model.transformer_blocks.1.attn1.to_q"
    lora = {
        f"{key}.lora_A.weight": down.bfloat16(),
        f"{key}.lora_B.weight": up.bfloat16(),
        "diffusion_model.transformer_blocks.1.audio_attn1.to_q.lora_A.weight": torch.zeros(3, 16),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    component = only(look_into(refiner_folder.parent).refiners, "refiner", refiner_folder)
    merged = load_refiner(component, lora=tmp_path / "lora.safetensors")
    change = up.bfloat16().float() @ down.bfloat16().float()
    torch.testing.assert_close(merged.layers[1].attn.q.weight, refiner.layers[1].attn.q.weight + change)
    assert torch.equal(merged.layers[0].attn.q.weight, refiner.layers[0].attn.q.weight)
    save_file({f"{key}.lora_A.weight": down}, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match="only one of"):
        load_refiner(component, lora=tmp_path / "half.safetensors")


def test_unknown_refiner_settings_and_keys_are_refused(refiner_folder: Path, tmp_path: Path) -> None:
    import json
    import shutil

    folder = tmp_path / "transformer"
    shutil.copytree(refiner_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "gated_attn": True}))
    with pytest.raises(ValueError, match="gated_attn"):
        load_refiner(look_into(tmp_path).refiners[0])
    (folder / "config.json").write_text(json.dumps({**config, "num_layers": 3}))
    with pytest.raises(ValueError, match=r"missing.*transformer_blocks\.2"):
        load_refiner(look_into(tmp_path).refiners[0])
