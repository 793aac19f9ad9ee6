"""``train``: one model, from a configuration, a recipe or with stock settings, and how good it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch as th
import tyro
from rich.console import Console
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_ppo_notes.callbacks import StopWhenAllSucceeded, VideoCallback
from sb3_ppo_notes.callbacks.video import render_headless
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.runs.bench_report import write_whole
from sb3_ppo_notes.runs.evaluation import EVALUATION_SEED_OFFSET
from sb3_ppo_notes.runs.progress import StepsProgress
from sb3_ppo_notes.runs.train_config import KEYS, RunConfig, settled, written
from sb3_ppo_notes.runs.train_files import CONFIG, MODEL, VIDEOS, checked_folder, new_folder, save_model
from sb3_ppo_notes.runs.train_model import built_model, check_environment, environment_factory
from sb3_ppo_notes.runs.train_watching import Evaluation, evaluations_table
from sb3_ppo_notes.runs.train_weights import count_weights, weights_table

INTERRUPTED = 130


@dataclass
class Train:
    """Train one model and evaluate it. Options take precedence over the configuration."""

    env: str | None = None
    """Id of a registered environment; the configuration's, or CartPole-v1."""
    algo: Literal["ppo", "a2c"] | None = None
    """Which algorithm; a configuration or a recipe knows its own, else ppo."""
    recipe: str | None = None
    """A seed system: skrl, batch_ppo, spinning_up, moral_rl, minimal_rl or tsukurinagara."""
    config: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE.yaml")] = None
    """Tuned values: cartpole, pendulum, reacher, halfcheetah, lunarlander or atari-pong; or a YAML file: a run's own
    config.yaml, or one of rl_zoo3's."""
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
    """Where the run gets a folder of its own, <time>-<config>."""
    outdir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The run's own folder, new or empty, in place of one in LOGDIR."""

    def __call__(self) -> int:
        """Do it.

        :return: 0, or 130 if it was interrupted; what was trained until then is saved.
        :raises ValueError: for an option out of range, before anything is trained or written.
        """
        checked_folder(self.logdir, self.outdir)
        config, notes = settled(self.config, {name: value for name, value in vars(self).items() if name in KEYS})
        th.set_num_threads(1)
        if config.video_every is not None:
            render_headless()
            check_environment(config, render=True)
        model = built_model(config)
        console = Console()
        for note in notes:
            console.print(f"note: {note}", soft_wrap=True)
        count_weights(model.policy, exclude=self.exclude)  # refuses a wrong expression before anything is written
        if self.outdir is not None:
            self.outdir.mkdir(parents=True, exist_ok=True)
        folder = self.outdir or new_folder(self.logdir, config.name)
        write_whole(folder / CONFIG, lambda path: path.write_text(written(config), encoding="utf-8"))
        console.print(weights_table(model.policy, self.exclude))
        with _logger(folder) as logger:
            return _trained(model, config, folder, logger, console)


@contextmanager
def _logger(folder: Path) -> Iterator[Logger]:
    """SB3's own formats, none of them on the terminal; closed whatever happens, so that the files are complete."""
    logger = configure(str(folder), ["csv", "json", "tensorboard"])
    try:
        yield logger
    finally:
        logger.close()


def _trained(model: OnPolicyAlgorithm, config: RunConfig, folder: Path, logger: Logger, console: Console) -> int:
    model.set_logger(logger)
    make = environment_factory(config)
    with StepsProgress(total=config.total_timesteps) as progress:
        progress.describe(config.name)
        evaluation = Evaluation(
            make,
            folder,
            config.eval_every,
            config.n_eval_episodes,
            config.seed,
            on_result=lambda result: progress.describe(f"{config.name} (return {result.mean:.1f})"),
        )
        callbacks = [evaluation, *_asked_for(config, folder)]
        try:
            model.learn(config.total_timesteps, callback=[progress.callback(), *callbacks])
        except KeyboardInterrupt:
            save_model(model, folder)
            console.print(f"interrupted after {model.num_timesteps:,} steps, written: {folder}/{MODEL}", soft_wrap=True)
            return INTERRUPTED
        finally:
            # The last update is in the files; what follows is a row of its own.
            logger.name_to_value.clear()
    save_model(model, folder)
    result = evaluation.evaluate()
    logger.record("time/total_timesteps", model.num_timesteps, exclude="tensorboard")
    logger.dump(model.num_timesteps)
    if config.eval_every is not None:
        console.print(evaluations_table(evaluation.results))
    console.print(
        f"{config.env} after {model.num_timesteps:,} steps: return {result.mean:.1f} +/- {result.deviation:.1f} "
        f"({config.n_eval_episodes} episodes)",
        soft_wrap=True,
    )
    console.print(f"written: {folder}/{MODEL}", soft_wrap=True)
    return 0


def _asked_for(config: RunConfig, folder: Path) -> list[BaseCallback]:
    callbacks: list[BaseCallback] = []
    if config.recipe is not None and RECIPES[config.recipe].stop_when == "all_succeeded":
        callbacks.append(StopWhenAllSucceeded(verbose=1))
    if config.video_every is not None:
        make = environment_factory(config, render=True)
        seed = config.seed + EVALUATION_SEED_OFFSET
        callbacks.append(VideoCallback(make, folder / VIDEOS, config.video_every, run=folder.name, seed=seed))
    return callbacks


def build(env: str, algo: str, recipe: str | None, n_envs: int | None, seed: int) -> OnPolicyAlgorithm:
    """A model that is ready to learn.

    :param env: id of a registered environment.
    :param algo: ``"ppo"`` or ``"a2c"``, if there is no recipe.
    :param recipe: a key of ``RECIPES`` or ``None``.
    :param n_envs: number of environments, ``None`` for the recipe's, or 8.
    :param seed: of all random generators.
    :return: the model.
    """
    options = dict(env=env, recipe=recipe, n_envs=n_envs, seed=seed, algo=None if recipe else algo)
    return built_model(settled(None, options)[0])
