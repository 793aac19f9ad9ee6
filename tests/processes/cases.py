"""Trainings that must not depend on the number of processes."""

import copy
import hashlib
import pickle

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.envs import ShardedVecEnv
from sb3_ppo_notes.rules import (
    GAE,
    AdaptiveLearningRate,
    AdvantageNormalization,
    EarlyStop,
    KLPenalty,
    Optimization,
    OptimizerSettings,
    SeparateOptimizers,
    UpdateRule,
)
from tests.environments import SPACES, SpaceEnv

N_ENVS, N_STEPS, BATCH_SIZE = 8, 32, 64


class MaskedEnv(SpaceEnv):
    """Forbids one action after the other."""

    def action_masks(self):
        return np.arange(self.action_space.n) != self.count % (self.action_space.n + 1)


def rule(*kl_controls, **choices):
    return {"rule": UpdateRule(kl_controls=kl_controls, **choices)}


SEPARATE = SeparateOptimizers(
    OptimizerSettings(n_epochs=3, learning_rate=3e-4), OptimizerSettings(n_epochs=5, learning_rate=3e-4)
)
#: Their own numbers, and none of the model's.
BOTH_ALONE = rule(optimization=Optimization(separate=SEPARATE)) | {"n_epochs": None, "learning_rate": None}
#: By name: space, policy, and further arguments.
CASES = {
    "PPO": ("box", "MlpPolicy", {}),
    "PPO, ragged minibatches": ("discrete", "MlpPolicy", {"batch_size": 56}),
    "A2C": ("discrete", "MlpPolicy", {"algorithm": NotesA2C, "n_steps": 4}),
    "memory": ("discrete", "MlpLstmPolicy", {"policy_kwargs": {"lstm_hidden_size": 16}}),
    "action masks": ("discrete", "MlpPolicy", {"action_masking": True}),
    "Dict observations": ("dict", "MultiInputPolicy", {}),
    "shared networks": ("multi_discrete", "MlpPolicy", {"policy_kwargs": {"share_features_extractor": False}}),
    "early stop": ("box", "MlpPolicy", {"target_kl": 0.001, "learning_rate": 1e-3}),
    "early stop of the policy, exact KL": (
        "box",
        "MlpPolicy",
        rule(EarlyStop(0.001, estimator="exact", scope="policy")) | {"learning_rate": 1e-3},
    ),
    "early stop after an epoch": (
        "box",
        "MlpPolicy",
        rule(EarlyStop(0.0002, decided="epoch")),
    ),
    "adaptive learning rate": ("box", "MlpPolicy", rule(AdaptiveLearningRate(bounds=(1e-6, 1e-3)))),
    "KL penalty": ("box", "MlpPolicy", rule(policy_objective=KLPenalty(cutoff_coef=0.0))),
    "separate optimisers": ("box", "MlpPolicy", BOTH_ALONE),
    "normalised over the rollout": (
        "box",
        "MlpPolicy",
        rule(advantage_normalization=AdvantageNormalization("rollout")),
    ),
    "advantages every epoch": ("box", "MlpPolicy", rule(advantage_estimator=GAE(0.9), computed="every_epoch")),
    "compiled": ("box", "MlpPolicy", {"compile": True}),
    "float16": ("box", "MlpPolicy", {"precision": "float16"}),
    "gSDE": ("box", "MlpPolicy", {"use_sde": True, "sde_sample_freq": 4}),
}


def n_steps_of(name):
    return CASES[name][2].get("n_steps", N_STEPS)


def environments(space, number, is_masked=False):
    """Some environments that share no space, and so no generator, with others."""
    kind = MaskedEnv if is_masked else SpaceEnv
    return VecMonitor(DummyVecEnv([lambda: kind(*copy.deepcopy(SPACES[space])) for _ in range(number)]))


def build(name, processes=None, shards=None, n_own=1, n_envs=N_ENVS):
    """The model of a case; ``n_own``: shards of this process, ``n_envs`` environments in it."""
    space, policy, arguments = CASES[name]
    algorithm = arguments.get("algorithm", NotesPPO)
    if algorithm is NotesPPO:
        arguments = {"n_steps": N_STEPS, "n_epochs": 5, "learning_rate": 3e-4, "batch_size": BATCH_SIZE} | arguments
    arguments = {key: value for key, value in arguments.items() if key != "algorithm" and value is not None}
    parts = [environments(space, n_envs // n_own, "action_masking" in arguments) for _ in range(n_own)]
    env = parts[0] if n_own == 1 else ShardedVecEnv(parts)
    return algorithm(policy, env, seed=7, device="cpu", processes=processes, shards=shards, **arguments)


class Recorder(BaseCallback):
    """Keeps each rollout, and the generators of the shards, as they are when learning from it begins."""

    def __init__(self):
        super().__init__()
        self.rollouts = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        arrays = {name: copy.deepcopy(value) for name, value in vars(buffer).items() if name in KEPT}
        generators = [generator.numpy.bit_generator.state for generator in self.model._shards.generators]
        self.rollouts.append((arrays, generators))


#: Of a rollout buffer, what learning from it needs.
KEPT = (
    *("observations", "actions", "rewards", "returns", "episode_starts", "advantages", "values", "log_probs"),
    *("env_rewards", "action_masks", "_cuts", "_states", "_end"),
)


def digest(model):
    """Of the weights, to the bit."""
    weights = [parameter.detach().numpy().tobytes() for parameter in model.policy.parameters()]
    return hashlib.sha256(b"".join(weights)).hexdigest()


def train(group, folder, names, n_shards, n_updates):
    """Write of each case a digest of the weights, how they were learned, and what a reference needs to learn the same."""
    th.set_num_threads(1)
    results = {}
    for name in names:
        n_own = n_shards // group.size
        model = build(name, group, n_shards, n_own, N_ENVS // group.size)
        recorder = Recorder()
        model.learn(n_updates * model.n_steps * N_ENVS, callback=recorder)
        weights = {key: value.clone() for key, value in model.policy.state_dict().items()}
        results[name] = {
            "digest": digest(model),
            "weights": weights,
            "ran": str(model.engine.report()),
            "rollouts": recorder.rollouts,
            "said": str(model.last_report),
            "stopped_in_epoch": model.last_report.stopped_in_epoch,
            "episodes": [(info["r"], info["l"]) for info in model.ep_info_buffer],
            "num_timesteps": model.num_timesteps,
        }
    (folder / f"{group.size}-{group.rank}.pickle").write_bytes(pickle.dumps(results))


def read(folder, size):
    """What the processes have written."""
    return [pickle.loads((folder / f"{size}-{rank}.pickle").read_bytes()) for rank in range(size)]
