"""``compare --recipes``: the seed systems side by side on one environment."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from sb3_ppo_notes._atomic import write_whole
from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.files import write_json
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.runs.charts import Curve, draw_learning_curves, episodes_of, write_curves
from sb3_ppo_notes.runs.evaluation import evaluate
from sb3_ppo_notes.runs.progress import StepsProgress
from sb3_ppo_notes.runs.train.command import build


@dataclass(frozen=True)
class RecipeResult:
    """What one recipe did with one seed."""

    recipe: str
    seed: int
    evaluation_return: float
    steps: int
    steps_per_second: float


def compare_recipes(
    names: list[str], env: str, total_timesteps: int, seeds: int, n_eval_episodes: int, progress: StepsProgress
) -> tuple[list[RecipeResult], list[Curve]]:
    """Train every recipe with every seed.

    :param names: keys of ``RECIPES``.
    :param env: id of a registered environment.
    :param total_timesteps: environment steps of each run.
    :param seeds: number of seeds.
    :param n_eval_episodes: episodes of the final evaluation.
    :param progress: the bar to move.
    :return: results and learning curves of all runs.
    """
    results, curves = [], []
    # Seeds outside, recipes inside: a machine that slows down slows all of them down.
    for seed in range(seeds):
        for name in names:
            progress.describe(f"seed {seed}, {name}")
            model = build(env, RECIPES[name].algorithm, name, None, seed)
            started = time.perf_counter()
            model.learn(total_timesteps, callback=progress.callback())
            speed = model.num_timesteps / (time.perf_counter() - started)
            mean, _ = evaluate(model, env, seed, n_eval_episodes)
            results.append(RecipeResult(name, seed, mean, model.num_timesteps, speed))
            curves.append(Curve(name, seed, *episodes_of(model.env)))  # type: ignore[arg-type]
    return results, curves


def recipe_table(results: list[RecipeResult], title: str) -> Table:
    """One row a recipe: median and range of the return over seeds, and the speed.

    :param results: of all runs.
    :param title: above the table.
    :return: the table.
    """
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


def write_recipes(results: list[RecipeResult], curves: list[Curve], options: dict[str, Any], outdir: Path) -> None:
    """Write ``comparison.json``, ``learning_curves.png`` and ``learning_curves.csv``.

    :param results: of all runs.
    :param curves: of all runs.
    :param options: of the command.
    :param outdir: an existing folder.
    """
    document = {"options": options, "results": [asdict(result) for result in results]}
    title = f"recipes on {options['env']}"
    names = list(dict.fromkeys(curve.arm for curve in curves))
    styles = {name: dict(color=PALETTE[i % len(PALETTE)], linewidth=1.5, label=name) for i, name in enumerate(names)}
    write_curves(curves, outdir / "learning_curves.csv")
    write_whole(outdir / "learning_curves.png", lambda path: draw_learning_curves(curves, title, path, styles=styles))
    write_json(outdir / "comparison.json", document)


def parsed_recipes(words: str, check: Callable[[str, Any, tuple[str, ...]], None]) -> list[str]:
    """Names separated by commas.

    :param words: what the user wrote.
    :param check: raises for a name that is none of the known ones.
    :return: the names.
    :raises ValueError: for an unknown one.
    """
    names = [word.strip() for word in words.split(",") if word.strip()]
    for name in names:
        check("recipes", name, tuple(RECIPES))
    return names
