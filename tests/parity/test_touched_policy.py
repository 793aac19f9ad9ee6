"""Whatever is done to a policy while it is trained, between two calls of ``learn`` or in a callback, our weights stay stock SB3's to the
bit: nothing that was made out before is used afterwards.
"""

import contextlib

import pytest
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_notes import NotesA2C, NotesPPO
from tests.parity.changes import CHANGES

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore:Full backward hook", "ignore:.*mini-?batch.*:UserWarning"
)

SIZES = {"ppo": dict(n_steps=16, batch_size=8, n_epochs=2), "a2c": dict(n_steps=4)}
CLASSES = {"ppo": (PPO, NotesPPO), "a2c": (A2C, NotesA2C)}
#: With two rollouts after WAIT = 2 of a kind (conftest), lists of operations are in use before the change.
BEFORE, AFTER = 3, 2


class At(BaseCallback):
    """Changes the model once, at one event of one rollout."""

    def __init__(self, event, change):
        super().__init__()
        self.event, self.change = event, change
        self.rollouts = 0

    def _at(self, event):
        if event == self.event and self.rollouts == BEFORE:
            self.event = None
            self.change(self.model)

    def _on_training_start(self):
        if self.event == "on_training_start":
            self.rollouts = BEFORE
            self._at("on_training_start")

    def _on_rollout_start(self):
        self._at("on_rollout_start")

    def _on_step(self):
        if self.num_timesteps % 4 == 2:
            self._at("on_step")
        return True

    def _on_rollout_end(self):
        self._at("on_rollout_end")
        self.rollouts += 1


class Patch:
    """pytest's monkeypatch, and what else is to be undone."""

    def __init__(self, patch, stack):
        self.setattr, self.callback = patch.setattr, stack.callback


def trained(cls, kind, monkeypatch, change, event, **extra):
    """Weights and optimiser state of a model that was changed, and the model."""
    with contextlib.ExitStack() as stack, monkeypatch.context() as patch:
        env = make_vec_env("CartPole-v1", 1, seed=0)
        policy_kwargs = dict(net_arch=[8])
        model = cls(
            "MlpPolicy",
            env,
            seed=0,
            device="cpu",
            learning_rate=1e-2,
            policy_kwargs=policy_kwargs,
            **SIZES[kind] | extra,
        )
        if change.__name__ == "unfreeze":
            model.policy.mlp_extractor.policy_net.requires_grad_(False)
        after = AFTER * model.n_steps

        def changed(model):
            change(model, Patch(patch, stack))

        if event == "between":
            model.learn(BEFORE * model.n_steps, log_interval=None)
            changed(model)
            model.learn(after, reset_num_timesteps=False, log_interval=None)
        else:
            model.learn((BEFORE + 1) * model.n_steps + after, At(event, changed), log_interval=None)
        return model


def assert_same(ours, stock, tolerance=0.0):
    mine, theirs = ours.policy.state_dict(), stock.policy.state_dict()
    assert mine.keys() == theirs.keys()
    far = {name: (mine[name] - theirs[name]).abs().max().item() for name in theirs}
    assert max(far.values()) <= tolerance, {name: each for name, each in far.items() if each > tolerance}


@pytest.mark.parametrize("name", list(CHANGES))
@pytest.mark.parametrize("kind", list(SIZES))
def test_a_policy_changed_between_two_learns_is_stocks(name, kind, monkeypatch):
    stock, ours = (trained(cls, kind, monkeypatch, CHANGES[name], "between") for cls in CLASSES[kind])
    assert_same(ours, stock)


EVENTS = ["on_training_start", "on_rollout_start", "on_step", "on_rollout_end"]


@pytest.mark.slow
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("name", list(CHANGES))
@pytest.mark.parametrize("kind", list(SIZES))
def test_a_policy_changed_in_a_callback_is_stocks(name, kind, event, monkeypatch):
    stock, ours = (trained(cls, kind, monkeypatch, CHANGES[name], event) for cls in CLASSES[kind])
    assert_same(ours, stock)
