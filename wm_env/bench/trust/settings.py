"""What a trust report is measured on."""

from __future__ import annotations

from dataclasses import dataclass, field

from wm_env.bench.trust.samples import SampleSettings
from wm_env.model.scenes.worlds import SPLITS
from wm_env.model.storage.facts import shown


@dataclass(frozen=True, kw_only=True)
class TrustSettings:
    """samples: walks of every split and context. splits: of scenes, the last one is judged. events: pairs of
    films of every violation, of the last split; 0 for none. floors: least trusts at which walks are
    truncated. two_draws: also ask how far two draws of every step are apart."""

    samples: SampleSettings = field(default_factory=SampleSettings)
    splits: tuple[str, ...] = ("val", "heldout")
    events: int = 24
    floors: tuple[float, ...] = (0.3, 0.5, 0.7)
    two_draws: bool = False

    def __post_init__(self) -> None:
        if not self.splits or set(self.splits) - set(SPLITS):
            raise ValueError(f"splits={shown(self.splits)} must be of {', '.join(SPLITS)}")
        if self.events < 0:
            raise ValueError(f"events={self.events} must be at least 0")
        if any(not 0 < floor < 1 for floor in self.floors):
            raise ValueError(f"floors={shown(self.floors)} must be probabilities between 0 and 1")
