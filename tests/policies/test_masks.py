"""Action masks: as sb3-contrib's MaskablePPO, and plain NotesPPO where everything is allowed."""

import copy
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete, InvalidActionEnvMultiBinary, InvalidActionEnvMultiDiscrete
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.callbacks import MaskableEvalCallback
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.policies.masks import mask_sizes
from sb3_ppo_notes.rules import KLPenalty, UpdateRule
from tests import environments

SMALL = dict(n_steps=64, batch_size=32, n_epochs=3, seed=0, device="cpu", learning_rate=1e-2, ent_coef=0.01)


def discrete():
    return InvalidActionEnvDiscrete(dim=20, n_invalid_actions=10)


def multi_discrete():
    return InvalidActionEnvMultiDiscrete(dims=[5, 4], n_invalid_actions=3)


def multi_binary():
    return InvalidActionEnvMultiBinary(dims=5, n_invalid_actions=2)


MAKERS = {"discrete": discrete, "multi_discrete": multi_discrete, "multi_binary": multi_binary}


def all_allowed(name):
    """An environment of tests/environments.py whose masks allow everything."""
    sizes = {"discrete": 3, "multi_discrete": 5, "multi_binary": 6, "dict": 3}
    return ActionMasker(environments.make(name), lambda _: np.ones(sizes[name], dtype=bool))


def weights(model):
    return list(model.policy.state_dict().values())


@pytest.mark.parametrize("name", ["discrete", "multi_discrete", "multi_binary", "dict"])
def test_masks_that_allow_everything_change_not_a_bit(name):
    policy = "MultiInputPolicy" if name == "dict" else "MlpPolicy"
    masked = NotesPPO(policy, make_vec_env(lambda: all_allowed(name), 2), action_masking=True, **SMALL).learn(256)
    plain = NotesPPO(policy, make_vec_env(lambda: all_allowed(name), 2), **SMALL).learn(256)
    assert all(th.equal(*pair) for pair in zip(weights(masked), weights(plain), strict=True))


@pytest.mark.parametrize("name", ["discrete", "multi_discrete"])
def test_masked_training_equals_maskable_ppo(name):
    arguments = dict(SMALL, clip_range=0.1, clip_range_vf=0.2)
    ours = NotesPPO("MlpPolicy", make_vec_env(MAKERS[name], 2, seed=1), action_masking=True, **arguments).learn(128)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = MaskablePPO("MlpPolicy", make_vec_env(MAKERS[name], 2, seed=1), **arguments).learn(128)
    mine = dict(ours.policy.named_parameters())
    for key, parameter in theirs.policy.named_parameters():
        assert (parameter - mine[key]).abs().max().item() < 1e-5, key


@pytest.mark.parametrize("name", MAKERS)
def test_forbidden_actions_are_never_taken(name):
    model = NotesPPO("MlpPolicy", make_vec_env(MAKERS[name], 3), action_masking=True, **SMALL)
    model.learn(192)
    buffer = model.rollout_buffer
    actions, masks = buffer.flat(buffer.actions).astype(int), buffer.flat(buffer.action_masks)
    parts = np.split(masks, np.cumsum(mask_sizes(model.action_space))[:-1], axis=1)
    for component, allowed in enumerate(parts):
        assert np.take_along_axis(allowed, actions[:, [component]], axis=1).all()
    assert not buffer.action_masks.all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "best"), [("discrete", 100), ("multi_discrete", 100), ("multi_binary", 100)])
def test_masks_make_learning_quick(name, best):
    """sb3-contrib's own test: 90 % of the maximum (an episode of 100 right choices) within 2,048 steps."""
    makers = {
        "discrete": lambda: InvalidActionEnvDiscrete(dim=20, n_invalid_actions=19),
        "multi_discrete": lambda: InvalidActionEnvMultiDiscrete(dims=[10, 10], n_invalid_actions=18),
        "multi_binary": lambda: InvalidActionEnvMultiBinary(dims=6, n_invalid_actions=5),
    }
    env = make_vec_env(makers[name], 1)
    model = NotesPPO("MlpPolicy", env, action_masking=True, n_steps=256, gamma=0.4, seed=32, device="cpu").learn(2048)
    callback = MaskableEvalCallback(make_vec_env(makers[name], 1), n_eval_episodes=10, verbose=0)
    assert callback.evaluate(model)[0] >= 0.9 * best


@pytest.mark.parametrize("masks", [[1, 0, 0], [0, 1, 0], [0, 1, 1]])
@pytest.mark.parametrize("deterministic", [True, False])
def test_predict_honours_masks(masks, deterministic):
    model = NotesPPO("MlpPolicy", make_vec_env(lambda: environments.make("discrete"), 1), **SMALL)
    for _ in range(20):
        action, _ = model.predict(
            np.zeros(3, dtype=np.float32), deterministic=deterministic, action_masks=np.array(masks, dtype=bool)
        )
        assert masks[int(action)]
    batch, _ = model.predict(np.zeros((2, 3), dtype=np.float32), action_masks=np.array([masks, [0, 0, 1]], dtype=bool))
    assert batch.shape == (2,)
    assert batch[1] == 2


