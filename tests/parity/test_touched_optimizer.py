"""Between two calls of ``learn`` anybody may reach into the optimiser or the weights. Stock SB3 goes on from what it then finds; so must
we, although our update keeps weights and state in vectors of its own.
"""

import copy
import io

import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from sb3_ppo_notes import NotesA2C, NotesPPO


def moments(optimizer):
    return [
        (state, name)
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, th.Tensor) and value.ndim
    ]


def step_all(policy):
    for parameter in policy.parameters():
        parameter.grad = th.full_like(parameter, 0.1)
    policy.optimizer.step()
    policy.optimizer.zero_grad()


def step_one(policy):
    parameter = next(policy.parameters())
    parameter.grad = th.ones_like(parameter)
    policy.optimizer.step()
    policy.optimizer.zero_grad()


def load_a_copy(policy):
    policy.optimizer.load_state_dict(copy.deepcopy(policy.optimizer.state_dict()))


def load_from_a_file(policy):
    file = io.BytesIO()
    th.save(policy.optimizer.state_dict(), file)
    file.seek(0)
    policy.optimizer.load_state_dict(th.load(file, weights_only=True))


def clear(policy):
    policy.optimizer.state.clear()


def replace_moments(policy):
    for state, name in moments(policy.optimizer):
        state[name] = state[name] * 0.5


def halve_moments_in_place(policy):
    for state, name in moments(policy.optimizer):
        state[name].mul_(0.5)


def give_moments_other_memory(policy):
    for state, name in moments(policy.optimizer):
        state[name].data = state[name].data * 0.5


def count_from_one(policy):
    for state in policy.optimizer.state.values():
        state["step"] = th.ones_like(state["step"]) if isinstance(state["step"], th.Tensor) else 1


def count_from_one_in_place(policy):
    for state in policy.optimizer.state.values():
        if isinstance(state["step"], th.Tensor):
            state["step"].fill_(1)


def load_weights(policy):
    policy.load_state_dict({name: tensor * 0.9 for name, tensor in policy.state_dict().items()})


def give_weights_other_memory(policy):
    for parameter in policy.parameters():
        parameter.data = parameter.data * 0.9


def another_optimizer(policy):
    policy.optimizer = type(policy.optimizer)(policy.parameters(), lr=1e-3)


MEDDLING = [
    step_all,
    step_one,
    load_a_copy,
    load_from_a_file,
    clear,
    replace_moments,
    halve_moments_in_place,
    give_moments_other_memory,
    count_from_one,
    count_from_one_in_place,
    load_weights,
    give_weights_other_memory,
    another_optimizer,
]
RMS_PROP_TF = dict(optimizer_class=RMSpropTFLike, optimizer_kwargs=dict(eps=1e-5))
CASES = {
    "ppo": (NotesPPO, PPO, dict(n_steps=8, batch_size=8, n_epochs=2), {}, 4),
    "a2c": (NotesA2C, A2C, dict(n_steps=2), {}, 4),
    # More steps than the integers that Python has only one of each: a count that is an int is compared, too.
    "a2c_rms_prop_tf": (NotesA2C, A2C, dict(n_steps=2), RMS_PROP_TF, 280),
}


@pytest.mark.parametrize("meddle", MEDDLING, ids=lambda meddle: meddle.__name__)
@pytest.mark.parametrize("case", CASES)
def test_who_reaches_into_an_optimizer_is_noticed(case, meddle):
    ours, stock, sizes, policy_kwargs, n_updates = CASES[case]
    n_updates = n_updates if meddle.__name__.startswith("count") else 4
    states = []
    for algorithm in (ours, stock):
        env = make_vec_env("CartPole-v1", 1, seed=0)
        kwargs = dict(net_arch=[4]) | policy_kwargs
        model = algorithm("MlpPolicy", env, seed=0, device="cpu", learning_rate=1e-3, policy_kwargs=kwargs, **sizes)
        model.learn(sizes["n_steps"] * n_updates, log_interval=None)
        for _ in range(2):
            meddle(model.policy)
            model.learn(sizes["n_steps"] * 2, reset_num_timesteps=False, log_interval=None)
        states.append((model.policy.state_dict(), model.policy.optimizer.state_dict()["state"]))
    (weights, moments_), (stock_weights, stock_moments) = states
    assert all(th.equal(weights[name], stock_weights[name]) for name in stock_weights)
    for index, state in stock_moments.items():
        for name, value in state.items():
            assert th.equal(th.as_tensor(moments_[index][name]), th.as_tensor(value)), (index, name)
