"""Prompt features follow the released selection and are read from disk once they are known."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from wm_env.model import gemma as text_module
from wm_env.model.gemma import cached_gemma2, load_gemma2
from wm_env.model.storage.folder import Component, look_into

LENGTH = 12


def here(network: object) -> None:
    """Leave the encoder on the CPU, where it was loaded."""


PREAMBLE = "describe a\nkitchen :"


def component(folder: Path) -> Component:
    return look_into(folder).gemma2[0]


def test_token_0_and_the_last_positions_behind_the_preamble_are_kept(shared_parts: Path) -> None:
    encoder = load_gemma2(
        component(shared_parts), preamble=PREAMBLE, place=here, dtype=torch.float32, length=LENGTH
    )
    tokens, mask = encoder.encode(["sunlit kitchen"])
    ids = [1, 7, 3, 4, 8, 5, 4]  # <bos> describe a kitchen : | sunlit kitchen; the preamble is 5 tokens
    length = 5 + LENGTH - 2
    padded = torch.tensor([ids + [0] * (length - len(ids))])
    attention = (padded != 0).long()
    with torch.inference_mode():
        hidden = encoder.model(input_ids=padded, attention_mask=attention).last_hidden_state
    kept = [0, *range(length - LENGTH + 1, length)]
    assert tokens.shape == (1, LENGTH, 12) and len(kept) == LENGTH
    torch.testing.assert_close(tokens, hidden[:, kept])
    assert mask.tolist() == attention[:, kept].float().tolist()


def test_a_known_prompt_needs_no_encoder(
    shared_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    load = text_module.load_gemma2

    def counted(*args: object, **kwargs: object) -> object:
        loads.append(1)
        return load(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(text_module, "load_gemma2", counted)

    def make(keep: bool) -> text_module.CachedEncoder:
        return cached_gemma2(
            component(shared_parts), preamble=PREAMBLE, folder=tmp_path, place=here, dtype=torch.float32,
            keep=keep, length=LENGTH,
        )  # fmt: skip

    first = make(keep=False).encode(["a kitchen", "dark", "a kitchen"])
    assert len(loads) == 1
    again = make(keep=False).encode(["dark", "a kitchen"])
    assert len(loads) == 1
    torch.testing.assert_close(again.tokens, first.tokens[[1, 0]], rtol=0, atol=0)
    dropping, keeping = make(keep=False), make(keep=True)
    for i in range(2):
        dropping.encode([f"{i}"])
    assert len(loads) == 3  # loaded again: nothing stays in memory
    for i in range(2, 4):
        keeping.encode([f"{i}"])
    assert len(loads) == 4


def test_a_damaged_cache_file_is_named(shared_parts: Path, tmp_path: Path) -> None:
    encoder = cached_gemma2(
        component(shared_parts), preamble="", folder=tmp_path, place=here, dtype=torch.float32, keep=False
    )
    encoder.path("dark").write_bytes(b"not a tensor file")
    with pytest.raises(ValueError, match="corrupted"):
        encoder.encode(["dark"])


def test_a_folder_without_preamble_is_refused(pipelines: Callable[[str], Path], tmp_path: Path) -> None:
    from wm_env.model.released.presets import ReleasedSettings, load_parts

    folder = tmp_path / "bare"
    shutil.copytree(pipelines("streaming"), folder)
    (folder / "config.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="chi_prompt"):
        load_parts("sana-wm-streaming", ReleasedSettings(weights=str(folder)))
