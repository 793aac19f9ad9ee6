"""Arms of a benchmark: our variants and the peers, what each is built from, and the interpreter that runs it."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch as th

import sb3_ppo_notes
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_choice

#: Our variants: keyword arguments, and the vectorised environment they are trained on.
OURS: dict[str, tuple[dict[str, Any], str]] = {
    "notes": ({}, "dummy"),
    "notes+compile": ({"compile": True}, "dummy"),
    "notes+lean": ({}, "lean"),
    "notes+lean+compile": ({"compile": True}, "lean"),
    "notes+vector": ({}, "vector"),
    "notes+vector+compile": ({"compile": True}, "vector"),
}
#: Between a variant and the number of processes that train it.
TIMES = " ×"
#: Their environments, where they are not in the ``DummyVecEnv`` of all others.
VEC_ENVS = {"lean": "LeanVecEnv", "vector": "Gymnasium's own vector environment"}


class Peer(NamedTuple):
    """Another library's algorithms.

    :param classes: the algorithm's class by ``"ppo"``, ``"a2c"`` and ``"recurrent ppo"``; what it lacks is not there.
    :param differs: from stock SB3 with the same hyperparameters.
    """

    module: str
    package: str
    classes: dict[str, str]
    differs: str = ""


PEERS: dict[str, Peer] = {
    "sb3": Peer("stable_baselines3", "stable-baselines3", {"ppo": "PPO", "a2c": "A2C"}),
    "sb3-contrib": Peer("sb3_contrib", "sb3-contrib", {"recurrent ppo": "RecurrentPPO"}),
    "sbx": Peer(
        "sbx",
        "sbx-rl",
        {"ppo": "PPO"},
        differs="an Adam and a gradient-norm clip each for actor and critic, advantages over the biased deviation "
        "(ddof 0), no orthogonal initialisation",
    ),
}

#: Stock's defaults, sb3-contrib's for a policy with memory; given to every arm by name, so that none has its own.
HYPERPARAMETERS: dict[str, dict[str, int]] = {
    "ppo": {"n_steps": 2048, "batch_size": 64, "n_epochs": 10},
    "recurrent ppo": {"n_steps": 128, "batch_size": 128, "n_epochs": 10},
    "a2c": {"n_steps": 5},
    "recurrent a2c": {"n_steps": 5},
}


@dataclass(frozen=True)
class Arm:
    """One row of the table: its name as the user writes it, its Python, and the spec of its ``worker.Subject``."""

    name: str
    interpreter: str
    spec: dict[str, Any]

    @property
    def compiles(self) -> bool:
        """True if torch compiles something for it, and keeps it on disk."""
        return bool(self.spec["arguments"].get("compile"))


def kind_of(algo: str, policy: str) -> str:
    """The key of ``HYPERPARAMETERS`` for an algorithm and the name of a policy."""
    return f"recurrent {algo}" if "Lstm" in policy else algo


def parse_names(argument: str, words: str, known: Sequence[str]) -> list[str]:
    """Names separated by commas, each once, in the user's order; an unknown one, or none, is refused.

    >>> parse_names("peers", "sbx, sb3,sbx", ["sb3", "sbx"])
    ['sbx', 'sb3']
    """
    names = list(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    for name in names:
        check_choice(argument, name, known)
    if not names:
        raise InvalidValueError(
            f"{argument} must be names separated by commas out of {', '.join(known)}, got {words!r}"
        )
    return names


def check_device(device: str) -> None:
    """Refuse a device that PyTorch does not know or this machine does not have: nothing may be measured elsewhere."""
    try:
        if th.empty(0, device=device).is_meta:
            raise RuntimeError("it holds no numbers")
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidValueError(f"device must be cpu, or a GPU of this machine, got {device!r}: {reason}") from error


def our_arm(name: str, algo: str, common: dict[str, Any], processes: int = 1) -> Arm:
    """One of our variants, run by this interpreter; ``common`` is the part of the spec that all arms share."""
    extras, vec_env = OURS[name]
    spec = {
        **common,
        "module": "sb3_ppo_notes",
        "class": {"ppo": "NotesPPO", "a2c": "NotesA2C"}[algo],
        "arguments": common["arguments"] | extras,
        "vec_env": vec_env,
        "import_from": str(Path(sb3_ppo_notes.__file__).parents[1]),
        "processes": processes,
    }
    return Arm(name if processes == 1 else f"{name}{TIMES}{processes}", sys.executable, spec)


def variant_of(arm: str) -> str:
    """The variant that an arm's name begins with, the number of its processes left out."""
    return arm.partition(TIMES)[0]


def peer_arm(name: str, kind: str, peer_python: Path | None, common: dict[str, Any]) -> Arm:
    """A peer, run by this interpreter if it has the package, else by ``peer_python``; refused if neither has."""
    peer = PEERS[name]
    if kind not in peer.classes:
        able = [other for other in PEERS if kind in PEERS[other].classes]
        if not able:
            raise InvalidValueError(f"policy must be one without memory (no peer has {kind}), got {common['policy']!r}")
        raise InvalidValueError(
            f"peers must be one of {', '.join(map(repr, able))} for {kind} with {common['policy']}, got {name!r}"
        )
    spec = {**common, "module": peer.module, "class": peer.classes[kind], "vec_env": "dummy", "import_from": None}
    return Arm(name, _interpreter(name, peer, peer_python), spec)


def _interpreter(name: str, peer: Peer, peer_python: Path | None) -> str:
    if importlib.util.find_spec(peer.module) is not None:
        return sys.executable
    if peer_python is None:
        raise InvalidValueError(
            f"peers: {name} needs the package {peer.package}, which is not installed here; install it, or give "
            "--peer-python an interpreter that has it"
        )
    # Not resolved: a virtual environment's interpreter is a link, and knows by its own path where its packages are.
    python = os.path.abspath(peer_python)
    has_it = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    if subprocess.run([python, "-c", has_it, peer.module], capture_output=True, check=False).returncode != 0:
        raise InvalidValueError(
            f"peer_python must be an interpreter that has the package {peer.package} (for {name}; this one has not), "
            f"got {peer_python}"
        )
    return python
