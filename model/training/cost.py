"""What a training of the transformer costs, worked out from its shape: weights, memory, arithmetic, hours.

Legend: C width, H heads, D = C/H, F = ratio C, T frames, N tokens a frame, n = T N. Per block:

    weights   23 C^2 + 3 C F + ...            qkv 3, camera 4, gate and out 2, Plücker 1, text 5 (q, kv, out,
              and the feed-forward's C x C x 3 temporal taps); exact in `parameters`
    products  2 (weights of matrices) n       every matrix meets every token
    GDN       n D C 2 (4 + 3) + ...           P, P_z, A, O of the main branch and P, A, O of the camera's
    softmax   8 n^2 C                         Q K^T and A V of two branches, all tokens with all
    training  3 times the forward pass, 4 with recomputation

    memory    weights, gradients, Adam's two moments, EMA: 4 bytes each and parameter, over all processes
    saved     `SAVED` C bytes per token and block for the backward pass; with recomputation 4 C per block,
              and `SAVED` for the one block at hand
"""

from __future__ import annotations

from dataclasses import dataclass

from wm_env.model.config import DiTConfig

# bytes that a block keeps for its backward pass per token and channel, under bfloat16 autocast: measured with
# saved-tensor hooks at ffn_ratio 3 (a test repeats it); the scan's D x D matrices add 34 D / N, 2% at N = 880
SAVED = {"gdn": 193.0, "softmax": 169.0}
H100_BF16 = 989e12  # dense bfloat16 FLOP/s of an H100 SXM, by its data sheet
GIB = 2**30


def parameters(cfg: DiTConfig) -> int:
    """Return the number of parameters of `DiT(cfg)`."""
    C, H, F = cfg.hidden, cfg.heads, cfg.ffn_hidden
    attention = 3 * C**2 + 2 * C + 2 * (C**2 + C)  # qkv, two norms, gate, out
    attention += 4 * (C**2 + C) + 2 * C  # camera q, k, v, out and norms
    text = 4 * C**2 + 4 * C + 2 * C  # q, kv, out and norms
    feed = C * 2 * F + 2 * F + 2 * F * 10 + F * C + 3 * C**2  # expand, depthwise, contract, temporal
    block = 6 * C + attention + (C**2 + C) + text + feed
    gdn = 2 * cfg.short_conv_kernel * C + 2 * (C * H + H) + 2 * H  # taps, beta, decay, A_log, dt_bias
    softmax_blocks = sum(cfg.is_softmax(i) for i in range(cfg.depth))
    total = cfg.depth * block + (cfg.depth - softmax_blocks) * gdn
    total += cfg.latent_channels * C + C + 256 * C + C + C**2 + C + 6 * C**2 + 6 * C  # latents, timestep
    total += cfg.caption_channels * C + C + C**2 + C + C  # text
    total += cfg.plucker_channels * C + C + 2 * C + C * cfg.latent_channels + cfg.latent_channels
    if cfg.memory_channels:
        total += cfg.memory_channels * C + C + C**2 + C
    return total


def forward_flops(
    cfg: DiTConfig, frames: int, tokens: int, *, window: int | None = None, text: int = 300
) -> float:
    """Return the floating-point operations of one forward pass over one clip.

    frames: latent frames T. tokens: per frame, N. window: latent frames that a frame attends to in softmax
    blocks on average, None for all T (bidirectional); the GDN scan is counted in both directions.
    """
    C, D, F, n = cfg.hidden, cfg.head_dim, cfg.ffn_hidden, frames * tokens
    per_token = 3 * C**2 + 2 * C**2 + 4 * C**2 + C**2 + 2 * C**2  # attention, camera, Plücker, text q and out
    per_token += C * 2 * F + 2 * F * 9 + F * C + 3 * C**2
    block = 2.0 * per_token * n + 2 * text * 2 * C**2 + 4 * n * text * C  # and text k, v; cross-attention
    gdn = (
        7 * 2 * n * D * C + frames * 4 * 2 * D**2 * C
    )  # token products; the steps of two scans, two branches
    softmax = 8.0 * n * (window or frames) * tokens * C
    softmax_blocks = sum(cfg.is_softmax(i) for i in range(cfg.depth))
    ends = 2.0 * n * C * (2 * cfg.latent_channels + cfg.plucker_channels)
    ends += 2.0 * text * C * (cfg.caption_channels + C)
    return cfg.depth * block + (cfg.depth - softmax_blocks) * gdn + softmax_blocks * softmax + ends


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of a training: `steps` of `batch` clips of `frames` latent frames of `tokens` tokens each.

    context: processes that share the frames of one clip. window: see `forward_flops`.
    """

    name: str
    frames: int
    tokens: int
    steps: int
    batch: int
    gpus: int
    context: int = 1
    window: int | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """clip_flops: of one training clip. states: bytes of weights, gradients, moments and EMA per process.
    saved, saved_recomputed: bytes kept for the backward pass per process. hours: of an H100, in all."""

    clip_flops: float
    states: float
    saved: float
    saved_recomputed: float
    hours: float


def cost(cfg: DiTConfig, stage: Stage, *, utilisation: float = 0.4, recompute: bool = True) -> Cost:
    """Return what a stage costs under FSDP2 with one clip a process at a time.

    utilisation: share of the H100's bfloat16 peak that a training reaches, in (0, 1].
    """
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation={utilisation} must be in (0, 1]")
    flops = forward_flops(cfg, stage.frames, stage.tokens, window=stage.window) * (4 if recompute else 3)
    local = stage.frames * stage.tokens * cfg.hidden / stage.context  # values of one tensor (n, C)
    kinds = ["softmax" if cfg.is_softmax(i) else "gdn" for i in range(cfg.depth)]
    return Cost(
        clip_flops=flops,
        states=20.0 * parameters(cfg) / stage.gpus,
        saved=sum(SAVED[kind] for kind in kinds) * local,
        saved_recomputed=(4.0 * cfg.depth + max(SAVED.values())) * local,
        hours=flops * stage.steps * stage.batch / (H100_BF16 * utilisation) / 3600,
    )


def table(cfg: DiTConfig, stages: tuple[Stage, ...]) -> str:
    """Return the costs of stages as a table in Markdown."""
    rows = [
        "| stage | tokens a clip | PFLOP a clip | states GiB | saved GiB | recomputed GiB | H100-hours |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage in stages:
        found = cost(cfg, stage)
        rows.append(
            f"| {stage.name} | {stage.frames * stage.tokens:,} | {found.clip_flops / 1e15:.2f} "
            f"| {found.states / GIB:.1f} | {found.saved / GIB:.0f} | {found.saved_recomputed / GIB:.1f} "
            f"| {found.hours:,.0f} |"
        )
    return "\n".join(rows)


# the published schedule on 64 H100: 5 s clips, one minute with a clip on two processes, chunk-causal tuning
# (a frame attends to half of the clip); the resolution of the first is not published, 704x1280 is assumed
PUBLISHED = (
    Stage(name="5 s, GDN, then hybrid", frames=11, tokens=880, steps=60_000, batch=64, gpus=64),
    Stage(name="60 s with camera", frames=121, tokens=880, steps=31_000, batch=32, gpus=64, context=2),
    Stage(
        name="60 s, chunk-causal",
        frames=121,
        tokens=880,
        steps=10_000,
        batch=32,
        gpus=64,
        context=2,
        window=61,
    ),
)
