"""A run cut anywhere and resumed equals the run that was not cut, bit for bit.

A checkpoint is taken between two environment steps, also in the middle of a rollout, whose steps so far it holds. What
it cannot hold exactly (environments in other processes, physics in somebody else's C++) it names, and then those
environments begin new episodes. The file is long because what is written and how it is read must agree in every detail.
"""

import dataclasses
import secrets
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes.algorithms import NotesA2C, NotesPPO
from sb3_ppo_notes.algorithms.on_policy import NotesOnPolicyAlgorithm, SelfAlgorithm
from sb3_ppo_notes.algorithms.processes import share_of
from sb3_ppo_notes.algorithms.schedules import plain
from sb3_ppo_notes.envs.make import AnyEnv, make_env
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
from sb3_ppo_notes.persistence.shards import Content, capture_shards, check_shards, restore_shards
from sb3_ppo_notes.persistence.snapshot import Snapshot
from sb3_ppo_notes.persistence.storage import (
    Stored,
    read_checkpoint,
    write_checkpoint,
    write_checkpoint_together,
)
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from sb3_ppo_notes.processes import Shards, join_group
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

    While ``learn`` runs, :class:`~sb3_ppo_notes.persistence.ExactCheckpoint` does it at the right moments. Of several
    processes all call this together, with a folder that all see.

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
        if model._shards is not None:
            model._run_id = model._shards.group.gather(model._run_id)[0]
    with with_last_step(model):
        if model._shards is None:
            folder = write_checkpoint(Path(path), *_document(model, callback), keep)
        else:
            shards = capture_shards(model, callback)
            whole = _document(model, None) if model._shards.is_writer else None
            folder = write_checkpoint_together(model._shards.group, Path(path), whole, shards, keep)
    # Named in the error, should something not be finite later.
    model.last_checkpoint_path = folder
    return folder


def _document(model: NotesOnPolicyAlgorithm, callback: BaseCallback | None) -> Content:
    """Of a training on several processes what is the same in all."""
    snapshot = Snapshot()
    env = None if model._shards is not None else model.env
    document = {
        "algorithm": type(model).__name__,
        "configuration": configuration(model),
        "spaces": {"observation_space": str(model.observation_space), "action_space": str(model.action_space)},
        "num_timesteps": model.num_timesteps,
        "total_timesteps": to_json(model._total_timesteps),  # may be infinite
        "run": model._run_id,
        "versions": _versions(with_lstm=isinstance(model.policy, NotesRecurrentPolicy)),
        "model": capture_model(model, snapshot),
        "environments": None if env is None else capture_environments(env, snapshot),
        "callbacks": [] if callback is None else capture_callbacks(callback, snapshot),
    }
    is_begun = model._unfinished_step is not None or model._paused_at is not None
    if is_begun and (model._paused_at is None or model._last_obs is None):
        snapshot.problems.append(("rollout", "its steps are lost, the model was given other environments since"))
    document["problems"] = [f"{place}: {what}" for place, what in snapshot.problems]
    if model._shards is not None:
        document["shards"] = model._shards.n_shards
    return document, snapshot.arrays


@overload
def load_checkpoint(
    path: str | Path,
    env: AnyEnv | str,
    *,
    algorithm: type[SelfAlgorithm],
    device: th.device | str = "auto",
    processes: Any = None,
    **arguments: Any,
) -> SelfAlgorithm: ...


@overload
def load_checkpoint(
    path: str | Path,
    env: AnyEnv | str,
    *,
    algorithm: None = None,
    device: th.device | str = "auto",
    processes: Any = None,
    **arguments: Any,
) -> NotesPPO | NotesA2C: ...


