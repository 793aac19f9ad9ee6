"""``compare`` without a verdict: runs one after the other in this process, side by side in a table.

Stock SB3 and ours, equal in every parameter and which is faster; or recipes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch as th
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ppo_notes._atomic import write_whole
from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.configs.build import check_environment
from sb3_ppo_notes.files import versions, write_json
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_choice, check_integer
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.runs.charts import STYLES, Curve, draw_learning_curves, write_curves
from sb3_ppo_notes.runs.compare.arms import NAMED, Arm, arm_class
from sb3_ppo_notes.runs.compare.models import Settings
from sb3_ppo_notes.runs.compare.run import Run, Trained, train
from sb3_ppo_notes.runs.console import ProgressBar


@dataclass(frozen=True)
class SeedResult:
    """Both arms with one seed."""

    seed: int
    stock_return: float
    notes_return: float
    parameters_equal: bool
    largest_difference: float
    stock_steps_per_second: float
    notes_steps_per_second: float
    ratio: float


@dataclass(frozen=True)
class RecipeResult:
    """One recipe with one seed."""

    recipe: str
    seed: int
    evaluation_return: float
    steps: int
    steps_per_second: float


@dataclass(frozen=True)
class SideBySide:
    """Stock SB3 and ours, or recipes with their own numbers of environments; options as the command's."""

    env: str
    environment: dict[str, Any]
    algo: Literal["ppo", "a2c"]
    total_timesteps: int
    seeds: int
    n_envs: int
    n_eval_episodes: int
    recipes: str | None
    outdir: Path

    def __call__(self) -> int:
        """Train, print, write.

        :return: 0 if every parameter of every seed is equal, else 1; with recipes 0.
        :raises ValueError: for an option out of range, before anything is trained or written.
        """
        self._check()
        # The same number of threads on both sides: another number would sum in another order.
        th.set_num_threads(1)
        console = Console()
        return self._compare_pair(console) if self.recipes is None else self._compare_recipes(console)

    def _check(self) -> None:
        for name in ("total_timesteps", "seeds", "n_envs", "n_eval_episodes"):
            check_integer(name, getattr(self, name), minimum=1)
        if self.recipes is not None and not self._recipe_names():
            raise InvalidValueError(f"recipes must be names separated by commas, got {self.recipes!r}")
        for name in self._recipe_names():
            check_choice("recipes", name, tuple(RECIPES))
        if self.outdir.exists() and not self.outdir.is_dir():
            raise InvalidValueError(f"outdir must be a folder, got the file {self.outdir}")
        check_environment(self.env, **self.environment)

    def _recipe_names(self) -> list[str]:
        return [name.strip() for name in (self.recipes or "").split(",") if name.strip()]

    def _compare_pair(self, console: Console) -> int:
        arms = [Arm("stock", NAMED[f"sb3-{self.algo}"]), Arm("notes", NAMED[f"notes-{self.algo}"])]
        results, curves = [], []
        with self._progress(len(arms)) as progress:
            for seed in range(self.seeds):
                # Who begins changes from seed to seed, so that a machine that warms up or slows down favours nobody.
                order = arms if seed % 2 == 0 else arms[::-1]
                trained = {arm.name: self._train(arm, self.n_envs, seed, progress) for arm in order}
                results.append(_seed_result(seed, trained["stock"], trained["notes"]))
                curves += [one.curve for one in trained.values()]
        console.print(self._table(results, *(arm_class(arm).__name__ for arm in arms)))
        equal = all(result.parameters_equal for result in results)
        console.print(f"parameters equal on every seed: {'yes' if equal else 'NO'}")
        self._write(f"{self.algo.upper()} on {self.env}", results, curves, STYLES, console)
        return 0 if equal else 1

    def _compare_recipes(self, console: Console) -> int:
        arms = [Arm(name, f"recipe:{name}") for name in self._recipe_names()]
        results, curves = [], []
        with self._progress(len(arms)) as progress:
            # Seeds outside, recipes inside: a machine that slows down slows all of them down.
            for seed in range(self.seeds):
                for arm in arms:
                    trained = self._train(arm, RECIPES[arm.name].n_envs, seed, progress)
                    mean, steps = trained.record["score"], trained.record["steps"]
                    results.append(RecipeResult(arm.name, seed, mean, steps, trained.steps_per_second))
                    curves.append(trained.curve)
        console.print(recipe_table(results, f"{self.env}, {self.total_timesteps:,} steps, {self.seeds} seeds"))
        styles = {
            arm.name: dict(color=PALETTE[place % len(PALETTE)], linewidth=1.5, label=arm.name)
            for place, arm in enumerate(arms)
        }
        self._write(f"recipes on {self.env}", results, curves, styles, console)
        return 0

    def _progress(self, n_arms: int) -> ProgressBar:
        return ProgressBar(n_arms * self.seeds * self.total_timesteps)

    def _train(self, arm: Arm, n_envs: int, seed: int, progress: ProgressBar) -> Trained:
        progress.describe(f"seed {seed}, {arm.name}")
        settings = Settings("the class's defaults", n_envs, "MlpPolicy", {}, environment=self.environment)
        run = Run(arm, self.env, seed, self.total_timesteps, self.n_eval_episodes, settings)
        return train(run, arm, progress.callback(), n_eval_envs=1)

    def _table(self, results: Sequence[SeedResult], stock: str, ours: str) -> Table:
        title = f"{ours} against stock {stock} on {self.env}, {self.total_timesteps:,} steps, {self.n_envs} envs"
        table = Table(title=title)
        for heading in (
            "seed",
            "return\nstock",
            "return\nnotes",
            "parameters\nequal",
            "steps/s\nstock",
            "steps/s\nnotes",
        ):
            table.add_column(heading, justify="right")
        table.add_column("ratio", justify="right", style="bold")
        for result in results:
            table.add_row(
                str(result.seed),
                f"{result.stock_return:.1f}",
                f"{result.notes_return:.1f}",
                "yes" if result.parameters_equal else f"NO ({result.largest_difference:.1e})",
                f"{result.stock_steps_per_second:,.0f}",
                f"{result.notes_steps_per_second:,.0f}",
                f"{result.ratio:.2f}x",
            )
        return table

    def _write(
        self, title: str, results: Sequence[Any], curves: list[Curve], styles: dict[str, Any], console: Console
    ) -> None:
        self.outdir.mkdir(parents=True, exist_ok=True)
        options = asdict(self) | {"outdir": str(self.outdir)}
        document = {"options": options, "versions": versions(), "results": [asdict(result) for result in results]}
        write_curves(curves, self.outdir / "learning_curves.csv")
        picture = self.outdir / "learning_curves.png"
        write_whole(picture, lambda path: draw_learning_curves(curves, title, path, styles=styles))
        write_json(self.outdir / "comparison.json", document)
        names = "comparison.json, learning_curves.png, learning_curves.csv"
        console.print(f"written: {self.outdir}/{names}", soft_wrap=True)