def test_predict_honours_masks_of_bits_and_tuples():
    bits = NotesPPO("MlpPolicy", make_vec_env(lambda: environments.make("multi_binary"), 1), **SMALL)
    action, _ = bits.predict(np.zeros(3, dtype=np.float32), action_masks=[True, False, False, True, True, True])
    assert action[:2].tolist() == [0, 1]
    tuples = NotesPPO("MlpPolicy", make_vec_env(lambda: environments.make("multi_discrete"), 1), **SMALL)
    action, _ = tuples.predict(np.zeros(3, dtype=np.float32), action_masks=[False, True, False, False, True])
    assert action.tolist() == [1, 2]


def test_masks_come_out_of_subprocesses():
    env = SubprocVecEnv([discrete, discrete], start_method="fork")
    model = NotesPPO("MlpPolicy", env, action_masking=True, **SMALL)
    model.learn(128)
    assert model.rollout_buffer.action_masks.shape == (64, 2, 20)
    env.close()


def test_masks_enter_the_exact_kl_and_a2c():
    rule = UpdateRule(policy_objective=KLPenalty(target=1e-4))
    NotesPPO("MlpPolicy", make_vec_env(discrete, 2), action_masking=True, rule=rule, **SMALL).learn(256)
    NotesA2C("MlpPolicy", make_vec_env(multi_discrete, 2), action_masking=True, seed=0, device="cpu").learn(100)


def test_masking_survives_save_and_load(tmp_path):
    model = NotesPPO("MlpPolicy", make_vec_env(discrete, 2), action_masking=True, **SMALL).learn(128)
    model.save(tmp_path / "model")
    loaded = NotesPPO.load(tmp_path / "model", env=make_vec_env(discrete, 2))
    assert loaded.action_masking is True
    loaded.learn(128)
    unmasked = NotesPPO.load(tmp_path / "model", env=make_vec_env(lambda: Unmasked(), 2))
    unmasked.predict(unmasked.observation_space.sample(), action_masks=[1] * 20)
    with pytest.raises(InvalidValueError, match="^action_masking must be False unless every environment has a method"):
        unmasked.learn(128)


class Unmasked(gym.Wrapper):
    def __init__(self):
        super().__init__(environments.SpaceEnv(spaces.Box(0, 19, (1,), dtype=np.int64), spaces.Discrete(20)))
        reference = discrete()
        self.env.observation_space, self.env.action_space = reference.observation_space, reference.action_space


class BadMask(environments.SpaceEnv):
    def __init__(self, mask):
        super().__init__(*environments.SPACES["discrete"])
        self.mask = mask

    def action_masks(self):
        return self.mask


def test_what_cannot_be_masked_is_refused_at_construction():
    with pytest.raises(InvalidValueError, match="^action_masking must be False unless actions are Discrete"):
        NotesPPO("MlpPolicy", make_vec_env(lambda: environments.make("box"), 1), action_masking=True, **SMALL)


def test_environments_are_asked_for_masks_when_learning_begins():
    model = NotesPPO("MlpPolicy", make_vec_env(lambda: Unmasked(), 1), action_masking=True, **SMALL)
    model.predict(model.observation_space.sample(), action_masks=[1] * 20)
    with pytest.raises(InvalidValueError, match="^action_masking must be False unless every environment has a method"):
        model.learn(64)
    assert model.num_timesteps == 0


@pytest.mark.parametrize(
    ("mask", "begins"),
    [
        (np.zeros(3, dtype=bool), "action_masks must allow at least one action, got none for component 0 in row 0"),
        (
            np.ones(4, dtype=bool),
            r"action_masks must have 3 entries for Discrete\(3\), got shape \(4,\) from environment 0",
        ),
    ],
)
def test_wrong_masks_of_an_environment_are_refused(mask, begins):
    model = NotesPPO("MlpPolicy", make_vec_env(lambda: BadMask(mask), 1), action_masking=True, **SMALL)
    with pytest.raises(InvalidValueError, match="^" + begins):
        model.learn(64)


def test_wrong_masks_by_hand_are_refused():
    model = NotesPPO("MlpPolicy", DummyVecEnv([discrete]), action_masking=True, **SMALL)
    observation = model.env.reset()
    with pytest.raises(InvalidValueError, match=r"^action_masks must have shape \(1, 20\)"):
        model.predict(observation, action_masks=np.ones(3))
    with pytest.raises(InvalidValueError, match="^action_masks must allow at least one action"):
        model.predict(observation, action_masks=np.zeros(20))
    box = NotesPPO("MlpPolicy", "Pendulum-v1", **SMALL)
    with pytest.raises(InvalidValueError, match="^action_masking must be False unless actions are Discrete"):
        box.predict(np.zeros(3, dtype=np.float32), action_masks=[True])


def test_evaluation_callback_asks_for_masks(tmp_path):
    env = make_vec_env(discrete, 1)
    asked = []

    class Asked(InvalidActionEnvDiscrete):
        def action_masks(self):
            asked.append(1)
            return super().action_masks()

    evaluation = make_vec_env(lambda: Asked(dim=20, n_invalid_actions=10), 1)
    callback = MaskableEvalCallback(
        evaluation, eval_freq=64, n_eval_episodes=1, best_model_save_path=str(tmp_path), verbose=0
    )
    model = NotesPPO("MlpPolicy", env, action_masking=True, **SMALL)
    model.learn(128, callback=callback)
    assert len(asked) >= 100
    assert copy.copy(callback).best_mean_reward > -np.inf
    NotesPPO.load(tmp_path / "best_model")
    assert type(callback.model) is NotesPPO
