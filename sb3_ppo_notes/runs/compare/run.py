"""One run of a comparison, in a process of its own: train, evaluate, write one file."""

import contextlib
import faulthandler
import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_ppo_notes import files
from sb3_ppo_notes.allocator import keep_freed_memory
from sb3_ppo_notes.callbacks.evaluation import (
    EVALUATION_SEED_OFFSET,
    BoundedEpisodes,
    MaskedPredictor,
    play_episodes,
    with_frozen_normalizers,
)
from sb3_ppo_notes.envs.errors import environment_error
from sb3_ppo_notes.formulas.checks import NonFiniteError
from sb3_ppo_notes.policies.masks import METHOD, collect_masks
from sb3_ppo_notes.runs.charts import Curve, episodes_of
from sb3_ppo_notes.runs.compare.arms import Arm
from sb3_ppo_notes.runs.compare.models import Settings, always_masks, build, environments

#: Points of a learning curve: the budget in equal parts.
POINTS = 40
#: Environments of an evaluation, at most: its episodes are spread over them.
EVALUATION_ENVS = 10
#: Names in SB3's loggers of the quantities that are watched, and their signs; the first that an algorithm has counts.
WATCHED: dict[str, tuple[tuple[str, int], ...]] = {
    "kl": (("train/approx_kl", 1), ("train/kl_divergence_loss", 1)),
    "entropy": (("train/entropy_loss", -1),),
    "clip_fraction": (("train/clip_fraction", 1),),
    "explained_variance": (("train/explained_variance", 1),),
}
PACKAGES = ("stable_baselines3", "sb3_contrib", "torch", "gymnasium", "numpy", "ale_py", "mujoco", "box2d")
#: Ends of a run. ``killed`` says nothing of the algorithm, so that ``--resume`` repeats it.
FINISHED, FAILED, KILLED = "finished", "failed", "killed"
#: The name under which a random policy is measured, where no scale is known.
RANDOM = "random policy"


@dataclass(frozen=True)
class Run:
    """One training with one seed, or, without an arm, the measurement of a random policy."""

    arm: Arm | None
    env: str
    seed: int
    total_timesteps: int
    n_eval_episodes: int
    settings: Settings

    @property
    def key(self) -> tuple[str, str, int]:
        """Arm, task, seed: unique in the comparison."""
        return (RANDOM if self.arm is None else self.arm.name, self.env, self.seed)

    @property
    def path(self) -> str:
        """Its file's name: what can be read of the key, and what tells apart what cannot."""
        arm, env, seed = ("".join(c if c.isalnum() or c in ".-+=" else "_" for c in str(part)) for part in self.key)
        return f"{arm[:40]}-{env[:40]}-{seed}-{hashlib.sha256(repr(self.key).encode()).hexdigest()[:8]}.json"

    def identity(self) -> dict[str, Any]:
        """All that its result depends on, as plain data."""
        document = asdict(self) | {"versions": versions()}
        if not self.settings.environment:  # runs are gone on with that were begun before there were such options
            del document["settings"]["environment"]
        loaded: dict[str, Any] = json.loads(json.dumps(document, default=str))
        return loaded


@cache
def versions() -> dict[str, str]:
    """Versions of all that a run depends on."""
    return files.versions(PACKAGES)


def main(run: Run, folder: Path, tell: Any) -> None:
    """The process: it never raises, because whatever happens is the run's result."""
    # Ctrl-C is for the one who started all runs; and no run outlives it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    log = (folder / run.path).with_suffix(".log")
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    th.set_num_threads(1)
    keep_freed_memory()
    record = perform(run, tell.send)
    write_record(run, record, folder)
    if record["status"] == FINISHED or log.stat().st_size == 0:
        # Where open files cannot be removed it stays.
        with contextlib.suppress(OSError):
            log.unlink()


def _die_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def write_record(run: Run, record: dict[str, Any], folder: Path) -> None:
    """Keep the record of a run: a file that is there whole or not at all."""
    files.write_json(folder / run.path, {"run": run.identity(), **record}, indent=None)


def perform(run: Run, tell: Callable[[int], object]) -> dict[str, Any]:
    """The record of a run: its scores, or how it failed. ``tell`` hears the environment steps so far."""
    try:
        if run.arm is None:
            return {"status": FINISHED, **_random_policy(run)}
        watch = _Watch(tell)
        record, _, episodes = train(run, run.arm, watch)
        curves = watch.curves(run.total_timesteps)
        curves["return"] = bin_means(episodes.timesteps, episodes.returns, run.total_timesteps)
        return {"status": FINISHED, **record, "curves": curves}
    # A run that raises has failed, and the others go on.
    except Exception as error:
        of_environment = environment_error(error)
        last = of_environment or traceback.format_exception_only(error)[-1].strip().partition("\n")[0]
        by_environment = of_environment is not None
        return {"status": FAILED, "error": last, "traceback": traceback.format_exc(), "by_environment": by_environment}