def _seed_result(seed: int, stock: Trained, notes: Trained) -> SeedResult:
    difference = largest_difference(stock.model, notes.model)
    return SeedResult(
        seed=seed,
        stock_return=stock.record["score"],
        notes_return=notes.record["score"],
        parameters_equal=difference == 0.0,
        largest_difference=difference,
        stock_steps_per_second=stock.steps_per_second,
        notes_steps_per_second=notes.steps_per_second,
        ratio=notes.steps_per_second / stock.steps_per_second,
    )


def largest_difference(one: BaseAlgorithm, other: BaseAlgorithm) -> float:
    """The largest absolute difference of any parameter; 0.0 only if all are equal bit for bit."""
    pairs = zip(one.policy.state_dict().values(), other.policy.state_dict().values(), strict=True)
    return max(0.0 if th.equal(a, b) else (a - b).abs().max().item() for a, b in pairs)


def recipe_table(results: Sequence[RecipeResult], title: str) -> Table:
    """One row a recipe: median and range of the return over seeds, and the speed."""
    table = Table(title=title)
    table.add_column("recipe")
    for heading in ("return\nmedian", "lowest", "highest", "steps/s\nmedian"):
        table.add_column(heading, justify="right")
    for name in dict.fromkeys(result.recipe for result in results):
        runs = [result for result in results if result.recipe == name]
        returns = [run.evaluation_return for run in runs]
        speed = float(np.median([run.steps_per_second for run in runs]))
        table.add_row(
            name, *(f"{number:.1f}" for number in (np.median(returns), min(returns), max(returns))), f"{speed:,.0f}"
        )
    return table
