"""Environments of others: each row of the table in ``docs/environments.md``, run where its packages are installed."""

import shlex

import pytest
import torch as th
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.configs.build import build_model, make_environments, suggest_policy
from sb3_ppo_notes.configs.environments import EnvironmentOptions
from sb3_ppo_notes.configs.run_config import resolve_config
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.envs.make import as_vec_env
from sb3_ppo_notes.persistence import load_checkpoint, save_checkpoint
from tests.engine.test_compile import STEADY
from tests.envs.families import COMPILED, EQUAL, FAMILIES, LEAN, MASKABLE, RESUMED

SMALL = dict(n_steps=64, batch_size=32, n_epochs=2, learning_rate=3e-4, seed=0, device="cpu")
N_ENVS, STEPS = 2, 256


def options_of(family):
    """The words of a row as ``train`` reads them."""
    said, option = {"--env": [], "--import": [], "--env-kwargs": [], "--wrapper": []}, None
    for word in shlex.split(family.words):
        if word in said:
            option = word
        else:
            said[option].append(word)
    options = EnvironmentOptions(
        imports=tuple(said["--import"]), env_kwargs=tuple(said["--env-kwargs"]), wrapper=tuple(said["--wrapper"])
    )
    return said["--env"][0], options.environment()


class Trial:
    """One row: environments, and models of stock's class and of ours in them."""

    def __init__(self, family):
        self.family, self.arguments = family, SMALL | dict(family.arguments)
        self.env, self.data = (None, {}) if family.build else options_of(family)

    def environments(self):
        if self.family.build:
            return self.family.build()
        return make_environments(self.env, N_ENVS, 0, **self.data, vec_env_cls=DummyVecEnv)

    def model(self, algorithm=NotesPPO, env=None, **arguments):
        env = self.environments() if env is None else env
        space = env.observation_space if isinstance(env, VecEnv) else env.single_observation_space
        arguments = self.arguments | arguments
        if algorithm is MaskablePPO:
            del arguments["action_masking"]
        return algorithm(self.family.policy or suggest_policy(space), env, **arguments)

    def trained(self, algorithm=NotesPPO, **arguments):
        env = as_vec_env(self.environments())
        return weights(self.model(algorithm, env, **arguments).learn(STEPS))

    def trained_in_lean(self):
        """With an id as ``train`` does it."""
        if self.family.build:
            return weights(self.model(env=self.family.build(LeanVecEnv)).learn(STEPS))
        hyperparameters = {name: SMALL[name] for name in ("n_steps", "batch_size", "n_epochs", "learning_rate")}
        said = {"env": self.env, "n_envs": N_ENVS, "hyperparameters": hyperparameters, **self.data}
        config, _ = resolve_config(None, said | {"policy": self.family.policy})
        return weights(build_model(config).learn(STEPS))

    def resumed(self, folder):
        cut = self.model()
        cut.learn(STEPS // 2)
        save_checkpoint(cut, folder)
        resumed = load_checkpoint(folder, self.environments())
        assert resumed.resume_report.is_exact, resumed.resume_report
        return weights(resumed.learn(STEPS // 2, reset_num_timesteps=False))


def weights(model):
    model.env.close()
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
def test_each_row_is_as_the_table_says(family, tmp_path):
    if not family.is_installed:
        pytest.skip(f"not tried: pip install {family.pip}")
    trial = Trial(family)
    print(f"{family.name}: {family.versions} (the table: {family.tried})")
    ours = trial.trained()
    assert th.isfinite(ours).all()
    if EQUAL in family.checks:
        assert th.equal(ours, trial.trained(PPO))
    if MASKABLE in family.checks:
        assert (ours - trial.trained(MaskablePPO)).abs().max() < 1e-6
    if LEAN in family.checks:
        assert th.equal(ours, trial.trained_in_lean())
    if RESUMED in family.checks:
        assert th.equal(ours, trial.resumed(tmp_path))
    if COMPILED in family.checks:
        steady = dict(policy_kwargs=STEADY)
        assert (trial.trained(**steady) - trial.trained(compile=True, **steady)).abs().max() < 1e-5


def test_rows_have_a_name_each_and_words_that_are_read():
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.build is not None or family.words.count("--env ") == 1
