"""Whatever is done to a policy while it is trained, between two calls of ``learn`` or in a callback, our weights stay stock SB3's to the
bit: nothing that was made out before is used afterwards.
"""

import contextlib
import itertools

import pytest
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_notes import NotesA2C, NotesPPO
from tests.parity.changes import ARGUMENTS, CHANGES, GAUSSIAN

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore:Full backward hook", "ignore:.*torch.jit", "ignore:.*mini-?batch.*:UserWarning"
)

SIZES = {"ppo": dict(n_steps=12, batch_size=6, n_epochs=2), "a2c": dict(n_steps=3)}
CLASSES = {"ppo": (PPO, NotesPPO), "a2c": (A2C, NotesA2C)}
#: Rollouts before the change: eight minibatches, so that lists of operations, which wait for two (conftest), are in use.
BEFORE = {"ppo": 2, "a2c": 6}


class At(BaseCallback):
    """Changes the model once, at one event of one rollout."""

    def __init__(self, event, change, first):
        super().__init__()
        self.event, self.change, self.first = event, change, first

    def _at(self, event, place=0):
        if event == self.event and self.num_timesteps == self.first * self.model.n_steps + place:
            self.change(self.model)

    def _on_training_start(self):
        self._at("on_training_start")

    def _on_rollout_start(self):
        self._at("on_rollout_start")

    def _on_step(self):
        self._at("on_step", 1)
        return True

    def _on_rollout_end(self):
        self._at("on_rollout_end")


class Patch:
    """pytest's monkeypatch, and what else is to be undone."""

    def __init__(self, patch, stack):
        self.setattr, self.callback = patch.setattr, stack.callback


def trained(cls, kind, monkeypatch, change, event, **extra):
    """Weights and optimiser state of a model that was changed, and the model."""
    with contextlib.ExitStack() as stack, monkeypatch.context() as patch:
        name = next(name for name, each in CHANGES.items() if each is change)
        env = make_vec_env("Pendulum-v1" if name in GAUSSIAN else "CartPole-v1", 1, seed=0)
        arguments = dict(learning_rate=1e-2, policy_kwargs=dict(net_arch=[8])) | SIZES[kind] | extra
        model = cls("MlpPolicy", env, seed=0, device="cpu", **arguments)
        if change.__name__ == "unfreeze":
            model.policy.mlp_extractor.policy_net.requires_grad_(False)

        def changed(model):
            change(model, Patch(patch, stack))

        first = BEFORE[kind]
        if event in ("between", "on_training_start"):
            model.learn(first * model.n_steps, log_interval=None)
            if event == "between":
                changed(model)
            model.learn(2 * model.n_steps, At(event, changed, first), reset_num_timesteps=False, log_interval=None)
        else:
            model.learn((first + 3) * model.n_steps, At(event, changed, first), log_interval=None)
        return model


def assert_same(ours, stock, tolerance=0.0):
    mine, theirs = ours.policy.state_dict(), stock.policy.state_dict()
    assert mine.keys() == theirs.keys()
    far = {name: (mine[name] - theirs[name]).abs().max().item() for name in theirs}
    assert max(far.values()) <= tolerance, {name: each for name, each in far.items() if each > tolerance}


#: Every change once, and in the suite of all tests with both algorithms and at every event.
EVENTS = ["between", "on_training_start", "on_rollout_start", "on_step", "on_rollout_end"]
QUICK = {(name, kind): "between" for name, kind in zip(CHANGES, itertools.cycle(["a2c", "ppo", "a2c", "a2c"]))}
QUICK |= {case: "on_step" for case in list(QUICK)[::6]}
CASES = [
    pytest.param(name, kind, event, marks=[] if QUICK.get((name, kind)) == event else pytest.mark.slow)
    for event in EVENTS
    for kind in SIZES
    for name in CHANGES
    # What is true of one of these three is true of the others, but for arguments that a rollout has read.
    if event in ("between", "on_step", "on_rollout_start") or name in ARGUMENTS
]


@pytest.mark.parametrize(("name", "kind", "event"), CASES)
def test_a_policy_that_was_changed_is_stocks(name, kind, event, monkeypatch):
    stock, ours = (trained(cls, kind, monkeypatch, CHANGES[name], event) for cls in CLASSES[kind])
    assert_same(ours, stock)
