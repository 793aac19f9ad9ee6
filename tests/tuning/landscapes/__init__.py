"""Published results of PPO in the place of training: a whole study replays in a moment, and its regret is exact."""

from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "landscapes.npz"


def load():
    """Landscapes by name, ``[configurations, seeds, marks]``; LunarLander as ARLBench clips it."""
    with np.load(FILE, allow_pickle=False) as file:
        scores = {name: file[name].astype(float) for name in file.files}
    scores["box2d_lunar_lander"] = scores["box2d_lunar_lander"].clip(-200, 300)
    return scores


def regret_and_optimism(scores, select, draws, seed=0):
    """Mean regret and optimism of a way to select, in percent of best - 5th percentile of the held-out scores.

    Five of the ten seeds are for tuning, the other five say what the choice is worth.
    """
    rng = np.random.default_rng(seed)
    results = []
    for _ in range(draws):
        seeds = rng.permutation(scores.shape[1])
        tuning, held_out = seeds[:5], seeds[5:]
        worth = scores[:, held_out, -1].mean(axis=1)
        scale = 100 / (worth.max() - np.percentile(worth, 5))
        index, believed = select(scores, tuning, rng)
        results.append((scale * (worth.max() - worth[index]), scale * (believed - worth[index])))
    return np.mean(results, axis=0)
