"""A trained model with its environments, from what is on the disk: a run, a checkpoint of it, or a model's file."""

import inspect
from dataclasses import replace
from pathlib import Path

from sb3_ppo_notes.algorithms.on_policy import NotesOnPolicyAlgorithm
from sb3_ppo_notes.configs.build import build_model, check_environment
from sb3_ppo_notes.configs.normalizers import load_normalizer
from sb3_ppo_notes.configs.run_config import ALGORITHMS, RunConfig, resolve_config
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.persistence import load_checkpoint, load_safe
from sb3_ppo_notes.persistence.storage import NAME, checkpoints_in
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.runs.train.folder import CHECKPOINTS, CONFIG, MODEL, NORMALIZER, load_weights


def run_config(logdir: Path, argument: str = "logdir") -> RunConfig:
    """The configuration of the finished run in a folder, as it was trained."""
    if not logdir.is_dir():
        raise InvalidValueError(f"{argument} must be the folder of a run, got {logdir}, which is none")
    for name in (CONFIG, MODEL):
        if not (logdir / name).is_file():
            runs = sorted(path.parent.name for path in logdir.glob(f"*/{MODEL}"))
            hint = f"; it holds the runs {', '.join(runs)}" if runs else ""
            raise InvalidValueError(f"{argument} must be the folder of a run, got {logdir}, which has no {name}{hint}")
    return resolve_config(str(logdir / CONFIG), {})[0]


def finished_model(config: RunConfig, logdir: Path, best: str = "") -> NotesOnPolicyAlgorithm:
    """The model of a finished run in one fresh environment, whose normaliser learns no more; ``best``: before names."""
    model = build_model(_for_one_environment(config))
    load_weights(model, logdir / f"{best}{MODEL}")
    load_normalizer(model.get_env(), logdir / f"{best}{NORMALIZER}")
    return model


def trained_model(run: Path, env: str | None = None) -> NotesOnPolicyAlgorithm:
    """A trained model on the CPU, with fresh environments. Nothing in the files is executed.

    :param run: a run's folder (its newest checkpoint if it is not finished), or a model in it; one checkpoint; a
        model's file from anywhere.
    :param env: id of its environment, for a file or a checkpoint that lies in no run's folder.
    """
    if not run.exists() and not run.with_name(f"{run.name}.zip").is_file():
        raise InvalidValueError(f"run must be a run's folder, a checkpoint or a model's file, got {run}, which is none")
    folder = next((place for place in (run, *run.parents[:2]) if (place / CONFIG).is_file()), None)
    if folder is None or (run.is_file() and not run.name.endswith(MODEL)):
        return _model_from_anywhere(run, env)
    if env is not None:
        raise InvalidValueError(f"env must be left out with a run, whose {CONFIG} says it, got {env!r}")
    config = replace(resolve_config(str(folder / CONFIG), {})[0], device="cpu")
    if run.is_file():
        return finished_model(config, folder, run.name.removesuffix(MODEL))
    if run == folder and not checkpoints_in(folder / CHECKPOINTS):
        run_config(folder, "run")  # says what is missing
    if run == folder and (folder / MODEL).is_file():
        return finished_model(config, folder)
    fresh = build_model(config)
    assert fresh.env is not None  # it was just built with one
    return load_checkpoint(folder / CHECKPOINTS if run == folder else run, fresh.env, device="cpu")


def _model_from_anywhere(run: Path, env: str | None) -> NotesOnPolicyAlgorithm:
    if run.is_dir() and not NAME.fullmatch(run.name) and not checkpoints_in(run):
        run_config(run, "run")  # says what is missing
    if env is None:
        raise InvalidValueError(
            f"env must be the id of its environment for {run}, which lies in no run's folder; got None"
        )
    check_environment(env)
    return load_checkpoint(run, env, device="cpu") if run.is_dir() else load_safe(run, env, device="cpu")


def _for_one_environment(config: RunConfig) -> RunConfig:
    """The same network and rollout with one environment: nothing is trained, but every size has to fit."""
    if config.recipe is not None:
        n_steps = RECIPES[config.recipe].hyperparameters["n_steps"]
    else:
        n_steps = inspect.signature(ALGORITHMS[config.algo].__init__).parameters["n_steps"].default
    n_steps = config.hyperparameters.get("n_steps", n_steps) * (config.n_envs or 1)
    return replace(config, n_envs=1, hyperparameters=config.hyperparameters | {"n_steps": n_steps})
