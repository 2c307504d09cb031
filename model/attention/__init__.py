"""Self-attention in its two kinds and text cross-attention: projections around the kernels.

GDN blocks carry a constant-size memory, softmax blocks a window; both have one interface:

    out, state = attention(x, geometry, state, chunks)
"""

from wm_env.model.attention.cross import CrossAttention
from wm_env.model.attention.gdn import CameraOperands, GDNAttention, Operands
from wm_env.model.attention.projections import Geometry, from_ray_frame, to_ray_frame
from wm_env.model.attention.softmax import SoftmaxAttention, commit

__all__ = [
    "CameraOperands",
    "CrossAttention",
    "GDNAttention",
    "Geometry",
    "Operands",
    "SoftmaxAttention",
    "commit",
    "from_ray_frame",
    "to_ray_frame",
]
