"""``train``: one model, from a recipe or with stock settings, and how good it is."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch as th
import tyro
from rich.console import Console
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.algorithms.construction import made_environment
from sb3_ppo_notes.callbacks import StopWhenAllSucceeded
from sb3_ppo_notes.formulas.checks import InvalidValueError, check_choice, check_integer
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.rollouts.wrappers import StreamingNormalize
from sb3_ppo_notes.runs.evaluation import evaluate
from sb3_ppo_notes.runs.progress import StepsProgress

CLASSES: dict[str, Any] = {"ppo": NotesPPO, "a2c": NotesA2C}


@dataclass
class Train:
    """Train one model and evaluate it."""

    env: str = "CartPole-v1"
    """Id of a registered environment."""
    algo: Literal["ppo", "a2c"] = "ppo"
    """Which algorithm; a recipe knows its own."""
    recipe: str | None = None
    """A seed system: skrl, batch_ppo, spinning_up, moral_rl, minimal_rl or tsukurinagara."""
    total_timesteps: int = 100_000
    """Environment steps."""
    n_envs: int | None = None
    """Environments stepped side by side; the recipe's number, or 8."""
    seed: int = 0
    """Of all random generators."""
    n_eval_episodes: int = 20
    """Episodes of the final, deterministic evaluation."""
    outdir: Annotated[Path, tyro.conf.arg(metavar="DIR")] = field(default_factory=lambda: Path("run"))
    """Where model.zip, and the normaliser if there is one, go."""

    def __call__(self) -> int:
        """Do it.

        :return: 0.
        :raises ValueError: for an option out of range, before anything is trained or written.
        """
        self._check()
        th.set_num_threads(1)
        console = Console()
        model = build(self.env, self.algo, self.recipe, self.n_envs, self.seed)
        callbacks: list[BaseCallback] = []
        if self.recipe is not None and RECIPES[self.recipe].stop_when == "all_succeeded":
            callbacks.append(StopWhenAllSucceeded(verbose=1))
        with StepsProgress(total=self.total_timesteps) as progress:
            progress.describe(self.recipe or self.algo)
            model.learn(self.total_timesteps, callback=[progress.callback(), *callbacks])
        self.outdir.mkdir(parents=True, exist_ok=True)
        model.save(self.outdir / "model")
        self._save_normalizer(model.env)
        mean, deviation = evaluate(model, self.env, self.seed, self.n_eval_episodes)
        console.print(
            f"{self.recipe or self.algo} on {self.env}: return {mean:.1f} +/- {deviation:.1f} over "
            f"{self.n_eval_episodes} episodes after {model.num_timesteps:,} steps"
        )
        console.print(f"written: {self.outdir}/model.zip", soft_wrap=True)
        return 0

    def _check(self) -> None:
        for name in ("total_timesteps", "n_eval_episodes"):
            check_integer(name, getattr(self, name), minimum=1)
        if self.recipe is not None:
            check_choice("recipe", self.recipe, tuple(RECIPES))
        if self.outdir.exists() and not self.outdir.is_dir():
            raise InvalidValueError(f"outdir must be a folder, got the file {self.outdir}")
        made_environment(self.env, verbose=0).close()

    def _save_normalizer(self, env: VecEnv | None) -> None:
        while isinstance(env, VecEnvWrapper):
            if isinstance(env, StreamingNormalize | VecNormalize):
                env.save(str(self.outdir / "normalizer"))
            env = env.venv


def build(env: str, algo: str, recipe: str | None, n_envs: int | None, seed: int) -> OnPolicyAlgorithm:
    """A model that is ready to learn.

    :param env: id of a registered environment.
    :param algo: ``"ppo"`` or ``"a2c"``, if there is no recipe.
    :param recipe: a key of ``RECIPES`` or ``None``.
    :param n_envs: number of environments, ``None`` for the recipe's, or 8.
    :param seed: of all random generators.
    :return: the model.
    """
    settings: dict[str, Any] = dict(seed=seed, device="cpu")
    model: OnPolicyAlgorithm
    if recipe is not None:
        model = CLASSES[RECIPES[recipe].algorithm].from_recipe(recipe, env, n_envs=n_envs, **settings)
    else:
        model = CLASSES[algo]("MlpPolicy", make_vec_env(env, n_envs=n_envs or 8, seed=seed), **settings)
    return model
