"""``compare``: train stock SB3 and ours with the same seeds; show that they are the same, and which is faster.

With ``--envs`` or ``--arms`` it compares any algorithms on any tasks and ends with a verdict.
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.runs.compare.experiment import experiment
from sb3_ppo_notes.runs.compare.parity import Pair
from sb3_ppo_notes.runs.interruption import exit_code, sigterm_raises


@dataclass
class Compare:
    """Train stock SB3 and ours with the same seeds and hyperparameters; show whether all parameters are equal.

    With --envs or --arms: train any algorithms on any tasks and end with a verdict and report.html.
    """

    env: str = "CartPole-v1"
    """Id of a registered environment."""
    algo: Literal["ppo", "a2c"] = "ppo"
    """Which algorithm."""
    total_timesteps: int | None = None
    """Environment steps of each training run; if not given 50000, for a verdict what rl_zoo3 trains the task for."""
    seeds: int | None = None
    """Number of seeds: 0, 1, 2, …; if not given 3, for a verdict 10."""
    n_envs: int | None = None
    """Environments stepped side by side; if not given 8, for a verdict rl_zoo3's number."""
    n_eval_episodes: int | None = None
    """Episodes of the final, deterministic evaluation, on seeds that training never saw; if not given 20, for a verdict
    100."""
    recipes: str | None = None
    """Train these seed systems side by side instead, names separated by commas: skrl,minimal_rl,…"""
    envs: str | None = None
    """For a verdict: tasks, ids separated by commas, with rl_zoo3's tuned hyperparameters where it has some."""
    arms: str | None = None
    """For a verdict: who is compared with the first one, separated by commas. sb3, notes (of --algo; also sb3-ppo,
    notes-a2c, …), trpo, recurrent-ppo, maskable-ppo, recipe:NAME, module:Class, each with options if need be:
    notes:clip_range=0.1,gamma=0.9. If not given sb3,notes."""
    a_a: bool = False
    """For a verdict: also train the first arm with as many other seeds and compare it with itself."""
    resume: bool = False
    """For a verdict: go on with the runs in the outdir; what is finished is not repeated."""
    jobs: int | None = None
    """For a verdict: runs side by side, a process and a thread each; if not given as many as there are cores."""
    outdir: Annotated[Path, tyro.conf.arg(metavar="DIR")] = field(default_factory=lambda: Path("comparison"))
    """Where comparison.json, learning_curves.png and learning_curves.csv go, for a verdict report.html and more."""

    def __call__(self) -> int:
        """Do it.

        :return: 0 if every parameter of every seed is equal, else 1. With a verdict: 1 if an arm is worse than the
            first, or the A/A check fails. 130 after Ctrl-C, 143 after SIGTERM.
        :raises ValueError: for an option out of range, before anything is trained or written.
        """
        try:
            with sigterm_raises():
                return self._experiment() if self.envs is not None or self.arms is not None else self._pair()
        except KeyboardInterrupt as interruption:
            # An experiment that has begun to train says by itself what it keeps.
            print("interrupted: nothing of it is kept", file=sys.stderr)
            return exit_code(interruption)

    def _pair(self) -> int:
        for name in ("a_a", "resume", "jobs"):
            if getattr(self, name) is not None and getattr(self, name) is not False:
                raise InvalidValueError(f"{name} needs --envs or --arms, got neither")
        return Pair(
            env=self.env,
            algo=self.algo,
            total_timesteps=50_000 if self.total_timesteps is None else self.total_timesteps,
            seeds=3 if self.seeds is None else self.seeds,
            n_envs=8 if self.n_envs is None else self.n_envs,
            n_eval_episodes=20 if self.n_eval_episodes is None else self.n_eval_episodes,
            recipes=self.recipes,
            outdir=self.outdir,
        )()

    def _experiment(self) -> int:
        if self.recipes is not None:
            raise InvalidValueError(f"recipes must be written among the arms (recipe:skrl,…), got {self.recipes!r}")
        if self.envs is not None and self.env != type(self).env:
            raise InvalidValueError(f"env must be left out when there are envs, got {self.env!r}")
        options = {name: value for name, value in asdict(self).items() if name not in ("env", "recipes", "outdir")}
        return experiment(options | {"envs": self.env if self.envs is None else self.envs}, self.outdir)
