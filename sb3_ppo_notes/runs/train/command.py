"""``train``: one model, from a configuration, a recipe or with stock settings, and how good it is."""

import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch as th
import tyro
from rich.console import Console
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_ppo_notes._atomic import write_text
from sb3_ppo_notes.algorithms.logs import dump_last_update
from sb3_ppo_notes.callbacks import StopWhenAllSucceeded, VideoCallback
from sb3_ppo_notes.callbacks.evaluation import EVALUATION_SEED_OFFSET, EvaluationStoppedError
from sb3_ppo_notes.callbacks.video import render_headless
from sb3_ppo_notes.configs.build import build_model, check_environment, environment_factory
from sb3_ppo_notes.configs.environments import EnvironmentOptions
from sb3_ppo_notes.configs.run_config import KEYS, RunConfig, config_yaml, resolve_config
from sb3_ppo_notes.envs.errors import environment_error
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.persistence import ExactCheckpoint, GracefulStop, StopOnSignal, save_checkpoint
from sb3_ppo_notes.persistence.locks import FolderLock
from sb3_ppo_notes.persistence.storage import checkpoints_in
from sb3_ppo_notes.processes import Group, RankFailedError, on_writer
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.runs.console import INTERRUPTED, ProgressBar
from sb3_ppo_notes.runs.train.evaluation import Evaluation, Result, evaluations_table
from sb3_ppo_notes.runs.train.folder import (
    CHECKPOINTS,
    CONFIG,
    MODEL,
    VIDEOS,
    check_folders,
    deepest_folder,
    new_folder,
    remove_run,
    save_model,
)
from sb3_ppo_notes.runs.train.log import RunState, run_logger
from sb3_ppo_notes.runs.train.resume import FinishedRunError, ResumedRun, check_alone, check_run, resume_run
from sb3_ppo_notes.runs.train.together import joined_group, processes_for, with_shards
from sb3_ppo_notes.runs.train.tracking import check_tracker, tracking
from sb3_ppo_notes.runs.train.weights import count_weights, weights_table

#: Checkpoints of a run that stay.
KEPT = 3


