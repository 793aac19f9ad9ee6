"""Pictures, and the CSV behind each."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from stable_baselines3.common.vec_env import VecEnv

from sb3_ppo_notes.files import write_csv

# Okabe and Ito's colours, told apart by the colour-blind too. Stock is drawn broad and pale, ours thin and dark on top
# of it: where they are the same, both are seen.
STYLES: dict[str, dict[str, Any]] = {
    "stock": dict(color="#E69F00", linewidth=5.0, alpha=0.55, label="stock SB3"),
    "notes": dict(color="#0072B2", linewidth=1.3, alpha=1.0, label="sb3_ppo_notes"),
}


class Curve(NamedTuple):
    """The episodes of one training run.

    :param timesteps: ``[K]``, environment steps (of all environments) at the end of each episode, ascending.
    :param returns: ``[K]``, undiscounted return of each episode.
    """

    arm: str
    seed: int
    timesteps: np.ndarray
    returns: np.ndarray


def episodes_of(env: VecEnv) -> tuple[np.ndarray, np.ndarray]:
    """The episodes that the training environments' monitors have seen, in the order of time.

    Environment steps at the end of each, over all environments, and their returns.
    """
    timesteps, returns = [], []
    for monitored_lengths, monitored_returns in zip(
        env.env_method("get_episode_lengths"), env.env_method("get_episode_rewards"), strict=True
    ):
        timesteps.append(np.cumsum(monitored_lengths) * env.num_envs)
        returns.append(np.asarray(monitored_returns, dtype=float))
    order = np.argsort(np.concatenate(timesteps), kind="stable")
    return np.concatenate(timesteps)[order], np.concatenate(returns)[order]


def write_curves(curves: list[Curve], path: Path) -> None:
    """Write all episodes as CSV."""
    rows = [
        (curve.arm, curve.seed, int(timestep), float(episode_return))
        for curve in curves
        for timestep, episode_return in zip(curve.timesteps, curve.returns, strict=True)
    ]
    write_csv(path, ("arm", "seed", "timesteps", "episode_return"), rows)


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last ``window`` values, fewer at the beginning; ``[K]``.

    >>> moving_average(np.array([2.0, 4.0, 6.0]), window=2).tolist()
    [2.0, 3.0, 5.0]
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    means: np.ndarray = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def draw_learning_curves(
    curves: list[Curve], title: str, path: Path, window: int = 20, styles: dict[str, dict[str, Any]] = STYLES
) -> None:
    """Draw one line a run: the mean return of the last ``window`` episodes over environment steps.

    ``styles`` are drawn in their order.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    labelled: set[str] = set()
    for arm, style in styles.items():
        for curve in (curve for curve in curves if curve.arm == arm and len(curve.returns)):
            line = style | ({"label": None} if arm in labelled else {})
            axes.plot(curve.timesteps, moving_average(curve.returns, window), **line)
            labelled.add(arm)
    axes.set(title=title, xlabel="environment steps", ylabel=f"return, mean of {window} episodes")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if labelled:
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
