"""A policy changed while it is trained, beyond what there is a stock SB3 for: callbacks that see the update, compiled code, what is said."""

import logging
from collections import Counter

import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from sb3_ppo_notes.engine import fingerprint, recorded, script
from sb3_ppo_notes.engine.fingerprint import Fingerprint
from sb3_ppo_notes.policies.shipped import own_code_of
from sb3_ppo_notes.rollouts.collector import runs_own_code
from tests.engine.test_compile import Compilations, difference, learn, models
from tests.engine.test_recorded import eager
from tests.parity.changes import CHANGES
from tests.parity.test_touched_policy import CLASSES, assert_same, trained

pytestmark = pytest.mark.filterwarnings("ignore:.*mini-?batch.*:UserWarning")


class Undoing:
    """What ``monkeypatch`` is to a change that is not undone."""

    setattr = staticmethod(setattr)


class InUpdate(BaseCallback):
    """Changes the model in the middle of its third update."""

    def __init__(self, hook, change):
        super().__init__()
        self.change = change
        setattr(self, hook, self._told)

    def _told(self, report):
        if self.model.num_timesteps == 3 * 64 and report.epoch == 1 and report.minibatch in (None, 2):
            self.change(self.model, Undoing)

    def _on_step(self):
        return True


IN_UPDATE = [
    "freeze_a_network", "give_a_weight_other_memory", "new_head_and_optimizer", "new_layer", "other_activation", "deeper",
    "forward_of_a_layer", "gradient_hook", "weight_decay", "no_state", "evaluation_mode",
]  # fmt: skip


@pytest.mark.parametrize("name", IN_UPDATE)
@pytest.mark.parametrize("hook", [pytest.param("on_minibatch", marks=pytest.mark.slow), "on_epoch"])
def test_a_change_in_the_middle_of_an_update_holds_from_the_next_minibatch_on(name, hook, monkeypatch):
    """The right value is that of autograd and PyTorch's own optimiser, which look at everything at every step."""
    monkeypatch.setattr(recorded, "WAIT", 2)
    results = []
    for _ in range(2):
        model = eager("discrete", policy_kwargs=dict(net_arch=[8]))
        results.append(learn(model, 4 * 64, callback=InUpdate(hook, CHANGES[name])))
        monkeypatch.setattr("sb3_ppo_notes.engine.descent.own_code_of", lambda policy: "it is the reference")
    assert difference(*results) == 0.0


def test_what_nobody_changed_is_made_out_once(monkeypatch):
    """Two calls of ``learn``, with a callback that is told everything: one list for all minibatches of a kind."""
    monkeypatch.setattr(recorded, "WAIT", 2)
    written = Counter()
    original = script.Script.__init__
    monkeypatch.setattr(script.Script, "__init__", lambda *given: written.update(["list"]) or original(*given))
    model = eager("discrete", batch_size=16)
    for _ in range(2):
        model.learn(2 * 64, callback=InUpdate("on_minibatch", lambda *given: None), reset_num_timesteps=False)
    assert written["list"] == 1


def test_a_fingerprint_is_of_the_objects_and_not_of_their_addresses():
    """As many new layers as you like are never taken for the old one."""
    policy = eager("discrete").policy
    before = Fingerprint.of_policy(policy)
    assert Fingerprint.of_policy(policy).is_same(before)
    weights, size = policy.value_net.weight.detach().clone(), policy.value_net.in_features
    for _ in range(50):
        policy.value_net = None
        policy.value_net = nn.Linear(size, 1)
        with th.no_grad():
            policy.value_net.weight.copy_(weights)
        assert not Fingerprint.of_policy(policy).is_same(before)


def test_a_users_policy_that_only_builds_and_predicts_is_no_code_of_somebody_else():
    model = eager("discrete")
    kind = type(model.policy)
    building = type(
        "Building", (kind,), {"_build": kind._build, "predict": lambda self, *given: None, "mine": lambda self: 1}
    )
    acting = type("Acting", (kind,), {"extract_features": lambda self, *given: None})
    model.policy.__class__ = building
    assert own_code_of(model.policy) is None
    model.policy.__class__ = acting
    assert own_code_of(model.policy).endswith("Acting has a extract_features of its own")


