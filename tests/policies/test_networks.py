"""Action distributions and what survives a file."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib.common.recurrent import policies as recurrent_policies
from stable_baselines3.common import policies as common_policies
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_ppo_notes import NotesA2C, NotesPPO, policies
from sb3_ppo_notes.engine.plain_networks import plain_networks_of
from sb3_ppo_notes.formulas.checks import InvalidValueError
from sb3_ppo_notes.policies.modes import set_training_mode
from sb3_ppo_notes.policies.networks import NotesActorCriticPolicy, NotesMultiInputPolicy
from sb3_ppo_notes.policies.recurrent import NotesCnnRecurrentPolicy, NotesRecurrentPolicy
from tests import environments

SMALL = dict(n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu")


class Wide(gym.ActionWrapper):
    """Pendulum whose torque is given in [10, 14]: a policy that forgets to stretch its actions leaves the space."""

    def __init__(self):
        super().__init__(gym.make("Pendulum-v1"))
        self.action_space = gym.spaces.Box(10, 14, (1,), dtype=np.float32)

    def action(self, action):
        assert self.action_space.contains(action), action
        return action - 12


@pytest.mark.parametrize("algorithm", [NotesPPO, NotesA2C])
@pytest.mark.parametrize("distribution", ["gaussian", "squashed_gaussian", "beta", "state_dependent_gaussian"])
def test_every_distribution_learns_saves_and_loads(distribution, algorithm, tmp_path):
    arguments = SMALL if algorithm is NotesPPO else dict(n_steps=8, seed=0, device="cpu")
    env = make_vec_env(Wide, n_envs=2)
    model = algorithm(
        "MlpPolicy", env, policy_kwargs=dict(action_distribution=distribution), ent_coef=0.01, **arguments
    ).learn(128)
    observations = env.reset()
    for deterministic in (True, False):
        actions, _ = model.predict(observations, deterministic=deterministic)
        assert ((actions >= 10) & (actions <= 14)).all()
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=env)
    assert np.array_equal(
        loaded.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )
    loaded.learn(64, reset_num_timesteps=False)
    model.policy.save(tmp_path / "policy")
    policy = NotesActorCriticPolicy.load(tmp_path / "policy")
    assert np.array_equal(
        policy.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )


@pytest.mark.parametrize("distribution", ["squashed_gaussian", "beta", "state_dependent_gaussian"])
def test_exact_kl_works_with_every_distribution(distribution):
    from sb3_ppo_notes.rules import KLPenalty, UpdateRule

    model = NotesPPO(
        "MlpPolicy",
        "Pendulum-v1",
        rule=UpdateRule(policy_objective=KLPenalty()),
        policy_kwargs=dict(action_distribution=distribution),
        **SMALL,
    ).learn(64)
    assert model.rule_state.kl_coef is not None
    assert model.policy.get_distribution(th.zeros(1, 3)).entropy().shape == (1,)


def test_beta_acts_by_its_mean():
    model = NotesPPO("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(action_distribution="beta"), **SMALL)
    alpha, beta = model.policy.get_distribution(th.ones(1, 3)).parameters
    expected = 2 * (2 * alpha / (alpha + beta) - 1)  # Pendulum's torque lies in [-2, 2]
    assert model.predict(np.ones(3, dtype=np.float32), deterministic=True)[0] == pytest.approx(
        expected.item(), abs=1e-5
    )
    assert (alpha > 1).all()
    assert (beta > 1).all()


def test_deviation_follows_the_state():
    model = NotesPPO(
        "MlpPolicy",
        "Pendulum-v1",
        policy_kwargs=dict(action_distribution="state_dependent_gaussian", log_std_init=-1.0),
        **SMALL,
    ).learn(256)
    _, std = model.policy.get_distribution(th.tensor([[1.0, 0, 0], [-1, 0, 8]])).parameters
    assert std[0] != std[1]
    assert std.mean().item() == pytest.approx(np.exp(-1), abs=0.2)


@pytest.mark.parametrize(
    ("env", "policy_kwargs", "arguments", "begins"),
    [
        ("Pendulum-v1", dict(action_distribution="gamma"), {}, "action_distribution must be one of"),
        (
            "CartPole-v1",
            dict(action_distribution="beta"),
            {},
            "action_distribution must be 'gaussian' unless actions form a Box",
        ),
        (
            "Pendulum-v1",
            dict(action_distribution="beta"),
            dict(use_sde=True),
            "action_distribution must be 'gaussian' with use_sde=True",
        ),
    ],
)
def test_distributions_that_do_not_fit(env, policy_kwargs, arguments, begins):
    with pytest.raises(InvalidValueError, match="^" + begins):
        NotesPPO("MlpPolicy", env, policy_kwargs=policy_kwargs, **SMALL | arguments)


def test_separate_extractors_survive_the_policys_own_file(tmp_path):
    env = make_vec_env(lambda: environments.make("image"), n_envs=1)
    policy_kwargs = dict(share_features_extractor=False)
    model = NotesPPO("CnnPolicy", env, policy_kwargs=policy_kwargs, **SMALL).learn(32)
    model.policy.save(tmp_path / "policy")
    loaded = type(model.policy).load(tmp_path / "policy")
    assert loaded.share_features_extractor is False
    pairs = zip(model.policy.state_dict().items(), loaded.state_dict().values(), strict=True)
    assert all(th.equal(mine, theirs) for (_, mine), theirs in pairs)
    observation = th.as_tensor(env.reset()).permute(0, 3, 1, 2)
    assert th.equal(
        model.policy.get_distribution(observation).distribution.logits,
        loaded.get_distribution(observation).distribution.logits,
    )


def test_a_plain_policy_has_stocks_weights_from_the_same_seed():
    box = gym.make("Pendulum-v1")
    policies = []
    for policy_class in (ActorCriticPolicy, NotesActorCriticPolicy):
        th.manual_seed(0)
        policies.append(policy_class(box.observation_space, box.action_space, lambda _: 1e-3))
    pairs = zip(*(policy.state_dict().values() for policy in policies), strict=True)
    assert all(th.equal(*pair) for pair in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["beta", "squashed_gaussian"])
def test_bounded_policies_learn_pendulum(distribution):
    from stable_baselines3.common.evaluation import evaluate_policy

    # rl_zoo3's values for Pendulum, without gSDE
    model = NotesPPO(
        "MlpPolicy",
        make_vec_env("Pendulum-v1", 4, seed=0),
        n_steps=1024,
        batch_size=64,
        gamma=0.9,
        learning_rate=1e-3,
        seed=0,
        device="cpu",
        policy_kwargs=dict(action_distribution=distribution),
    ).learn(100_000)
    mean, _ = evaluate_policy(model, make_vec_env("Pendulum-v1", 1, seed=99), n_eval_episodes=20)
    assert mean > -300


@pytest.mark.parametrize("listen", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy"])
def test_who_listens_to_a_layer_is_heard_in_every_minibatch(policy, listen):
    model = NotesPPO(policy, make_vec_env("CartPole-v1", 2, seed=0), **SMALL)
    layer, heard = model.policy.mlp_extractor.policy_net[2], []
    getattr(layer, f"register_{listen}")(lambda module, *_: heard.append(module.training))
    assert plain_networks_of(model.policy) is None
    model.learn(64)
    assert heard.count(True) == model.last_report.n_gradient_steps >= 2


class _Counting(th.nn.Linear):
    calls = 0

    def train(self, mode=True):
        type(self).calls += 1
        return super().train(mode)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("with_own", [False, True])
def test_switching_the_mode_reaches_every_module_and_asks_who_has_a_way_of_its_own(with_own, mode):
    policy = NotesPPO("MlpPolicy", "CartPole-v1", device="cpu").policy
    if with_own:
        policy.mlp_extractor.policy_net.append(_Counting(64, 64))
    policy.set_training_mode(not mode)
    before = _Counting.calls
    set_training_mode(policy, mode)
    assert {module.training for module in policy.modules()} == {mode}
    assert (_Counting.calls > before) == with_own


def test_a_policy_with_a_way_of_its_own_to_switch_is_asked(monkeypatch):
    policy, asked = NotesPPO("MlpPolicy", "CartPole-v1", device="cpu").policy, []
    monkeypatch.setattr(policy, "set_training_mode", asked.append)
    set_training_mode(policy, False)
    monkeypatch.undo()
    monkeypatch.setattr(type(policy), "set_training_mode", lambda self, mode: asked.append(mode))
    set_training_mode(policy, True)
    assert asked == [False, True]


class _Scripted(BaseFeaturesExtractor):
    """Half of it is TorchScript, which keeps its own mode."""

    def __init__(self, space):
        super().__init__(space, 8)
        layers = th.nn.Sequential(th.nn.Linear(space.shape[0], 8), th.nn.Dropout(0.5))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is on its way out
            self.layers = th.jit.script(layers)

    def forward(self, observations):
        return self.layers(observations)


def test_torch_script_is_switched_too():
    policy = NotesPPO(
        "MlpPolicy", "CartPole-v1", device="cpu", policy_kwargs=dict(features_extractor_class=_Scripted)
    ).policy
    seen = th.ones(1, 4)
    set_training_mode(policy, False)
    assert len({policy.features_extractor(seen).sum().item() for _ in range(20)}) == 1
    set_training_mode(policy, True)
    assert len({policy.features_extractor(seen).sum().item() for _ in range(20)}) > 1


def test_policies_have_the_names_that_sb3_and_contrib_give_theirs():
    stock = {"ActorCriticPolicy", "ActorCriticCnnPolicy", "MultiInputActorCriticPolicy"}
    contrib = {
        "RecurrentActorCriticPolicy",
        "RecurrentActorCriticCnnPolicy",
        "RecurrentMultiInputActorCriticPolicy",
    }
    assert {f"Notes{name}" for name in stock | contrib} <= set(policies.__all__)
    assert all(hasattr(common_policies, name) for name in stock)
    assert all(hasattr(recurrent_policies, name) for name in contrib)
    for name in policies.__all__:
        assert getattr(policies, name).__module__.startswith("sb3_ppo_notes.policies.")


def test_a_class_is_known_by_its_first_name_too_and_files_hold_that_one(tmp_path):
    assert policies.NotesMultiInputActorCriticPolicy is NotesMultiInputPolicy
    assert policies.NotesRecurrentActorCriticCnnPolicy is NotesCnnRecurrentPolicy
    model = NotesPPO(policies.NotesRecurrentActorCriticPolicy, "CartPole-v1", n_steps=64, device="cpu")
    model.save(tmp_path / "model")
    assert type(NotesPPO.load(tmp_path / "model").policy) is NotesRecurrentPolicy
