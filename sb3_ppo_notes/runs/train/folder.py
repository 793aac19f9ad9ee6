"""The folder of a run: what is in it, written whole or not at all."""

import pickle
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file

from sb3_ppo_notes.callbacks.video import file_name
from sb3_ppo_notes.configs.normalizers import normalizer_statistics
from sb3_ppo_notes.files import write_json
from sb3_ppo_notes.formulas.checks import InvalidValueError

CONFIG, MODEL, NORMALIZER, EVALUATIONS, VIDEOS, CHECKPOINTS = (
    "config.yaml",
    "model.zip",
    "normalizer.json",
    "evaluations.csv",
    "videos",
    "checkpoints",
)


def check_folders(logdir: Path, outdir: Path | None) -> None:
    """Refuse folders that cannot hold a new run: files, or a run's own folder that holds something."""
    for name, folder in (("logdir", logdir), ("outdir", outdir)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise InvalidValueError(f"{name} must be a folder, got the file {folder}")
    if outdir is not None and outdir.is_dir() and any(outdir.iterdir()):
        raise InvalidValueError(f"outdir must be a new or an empty folder, so that no run is lost, got {outdir}")


def new_folder(logdir: Path, name: str) -> Path:
    """Make the folder of a new run: ``LOGDIR/<time>-<name>``, with a number where two runs begin in one second."""
    logdir.mkdir(parents=True, exist_ok=True)
    stem = f"{time.strftime('%Y%m%dT%H%M%S')}-{file_name(name)}"
    number = 1
    while True:
        folder = logdir / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()  # fails where there is one: two processes never share a folder
        except FileExistsError:
            number += 1
        else:
            return folder


def deepest_folder(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    absolute = path.absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.is_dir())


def remove_run(folder: Path, existing: Path) -> None:
    """Remove a run, and the folders that were made for it below ``existing``."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in (folder.absolute(), *folder.absolute().parents):
        if path == existing or any(path.iterdir()):
            return
        path.rmdir()


def save_model(model: OnPolicyAlgorithm, folder: Path, name: str = MODEL, normalizer: str = NORMALIZER) -> None:
    """Write a model, and the statistics of its normaliser if it has one."""
    statistics = normalizer_statistics(model.get_env())
    if statistics is not None:
        write_json(folder / normalizer, statistics, indent=1)
    model.save(folder / name)  # whole or not at all, too


def load_weights(model: OnPolicyAlgorithm, path: Path) -> None:
    """Give a model's policy the weights of a file. No pickle is read, so that the file can run nothing."""
    try:
        states: dict[str, Any] = load_from_zip_file(path, device=model.device, load_data=False)[1]
        model.policy.load_state_dict(states["policy"])
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        line = " ".join(str(error).split())
        raise InvalidValueError(f"{path} must be the model of this run's configuration ({line[:150]})") from error
