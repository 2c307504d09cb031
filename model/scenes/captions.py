"""Captions from a closed vocabulary, and the changes of a scene that a prompt can ask for."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from wm_env.model.scenes.materials import BEACON_COLORS
from wm_env.model.scenes.worlds import AIR_LEVELS, BEACON_SURFACES, LIGHT_LEVELS, Scene

COLOR_NAMES = tuple(BEACON_COLORS)
_COUNTS = ("one room", "two rooms", "three rooms")
EVENTS = (
    "lights dim",
    "lights normal",
    "lights bright",
    "fog comes",
    "fog clears",
    *(f"beacon turns {name}" for name in COLOR_NAMES),
)
VOCABULARY = tuple(
    sorted(
        {word for text in (*_COUNTS, *EVENTS) for word in text.split()}
        | {*LIGHT_LEVELS, *AIR_LEVELS, *COLOR_NAMES, "light", "air", "beacon"}
    )
)
NEUTRAL = "two rooms, normal light, clear air, yellow beacon"  # what a prompt leaves open
_LIGHT_WORDS = {name: index for index, name in enumerate(LIGHT_LEVELS)}
_AIR_WORDS = {"fog": 1, "foggy": 1, "clear": 0, "clears": 0}  # "fog clears": the later word wins
_NAMING = (  # words that name the first three phrases of a caption
    {*" ".join(_COUNTS).split()},
    {*_LIGHT_WORDS, "light", "lights"},
    {*_AIR_WORDS, "air"},
)


def caption(scene: Scene) -> list[str]:
    """Return one caption per scene, such as "two rooms, bright light, clear air, red beacon"."""
    return [
        f"{_COUNTS[rooms - 1]}, {LIGHT_LEVELS[light]} light, {AIR_LEVELS[air]} air, "
        f"{COLOR_NAMES[color]} beacon"
        for rooms, light, air, color in zip(
            scene.counts[:, 0].tolist(),
            scene.light.tolist(),
            scene.air.tolist(),
            scene.beacon_color.tolist(),
            strict=True,
        )
    ]


def completed(prompt: str) -> str:
    """Return a prompt as a world that was told captions alone can take it; captions and events stay as such.

    Words outside the vocabulary mean nothing to it and are left out. Where number of rooms, light or air are
    not named, those of `NEUTRAL` are added, and where nothing is named it is `NEUTRAL`: a shorter text than
    any caption (an empty one too) turns the frames into noise within a few steps.
    """
    words = [word for word in re.findall(r"[a-z]+", prompt.lower()) if word in VOCABULARY]
    if not words or " ".join(words) in EVENTS:
        return " ".join(words) or NEUTRAL
    missing = [
        phrase
        for phrase, naming in zip(NEUTRAL.split(", "), _NAMING, strict=False)
        if not naming & set(words)
    ]
    return ", ".join([" ".join(words), *missing])


def every_caption() -> list[str]:
    """Return every caption that a scene can have, in a fixed order."""
    return [
        f"{count}, {light} light, {air} air, {color} beacon"
        for count in _COUNTS
        for light in LIGHT_LEVELS
        for air in AIR_LEVELS
        for color in COLOR_NAMES
    ]


def with_prompt(scene: Scene, prompts: Sequence[str | None]) -> Scene:
    """Return the scenes with the light, air and beacon colour that the prompts name; other words are ignored.

    Of several words for the same thing the last counts; None changes nothing.
    """
    if len(prompts) != scene.light.shape[0]:
        raise ValueError(f"{len(prompts)} prompts for {scene.light.shape[0]} scenes; give one per scene")
    light, air, color = scene.light.tolist(), scene.air.tolist(), scene.beacon_color.tolist()
    for slot, prompt in enumerate(prompts):
        for word in re.findall(r"[a-z]+", (prompt or "").lower()):
            light[slot] = _LIGHT_WORDS.get(word, light[slot])
            air[slot] = _AIR_WORDS.get(word, air[slot])
            color[slot] = COLOR_NAMES.index(word) if word in COLOR_NAMES else color[slot]
    device = scene.light.device
    glow = torch.tensor(list(BEACON_COLORS.values()), dtype=torch.float32, device=device)[color]  # (B, 3)
    materials = scene.materials.clone()
    for surface in BEACON_SURFACES:
        materials[:, surface, 0:3] = glow
        materials[:, surface, 3:6] = glow
    return scene._replace(
        materials=materials,
        light=torch.tensor(light, device=device),
        air=torch.tensor(air, device=device),
        beacon_color=torch.tensor(color, device=device),
    )