def test_what_torch_compile_puts_into_pytorchs_classes_is_pytorchs():
    th.compile(nn.Linear(2, 2), backend="eager")(th.zeros(1, 2))
    model = eager("discrete")
    assert own_code_of(model.policy) is None
    learn(model, 64)
    assert model.engine.steppers["both"].descent.reason is None


def test_every_room_whose_functions_are_compared_is_there():
    """A file that moves must not move out of what is compared."""
    names = {function.__module__ for function in fingerprint.sources() if hasattr(function, "__module__")}
    for part in fingerprint.PARTS:
        assert any(name.startswith(f"sb3_ppo_notes.{part}") for name in names), part


def test_callbacks_of_the_libraries_do_not_reach_into_the_policy(tmp_path):
    from stable_baselines3.common import callbacks

    from sb3_ppo_notes.callbacks import KLCallback

    theirs = callbacks.CallbackList([callbacks.CheckpointCallback(1, str(tmp_path)), KLCallback()])
    assert not runs_own_code(theirs)
    assert not runs_own_code(callbacks.ConvertCallback(None))
    assert runs_own_code(callbacks.ConvertCallback(lambda *given: True))
    own = InUpdate("on_epoch", None)
    assert runs_own_code(own)
    assert runs_own_code(callbacks.CallbackList([callbacks.EveryNTimesteps(1, own)]))


# -- compile=True ------------------------------------------------------------------------------------------------------


def stand_in(monkeypatch):
    """Compiled code without the compiler: only who is compiled, and how often, is of interest."""
    monkeypatch.setattr("sb3_ppo_notes.engine.compiled.compiled", lambda function, arguments, varying: function)


def wandbs_hook(module, inputs, output):
    return None


HOOKS = {
    "value_net has a forward hook": lambda policy: policy.value_net.register_forward_hook(wandbs_hook),
    "the policy has a forward hook": lambda policy: policy.register_forward_hook(wandbs_hook),
    "action_net has a backward hook": lambda policy: policy.action_net.register_full_backward_hook(wandbs_hook),
    "action_net.bias has a gradient hook": lambda policy: policy.action_net.bias.register_hook(wandbs_hook),
    "every module has a global forward hook": lambda policy: nn.modules.module.register_module_forward_hook(
        wandbs_hook
    ),
}


@pytest.mark.parametrize("where", list(HOOKS))
def test_a_hook_that_switches_compiling_off_is_named_with_whose_it_is(where, caplog, monkeypatch):
    stand_in(monkeypatch)
    _, model = models("discrete")
    handle = HOOKS[where](model.policy)
    try:
        with caplog.at_level(logging.WARNING, "sb3_ppo_notes"):
            model.engine.begin_update()
            model.engine.compiler.look(Fingerprint.of_policy(model.policy))
    finally:
        handle.remove()
    expected = f"compile=True: training is eager, because {where} (tests.algorithms.test_changed_policy.wandbs_hook)"
    assert caplog.messages == [expected]


@pytest.mark.parametrize("where", [where for where in HOOKS if "forward" in where])
def test_an_eager_step_names_the_hook_too_and_not_what_follows_from_it(where):
    """A policy that must be called as a whole evaluates actions by itself: true, and no help to whoever put it there."""
    model = eager("discrete")
    handle = HOOKS[where](model.policy)
    try:
        learn(model, 64)
        reason = model.engine.report().steps["both"].reason
    finally:
        handle.remove()
    assert reason == f"{where} (tests.algorithms.test_changed_policy.wandbs_hook)"


def test_a_watch_over_everything_is_named_once_and_counted():
    model = eager("discrete")
    model.policy.register_forward_hook(lambda *given: None)
    for weight in (model.policy.action_net.bias, model.policy.action_net.weight):
        weight.register_hook(wandbs_hook)
    test = "tests.algorithms.test_changed_policy.test_a_watch_over_everything_is_named_once_and_counted"
    assert own_code_of(model.policy) == f"the policy has a forward hook ({test}), the first of 3 hooks"


