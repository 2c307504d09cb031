"""Small random pipelines in the released layouts, written to disk as a user would have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from wm_env.model.config import DiTConfig
from wm_env.model.released.names import table

CFG = DiTConfig(latent_channels=4, hidden=32, heads=2, depth=4, caption_channels=12)
VAE = {
    "latent_channels": 4,
    "block_out_channels": [4, 8, 8, 16],
    "decoder_block_out_channels": [8, 16, 32],
    "layers_per_block": [1, 1, 1, 1, 1],
    "decoder_layers_per_block": [1, 1, 1, 1],
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
REFINER = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "cross_attention_dim": 32,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 8,
    "audio_cross_attention_dim": 16,
    "num_layers": 2,
    "caption_channels": 24,
    "rope_type": "split",
    "audio_in_channels": 4,
    "audio_out_channels": 4,
}


def random_released(cfg: DiTConfig = CFG, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random tensors under the released names, gates and norms near 1 so that nothing explodes."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for row in table(cfg, caption_tokens=7):
        value = torch.randn(row.released_shape, generator=generator) * 0.2
        out[row.released] = value + 1 if "norm" in row.released else value
    return out


def write_component(folder: Path, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")


def shaken(module: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Return the weights of a module, moved off their initial values."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + 0.05 * torch.randn(value.shape, generator=generator)
        for name, value in module.state_dict().items()
    }


def write_text_model(folder: Path, model: Any) -> None:
    """Write a transformers model with a word tokenizer of 40 words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [
        "<pad>",
        "<bos>",
        "<unk>",
        "a",
        "kitchen",
        "sunlit",
        "dark",
        "describe",
        ":",
        *map(str, range(31)),
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>"
    )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


STAGE1_CONFIG = {
    "_class_name": "SanaWMTransformer3DModel",
    "in_channels": CFG.latent_channels,
    "hidden_size": CFG.hidden,
    "linear_head_dim": CFG.head_dim,
    "num_layers": CFG.depth,
    "caption_channels": CFG.caption_channels,
    "softmax_every_n": CFG.softmax_every,
    "mlp_ratio": CFG.ffn_ratio,
    "chunk_plucker_channels": CFG.plucker_channels,
    "conv_kernel_size": CFG.short_conv_kernel,
}
FFN_TYPES = {
    "streaming": "CachedGLUMBConvTemp",
    "chunk-causal": "ChunkGLUMBConvTemp",
    "bidirectional": "GLUMBConvTemp",
}


def write_stage1(folder: Path, variant: str) -> None:
    """Write random stage-1 weights in the diffusers layout, which states its sizes."""
    weights = {
        name.replace("t_embedder.mlp.0", "t_embedder.linear_1").replace(
            "t_embedder.mlp.2", "t_embedder.linear_2"
        ): t
        for name, t in random_released().items()
        if name not in ("pos_embed", "y_embedder.y_embedding")
    }
    write_component(folder, {**STAGE1_CONFIG, "ffn_type": FFN_TYPES[variant]}, weights)
