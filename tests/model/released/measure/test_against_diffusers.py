"""The comparison with diffusers."""

from __future__ import annotations

import json

import pytest

from wm_env.model.released.measure import against_diffusers


@pytest.mark.slow
def test_the_comparison_with_diffusers_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'wm-env[released]'")
    assert against_diffusers.main(["--repeats", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ours"] > 0 and told["theirs"] > 0 and told["relative_error"] < 0.1
    assert against_diffusers.main(["--repeats", "0"]) == 2
