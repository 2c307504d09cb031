"""What the words of the reports mean, one sentence each; every report folds in those that it uses.

The definitions with their equations are in docs/reference/evaluation.md, all words in docs/glossary.md.
"""

from __future__ import annotations

from collections.abc import Iterable

TERMS = {
    "[95%]": "95% interval, bootstrap over scenes (starts, for policies); absent below five.",
    "ablation": "The same world with one part removed: `ablate=dit`, `ablate=gdn_state` or `ablate=memory`.",
    "AUROC": "The chance that of two cases the worse one has the higher score: 0.5 is chance, 1 perfect.",
    "bin": "A sixth of the episode; frame 0 takes no part.",
    "blind policy": "A policy that never saw a picture, in training or after: what the task gives away by "
    "itself.",
    "Brier skill": "1 minus the squared error of a probability over that of the base rate: 0 knows nothing.",
    "clearly": "With a 95% interval that leaves zero out, or p below 0.05 after Holm's correction.",
    "codec alone": "The true frames through the world's own autoencoder: the best it could show.",
    "context": "Pictures of the scene that a world is shown before the episode begins.",
    "contraction bound": "tr(K^T beta K) at most 1: within it, a step of a GDN memory cannot blow up.",
    "copy last true frame": "The last frame of the true history, repeated: the floor of `teacher forced`. "
    "It is perfect while a camera waits, at a wall for instance, so its mean flatters it.",
    "dB": "Decibels of PSNR: 6 more is half the error, 20 more a tenth. Above 30 is hard to tell from the "
    "truth, below 15 is another picture.",
    "ECE": "Expected calibration error: how far off probabilities are on average, over ten groups of them.",
    "env step": "One action and its K pixel frames, in one slot.",
    "faults": "The largest deviation of a picture statistic in a bad direction (darker, blur, frozen, ...), "
    "in standard deviations of the truth.",
    "frames/s": "Pixel frames that all slots together make in a second.",
    "freeze": "Share of frames that move less than a tenth of what the truth does.",
    "GDN memory": "The key-value matrices of Gated DeltaNet, all that those blocks keep of the past.",
    "H50, useful horizon": "Start of the first bin with a skill below 0.5; the median over walks.",
    "half-life": "Time after which the memory of a view is worth half as many dB.",
    "known view": "One of which the start picture or the context has shown 60% or more.",
    "latency": "Frames by which the picture's motion follows the command.",
    "look-away": "The camera turns away and back: how well the view returns, against the truth and itself.",
    "loop closure": "How far the last pose of a closed path is from the first.",
    "memory of a view": "PSNR between two visits of a view, minus that of an unrelated view.",
    "optimism": "Score in the learned world minus score in the twin, of the same policy.",
    "p50, p95": "What half, and 95 of 100, of the steps take at most.",
    "paired": "Compared scene by scene, on the same start and actions, before averaging.",
    "PSNR": "10 log10(255^2 / MSE) of two pictures, in dB, 100 where they are equal; averaged over frames.",
    "refiner": "The part that sharpens decoded frames and blends in what the point memory holds.",
    "repeat first frame": "The start picture, forever: what no model at all would score.",
    "revisit": "A pose that the camera comes back to after having been elsewhere.",
    "rotation error": "Angle between the commanded pose and the one the frame shows, found by rendering the "
    "true scene; frames that cannot be placed are counted, not scored.",
    "shuffled actions": "Every action of the walk in another order: does it listen to them?",
    "skill": "(PSNR - repeat first frame) / (codec alone - repeat first frame): 0 is no model, 1 the codec.",
    "SPL": "Success, times the shortest way over the way walked.",
    "standing camera": "A walk that goes nowhere. The repeated frame is right there, at 100 dB, so such "
    "walks are shown apart and enter no average.",
    "start": "A scene, a place and a goal; the same for all policies and both environments.",
    "success": "Share of episodes that reach the goal; with a Wilson interval for a single training.",
    "surprise": "How much worse than usual a world denoises a true chunk, given its past and the camera, in "
    "standard deviations.",
    "teacher forced": "Every chunk drawn from the true history: what is lost beside it compounds.",
    "transfer": "A policy trained in the learned world does better in the twin than a blind one, clearly.",
    "trust": "The probability that a frame is within a stated error of the truth, as `info` tells it.",
    "twin": "The renderer of the same scene: the truth.",
    "wrong actions": "The world shown another walk's poses: does it listen to them?",
    "wrong picture": "PSNR missing to the codec at the pose where the frame was found.",
    "wrong place": "PSNR gained by comparing at the pose where the frame was found instead of the commanded.",
}


def lines(names: Iterable[str]) -> list[str]:
    """Return "name: meaning" of the words, in their order here; `KeyError` for one that is not defined."""
    wanted = {name: TERMS[name] for name in names}
    return [f"{name}: {meaning}" for name, meaning in TERMS.items() if name in wanted]


def table() -> str:
    """Return all words as a Markdown table."""
    rows = [f"| {name} | {meaning.replace('|', chr(92) + '|')} |" for name, meaning in TERMS.items()]
    return "\n".join(["| word | meaning |", "|---|---|", *rows])
