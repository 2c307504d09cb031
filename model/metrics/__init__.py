"""How close images and camera paths are to the truth, with confidence intervals: numpy and torch only."""

from wm_env.model.metrics.camera import (
    LUMA,
    PSNR_CAP,
    Alignment,
    Interval,
    PoseErrors,
    Similarity,
    apply_umeyama,
    apply_upstream,
    fit_umeyama,
    fit_upstream,
    frame_errors,
    hierarchical_bootstrap,
    mse,
    pose_errors,
    psnr,
    ssim,
)

__all__ = [
    "LUMA",
    "PSNR_CAP",
    "Alignment",
    "Interval",
    "PoseErrors",
    "Similarity",
    "apply_umeyama",
    "apply_upstream",
    "fit_umeyama",
    "fit_upstream",
    "frame_errors",
    "hierarchical_bootstrap",
    "mse",
    "pose_errors",
    "psnr",
    "ssim",
]