class OwnTanh(nn.Module):
    def forward(self, features):
        return features.tanh()


def test_a_module_of_the_users_own_stays_eager_and_is_named(caplog):
    _, model = models("discrete")
    model.policy.mlp_extractor.policy_net[1] = OwnTanh()
    with caplog.at_level(logging.WARNING, "sb3_ppo_notes"):
        learn(model, 64)
    name = "tests.algorithms.test_changed_policy.OwnTanh"
    assert f"because mlp_extractor.policy_net.1 is of {name}, whose state nobody can see" in caplog.text


def test_spectral_norm_keeps_numbers_and_stays_eager(caplog):
    _, model = models("discrete")
    nn.utils.parametrizations.spectral_norm(model.policy.mlp_extractor.policy_net[0])
    learn(model, 64)
    assert "compile=True: training is eager, because mlp_extractor.policy_net.0" in caplog.text


#: What compiled code is made of, each touched once; and what it cannot be made of.
COMPILED = [
    ("freeze_a_network", "ppo", "between"),
    ("freeze_a_network", "a2c", "on_step"),
    ("new_head", "ppo", "between"),
    ("new_head_and_optimizer", "a2c", "between"),
    ("no_last_activation", "ppo", "on_step"),
    ("other_extractor", "ppo", "between"),
    ("other_epsilon", "a2c", "between"),
    ("one_weight_less", "ppo", "between"),
    ("gradient_hook", "ppo", "on_step"),
    ("forward_of_all_layers", "a2c", "on_step"),
    ("entropy_of_all", "ppo", "between"),
    ("other_distribution", "ppo", "on_step"),
    ("of_ppo", "ppo", "between"),
]
#: Adam divides by the gradient's own size: where that is next to nothing, rounding decides the sign of a whole step.
STEADY = dict(net_arch=[8], optimizer_kwargs=dict(eps=1e-3))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "event"), COMPILED)
def test_a_policy_that_was_changed_is_stocks_when_compiled(name, kind, event, monkeypatch):
    stock, ours = (
        trained(cls, kind, monkeypatch, CHANGES[name], event, policy_kwargs=STEADY, learning_rate=1e-3, **extra)
        for cls, extra in zip(CLASSES[kind], ({}, dict(compile=True)), strict=True)
    )
    assert_same(ours, stock, 1e-5)


@pytest.mark.slow
def test_what_comes_back_is_not_compiled_again(monkeypatch):
    """Frozen, unfrozen, hooked, unhooked, with another head of the same shape: one way of acting and three of a step."""
    compilations = Compilations(monkeypatch)
    _, model = models("discrete")
    learn(model, 64)
    network = model.policy.mlp_extractor.policy_net
    for is_trained in (False, True, False, True):
        network.requires_grad_(is_trained)
        model.learn(64, reset_num_timesteps=False)
    handle = model.policy.value_net.register_forward_hook(wandbs_hook)
    model.learn(64, reset_num_timesteps=False)
    assert model.engine.compiler.reason is not None
    handle.remove()
    model.policy.value_net = nn.Linear(16, 1)
    model.policy.optimizer = th.optim.Adam(model.policy.parameters(), lr=1e-3, eps=1e-5)
    model.learn(64, reset_num_timesteps=False)
    assert model.engine.compiler.reason is None
    # Some weights frozen, none; and none with PyTorch's Adam, as those that were frozen have taken fewer steps.
    assert compilations.count == 4


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_masks_that_are_switched_on_later_are_heard(compile, monkeypatch):
    monkeypatch.setattr(recorded, "WAIT", 2)
    results = []
    for compiles in (None, compile):
        model = models("discrete", masked=True)[bool(compiles)]
        if compiles is None:
            monkeypatch.setattr("sb3_ppo_notes.engine.descent.own_code_of", lambda policy: "it is the reference")
        model.action_masking = False
        learn(model, 64)
        model.action_masking = True
        learn(model, 64, reset_num_timesteps=False)
        monkeypatch.undo()
        monkeypatch.setattr(recorded, "WAIT", 2)
        results.append(model)
    assert difference(*results) <= (1e-4 if compile else 0.0)
