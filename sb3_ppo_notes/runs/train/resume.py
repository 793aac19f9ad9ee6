"""``train --resume``: the run in a folder, as its newest checkpoint holds it."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

from sb3_ppo_notes.algorithms.on_policy import NotesOnPolicyAlgorithm
from sb3_ppo_notes.configs.build import build_model
from sb3_ppo_notes.configs.run_config import RunConfig, resolve_config
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_integer
from sb3_ppo_notes.persistence import CheckpointCorruptError, load_checkpoint
from sb3_ppo_notes.persistence.model_state import configuration
from sb3_ppo_notes.persistence.storage import Stored, checkpoints_in, read_checkpoint
from sb3_ppo_notes.processes import Group
from sb3_ppo_notes.runs.train.folder import CHECKPOINTS, CONFIG
from sb3_ppo_notes.runs.train.log import RunState
from sb3_ppo_notes.runs.train.together import check_resumable, processes_for


class ResumedRun(NamedTuple):
    """A run that can go on, with its configuration as it was begun; ``model.resume_report`` says what is exact."""

    config: RunConfig
    model: NotesOnPolicyAlgorithm
    state: RunState
    total_timesteps: int


def check_run(folder: Path) -> None:
    """Refuse what is no run with checkpoints, saying what is missing."""
    if not (folder / CONFIG).is_file():
        raise InvalidValueError(f"resume must be the folder of a run, with its {CONFIG}, got {folder}")
    if not checkpoints_in(folder / CHECKPOINTS):
        raise InvalidValueError(f"resume must be a run with {CHECKPOINTS} to go on from, got {folder}, which has none")


class FinishedRunError(InvalidValueError):
    """There is nothing left to do."""


def resume_run(folder: Path, total_timesteps: int | None, group: Group) -> ResumedRun:
    """Read a run; nothing is written. One that cannot go on, or is finished, is refused."""
    check_run(folder)
    config, _ = resolve_config(str(folder / CONFIG), {})
    check_resumable(config, group)
    processes = processes_for(config, group)
    try:
        stored = read_checkpoint(folder / CHECKPOINTS)
    except CheckpointCorruptError as error:
        raise InvalidValueError(
            f"resume must be a run with a checkpoint that is whole, got {folder}: {error}"
        ) from error
    state, total = _state(stored), _total(stored, total_timesteps)
    if state.is_finished and total <= stored.document["num_timesteps"]:
        raise FinishedRunError(
            f"resume must be a run that is not finished, got {folder}, which has made its "
            f"{stored.document['num_timesteps']:,} steps: --total-timesteps with more goes on"
        )
    fresh = build_model(config, processes)
    assert fresh.env is not None
    with warnings.catch_warnings():
        # The report says it.
        warnings.filterwarnings("ignore", "a newer checkpoint was skipped")
        model = load_checkpoint(folder / CHECKPOINTS, fresh.env, device=config.device, processes=processes)
    before, now = configuration(model), configuration(fresh)
    for name in now:
        if before.get(name) != now[name]:
            raise InvalidValueError(f"{name} must be in {folder / CONFIG} as the run was begun, and it is not")
    return ResumedRun(config, model, state, total)


def _state(stored: Stored) -> RunState:
    """The checkpoint's memory of the files, needed before there are callbacks to put it back into."""
    state = RunState()
    document = stored.shard(0)[0] if "shards" in stored.document else stored.document
    for entry in document["callbacks"] or []:
        if entry["class"].endswith(f".{RunState.__name__}"):
            state.n_rows, state.is_finished = entry["memory"]["n_rows"], entry["memory"]["is_finished"]
    return state


def _total(stored: Stored, asked: int | None) -> int:
    planned: int = stored.document["total_timesteps"]
    if asked is None:
        return planned
    check_integer("total_timesteps", asked, minimum=planned, because=", what the run was to make")
    return asked


def check_alone(options: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Refuse options that a run which goes on has no use for."""
    for name, value in options.items():
        if name not in ("resume", "total_timesteps") and value != defaults[name]:
            raise InvalidValueError(f"{name} must be left out with resume, whose {CONFIG} counts, got {str(value)!r}")