@dataclass
class Train(EnvironmentOptions):
    """Train one model and evaluate it. Options take precedence over the configuration."""

    env: str | None = None
    """Id of a registered environment; the configuration's, or CartPole-v1."""
    algo: Literal["ppo", "a2c"] | None = None
    """The algorithm; a configuration or a recipe knows its own, else ppo."""
    recipe: str | None = None
    """A seed system: skrl, batch_ppo, spinning_up, moral_rl, minimal_rl or tsukurinagara."""
    config: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE.yaml")] = None
    """Tuned values: cartpole, pendulum, reacher, halfcheetah, lunarlander or atari-pong; or a YAML file: a run's own
    config.yaml, or one of rl_zoo3's."""
    set: Annotated[tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]], tyro.conf.arg(metavar="NAME=VALUE ...")] = ()
    """Hyperparameters, in place of the configuration's: n_steps=64 learning_rate=lin_3e-4
    policy_kwargs.net_arch=[64,64]; also policy, normalize and frame_stack."""
    compile: bool | None = None
    """Compile updating and acting, which is faster on small networks; the same as --set compile=true."""
    total_timesteps: int | None = None
    """Environment steps; the configuration's, or 100,000."""
    n_envs: int | None = None
    """Environments stepped side by side; the configuration's or the recipe's number, or 8."""
    seed: int | None = None
    """Of all random generators; the configuration's, or 0."""
    device: str | None = None
    """cpu, cuda, …; the configuration's, or cpu."""
    eval_every: int | None = None
    """Environment steps between two evaluations; one at the end is always made."""
    n_eval_episodes: int | None = None
    """Episodes of each deterministic evaluation; 20."""
    video_every: int | None = None
    """Environment steps between two videos of the deterministic policy."""
    exclude: Annotated[str | None, tyro.conf.arg(metavar="REGEX")] = None
    """Weights whose names this matches from their beginning are not counted."""
    logdir: Annotated[Path, tyro.conf.arg(metavar="DIR")] = field(default_factory=lambda: Path("logs"))
    """The folder in which the run gets one of its own, <time>-<config>."""
    outdir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The run's own folder, new or empty, in place of one in LOGDIR."""
    checkpoint_every: int | None = None
    """Environment steps between two checkpoints of which the last three are kept; the configuration's, or 20,000; 0 for
    one at the end only, which a signal is too."""
    track: Literal["wandb", "mlflow", "trackio", "aim"] | None = None
    """Log to an experiment tracker too: in the run's own folder, unless variables of the environment say otherwise."""
    shards: int | None = None
    """Under torchrun: parts of the training, each with its own share of the environments, a multiple of the number of
    processes; the configuration's, or one a process. The same number of shards gives the same result on any number of
    processes."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Go on with the run in this folder where it was cut. Of the other options only --total-timesteps, for more."""
    resume_or_begin: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Go on with the run in this folder if it has a checkpoint, with the options that it was begun with; else begin it
    there. For whatever starts a program again: torchrun --max-restarts, a scheduler."""

    def __call__(self) -> int:
        """Train.

        :return: 0; 130 after Ctrl-C, 143 after SIGTERM: the run can then be resumed.
        :raises ValueError: for an option out of range, before anything is trained or written.
        """
        th.set_num_threads(1)
        if self.resume_or_begin is not None and (self.resume is not None or self.outdir is not None):
            raise InvalidValueError("resume_or_begin must be given without resume and outdir: it is the run's folder")
        with GracefulStop() as stop, joined_group() as group:
            if self.resume is not None:
                check_alone(vars(self), vars(Train()))
                return self._resume(self.resume, stop, group)
            if self.resume_or_begin is None:
                return self._begin(stop, group)
            folder = self.resume_or_begin
            if not on_writer(group, lambda: bool(checkpoints_in(folder / CHECKPOINTS))):
                return self._begin(stop, group)
            try:
                return self._resume(folder, stop, group)
            except FinishedRunError as error:
                _console(group).print(f"note: {error}", soft_wrap=True, markup=False, highlight=False)
                return 0

    def _begin(self, stop: GracefulStop, group: Group) -> int:
        # One that was cut before its first checkpoint has nothing to lose.
        is_begun = self.resume_or_begin is not None and (self.resume_or_begin / CONFIG).is_file()
        outdir = self.resume_or_begin or self.outdir
        on_writer(group, lambda: check_folders(self.logdir, None if is_begun else outdir))
        config, notes = self._config()
        config = with_shards(config, group)
        if config.video_every is not None:
            render_headless()
            check_environment(config.env, config.env_kwargs, config.env_wrapper, render=True)
        check_tracker(config.track)
        model = build_model(config, processes_for(config, group))
        console = _console(group)
        for note in notes:
            console.print(f"note: {note}", soft_wrap=True)
        count_weights(model.policy, exclude=self.exclude)  # refuses a wrong expression before anything is written
        existing = deepest_folder(outdir or self.logdir)
        folder = on_writer(group, lambda: outdir or new_folder(self.logdir, config.name))
        try:
            on_writer(group, lambda: _prepare(folder, config))
            console.print(weights_table(model.policy, self.exclude))
            run = ResumedRun(config, model, RunState(), config.total_timesteps)
            with FolderLock(folder / CHECKPOINTS) if group.rank == 0 else nullcontext():
                return _train(run, folder, stop, console, group)
        except (Exception, SystemExit):
            if model._n_updates == 0 and group.rank == 0:
                remove_run(folder, existing)  # nothing was learned: the same command can be given again
            raise

    def _config(self) -> tuple[RunConfig, list[str]]:
        said = vars(self) | {"imports": None, "env_kwargs": None} | self.environment()
        options = {name: value for name, value in said.items() if name in KEYS}
        assignments = [word for words in self.set for word in words]  # --set may be given more than once
        assignments += [] if self.compile is None else [f"compile={self.compile}"]
        return resolve_config(self.config, options, assignments)

    def _resume(self, folder: Path, stop: GracefulStop, group: Group) -> int:
        check_run(folder)
        with ExitStack() as stack:
            on_writer(group, lambda: _lock(folder, stack))
            run = resume_run(folder, self.total_timesteps, group)
            check_tracker(run.config.track)
            if run.config.video_every is not None:
                render_headless()
            console = _console(group)
            console.print(str(run.model.resume_report), soft_wrap=True, markup=False, highlight=False)
            return _train(run, folder, stop, console, group)


def _console(group: Group) -> Console:
    """The standard output, to which of several processes the first prints."""
    return Console(quiet=group.rank != 0)


def _prepare(folder: Path, config: RunConfig) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CONFIG, config_yaml(config))
    (folder / CHECKPOINTS).mkdir(exist_ok=True)


def _lock(folder: Path, stack: ExitStack) -> None:
    stack.enter_context(FolderLock(folder / CHECKPOINTS))


@contextmanager
def _reports(
    run: ResumedRun, folder: Path, start: int, console: Console, is_writer: bool
) -> Iterator[tuple[Logger, ProgressBar]]:
    """The log and the progress bar; of several processes only the first has files, and a bar that is seen."""
    with ProgressBar(run.total_timesteps, start, is_hidden=not is_writer) as progress:
        if not is_writer:
            yield Logger(None, []), progress
            return
        with (
            tracking(run.config, run.model.rule, folder, run.state, console) as trackers,
            run_logger(folder, run.state, start, trackers) as logger,
        ):
            yield logger, progress


def _train(run: ResumedRun, folder: Path, stop: GracefulStop, console: Console, group: Group) -> int:
    """From where the run is to its end, or to a signal."""
    config, model = run.config, run.model
    is_new = model.on_resume is None
    start = 0 if is_new else model.num_timesteps
    with _reports(run, folder, start, console, group.rank == 0) as (logger, progress):
        model.set_logger(logger)
        progress.describe(config.name)
        evaluation = Evaluation(
            environment_factory(config),
            folder,
            config.eval_every,
            config.n_eval_episodes,
            config.seed,
            on_result=lambda result: progress.describe(f"{config.name} (return {result.mean:.1f})"),
        )
        checkpoints = ExactCheckpoint(config.checkpoint_every or sys.maxsize, keep=KEPT, path=folder / CHECKPOINTS)
        own = [evaluation, *_optional_callbacks(config, folder), run.state, checkpoints, StopOnSignal(stop)]
        callbacks = CallbackList([progress.callback(), *own])
        with _closing(model, own):
            try:
                model.learn(max(run.total_timesteps - start, 0), callbacks, reset_num_timesteps=is_new)
                is_in_rollout = model._paused_at is not None or model._unfinished_step is not None
                is_cut = model.num_timesteps < run.total_timesteps or is_in_rollout
                # Of all processes, one of which may have had the signal alone.
                code = max(group.gather(stop.exit_code))
                if code and is_cut:
                    return _leave_interrupted(model, folder, code, console)
                _finish(run, folder, evaluation, callbacks, console, group)
            except EvaluationStoppedError:  # the last one, of a run that has made all its steps
                return _leave_interrupted(model, folder, max(group.gather(stop.exit_code)), console)
            except KeyboardInterrupt:  # a second Ctrl-C: the last checkpoint is what there is
                return _leave_interrupted(model, folder, INTERRUPTED, console)
            except (Exception, SystemExit) as error:
                if model._n_updates > 0 and environment_error(error) is not None:
                    _leave(model, folder, "stopped by its environment", console)
                elif model._n_updates > 0 and isinstance(error, RankFailedError):
                    _leave(model, folder, "stopped by another process", console)
                raise
    return 0


def _leave_interrupted(model: OnPolicyAlgorithm, folder: Path, code: int, console: Console) -> int:
    _leave(model, folder, "interrupted", console)
    return code


def _leave(model: OnPolicyAlgorithm, folder: Path, what: str, console: Console) -> None:
    """Keep what was learned, and say how to go on; of several processes the first one's part."""
    if console.quiet:
        return
    save_model(model, folder)
    can_go_on = checkpoints_in(folder / CHECKPOINTS)
    then = f"go on with: train --resume {shlex.quote(str(folder))}" if can_go_on else f"written: {folder}/{MODEL}"
    line = f"{what} after {model.num_timesteps:,} steps, {then}"
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def _finish(
    run: ResumedRun, folder: Path, evaluation: Evaluation, callbacks: BaseCallback, console: Console, group: Group
) -> None:
    config, model = run.config, run.model
    if model.last_report is None:
        dump_last_update(model.logger, model.num_timesteps)  # killed before learn could: no update was left
    # The last update is in the files; what follows is a row of its own.
    model.logger.name_to_value.clear()
    result: Result | None = None
    if group.rank == 0:
        save_model(model, folder)
        with suppress(EvaluationStoppedError):
            result = evaluation.evaluate()
    result = group.gather(result)[0]
    if result is None:
        raise EvaluationStoppedError
    model.logger.record("time/total_timesteps", model.num_timesteps, exclude="tensorboard")
    model.logger.dump(model.num_timesteps)
    run.state.is_finished = True
    try:
        # Once more, with the last evaluation: more steps than these may be asked for some day.
        save_checkpoint(model, folder / CHECKPOINTS, callbacks, KEPT)
    except OSError as error:
        console.print(f"note: the last checkpoint was not written ({error})", soft_wrap=True, markup=False)
    if config.eval_every is not None:
        console.print(evaluations_table(evaluation.results))
    console.print(
        f"{config.env} after {model.num_timesteps:,} steps: return {result.mean:.1f} +/- {result.deviation:.1f} "
        f"({config.n_eval_episodes} episodes)",
        soft_wrap=True,
    )
    console.print(f"written: {folder}/{MODEL}", soft_wrap=True)


@contextmanager
def _closing(model: OnPolicyAlgorithm, callbacks: Iterable[BaseCallback]) -> Iterator[None]:
    """Close all environments in the end. The error that ended the run is told, not one that closing raises after it."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            _close(model, callbacks)
        raise
    _close(model, callbacks)


def _close(model: OnPolicyAlgorithm, callbacks: Iterable[BaseCallback]) -> None:
    for callback in callbacks:
        if isinstance(callback, Evaluation | VideoCallback):
            callback.close()
    assert model.env is not None
    model.env.close()


def _optional_callbacks(config: RunConfig, folder: Path) -> list[BaseCallback]:
    callbacks: list[BaseCallback] = []
    if config.recipe is not None and RECIPES[config.recipe].stop_when == "all_succeeded":
        callbacks.append(StopWhenAllSucceeded(verbose=1))
    if config.video_every is not None:
        make = environment_factory(config, render=True)
        seed = config.seed + EVALUATION_SEED_OFFSET
        callbacks.append(VideoCallback(make, folder / VIDEOS, config.video_every, run=folder.name, seed=seed))
    return callbacks