class Trained(NamedTuple):
    """A training that has come to its end, evaluated; its environments are closed."""

    record: dict[str, Any]
    model: BaseAlgorithm
    curve: Curve

    @property
    def steps_per_second(self) -> float:
        """Of the training alone."""
        speed: float = self.record["steps"] / self.record["train_seconds"]
        return speed


def train(run: Run, arm: Arm, callback: BaseCallback, n_eval_envs: int = EVALUATION_ENVS) -> Trained:
    """Train and evaluate.

    :raises NonFiniteError: if the policy's return is no number.
    """
    model = build(arm, run.env, run.settings, run.seed)
    started, processor = time.perf_counter(), time.process_time()
    model.learn(run.total_timesteps, callback=callback)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - processor
    returns, n_cut = _evaluate(run, model, n_eval_envs)
    score = float(np.mean(returns))
    if not np.isfinite(score):
        raise NonFiniteError(f"score must be finite, got {score} over {len(returns)} episodes")
    curve = Curve(arm.name, run.seed, *episodes_of(model.env))  # type: ignore[arg-type]
    model.env.close()  # type: ignore[union-attr]
    record = {
        "score": score,
        "episode_returns": returns,
        "episodes_cut": n_cut,
        "steps": int(model.num_timesteps),
        "train_seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "evaluation_seconds": time.perf_counter() - started - seconds,
        "parameters": digest(model),
    }
    return Trained(record, model, curve)


def _evaluate(run: Run, model: BaseAlgorithm, most_envs: int) -> tuple[list[float], int]:
    """Returns of deterministic episodes, in environments that training never saw; equal for all arms of a seed.

    And how many of them had to be cut.
    """
    n_envs = min(most_envs, run.n_eval_episodes)
    seed = EVALUATION_SEED_OFFSET + run.seed * most_envs
    env = BoundedEpisodes(with_frozen_normalizers(environments(run.env, run.settings, n_envs, seed), model.env))
    policy: Any = MaskedPredictor(model, env) if always_masks(model) else model
    returns, _ = play_episodes(policy, env, run.n_eval_episodes)
    env.close()
    return returns, env.n_cut


def _random_policy(run: Run) -> dict[str, Any]:
    env = BoundedEpisodes(environments(run.env, run.settings, 1, EVALUATION_SEED_OFFSET + run.seed))
    generator = np.random.default_rng(run.seed)
    env.action_space.seed(run.seed)
    env.reset()
    has_masks = isinstance(env.action_space, spaces.Discrete) and env.has_attr(METHOD)
    returns: list[float] = []
    while len(returns) < run.n_eval_episodes:
        allowed = np.flatnonzero(collect_masks(env)[0]) if has_masks else None
        action = env.action_space.sample() if allowed is None else generator.choice(allowed)
        _, _, _, infos = env.step(np.array([action]))
        returns += [float(info["episode"]["r"]) for info in infos if "episode" in info]
    env.close()
    return {"score": float(np.mean(returns)), "episode_returns": returns}


def digest(model: BaseAlgorithm) -> str:
    """A fingerprint of all parameters: equal for two models of one architecture only if they are, bit for bit."""
    fingerprint = hashlib.sha256()
    for tensor in model.policy.state_dict().values():
        fingerprint.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        fingerprint.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return fingerprint.hexdigest()


def bin_means(timesteps: Any, values: Any, total_timesteps: int) -> list[float | None]:
    """Means over equal parts of the budget, ``[POINTS]``; ``None`` where there is nothing, or NaN only.

    Steps beyond the budget count for its last part.

    >>> bin_means([10, 20, 800, 2000], [1.0, 3.0, 5.0, 7.0], total_timesteps=800)[:2]
    [2.0, None]
    """
    timesteps, values = np.asarray(timesteps, float), np.asarray(values, float)
    finite = np.isfinite(values)
    part = np.clip(np.ceil(timesteps[finite] * POINTS / total_timesteps).astype(int) - 1, 0, POINTS - 1)
    counts = np.bincount(part, minlength=POINTS)
    sums = np.bincount(part, weights=values[finite], minlength=POINTS)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]


class _Watch(BaseCallback):
    """Reads after each update what it has logged, and tells how far the training is."""

    def __init__(self, tell: Callable[[int], object]):
        super().__init__()
        self._tell = tell
        self._seen: dict[str, list[tuple[int, float]]] = {name: [] for name in WATCHED}

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        # SB3 writes and empties its log before an update, so that only the last one's values are there now.
        logged = self.model.logger.name_to_value
        for name, sources in WATCHED.items():
            source = next(((key, sign) for key, sign in sources if key in logged), None)
            if source is not None:
                self._seen[name].append((self.num_timesteps, source[1] * float(logged[source[0]])))

    def _on_rollout_end(self) -> None:
        self._tell(self.num_timesteps)

    def _on_training_end(self) -> None:
        self._on_rollout_start()

    def curves(self, total_timesteps: int) -> dict[str, list[float | None]]:
        """The quantities by name, ``[POINTS]`` each."""
        curves = {}
        for name, seen in self._seen.items():
            steps, values = zip(*seen, strict=True) if seen else ((), ())
            curves[name] = bin_means(steps, values, total_timesteps)
        return curves
