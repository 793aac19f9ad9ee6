"""A run cut anywhere and resumed equals the run that was not cut, bit for bit.

A checkpoint is taken between two environment steps, also in the middle of a rollout, whose steps so far it holds. What
it cannot hold exactly (environments in other processes, physics in somebody else's C++) it names, and then those
environments begin new episodes.
"""

import dataclasses
import secrets
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv

from sb3_ppo_notes.algorithms import NotesA2C, NotesPPO
from sb3_ppo_notes.algorithms.on_policy import NotesOnPolicyAlgorithm
from sb3_ppo_notes.files import versions
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, check_integer
from sb3_ppo_notes.kernels import lstm
from sb3_ppo_notes.persistence.callback_state import held_callbacks, put_back_callbacks
from sb3_ppo_notes.persistence.configuration import taken
from sb3_ppo_notes.persistence.configuration import written as as_json
from sb3_ppo_notes.persistence.construction import build_model
from sb3_ppo_notes.persistence.environments import check_environments, held_environments, put_back_environments
from sb3_ppo_notes.persistence.model_state import (
    configuration,
    held_model,
    put_back_log,
    put_back_model,
    put_back_random,
)
from sb3_ppo_notes.persistence.report import ResumeReport
from sb3_ppo_notes.persistence.revival import Revival
from sb3_ppo_notes.persistence.snapshot import Snapshot
from sb3_ppo_notes.persistence.storage import Stored, read_checkpoint, write_checkpoint
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from sb3_ppo_notes.rollouts.pausing import with_last_step


def save_checkpoint(
    model: NotesOnPolicyAlgorithm, path: str | Path, callback: BaseCallback | None = None, keep: int = 2
) -> Path:
    """Write all that is needed to go on with a run exactly where it is.

    While ``learn`` runs, :class:`~sb3_ppo_notes.persistence.ExactCheckpoint` does it at the right moments.

    :param model: a NotesPPO or NotesA2C, not in the middle of a step.
    :param path: the run's folder; a new checkpoint in it, beside the last ones.
    :param callback: whose memory is held too.
    :param keep: how many checkpoints of this run stay.
    :return: the checkpoint's folder.
    :raises TypeError: for another kind of model.
    :raises ValueError: if the model is in the middle of a step.
    :raises OSError: if it cannot be written; what was there is as before.
    """
    if not isinstance(model, NotesOnPolicyAlgorithm):
        raise InvalidTypeError(f"model must be a NotesPPO or NotesA2C, got {type(model).__name__}")
    check_integer("keep", keep, minimum=1)
    if model._is_learning and model._paused_at is None:
        raise InvalidValueError(
            "model must be between two steps to be resumed exactly, and it is within one: add ExactCheckpoint to the "
            "callbacks, or save after learn (StopOnSignal ends it between two steps)"
        )
    if model.on_resume is not None:
        raise InvalidValueError(
            "model must have gone on with its run before it is saved again, "
            f"got it as {model.resume_report.path} holds it"
        )
    if model._run_id is None:
        # Not from NumPy's or Python's generator: saving must not change what the run draws next.
        model._run_id = secrets.token_hex(8)
    with with_last_step(model):
        document, arrays = _document(model, callback)
    # Named in the error, should something not be finite later.
    written = model.last_checkpoint_path = write_checkpoint(Path(path), document, arrays, keep)
    return written


