"""Layers on top of a memory in our own code: PyTorch's, there and back, on every instruction set that this processor has."""

import numpy as np
import pytest
import torch as th
from sb3_ppo_notes.engine.stacks import towers_of
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.engine import recorded
from sb3_ppo_notes.kernels import dense, lstm
from sb3_ppo_notes.kernels.dense import Stack
from tests import environments
from tests.kernels.test_lstm import built, every_level  # noqa: F401

# Ragged minibatches, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*mini-?batch.*:UserWarning")

SIZES = [(1, 64, 64), (2, 64, 128), (5, 128, 64), (7, 256, 64), (131, 256, 64), (13, 192, 320)]


def layer(rows, inputs, outputs, seed=0):
    th.manual_seed(seed)
    return th.randn(rows, inputs), th.randn(outputs, inputs) / inputs**0.5, th.randn(outputs)


def exact(x, weight, bias, is_tanh):
    """PyTorch in float64, with a graph."""
    inside = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    sums = nn.functional.linear(*inside)
    return inside, sums.tanh() if is_tanh else sums.relu()


@built
@pytest.mark.parametrize("is_tanh", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_pytorchs_there_and_back(every_level, size, is_tanh):  # noqa: F811
    given = layer(*size)
    inside, expected = exact(*given, is_tanh)
    y = dense.forward(*given, is_tanh)
    assert th.allclose(y.double(), expected, atol=1e-5)
    slope = th.randn_like(y)
    d_x, d_weight, d_bias = dense.backward(given[0], given[1], y, slope.clone(), is_tanh)
    wanted = th.autograd.grad(expected, inside, slope.double())
    for mine, theirs in zip((d_x, d_weight, d_bias), wanted, strict=True):
        assert mine.shape == theirs.shape
        assert th.allclose(mine.double(), theirs, rtol=1e-4, atol=2e-5)


@built
@pytest.mark.parametrize("is_tanh", [True, False])
def test_a_row_is_the_same_whatever_lies_beside_it(every_level, is_tanh):  # noqa: F811
    x, weight, bias = layer(23, 128, 64)
    together = dense.forward(x, weight, bias, is_tanh)
    for first in (0, 5, 22):
        assert th.equal(dense.forward(x[first : first + 1].clone(), weight, bias, is_tanh)[0], together[first])


@built
@pytest.mark.parametrize("is_tanh", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_row(every_level, bad, is_tanh):  # noqa: F811
    x, weight, bias = layer(9, 64, 64)
    x[4, 7] = bad
    y = dense.forward(x, weight, bias, is_tanh)
    _, expected = exact(x, weight, bias, is_tanh)
    assert th.allclose(y.double(), expected, atol=1e-5, equal_nan=True)


@built
def test_nothing_is_written_beside_the_results(every_level):  # noqa: F811
    """Exact sizes: the neighbours of every result keep their numbers."""
    x, weight, bias = layer(7, 64, 128)
    room = th.full((2 + 7 * 128,), 5.0)
    y = room[1:-1].view(7, 128)
    lstm.library().run(
        "dense_forward",
        dense._Layer(7, 64, 128, 1, x.data_ptr(), weight.data_ptr(), bias.data_ptr(), y.data_ptr()),
    )
    assert room[0] == room[-1] == 5.0
    assert th.equal(y, dense.forward(x, weight, bias, True))


def first_width(shapes):
    """The width below: the first layer's own, but for one that does not fit."""
    return 256 if not shapes or shapes[0][1] == 320 else shapes[0][1]


@pytest.mark.parametrize(
    ("shapes", "fits"),
    [
        ([(64, 256)], True),
        ([(128, 64), (64, 128)], True),
        ([], True),
        ([(32, 256)], False),
        ([(64, 100)], False),
        ([(64, 64), (65, 64)], False),
        ([(64, 128), (64, 128)], False),
        ([(64, 320)], False),
    ],
)
def test_which_stacks_it_takes(shapes, fits):
    assert Stack([(th.zeros(shape), th.zeros(shape[0])) for shape in shapes]).can_run(first_width(shapes)) == fits
    double = Stack([(th.zeros(shape).double(), th.zeros(shape[0])) for shape in shapes])
    assert double.can_run(first_width(shapes)) == (fits and not shapes)


def model_of(units=64, net_arch=(64, 64), activation=nn.Tanh, **policy_kwargs):
    kwargs = dict(lstm_hidden_size=units, net_arch=[*net_arch], activation_fn=activation) | policy_kwargs
    env = make_vec_env(lambda: environments.make("box"), 4, seed=0)
    return NotesPPO("MlpLstmPolicy", env, n_steps=16, batch_size=17, n_epochs=2, seed=0, policy_kwargs=kwargs)


def gradients(model, stacks):
    """Of one minibatch, with the layers as a stack on the memory or not."""
    np.random.seed(1)
    th.manual_seed(1)
    towers = towers_of(model.policy)
    if not stacks:
        actor, critic = (
            [*stack.layers, *top] for stack, top in zip(towers.stacks, (towers.actor, towers.critic), strict=True)
        )
        towers.stacks, towers.actor, towers.critic = [], actor, critic
        towers.inside = {id(weight) for each in (*actor, *critic) for weight in each}
    minibatch = next(iter(model.rollout_buffer.get(40)))
    passed = towers.forward(minibatch.observations, minibatch.recurrence)
    loss = (passed.outputs.action**2).sum() + (passed.outputs.values * minibatch.returns[:, None]).sum()
    return loss.detach(), passed.gradients(loss, list(model.policy.parameters()))


@built
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("net_arch", [(64,), (64, 128), (128, 64, 64)])
def test_gradients_on_a_memory_are_those_without_it(every_level, activation, net_arch):  # noqa: F811
    model = model_of(net_arch=net_arch, activation=activation).learn(64)
    assert len(towers_of(model.policy).stacks[0].layers) == len(net_arch)
    (loss, mine), (expected_loss, theirs) = gradients(model, True), gradients(model, False)
    assert th.allclose(loss, expected_loss, rtol=1e-5)
    for (name, _), one, other in zip(model.policy.named_parameters(), mine, theirs, strict=True):
        assert (one is None) == (other is None), name
        assert one is None or th.allclose(one, other, rtol=1e-3, atol=1e-4 * other.abs().max().item() + 1e-7), name


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(net_arch=(32,)),
        dict(units=100),
        dict(enable_critic_lstm=False),
        dict(shared_lstm=True, enable_critic_lstm=False),
        dict(rnn="gru"),
    ],
    ids=str,
)
def test_others_keep_pytorchs(kwargs):
    towers = towers_of(model_of(**kwargs).policy)
    assert towers.stacks == []
    assert len(towers.actor) > 1


def test_without_the_library_pytorch_does_it(monkeypatch):
    monkeypatch.setattr(recorded, "WAIT", 0)
    with_it = model_of().learn(128)
    monkeypatch.setattr(lstm, "LIBRARY", None)
    model = model_of()
    assert towers_of(model.policy).stacks == []
    model.learn(128)
    pairs = zip(with_it.policy.parameters(), model.policy.parameters(), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) < 5e-3


@built
def test_a_layer_that_does_not_fit_is_refused_by_pytorch():
    """Our own code would read what lies behind the rows."""
    model = model_of()
    model.policy.mlp_extractor.policy_net[0] = nn.Linear(128, 64)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model.learn(64)


def test_a_remember_of_the_users_own_is_called_as_ever():
    model = model_of()
    policy = model.policy
    original = policy.remember
    calls = []
    policy.remember = lambda features, recurrence: calls.append(0) or original(features, recurrence)
    assert towers_of(policy) is None
    model.learn(64)
    assert calls
