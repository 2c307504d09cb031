"""Numbers of docs/measure_agents.py, of the shipped policy's card and of `wm-env bench transfer`."""

from __future__ import annotations

from typing import Any

from written import Files, Report, band, interval, lines, made

RANDOM = "random, the policy's moves"


def scored(files: Files, agent: str, group: str = "objectnav in the twin") -> Any:
    return files.agents["groups"][group]["rows"][agent]


def percent(found: Report, digits: int = 1) -> str:
    return f"{100 * found['mean']:.{digits}f}"


def agents_table(files: Files) -> str:
    group = files.agents["groups"]["objectnav in the twin"]
    told = {
        "goal": "scripted expert, reads the true map",
        "objectnav": "**`objectnav`**",
        RANDOM: "random, the policy's three moves",
        "objectnav-blind": "`objectnav-blind`, trained alike, black pictures",
        "random": "random, all nine keys",
    }
    rows = []
    for name, text in told.items():
        score = group["rows"][name]["score"]
        success = f"{percent(score['success'])} % {interval(score['success'], 1, 100)}"
        against = group["first_minus"].get(name)
        rows.append(
            [
                text,
                f"**{success}**" if name == "objectnav" else success,
                f"{score['spl']['mean']:.3f}",
                f"{score['reward']['mean']:.2f}",
                f"{score['mean_steps']:.1f}",
                "" if against is None else f"{100 * against['mean']:+.1f} {interval(against, 1, 100)} points",
            ]
        )
    head = ["agent", "success in the twin", "SPL", "return", "steps", "policy minus this agent, paired"]
    return lines(head, rows)


def any_start(files: Files) -> str:
    rows = []
    for name, row in files.agents["groups"]["any start"]["rows"].items():
        task, _, agent = name.partition(", ")
        score = row["score"]
        rows.append(
            [
                task,
                "scripted expert (`goal`)" if agent == "goal" else agent,
                f"{percent(score['success'], 0)} % {interval(score['success'], 1, 100)}",
                f"{score['spl']['mean']:.3f}",
                f"{score['reward']['mean']:.2f}",
                f"{score['mean_steps']:.1f}",
            ]
        )
    return lines(["task", "agent", "success", "SPL", "return", "steps"], rows)


def in_view(files: Files, agent: str, *, seen: bool) -> tuple[int, int]:
    """Return successes and episodes with the beacon in the start picture, or without."""
    row = scored(files, agent)
    won, played = row["in_view"]["success"], row["in_view"]["episodes"]
    return (won, played) if seen else (row["won"].count("1") - won, len(row["won"]) - played)


def agent_numbers(files: Files) -> dict[str, str]:
    found = {"objectnav": agents_table(files), "any-start": any_start(files), "machine": made(files.agents)}
    for seen, kind in ((True, "seen"), (False, "unseen")):
        won, played = in_view(files, "objectnav", seen=seen)
        found |= {
            kind: f"{won} of {played}",
            f"{kind}-blind": f"{in_view(files, 'objectnav-blind', seen=seen)[0]}",
        }
        found[f"{kind}-random"] = (
            f"{in_view(files, 'random, the policy' + chr(39) + 's moves', seen=seen)[0]}"
        )
    home = scored(files, "objectnav", "objectnav in tiny")["score"]
    found["home"] = (
        f"{percent(home['success'], 0)} % {interval(home['success'], 0, 100)} of {home['episodes']}"
    )
    turned = scored(files, "objectnav", "objectnav in tiny after a turn")["score"]
    found["turned"] = (
        f"{percent(turned['success'])} % {interval(turned['success'], 1, 100)} of {turned['episodes']}"
    )
    return found | training_time(files)


def training_time(files: Files) -> dict[str, str]:
    """Return how long the shipped policy trained and where the time went, from its card."""
    card = files("agents/weights/objectnav.json")
    spent = card["profile"]
    shares = {part: f"{spent[part] / spent['seconds']:.1%}" for part in ("world", "learner", "environment")}
    return {
        "env-steps": f"{card['env_steps']:,}".replace(",", " "),
        "minutes": f"{spent['seconds'] / 60:.0f}",
        "seconds": f"{spent['seconds']:.0f}",
        **{f"time-{part}": share.replace("%", " %") for part, share in shares.items()},
    }


def transfer_table(files: Files) -> str:
    rows = []
    for role, cell in files.transfer["scores"].items():
        told = "scripted expert" if role == "scripted" else role
        own, true = cell["learned world"], cell["twin"]
        rows.append([told, band(own["success"]), band(true["success"]), f"{true['reward']['mean']:.2f}"])
    head = ["policy", "success in the learned world [95%]", "success in the twin [95%]", "return in the twin"]
    return lines(head, rows)
