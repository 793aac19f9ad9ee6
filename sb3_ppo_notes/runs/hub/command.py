"""``hub``: the folder of a repository on the Hugging Face Hub, made without a connection. Uploading it is one line."""

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import torch as th
import tyro
from rich.console import Console

from sb3_ppo_notes._atomic import sync_folder, temporary_beside, write_text
from sb3_ppo_notes.algorithms.on_policy import NotesOnPolicyAlgorithm
from sb3_ppo_notes.callbacks import EVALUATION_SEED_OFFSET, Episodes, EvaluationStoppedError, evaluate_episodes
from sb3_ppo_notes.callbacks.video import Stage, file_name, render_headless
from sb3_ppo_notes.configs.build import environment_factory, trained_environments
from sb3_ppo_notes.configs.rules import rule_as_data, rule_from_data
from sb3_ppo_notes.configs.run_config import RunConfig
from sb3_ppo_notes.files import write_json
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_integer
from sb3_ppo_notes.persistence import GracefulStop, load_safe
from sb3_ppo_notes.runs.hub.card import Card
from sb3_ppo_notes.runs.train.folder import CONFIG, EVALUATIONS, MODEL, NORMALIZER, check_folders, deepest_folder
from sb3_ppo_notes.runs.train.log import CSV
from sb3_ppo_notes.runs.trained import run_config

CARD, FILM, RESULTS = "README.md", "replay.mp4", "results.json"
#: Before the names of files of the best evaluation.
BEST = "best_"
#: Of a run's folder, copied where they are there.
LOGS = (EVALUATIONS, CSV)


@dataclass
class Hub:
    """Make the folder of a repository for the Hugging Face Hub from a trained run, without a connection."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """The run's folder, as train has written it."""
    outdir: Annotated[Path, tyro.conf.arg(metavar="DIR")] = field(default_factory=lambda: Path("hub"))
    """The repository's folder, new or empty."""
    best: bool = False
    """The model of the run's best evaluation in place of its last one."""
    repo: Annotated[str | None, tyro.conf.arg(metavar="USER/NAME")] = None
    """Where it will be on the Hub: written into the card."""
    episodes: int | None = None
    """Episodes of the evaluation; as many as the run was evaluated by."""
    film_steps: int = 1_000
    """The film of the first episode is cut after so many steps; 0 for none."""

    def __call__(self) -> int:
        """Make the folder.

        :return: 0; 130 after Ctrl-C and 143 after SIGTERM in its evaluation, with nothing written.
        :raises ValueError: for an option out of range or a folder that holds no run, before anything is written.
        """
        if self.episodes is not None:
            check_integer("episodes", self.episodes, minimum=1)
        check_integer("film_steps", self.film_steps, minimum=0)
        if self.repo is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo):
            raise InvalidValueError(f"repo must be a user or an organisation, / and a name, got {self.repo!r}")
        check_folders(Path(), self.outdir)
        config = run_config(self.run, "run")
        if self.best and not (self.run / f"{BEST}{MODEL}").is_file():
            raise InvalidValueError(
                f"best must be left out for a run without {BEST}{MODEL} (train --eval-every writes it)"
            )
        th.set_num_threads(1)
        with GracefulStop() as stop:
            try:
                card = self._make(config)
            except EvaluationStoppedError:
                return stop.exit_code
        console = Console()
        for sentence in card.missing:
            console.print(f"note: {sentence}", soft_wrap=True, markup=False, highlight=False)
        console.print(f"{config.env}: return {card.result} ({len(card.episodes.returns)} episodes)", soft_wrap=True)
        console.print(f"written: {self.outdir}", soft_wrap=True, markup=False, highlight=False)
        line = f"upload it with: hf upload {card.repository} {self.outdir} ."
        console.print(line, soft_wrap=True, markup=False, highlight=False)
        return 0

    def _make(self, config: RunConfig) -> Card:
        """All files in a folder beside their place, which takes it when it is complete."""
        parent = self.outdir.absolute().parent
        beside = temporary_beside(deepest_folder(parent) / self.outdir.name)
        beside.mkdir()
        try:
            card = self._fill(beside, config)
            sync_folder(beside)
            parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                self.outdir.rmdir()  # an empty one, which Windows would not replace
            os.replace(beside, self.outdir)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        sync_folder(parent)
        return card

    def _fill(self, folder: Path, config: RunConfig) -> Card:
        """Every file; the model is evaluated as whoever downloads the folder would."""
        model_file = f"{model_name(config)}.zip"
        of_model = BEST if self.best else ""
        files = {f"{of_model}{MODEL}": model_file, f"{of_model}{NORMALIZER}": NORMALIZER}
        for source, target in (files | {name: name for name in (CONFIG, *LOGS)}).items():
            if (self.run / source).is_file():
                shutil.copyfile(self.run / source, folder / target)
        env = trained_environments(folder / CONFIG, folder / NORMALIZER)
        model = load_safe(folder / model_file, env, device="cpu")
        n_episodes, seed = self.episodes or config.n_eval_episodes, config.seed + EVALUATION_SEED_OFFSET
        env.seed(seed)
        try:
            episodes = evaluate_episodes(model, env, n_episodes)
            film = self._film(folder, config, model, seed)
        finally:
            env.close()
        missing = [f"{name}, which the run does not have" for name in LOGS if not (folder / name).is_file()]
        write_json(folder / RESULTS, _results(episodes))
        card = Card(
            config=config,
            repository=self.repo or f"USER/{model_name(config)}",
            model_file=model_file,
            normalizer_file=NORMALIZER if (folder / NORMALIZER).is_file() else None,
            rule=rule_from_data(rule_as_data(model.rule)).rows(),  # a schedule that is a number as the number
            num_timesteps=model.num_timesteps,
            episodes=episodes,
            seed=seed,
            film=FILM if film is None else None,
            missing=missing if film is None else [*missing, film],
        )
        write_text(folder / CARD, str(card))
        return card

    def _film(self, folder: Path, config: RunConfig, model: NotesOnPolicyAlgorithm, seed: int) -> str | None:
        """Film the first episode of the evaluation; why that is not possible, if so."""
        if self.film_steps == 0:
            return "a film, which was not asked for"
        env = model.get_env()
        assert env is not None  # it was loaded with one
        render_headless()
        try:
            stage = Stage(environment_factory(config, render=True), env, seed)
            stage.film(model, folder / FILM, seed, self.film_steps)
            stage.env.close()
        except Exception as error:  # renderers have errors of all kinds, and a card without a film is one, too
            return f"a film: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return None


def model_name(config: RunConfig) -> str:
    """As Hugging Face's package for SB3 names a model, and its repository.

    >>> model_name(RunConfig(name="pong", env="ALE/Pong-v5"))
    'ppo-ALE-Pong-v5'
    """
    return f"{config.algo}-{file_name(config.env.rpartition(':')[2])}"


def _results(episodes: Episodes) -> dict[str, object]:
    """By the names that Hugging Face's own packages for SB3 write."""
    return {
        "mean_reward": episodes.mean_return,
        "std_reward": episodes.std_return,
        "is_deterministic": True,
        "n_eval_episodes": len(episodes.returns),
        "eval_datetime": datetime.now(timezone.utc).isoformat(),
    }
