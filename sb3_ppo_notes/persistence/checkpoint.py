"""A run cut anywhere and resumed equals the run that was not cut, bit for bit.

A checkpoint is taken between two environment steps, also in the middle of a rollout, whose steps so far it holds. What
it cannot hold exactly (environments in other processes, physics in somebody else's C++) it names, and then those
environments begin new episodes.
"""

import dataclasses
import secrets
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv

from sb3_ppo_notes.algorithms import NotesA2C, NotesPPO
from sb3_ppo_notes.algorithms.on_policy import NotesOnPolicyAlgorithm, SelfAlgorithm
from sb3_ppo_notes.algorithms.schedules import plain
from sb3_ppo_notes.envs.make import make_env
from sb3_ppo_notes.files import versions
from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, check_integer
from sb3_ppo_notes.kernels import lstm
from sb3_ppo_notes.persistence.callback_state import capture_callbacks, restore_callbacks
from sb3_ppo_notes.persistence.configuration import UnreadableError, from_json, to_json
from sb3_ppo_notes.persistence.environments import capture_environments, check_environments, restore_environments
from sb3_ppo_notes.persistence.model_state import (
    FREE,
    argument_names,
    bare_model,
    capture_model,
    configuration,
    restore_log,
    restore_model,
    restore_random,
)
from sb3_ppo_notes.persistence.revival import Revival
from sb3_ppo_notes.persistence.snapshot import Snapshot
from sb3_ppo_notes.persistence.storage import Stored, read_checkpoint, write_checkpoint
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from sb3_ppo_notes.rollouts.pausing import with_last_step


@dataclass(frozen=True)
class ResumeReport:
    """The exact and the inexact parts of a resumed run.

    :param path: the checkpoint.
    :param num_timesteps: environment steps that the run had made.
    :param total_timesteps: environment steps that it was to make.
    :param not_exact: what differs from the run that was cut, and why; empty if nothing does.
    :param skipped: newer checkpoints that are damaged, and how.
    """

    path: Path
    num_timesteps: int
    total_timesteps: int
    not_exact: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        """``True`` if the run goes on bit for bit as if it had not been cut."""
        return not self.not_exact

    @property
    def remaining_timesteps(self) -> int:
        """For ``learn(..., reset_num_timesteps=False)``, so that schedules go on as they would have."""
        return max(self.total_timesteps - self.num_timesteps, 0)

    def __str__(self) -> str:
        lines = [f"{self.path}: step {self.num_timesteps:,} of {self.total_timesteps:,}"]
        lines += [f"skipped: {reason}" for reason in self.skipped]
        lines += [f"not exact: {reason}" for reason in self.not_exact] or ["exact: everything"]
        return "\n".join(lines)


