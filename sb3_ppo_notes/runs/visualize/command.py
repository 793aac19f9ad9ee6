"""``visualize``: videos of a trained run, and one picture of them all."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import torch as th
import tyro
from rich.console import Console
from rich.table import Table

from sb3_ppo_notes.callbacks.evaluation import EVALUATION_SEED_OFFSET, MAX_EPISODE_STEPS
from sb3_ppo_notes.callbacks.video import Episode, Stage, file_name, render_headless
from sb3_ppo_notes.configs.build import check_environment, environment_factory
from sb3_ppo_notes.configs.run_config import RunConfig
from sb3_ppo_notes.files import write_csv
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_integer
from sb3_ppo_notes.runs.trained import finished_model, run_config
from sb3_ppo_notes.runs.visualize.sheet import draw_contact_sheet


@dataclass
class Visualize:
    """Film episodes of a trained run: one mp4 each, and a contact sheet."""

    logdir: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """The run's folder, as train has written it."""
    outdir: Annotated[Path, tyro.conf.arg(metavar="DIR")] = field(default_factory=lambda: Path("videos"))
    """Folder for the mp4 files, episodes.csv and contact_sheet.png."""
    episodes: int = 5
    """Number of episodes, each with a seed of its own; the deterministic policy plays."""
    seed: int | None = None
    """Of the first episode; None for the first that the run was evaluated on."""
    max_steps: int = MAX_EPISODE_STEPS
    """An episode is cut after so many steps."""

    def __call__(self) -> int:
        """Film.

        :return: 0.
        :raises ValueError: for an option out of range or a folder that holds no run, before anything is written.
        """
        for name in ("episodes", "max_steps"):
            check_integer(name, getattr(self, name), minimum=1)
        if self.seed is not None:
            check_integer("seed", self.seed, minimum=0)
        if self.outdir.exists() and not self.outdir.is_dir():
            raise InvalidValueError(f"outdir must be a folder, got the file {self.outdir}")
        config = run_config(self.logdir)
        th.set_num_threads(1)
        is_new = not self.outdir.exists()
        try:
            episodes = self._film(config)
        except BaseException:
            if is_new and self.outdir.is_dir() and not any(self.outdir.iterdir()):
                self.outdir.rmdir()
            raise
        console = Console()
        console.print(self._table(episodes, config))
        console.print(f"written: {self.outdir}/contact_sheet.png, episodes.csv and the videos", soft_wrap=True)
        return 0

    def _film(self, config: RunConfig) -> list[Episode]:
        """All files, in a folder beside their place first: either all of them appear, or none."""
        render_headless()
        check_environment(config.env, config.env_kwargs, config.env_wrapper, render=True)
        model = finished_model(config, self.logdir)
        seed = config.seed + EVALUATION_SEED_OFFSET if self.seed is None else self.seed
        env = model.get_env()
        assert env is not None  # it was just built with one
        stage = Stage(environment_factory(config, render=True), env, seed)
        stem = file_name(self.logdir.resolve().name)
        self.outdir.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".visualize-", dir=self.outdir) as beside:
            filmed = [
                stage.film(model, Path(beside) / f"{stem}-episode-{number + 1}.mp4", seed + number, self.max_steps)
                for number in range(self.episodes)
            ]
            draw_contact_sheet(
                filmed, f"{self.logdir.resolve().name} on {config.env}", Path(beside) / "contact_sheet.png"
            )
            rows = [
                (n, one.episode_return, one.length, one.is_cut, one.path.name) for n, one in enumerate(filmed, start=1)
            ]
            write_csv(Path(beside) / "episodes.csv", ("episode", "return", "length", "is_cut", "file"), rows)
            for path in sorted(Path(beside).iterdir()):
                os.replace(path, self.outdir / path.name)
        return filmed

    def _table(self, episodes: list[Episode], config: RunConfig) -> Table:
        table = Table(title=f"{config.name} on {config.env}")
        for heading in ("episode", "return", "steps"):
            table.add_column(heading, justify="right")
        table.add_column("video", overflow="fold")
        for number, episode in enumerate(episodes, start=1):
            length = f"{episode.length}{' (cut)' if episode.is_cut else ''}"
            table.add_row(str(number), f"{episode.episode_return:.1f}", length, episode.path.name)
        return table
