"""The hook: what callbacks are told of every minibatch, epoch and update, and that telling changes nothing."""

import math

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback, EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env

from sb3_ppo_notes import NotesA2C, NotesPPO
from sb3_ppo_notes.algorithms.probe import Probe
from sb3_ppo_notes.policies.parameters import owners_of
from sb3_ppo_notes.recipes import RECIPES
from sb3_ppo_notes.rules import EarlyStop, UpdateRule
from tests import environments

# 64 samples in minibatches of 24: ragged on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*truncated mini-batch")

SETTINGS = dict(n_steps=32, batch_size=24, n_epochs=3, learning_rate=1e-2, seed=0, device="cpu")


class Witness(BaseCallback):
    """Keeps every report."""

    def __init__(self, *hooks, exact=True):
        super().__init__()
        self.needs_exact_kl = exact
        self.seen = {hook: [] for hook in hooks or ("on_minibatch", "on_epoch", "on_update")}
        for hook, reports in self.seen.items():
            setattr(self, hook, reports.append)

    def _on_step(self):
        return True


def vec(name="box", n=2):
    return make_vec_env(lambda: environments.make(name), n_envs=n, seed=0)


def trained(witness, algorithm=NotesPPO, policy="MlpPolicy", env="box", steps=128, **arguments):
    settings = ({} if algorithm is NotesA2C else SETTINGS) | {"seed": 0} | arguments
    if "rule" in arguments and arguments["rule"].optimization.separate is not None:
        settings = {name: value for name, value in settings.items() if name not in ("learning_rate", "n_epochs")}
    model = algorithm(policy, vec(env), **settings)
    return model.learn(steps, callback=witness)


def test_every_minibatch_epoch_and_update_is_told_in_order():
    witness = Witness()
    trained(witness)
    minibatches, epochs, updates = witness.seen.values()
    # 64 samples in minibatches of 24: 24, 24, 16
    assert [(each.epoch, each.minibatch) for each in minibatches] == 2 * [(e, m) for e in range(3) for m in range(3)]
    assert [each.epoch for each in epochs] == 2 * [0, 1, 2]
    assert [each.window for each in (minibatches[0], epochs[0], updates[0])] == ["minibatch", "epoch", "update"]
    assert [each.num_timesteps for each in updates] == [64, 128]
    assert [each.n_updates for each in updates] == [3, 6]
    assert [each.n_gradient_steps for each in (minibatches[4], epochs[1], updates[1])] == [1, 3, 9]


