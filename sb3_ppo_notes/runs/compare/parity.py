"""``compare`` without a verdict: stock SB3 and ours side by side, equal in every parameter, and which is faster."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch as th
from rich.console import Console
from rich.table import Table
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes._atomic import write_whole
from sb3_ppo_notes.envs.make import make_env
from sb3_ppo_notes.files import versions, write_json
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_choice, check_integer
from sb3_ppo_notes.runs.charts import Curve, draw_learning_curves, episodes_of, write_curves
from sb3_ppo_notes.runs.compare.recipes import compare_recipes, parsed_recipes, recipe_table, write_recipes
from sb3_ppo_notes.runs.evaluation import evaluate
from sb3_ppo_notes.runs.progress import StepsProgress

PAIRS: dict[str, tuple[Callable[..., OnPolicyAlgorithm], Callable[..., OnPolicyAlgorithm]]] = {
    "ppo": (PPO, NotesPPO),
    "a2c": (A2C, NotesA2C),
}


@dataclass(frozen=True)
class SeedResult:
    """What both arms did with one seed."""

    seed: int
    stock_return: float
    notes_return: float
    parameters_equal: bool
    largest_difference: float
    stock_steps_per_second: float
    notes_steps_per_second: float
    ratio: float


@dataclass
class Pair:
    """Stock SB3 and ours, seed by seed.

    :param env: id of a registered environment.
    :param algo: which algorithm.
    :param total_timesteps: environment steps of each training run.
    :param seeds: number of seeds.
    :param n_envs: environments stepped side by side.
    :param n_eval_episodes: episodes of the final evaluation.
    :param recipes: seed systems to train instead, names separated by commas.
    :param outdir: where the files go.
    """

    env: str
    algo: Literal["ppo", "a2c"]
    total_timesteps: int
    seeds: int
    n_envs: int
    n_eval_episodes: int
    recipes: str | None
    outdir: Path

    def __call__(self) -> int:
        """Do it.

        :return: 0 if every parameter of every seed is equal, else 1.
        :raises ValueError: for an option out of range, before anything is trained or written.
        """
        self._check()
        # The same number of threads on both sides: another number would sum in another order.
        th.set_num_threads(1)
        console = Console()
        if self.recipes is not None:
            return self._compare_recipes(console)
        results: list[SeedResult] = []
        curves: list[Curve] = []
        with StepsProgress(total=2 * self.seeds * self.total_timesteps) as progress:
            for seed in range(self.seeds):
                # Who begins changes from seed to seed, so that a machine that warms up or slows down favours nobody.
                result, pair_of_curves = self._train_pair(seed, progress, notes_first=seed % 2 == 1)
                results.append(result)
                curves += pair_of_curves
        console.print(self._table(results))
        equal = all(result.parameters_equal for result in results)
        self._write(results, curves)
        console.print(f"parameters equal on every seed: {'yes' if equal else 'NO'}")
        console.print(
            f"written: {self.outdir}/comparison.json, learning_curves.png, learning_curves.csv", soft_wrap=True
        )
        return 0 if equal else 1

    def _check(self) -> None:
        for name in ("total_timesteps", "seeds", "n_envs", "n_eval_episodes"):
            check_integer(name, getattr(self, name), minimum=1)
        if self.recipes is not None and not parsed_recipes(self.recipes, check_choice):
            raise InvalidValueError(f"recipes must be names separated by commas, got {self.recipes!r}")
        if self.outdir.exists() and not self.outdir.is_dir():
            raise InvalidValueError(f"outdir must be a folder, got the file {self.outdir}")
        make_env(self.env, verbose=0).close()

    def _compare_recipes(self, console: Console) -> int:
        names = parsed_recipes(self.recipes or "", check_choice)
        with StepsProgress(total=len(names) * self.seeds * self.total_timesteps) as progress:
            results, curves = compare_recipes(
                names, self.env, self.total_timesteps, self.seeds, self.n_eval_episodes, progress
            )
        console.print(recipe_table(results, f"{self.env}, {self.total_timesteps:,} steps, {self.seeds} seeds"))
        self.outdir.mkdir(parents=True, exist_ok=True)
        write_recipes(results, curves, asdict(self) | {"outdir": str(self.outdir)}, self.outdir)
        console.print(
            f"written: {self.outdir}/comparison.json, learning_curves.png, learning_curves.csv", soft_wrap=True
        )
        return 0

    def _train_pair(self, seed: int, progress: StepsProgress, notes_first: bool) -> tuple[SeedResult, list[Curve]]:
        models, speeds, curves = {}, {}, []
        arms = dict(zip(("stock", "notes"), PAIRS[self.algo], strict=True))
        for arm in sorted(arms, reverse=not notes_first):
            progress.describe(f"seed {seed}, {arm}")
            env = make_vec_env(self.env, n_envs=self.n_envs, seed=seed)
            model = arms[arm]("MlpPolicy", env, seed=seed, device="cpu")
            started = time.perf_counter()
            model.learn(self.total_timesteps, callback=progress.callback())
            speeds[arm] = model.num_timesteps / (time.perf_counter() - started)
            models[arm] = model
            curves.append(Curve(arm, seed, *episodes_of(env)))
            env.close()
        difference = largest_difference(models["stock"], models["notes"])
        result = SeedResult(
            seed=seed,
            stock_return=evaluate(models["stock"], self.env, seed, self.n_eval_episodes)[0],
            notes_return=evaluate(models["notes"], self.env, seed, self.n_eval_episodes)[0],
            parameters_equal=difference == 0.0,
            largest_difference=difference,
            stock_steps_per_second=speeds["stock"],
            notes_steps_per_second=speeds["notes"],
            ratio=speeds["notes"] / speeds["stock"],
        )
        return result, curves

    def _table(self, results: list[SeedResult]) -> Table:
        stock, ours = (algorithm.__name__ for algorithm in PAIRS[self.algo])
        table = Table(
            title=f"{ours} against stock {stock} on {self.env}, {self.total_timesteps:,} steps, {self.n_envs} envs"
        )
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

    def _write(self, results: list[SeedResult], curves: list[Curve]) -> None:
        self.outdir.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = asdict(self) | {"outdir": str(self.outdir)}
        document = {"options": options, "versions": versions(), "results": [asdict(result) for result in results]}
        title = f"{self.algo.upper()} on {self.env}"
        write_curves(curves, self.outdir / "learning_curves.csv")
        write_whole(self.outdir / "learning_curves.png", lambda path: draw_learning_curves(curves, title, path))
        write_json(self.outdir / "comparison.json", document)


def largest_difference(one: OnPolicyAlgorithm, other: OnPolicyAlgorithm) -> float:
    """How far two models are apart.

    :param one: a model.
    :param other: another of the same architecture.
    :return: the largest absolute difference of any parameter; 0.0 only if all are equal bit for bit.
    """
    pairs = zip(one.policy.state_dict().values(), other.policy.state_dict().values(), strict=True)
    return max(0.0 if th.equal(a, b) else (a - b).abs().max().item() for a, b in pairs)