def save_checkpoint(
    model: NotesOnPolicyAlgorithm, path: str | Path, callback: BaseCallback | None = None, keep: int = 2
) -> Path:
    """Write all that is needed to go on with a run exactly where it is.

    While ``learn`` runs, :class:`~sb3_ppo_notes.persistence.ExactCheckpoint` does it at the right moments.

    :param model: a NotesPPO or NotesA2C, not in the middle of a step.
    :param path: the run's folder; a new checkpoint in it, beside the last ones.
    :param callback: whose memory goes into it too.
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
    folder = model.last_checkpoint_path = write_checkpoint(Path(path), document, arrays, keep)
    return folder


def _document(
    model: NotesOnPolicyAlgorithm, callback: BaseCallback | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    snapshot = Snapshot()
    document = {
        "algorithm": type(model).__name__,
        "configuration": configuration(model),
        "spaces": {"observation_space": str(model.observation_space), "action_space": str(model.action_space)},
        "num_timesteps": model.num_timesteps,
        "total_timesteps": to_json(model._total_timesteps),  # may be infinite
        "run": model._run_id,
        "versions": _versions(with_lstm=isinstance(model.policy, NotesRecurrentPolicy)),
        "model": capture_model(model, snapshot),
        "environments": None if model.env is None else capture_environments(model.env, snapshot),
        "callbacks": [] if callback is None else capture_callbacks(callback, snapshot),
    }
    is_begun = model._unfinished_step is not None or model._paused_at is not None
    if is_begun and (model._paused_at is None or model._last_obs is None):
        snapshot.problems.append(("rollout", "its steps are lost, the model was given other environments since"))
    document["problems"] = [f"{place}: {what}" for place, what in snapshot.problems]
    return document, snapshot.arrays


@overload
def load_checkpoint(
    path: str | Path,
    env: GymEnv | str,
    *,
    algorithm: type[SelfAlgorithm],
    device: th.device | str = "auto",
    **arguments: Any,
) -> SelfAlgorithm: ...


@overload
def load_checkpoint(
    path: str | Path,
    env: GymEnv | str,
    *,
    algorithm: None = None,
    device: th.device | str = "auto",
    **arguments: Any,
) -> NotesPPO | NotesA2C: ...


def load_checkpoint(
    path: str | Path,
    env: GymEnv | str,
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
    :param env: environments built as those of the run, or the id of one.
    :param algorithm: the model's class: needed if it is neither NotesPPO nor NotesA2C, and else for a type checker to
        know which of them it is.
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
    model = _build(_class_of(document["algorithm"], algorithm), document, env, device, arguments)
    for name, text in document["spaces"].items():
        if str(getattr(model, name)) != text:
            raise InvalidValueError(f"{name} must be {text} as in the checkpoint to resume, got {getattr(model, name)}")
    if document["environments"] is not None and model.env is not None:
        check_environments(model.env, document["environments"])
        # Many an environment makes its objects at its first reset, and it may draw from shared generators.
        model.env.reset()
    log = restore_model(model, document["model"], revival)
    problems = _restore_environments(model, document["environments"], revival)
    restore_random(model, document["model"]["random"], stored.arrays)
    model.resume_report = _report(stored, problems)
    model.on_resume = partial(_resume, model, stored, revival, log)
    return model


def _class_of(name: str, algorithm: type[NotesOnPolicyAlgorithm] | None) -> type[NotesOnPolicyAlgorithm]:
    ours: dict[str, type[NotesOnPolicyAlgorithm]] = {"NotesPPO": NotesPPO, "NotesA2C": NotesA2C}
    if algorithm is None and name not in ours:
        raise InvalidValueError(f"algorithm must be given for a checkpoint of {name!r}: it is none of this package's")
    if algorithm is not None and not issubclass(algorithm, ours.get(name, algorithm)):
        raise InvalidValueError(f"algorithm must be {name} as in the checkpoint to resume, got {algorithm.__name__}")
    return algorithm or ours[name]


def _build(
    model_class: type[NotesOnPolicyAlgorithm],
    document: dict[str, Any],
    env: GymEnv | str,
    device: th.device | str,
    arguments: dict[str, Any],
) -> NotesOnPolicyAlgorithm:
    """The model as it was before its first step."""
    names = argument_names(model_class, arguments)
    nodes = document["configuration"]
    settings = {own: _setting(name, nodes[name], arguments) for name, own in names.items() if name in nodes}
    n_envs = (document["environments"] or {}).get("n_envs", 1)
    wrapped = model_class._wrap_env(make_env(env, settings["verbose"]), settings["verbose"])
    if wrapped.num_envs != n_envs:
        raise InvalidValueError(f"n_envs must be {n_envs} as in the checkpoint to resume, got {wrapped.num_envs}")
    model = bare_model(model_class, wrapped, device, settings)
    model._setup_model()
    return model


def _setting(name: str, node: Any, arguments: dict[str, Any]) -> Any:
    try:
        recorded = from_json(node)
    except UnreadableError as error:
        if name not in arguments:
            raise InvalidValueError(f"{name} must be given to resume this run: {error}") from error
        return arguments[name]
    if name not in arguments or name in FREE:
        return arguments.get(name, recorded)
    value = arguments[name]
    if not (plain(value) is plain(recorded) or _is_equal(value, recorded)):
        raise InvalidValueError(f"{name} must be {recorded!r} as in the checkpoint to resume, got {value!r}")
    return recorded


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.generic):
        one = one.item()
    return bool(one == other) or repr(plain(one)) == repr(plain(other))


def _restore_environments(model: NotesOnPolicyAlgorithm, captured: Any, revival: Revival) -> list[str]:
    if captured is None or model.env is None:
        return ["there were none"] if captured is None else ["there are none now"]
    seed = None if model.seed is None else (model.seed + model.num_timesteps) % 2**32
    problems = restore_environments(model.env, captured, revival, seed)
    if problems:
        # Without its environments the steps of the rollout that was begun lead nowhere: it is gathered again.
        if model._paused_at is not None:
            model.num_timesteps -= model._paused_at * model.n_envs
            model._paused_at = None
        # learn resets the environments where there is no last observation.
        model._last_obs = None
    return problems


def _resume(
    model: NotesOnPolicyAlgorithm, stored: Stored, revival: Revival, log: dict[str, Any], callback: BaseCallback
) -> None:
    """Restore what can be restored only once ``learn`` has begun: the callbacks' memory, the log, the generators."""
    lost = restore_callbacks(callback, stored.document["callbacks"], revival)
    if lost:
        warnings.warn(f"not resumed exactly: {'; '.join(lost)}", UserWarning, stacklevel=2)
        model.resume_report = dataclasses.replace(
            model.resume_report, not_exact=(*model.resume_report.not_exact, *lost)
        )
    restore_log(model, log)
    # Whatever the program has drawn since it loaded the checkpoint, the run has not.
    restore_random(model, stored.document["model"]["random"], stored.arrays)


def _versions(with_lstm: bool = True) -> dict[str, str]:
    packages = ("torch", "numpy", "gymnasium", "stable-baselines3")
    kernel = {"LSTM by": lstm.in_use()} if with_lstm else {}
    return versions(packages) | {"torch threads": str(th.get_num_threads())} | kernel


def _report(stored: Stored, problems: list[str]) -> ResumeReport:
    document = stored.document
    not_exact = [f"environments: {problem}" for problem in problems]
    if problems:
        not_exact.append("environments: new episodes begin, and the rollout that was begun is gathered again")
    not_exact += document["problems"]
    now, then = _versions(), document["versions"]
    # A policy without memory does not say who would run an LSTM.
    not_exact += [
        f"{name}: {then[name]} then, {now[name]} now" for name in now if now[name] != then.get(name, now[name])
    ]
    total = from_json(document["total_timesteps"])
    return ResumeReport(stored.path, document["num_timesteps"], total, tuple(not_exact), stored.skipped)