def test_an_update_is_the_sum_of_its_minibatches():
    witness = Witness()
    trained(witness)
    minibatches, epochs = (witness.seen[hook][: n // 2] for hook, n in (("on_minibatch", 18), ("on_epoch", 6)))
    update = witness.seen["on_update"][0]
    for name in ("policy_loss", "value_loss", "entropy_loss", "clip_fraction", "gradient_norm", "clipped_steps"):
        of_minibatches = [getattr(each, name) for each in minibatches]
        assert getattr(update, name) == pytest.approx(np.mean(of_minibatches)), name
        assert getattr(update, name) == pytest.approx(np.mean([getattr(each, name) for each in epochs])), name
    assert update.ratio_min == min(each.ratio_min for each in minibatches)
    assert update.ratio_max == max(each.ratio_max for each in minibatches)
    assert update.loss == minibatches[-1].loss
    assert [each.k3 for each in update.kl] == [each.kl[0].k3 for each in epochs]
    assert update.kl[-1].k3 == pytest.approx(float(update.approx_kl))
    assert update.kl[0].k2 == pytest.approx(np.mean([each.kl[0].k2 for each in minibatches[:3]]))
    assert update.kl_after == tuple(each.kl_after[0] for each in epochs)


def test_the_first_ratio_is_one_and_the_second_is_not():
    witness = Witness()
    trained(witness)
    first, second = witness.seen["on_minibatch"][:2]
    assert first.first_ratio_error == first.ratio_max - 1 == 0.0
    assert first.effective_sample_size == pytest.approx(1.0)
    assert second.ratio_max > 1.01 > 0.99 > second.ratio_min
    assert second.effective_sample_size < 1.0
    assert second.first_ratio_error == 0.0, "of the update's first minibatch, not of this one"


def test_actor_and_critic_norms_are_those_of_their_own_weights():
    """Against gradients that torch computes again, weight by weight."""
    witness = Witness("on_minibatch")
    model = NotesPPO("MlpPolicy", vec(), **SETTINGS)
    norms = []

    class Seen(th.optim.Adam):  # a subclass is called as torch would call it: with gradients in .grad, before the clip
        pass

    model.policy.optimizer = Seen(model.policy.parameters(), lr=1e-2, eps=1e-5)
    model.max_grad_norm = None
    model.policy.optimizer.register_step_pre_hook(lambda *_: norms.append(gradient_norms(model.policy)))
    model.learn(64, callback=witness)
    fast = Witness("on_minibatch")
    trained(fast, steps=64, max_grad_norm=None)
    assert len(norms) == 9
    for slow, quick, (actor, critic, whole) in zip(
        witness.seen["on_minibatch"], fast.seen["on_minibatch"], norms, strict=True
    ):
        for report in (slow, quick):
            assert report.actor_gradient_norm == pytest.approx(actor, rel=1e-4)
            assert report.critic_gradient_norm == pytest.approx(critic, rel=1e-4)
            assert report.gradient_norm == pytest.approx(whole, rel=1e-4)
            assert report.gradient_norm == pytest.approx(math.hypot(actor, critic), rel=1e-4), "nothing is shared here"


def gradient_norms(policy):
    actors = [*policy.action_net.parameters(), *policy.mlp_extractor.policy_net.parameters(), policy.log_std]
    critics = [*policy.value_net.parameters(), *policy.mlp_extractor.value_net.parameters()]
    return [
        math.sqrt(sum(float((weight.grad.double() ** 2).sum()) for weight in weights))
        for weights in (actors, critics, list(policy.parameters()))
    ]


@pytest.mark.parametrize("policy", ["MlpLstmPolicy", "MlpPolicy"])
def test_owners_of_every_weight(policy):
    kwargs = {} if "Lstm" in policy else dict(net_arch=[8])
    model = NotesPPO(policy, vec(), policy_kwargs=kwargs, **SETTINGS)
    owners = dict(
        zip(
            dict(model.policy.named_parameters()), owners_of(model.policy, list(model.policy.parameters())), strict=True
        )
    )
    assert owners["log_std"] == owners["action_net.weight"] == "actor"
    assert owners["value_net.bias"] == "critic"
    if "Lstm" in policy:
        assert owners["lstm_actor.weight_ih_l0"] == "actor"
        assert owners["lstm_critic.weight_hh_l0"] == "critic"


def test_a_shared_trunk_belongs_to_neither():
    from sb3_ppo_notes.policies.trunk import shared_trunk

    model = NotesPPO("MlpPolicy", vec(), policy_kwargs=shared_trunk([8]), **SETTINGS)
    names = list(dict(model.policy.named_parameters()))
    owners = dict(zip(names, owners_of(model.policy, list(model.policy.parameters())), strict=True))
    trunk = [name for name in names if "features_extractor" in name]
    assert trunk
    assert {owners[name] for name in trunk} == {"shared"}


def test_clipped_steps_counts_what_the_limit_shortened():
    for limit, share in ((1e-6, 1.0), (1e6, 0.0), (None, 0.0)):
        witness = Witness("on_update")
        trained(witness, max_grad_norm=limit)
        assert {each.clipped_steps for each in witness.seen["on_update"]} == {share}


def test_scales_are_those_of_the_rollout():
    witness = Witness("on_update")
    model = trained(witness, steps=64)
    buffer, report = model.rollout_buffer, witness.seen["on_update"][0]
    assert report.advantages == pytest.approx(
        (buffer.advantages.mean(), buffer.advantages.std(), buffer.advantages.min(), buffer.advantages.max())
    )
    assert report.returns.mean == pytest.approx(buffer.returns.mean())
    assert report.values.std == pytest.approx(buffer.values.std())
    assert report.learning_rate == 1e-2
    assert report.entropy == -report.entropy_loss


def test_exact_kl_after_an_epoch_agrees_with_the_estimators():
    witness = Witness("on_update")
    trained(witness, n_steps=512, batch_size=128, steps=1024, learning_rate=3e-4)
    for estimates in witness.seen["on_update"][0].kl_after:
        assert estimates.exact > 0
        assert abs(estimates.k3 - estimates.exact) < 4 * estimates.standard_error
        assert estimates.k3 == pytest.approx(estimates.exact, rel=0.3)


def test_a_probe_measures_the_exact_kl():
    """Exact KL of a Gaussian whose mean was moved by hand: (Δμ)²/2σ² a dimension, in every state."""
    model = trained(None, steps=64)
    probe = Probe.of(model.policy, model.rollout_buffer)
    assert len(probe.states.actions) == 40
    assert probe.kl().exact == 0.0
    with th.no_grad():
        model.policy.action_net.bias += 0.1
        model.policy.log_std.fill_(0.0)
        before = Probe.of(model.policy, model.rollout_buffer)
        model.policy.action_net.bias += 0.2
    assert before.kl().exact == pytest.approx(2 * 0.2**2 / 2, rel=1e-4)


@pytest.mark.parametrize("env", sorted(environments.SPACES))
@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_watching_changes_nothing(env, compile):
    policy = {"dict": "MultiInputPolicy", "image": "CnnPolicy"}.get(env, "MlpPolicy")
    arguments = dict(policy=policy, env=env, compile=compile, target_kl=0.05)
    if env == "image":
        arguments["policy_kwargs"] = dict(normalize_images=True)
    watched, alone = trained(Witness(), **arguments), trained(None, **arguments)
    assert all(map(th.equal, watched.policy.parameters(), alone.policy.parameters()))


@pytest.mark.parametrize(
    "arguments",
    [
        dict(algorithm=NotesA2C),
        dict(policy="MlpLstmPolicy", policy_kwargs=dict(lstm_hidden_size=8)),
        dict(rule=UpdateRule(kl_controls=(EarlyStop(0.001, scope="policy"),))),
        dict(rule=UpdateRule(kl_controls=(EarlyStop(0.001, scope="epoch"),))),
        dict(rule=UpdateRule(kl_controls=(EarlyStop(0.001, decided="epoch"),))),
        dict(rule=RECIPES["spinning_up"].rule),
        dict(rule=RECIPES["batch_ppo"].rule),
        dict(precision="bfloat16"),
        dict(use_sde=True),
    ],
    ids=["a2c", "lstm", "stop_policy", "stop_epoch", "decided_by_epoch", "separate", "batch_ppo", "bfloat16", "gsde"],
)
def test_watching_changes_nothing_under_any_rule(arguments):
    witness = Witness()
    watched, alone = trained(witness, **arguments), trained(None, **arguments)
    assert all(map(th.equal, watched.policy.parameters(), alone.policy.parameters()))
    assert all(witness.seen.values())


def test_random_numbers_are_left_alone():
    """The next number of every generator is the same with a watcher and without."""
    draws = []
    for witness in (Witness(), None):
        model = trained(witness)
        draws.append((np.random.rand(), float(th.rand(())), model.action_space.np_random.random()))
    assert draws[0] == draws[1]


def test_an_early_stop_is_told_with_its_reason():
    witness = Witness()
    trained(witness, target_kl=1e-4)
    update = witness.seen["on_update"][0]
    assert update.stopped_in_epoch == 0
    assert update.stop_reason.startswith("KL 0.0")
    assert update.stop_reason.endswith("> 0.00015 nats (k3) in epoch 0")
    last = witness.seen["on_minibatch"][1]
    assert last.n_gradient_steps == 0, "the minibatch that was not applied is shown too"
    assert math.isnan(last.gradient_norm)
    assert last.kl[0].k3 > 1.5e-4


def test_a_critic_that_learns_alone_has_no_ratios():
    witness = Witness()
    trained(witness, rule=RECIPES["spinning_up"].rule)
    of_critic = [each for each in witness.seen["on_minibatch"] if math.isnan(each.ratio_max)]
    assert of_critic
    assert all(each.actor_gradient_norm == 0 < each.critic_gradient_norm for each in of_critic)


def test_only_who_asks_is_told():
    witness = Witness("on_epoch", exact=False)
    trained(CallbackList([EveryNTimesteps(10, Witness("on_update", exact=False)), witness]))
    assert set(witness.seen) == {"on_epoch"}
    assert witness.seen["on_epoch"][0].kl_after == ()


def test_callbacks_inside_others_are_told_too():
    inner = Witness("on_update", exact=False)
    trained(CallbackList([CallbackList([EveryNTimesteps(10, inner)])]))
    assert len(inner.seen["on_update"]) == 2


def test_who_is_called_on_a_new_best_model_is_told_too(tmp_path):
    witnesses = [Witness("on_update"), Witness("on_update")]
    evaluation = EvalCallback(vec(), *witnesses[:1], eval_freq=1000, verbose=0)
    evaluation.callback_on_new_best, evaluation.callback = witnesses
    trained(evaluation)
    assert [len(witness.seen["on_update"]) for witness in witnesses] == [2, 2]


def test_a_callback_may_skip_updates():
    witness = Witness("on_update")
    witness.asks = lambda: witness.model._n_updates == 0
    trained(witness)
    assert len(witness.seen["on_update"]) == 1


@pytest.mark.slow
def test_a_compiled_update_tells_the_same():
    eager, compiled = Witness(), Witness()
    trained(eager, target_kl=0.05), trained(compiled, compile=True, target_kl=0.05)
    for hook, reports in eager.seen.items():
        assert len(reports) == len(compiled.seen[hook])
        for report, other in zip(reports, compiled.seen[hook], strict=True):
            for name in ("policy_loss", "value_loss", "entropy", "ratio_max", "gradient_norm", "actor_gradient_norm",
                         "critic_gradient_norm", "clipped_steps", "effective_sample_size", "n_gradient_steps"):  # fmt: skip
                expected = pytest.approx(getattr(report, name), rel=2e-3, abs=1e-4, nan_ok=True)
                assert getattr(other, name) == expected, (hook, name)
            assert [each.k3 for each in other.kl] == pytest.approx([each.k3 for each in report.kl], rel=1e-2, abs=1e-5)


def test_watchers_are_not_saved(tmp_path):
    model = trained(Witness())
    model.save(tmp_path / "model.zip")
    assert NotesPPO.load(tmp_path / "model.zip").watchers.all == []


def test_a_probe_leaves_the_mode_as_it_was():
    model = trained(None, steps=64)
    for is_training in (True, False):
        model.policy.set_training_mode(is_training)
        Probe.of(model.policy, model.rollout_buffer).kl()
        assert model.policy.training == is_training