def _document(
    model: NotesOnPolicyAlgorithm, callback: BaseCallback | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    snapshot = Snapshot()
    document = {
        "algorithm": type(model).__name__,
        "configuration": configuration(model),
        "spaces": {"observation_space": str(model.observation_space), "action_space": str(model.action_space)},
        "num_timesteps": model.num_timesteps,
        "total_timesteps": as_json(model._total_timesteps),  # may be infinite
        "run": model._run_id,
        "versions": _versions() | (_lstm() if isinstance(model.policy, NotesRecurrentPolicy) else {}),
        "model": held_model(model, snapshot),
        "environments": None if model.env is None else held_environments(model.env, snapshot),
        "callbacks": [] if callback is None else held_callbacks(callback, snapshot),
    }
    is_begun = model._unfinished_step is not None or model._paused_at is not None
    if is_begun and (model._paused_at is None or model._last_obs is None):
        snapshot.problems.append(("rollout", "its steps are lost, the model was given other environments since"))
    document["problems"] = [f"{place}: {what}" for place, what in snapshot.problems]
    return document, snapshot.arrays


def load_checkpoint(
    path: str | Path,
    env: GymEnv,
    *,
    algorithm: type[NotesOnPolicyAlgorithm] | None = None,
    device: th.device | str = "auto",
    **arguments: Any,
) -> NotesOnPolicyAlgorithm:
    """The model of a checkpoint, in environments that remember what they did.

    Go on with ``model.learn(model.resume_report.remaining_timesteps, callbacks, reset_num_timesteps=False)``.

    Nothing in the files is executed, and no class is looked up but those that this package, SB3 and torch build models
    from.

    :param path: the run's folder, for the newest checkpoint in it that is whole; or one checkpoint.
    :param env: environments built as those of the run.
    :param algorithm: the model's class, if it is neither NotesPPO nor NotesA2C.
    :param device: where the networks shall be.
    :param arguments: of the constructor: ``verbose``, ``tensorboard_log``, and those that could not be written down (a
        schedule that is a function, a policy class of your own). Any other must be as in the checkpoint.
    :return: the model; ``model.resume_report`` says what of it is exact, and what is not and why.
    :raises ValueError: if something does not fit, naming it.
    :raises CheckpointCorruptError: if no checkpoint is whole.
    """
    stored = read_checkpoint(Path(path))
    for reason in stored.skipped:
        warnings.warn(f"a newer checkpoint was skipped: {reason}", UserWarning, stacklevel=2)
    document, revival = stored.document, Revival(stored.arrays)
    model_class = algorithm or _class_of(document["algorithm"])
    model = build_model(model_class, document, env, device, arguments)
    _check_spaces(model, document["spaces"])
    held = document["environments"]
    if held is not None and model.env is not None:
        check_environments(model.env, held)
        # Many an environment makes its objects at its first reset, and it may draw from shared generators.
        model.env.reset()
    log = put_back_model(model, document["model"], revival)
    problems = _put_back_environments(model, document, revival)
    put_back_random(model, document["model"]["random"], stored.arrays)
    model.resume_report = _report(stored, problems)
    model.on_resume = partial(_resume, model, stored, revival, log)
    return model


def _class_of(name: str) -> type[NotesOnPolicyAlgorithm]:
    known: dict[str, type[NotesOnPolicyAlgorithm]] = {"NotesPPO": NotesPPO, "NotesA2C": NotesA2C}
    if name not in known:
        raise InvalidValueError(f"algorithm must be given for a checkpoint of {name!r}: it is none of this package's")
    return known[name]


def _check_spaces(model: NotesOnPolicyAlgorithm, spaces: dict[str, str]) -> None:
    for name, text in spaces.items():
        if str(getattr(model, name)) != text:
            raise InvalidValueError(f"{name} must be {text} as in the checkpoint to resume, got {getattr(model, name)}")


def _put_back_environments(model: NotesOnPolicyAlgorithm, document: dict[str, Any], revival: Revival) -> list[str]:
    held = document["environments"]
    if held is None or model.env is None:
        return ["there were none"] if held is None else ["there are none now"]
    seed = None if model.seed is None else (model.seed + model.num_timesteps) % 2**32
    problems = put_back_environments(model.env, held, revival, seed)
    if problems:
        _begin_new_episodes(model)
    return problems


def _begin_new_episodes(model: NotesOnPolicyAlgorithm) -> None:
    """Without the environments of the rollout that was begun its steps lead nowhere: it is gathered again."""
    if model._paused_at is not None:
        model.num_timesteps -= model._paused_at * model.n_envs
        model._paused_at = None
    # learn resets the environments where there is no last observation.
    model._last_obs = None


def _resume(
    model: NotesOnPolicyAlgorithm, stored: Stored, revival: Revival, log: dict[str, Any], callback: BaseCallback
) -> None:
    """What can be put back only now that ``learn`` has begun: the callbacks' memory, the log, the generators."""
    lost = put_back_callbacks(callback, stored.document["callbacks"], revival)
    if lost:
        warnings.warn(f"not resumed exactly: {'; '.join(lost)}", UserWarning, stacklevel=2)
        model.resume_report = dataclasses.replace(
            model.resume_report, not_exact=(*model.resume_report.not_exact, *lost)
        )
    put_back_log(model, log)
    # Whatever the program has drawn since it loaded the checkpoint, the run has not.
    put_back_random(model, stored.document["model"]["random"], stored.arrays)


def _versions() -> dict[str, str]:
    packages = ("torch", "numpy", "gymnasium", "stable-baselines3")
    return versions(packages) | {"torch threads": str(th.get_num_threads())}


def _lstm() -> dict[str, str]:
    return {"LSTM by": lstm.in_use()}


def _report(stored: Stored, problems: list[str]) -> ResumeReport:
    document = stored.document
    not_exact = [f"environments: {problem}" for problem in problems]
    if problems:
        not_exact.append("environments: new episodes begin, and the rollout that was begun is gathered again")
    not_exact += document["problems"]
    now, then = _versions() | _lstm(), document["versions"]
    # A policy without memory does not say who would run an LSTM.
    not_exact += [
        f"{name}: {then[name]} then, {now[name]} now" for name in now if now[name] != then.get(name, now[name])
    ]
    return ResumeReport(
        stored.path,
        document["num_timesteps"],
        taken(document["total_timesteps"]),
        tuple(not_exact),
        stored.skipped,
    )