def load_checkpoint(
    path: str | Path,
    env: AnyEnv | str,
    *,
    algorithm: type[NotesOnPolicyAlgorithm] | None = None,
    device: th.device | str = "auto",
    processes: Any = None,
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
    :param processes: as of the constructor, for a run of several shards: any number that divides theirs.
    :param arguments: of the constructor: ``verbose``, ``tensorboard_log``, and those that could not be written down (a
        schedule that is a function, a policy class of your own). Any other must be as in the checkpoint.
    :return: the model; ``model.resume_report`` says what of it is exact, and what is not and why.
    :raises ValueError: if something does not fit, naming it.
    :raises CheckpointCorruptError: if no checkpoint is whole.
    """
    stored = read_checkpoint(Path(path))
    shards = _join(stored, processes, arguments.pop("shards", None))
    if shards is None or shards.is_writer:
        for reason in stored.skipped:
            warnings.warn(f"a newer checkpoint was skipped: {reason}", UserWarning, stacklevel=2)
    document, contents = stored.document, [] if shards is None else [stored.shard(number) for number in shards.own]
    n_envs = sum(part["environments"]["n_envs"] for part, _ in contents) if shards is not None else _n_envs(document)
    model = _build(_class_of(document["algorithm"], algorithm), document, env, n_envs, device, arguments, shards)
    for name, text in document["spaces"].items():
        if str(getattr(model, name)) != text:
            raise InvalidValueError(f"{name} must be {text} as in the checkpoint to resume, got {getattr(model, name)}")
    if model.env is not None:
        if shards is not None:
            check_shards(model, contents)
        elif document["environments"] is not None:
            check_environments(model.env, document["environments"])
        # Many an environment makes its objects at its first reset, and it may draw from shared generators.
        model.env.reset()
    restored = _Restored(model, stored, contents)
    model.resume_report = _report(stored, restored.problems(), restored.not_captured())
    model.on_resume = restored.go_on
    return model


def _join(stored: Stored, processes: Any, asked: int | None) -> Shards | None:
    """The shards of a checkpoint, on the processes that there are now."""
    n_shards = stored.document.get("shards")
    if n_shards is None:
        if processes is not None:
            raise InvalidValueError(
                f"processes must be None to resume {stored.path}, the checkpoint of a run without shards, got "
                f"{processes!r}: such a run goes on in one process, without torchrun"
            )
        return None
    if processes is None:
        raise InvalidValueError(
            f"processes must be 'auto' or a Group to resume {stored.path}, the checkpoint of a run of {n_shards} "
            "shards, got None (in one process: sb3_ppo_notes.processes.Alone())"
        )
    if asked is not None and asked != n_shards:
        raise InvalidValueError(f"shards must be {n_shards} as in the checkpoint to resume, got {asked}")
    group = join_group(processes)
    names = group.gather(stored.path.name)
    if len(set(names)) > 1:
        raise InvalidValueError(f"path must be a folder that all processes see, they have read {', '.join(names)}")
    return Shards(group, n_shards, 0)  # its seed is that of the run, set when that is read


class _Restored:
    """A checkpoint that is put back into a model: most of it at once, the rest when ``learn`` has begun.

    :param model: built as it was before its first step, in environments that were reset.
    :param stored: the checkpoint.
    :param contents: those of this process's shards.
    """

    def __init__(self, model: NotesOnPolicyAlgorithm, stored: Stored, contents: list[Content]):
        self.model, self.stored, self.contents = model, stored, contents
        document = stored.document
        self.revival = Revival(stored.arrays)
        self.revivals = [Revival(arrays) for _, arrays in contents]
        self.log = restore_model(model, document["model"], self.revival)
        if model._shards is None:
            self._problems = _restore_environments(model, document["environments"], self.revival)
            self._random = document["model"]["random"], stored.arrays
        else:
            self._problems = restore_shards(model, contents, self.revivals)
            self._random = contents[0][0]["random"], contents[0][1]
            self._problems = _all_of(model._shards, self._problems)
        if self._problems:
            _begin_new_episodes(model)
        restore_random(model, *self._random)

    def problems(self) -> list[str]:
        """The reasons why environments begin new episodes, of all processes."""
        return self._problems

    def not_captured(self) -> list[str]:
        """What the checkpoint does not hold, of all processes."""
        of_shards = [problem for document, _ in self.contents for problem in document["problems"]]
        if self.model._shards is not None:
            of_shards = _all_of(self.model._shards, of_shards)
        return [*self.stored.document["problems"], *of_shards]

    def go_on(self, callback: BaseCallback) -> None:
        """Restore what waits until ``learn`` has begun: the callbacks' memory, the log, the generators."""
        model = self.model
        lost = self._restore_callbacks(callback)
        if lost:
            warnings.warn(f"not resumed exactly: {'; '.join(lost)}", UserWarning, stacklevel=2)
            not_exact = (*model.resume_report.not_exact, *lost)
            model.resume_report = dataclasses.replace(model.resume_report, not_exact=not_exact)
        restore_log(model, self.log)
        # Whatever the program has drawn since it loaded the checkpoint, the run has not.
        restore_random(model, *self._random)

    def _restore_callbacks(self, callback: BaseCallback) -> list[str]:
        if self.model._shards is None:
            return restore_callbacks(callback, self.stored.document["callbacks"], self.revival)
        entries = self.contents[0][0]["callbacks"]
        if entries is not None:
            return restore_callbacks(callback, entries, self.revivals[0])
        # On more processes than before: as rank 0 remembered, which also had callbacks that only it has.
        document, arrays = self.stored.shard(0)
        restore_callbacks(callback, document["callbacks"] or [], Revival(arrays))
        return []


def _all_of(shards: Shards, problems: list[str]) -> list[str]:
    of_all: list[str] = [problem for of_process in shards.group.gather(problems) for problem in of_process]
    return list(dict.fromkeys(of_all))


def _class_of(name: str, algorithm: type[NotesOnPolicyAlgorithm] | None) -> type[NotesOnPolicyAlgorithm]:
    ours: dict[str, type[NotesOnPolicyAlgorithm]] = {"NotesPPO": NotesPPO, "NotesA2C": NotesA2C}
    if algorithm is None and name not in ours:
        raise InvalidValueError(f"algorithm must be given for a checkpoint of {name!r}: it is none of this package's")
    if algorithm is not None and not issubclass(algorithm, ours.get(name, algorithm)):
        raise InvalidValueError(f"algorithm must be {name} as in the checkpoint to resume, got {algorithm.__name__}")
    return algorithm or ours[name]


def _n_envs(document: dict[str, Any]) -> int:
    return int((document["environments"] or {}).get("n_envs", 1))


def _build(
    model_class: type[NotesOnPolicyAlgorithm],
    document: dict[str, Any],
    env: AnyEnv | str,
    n_envs: int,
    device: th.device | str,
    arguments: dict[str, Any],
    shards: Shards | None,
) -> NotesOnPolicyAlgorithm:
    """The model as it was before its first step."""
    names = argument_names(model_class, arguments)
    nodes = document["configuration"]
    settings = {own: _setting(name, nodes[name], arguments) for name, own in names.items() if name in nodes}
    env = env if shards is None else share_of(env, shards)
    wrapped = model_class._wrap_env(make_env(env, settings["verbose"]), settings["verbose"])
    if wrapped.num_envs != n_envs:
        raise InvalidValueError(f"n_envs must be {n_envs} as in the checkpoint to resume, got {wrapped.num_envs}")
    model = bare_model(model_class, wrapped, device, settings)
    if shards is not None:
        shards.seed = settings["seed"]
        model.processes, model.shards, model._shards = shards.group, shards.n_shards, shards
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
    return restore_environments(model.env, captured, revival, None)


def _begin_new_episodes(model: NotesOnPolicyAlgorithm) -> None:
    if model.env is not None and model.seed is not None:
        first = 0 if model._shards is None else model._shards.own.start * (model.n_envs // len(model._shards.own))
        model.env.seed((model.seed + model.num_timesteps + first) % 2**32)
    # Without its environments the steps of the rollout that was begun lead nowhere: it is gathered again.
    if model._paused_at is not None:
        model.num_timesteps -= model._paused_at * model.n_envs_of_all
        model._paused_at = None
    # learn resets the environments where there is no last observation.
    model._last_obs = None


def _versions(with_lstm: bool = True) -> dict[str, str]:
    packages = ("torch", "numpy", "gymnasium", "stable-baselines3")
    kernel = {"LSTM by": lstm.in_use()} if with_lstm else {}
    return versions(packages) | {"torch threads": str(th.get_num_threads())} | kernel


def _report(stored: Stored, problems: list[str], not_captured: list[str]) -> ResumeReport:
    document = stored.document
    not_exact = [f"environments: {problem}" for problem in problems]
    if problems:
        not_exact.append("environments: new episodes begin, and the rollout that was begun is gathered again")
    not_exact += not_captured
    now, then = _versions(), document["versions"]
    # A policy without memory does not say who would run an LSTM.
    not_exact += [
        f"{name}: {then[name]} then, {now[name]} now" for name in now if now[name] != then.get(name, now[name])
    ]
    total = from_json(document["total_timesteps"])
    return ResumeReport(stored.path, document["num_timesteps"], total, tuple(not_exact), stored.skipped)
