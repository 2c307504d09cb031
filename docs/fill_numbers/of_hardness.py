"""Numbers of tests/hardness."""

from __future__ import annotations

from written import Files, Report, lines, made

FAULTS = {
    "wrong_kind": "wrong kind",
    "state_changed": "state changed",
    "hung": "over 20 s",
    "allocated": "over 64 MiB",
    "long_message": "over 1000 characters",
    "wrongly_accepted": "wrongly accepted",
}
COMPARED = ("slots", "steps", "values", "differ", "largest")


def hardness(files: Files) -> dict[str, str]:
    parts = files.hardness["parts"]
    inputs, episode, vector = parts["inputs"], parts["episode"], parts["vector"]
    pairs, callers = episode["pairs"], parts["callers"]
    between = pairs["difference_ms"]
    exact = parts["slots"]
    return {
        "hardness-machine": made(files.hardness),
        "hardness-inputs": lines(
            ["what was attacked", "inputs", "accepted", "refused", *FAULTS.values()],
            [attacked(name, found) for name, found in inputs.items()],
        ),
        "hardness-total": f"{sum(found['inputs'] for found in inputs.values()):,}",
        "hardness-episode": f"{episode['steps']:,}",
        "hardness-vector": f"{vector['steps']:,} steps of {vector['slots']} slots with {vector['resets']:,} "
        "resets",
        "hardness-growth": f"{100 * episode['growth']:+.2f}% and {100 * vector['growth']:+.2f}%",
        "hardness-descriptors": f"{flat(episode, 'descriptors')} and {flat(vector, 'descriptors')}",
        "hardness-threads": f"{flat(episode, 'threads')} and {flat(vector, 'threads')}",
        "hardness-pairs": f"{pairs['old_ms']:.1f} against {pairs['young_ms']:.1f} ms",
        "hardness-difference": f"{between['mean']:+.2f} [{between['lo']:+.2f}, {between['hi']:+.2f}] ms, "
        f"{pairs['number']} pairs",
        "hardness-kills": lines(
            [
                "command",
                "kills",
                "ended before",
                "equal result",
                "files left",
                "processes left",
            ],
            [killed(name, found) for name, found in parts["kills"].items()],
        ),
        "hardness-callers": f"{callers['pairs'] - len(callers['different'])} of {callers['pairs']}",
        "hardness-slots": lines(
            ["world", "slots", "steps", "values compared", "that differ", "largest, in levels"],
            [[f"`{one['world']}`", *(f"{one[key]:,}" for key in COMPARED)] for one in exact],
        ),
    }


def attacked(name: str, found: Report) -> list[str]:
    counts = [f"{found[key]:,}" for key in ("inputs", "accepted", "refused")]
    return [name, *counts, *(f"{found[fault]['count']:,}" for fault in FAULTS)]


def killed(name: str, found: Report) -> list[str]:
    ended = found["kills"] + found["over"]
    return [
        f"`wm-env {name}`",
        str(found["kills"]),
        str(found["over"]),
        f"{found['equal']} of {ended}",
        str(len(found["left"])),
        str(found["survivors"]),
    ]


def flat(found: Report, what: str) -> str:
    """Return the one number that there was, or from where to where."""
    ends = found[what]
    return str(ends[0]) if len(ends) == 1 else f"{ends[0]} to {ends[-1]}"
