"""Why one loss for two networks?

Because it makes no difference to either. The gradient of a sum is the sum of the gradients, and a weight that the
critic alone uses has the gradient 0 in the actor's loss. Where nothing is shared nothing is mixed: of {n_separate}
weight tensors of SB3's networks not one has a gradient of both losses, and with plain gradient descent one optimiser
for both takes the very steps that two would take. Where the networks share a trunk it is different: there {n_both} of
{n_shared} tensors hear both losses, their gradients add up, and `vf_coef` says who is heard.

Do actor and critic then learn independently of each other? In three ways they do not:

* through the *advantages*: what the actor learns from is made with the critic. As numbers, though: the advantages are
  constants in the loss. A gradient through them would train the critic to please the actor (as a foil it has the length
  {foil:.2g} in the critic's weights; ours has {ours:g});
* through a shared trunk, if there is one;
* through the *common clip of the gradient's norm*, which SB3 has and nobody thinks of.

That last one makes `vf_coef` do the opposite of what it says. With separate networks and Adam, `vf_coef` =
{vf_coefs[1]:g} in place of {vf_coefs[0]:g} moves after {n_steps} steps the weights of

| | the actor by up to | the critic by up to |
|---|---|---|
| without a clip | {moved[0][0]:g} | {moved[0][1]:.0e} |
| with `max_grad_norm={max_grad_norm:g}` | **{moved[1][0]:.0e}** | {moved[1][1]:.0e} |

Adam divides each gradient by its own size, so a factor before the critic's loss cancels out (all but Adam's ε). The
clip scales *both* gradients down by the length of the whole; the larger the critic's part, the less is left of the
actor's, and when that share changes from step to step Adam notices. To give the critic another step size, give it
another optimiser (`SeparateOptimizers`).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from sb3_ppo_notes import NotesPPO
from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.notes.rollout import gather
from sb3_ppo_notes.policies import shared_trunk
from sb3_ppo_notes.policies.actor_critic import evaluate_minibatch
from sb3_ppo_notes.rules import UpdateRule
from sb3_ppo_notes.rules.loss import LossCoefficients, minibatch_loss

NOTE = Note(
    name="one-loss",
    number=22,
    titles=dict(
        en="Why one loss for two networks?",
        ja="なぜ二つのネットワークに一つの損失なのか",
        fr="Pourquoi une seule perte pour deux réseaux ?",
        ko="왜 두 네트워크에 손실이 하나인가?",
    ),
    answers=("3.1", "5.9", "A19"),
    formulas=(minibatch_loss,),
    tests=(
        "tests/recipes/test_against_originals.py::test_the_actor_term_does_not_train_the_critic",
        "tests/recipes/test_rules.py::test_separate_networks_with_plain_sgd_need_no_second_optimizer",
    ),
)
N_ENVS, N_STEPS, N_EPOCHS = 4, 32, 10
VF_COEFS, MAX_GRAD_NORM = (0.5, 50.0), 0.5
COEFFICIENTS = LossCoefficients(ent_coef=0.0, vf_coef=0.5)


class Gradients(NamedTuple):
    """Of the loss and of its two parts, in each weight tensor."""

    names: list[str]
    total: list[th.Tensor]
    policy: list[th.Tensor]
    value: list[th.Tensor]

    @property
    def reached(self) -> np.ndarray:
        """``[P, 2]``, whether a tensor has a gradient of the policy's loss, and of the value's."""
        parts = (self.policy, self.value)
        return np.array([[bool(gradient.any()) for gradient in part] for part in parts]).T

    @property
    def error_of_the_sum(self) -> float:
        """Largest difference of the whole and the sum of its parts, next to the largest entry."""
        pairs = zip(self.total, self.policy, self.value, strict=True)
        differences = [float((total - (policy + value)).abs().max()) for total, policy, value in pairs]
        return max(differences) / max(float(total.abs().max()) for total in self.total)


class Result(NamedTuple):
    separate: Gradients
    shared: Gradients
    n_separate: int
    n_shared: int
    n_both: int
    foil: float
    ours: float
    vf_coefs: tuple[float, float]
    max_grad_norm: float
    n_steps: int
    moved: np.ndarray  # [2, 2]: without and with the clip; actor, critic
    environment_steps: int


def experiment(seed: int = 0) -> Result:
    """The gradients of the parts of a loss in two kinds of networks, and what another vf_coef moves."""
    separate, foil, ours = _gradients({}, seed)
    shared, _, _ = _gradients(shared_trunk([32, 32]), seed)
    return Result(
        separate=separate,
        shared=shared,
        n_separate=len(separate.names),
        n_shared=len(shared.names),
        n_both=int(shared.reached.all(axis=1).sum()),
        foil=foil,
        ours=ours,
        vf_coefs=VF_COEFS,
        max_grad_norm=MAX_GRAD_NORM,
        n_steps=N_EPOCHS * N_ENVS * N_STEPS // 64,
        moved=np.stack([_moved(limit, seed) for limit in (None, MAX_GRAD_NORM)]),
        environment_steps=6 * N_ENVS * N_STEPS,
    )


def _model(seed: int, **settings: Any) -> NotesPPO:
    env = LeanVecEnv([lambda: gym.make("CartPole-v1")] * N_ENVS)
    return NotesPPO("MlpPolicy", env, n_steps=N_STEPS, n_epochs=N_EPOCHS, seed=seed, device="cpu", **settings)


def _gradients(policy_kwargs: dict[str, Any], seed: int) -> tuple[Gradients, float, float]:
    """The gradients, and the length of the policy loss's in the critic: with a foil's advantages, and with ours."""
    model = _model(seed, policy_kwargs=policy_kwargs, normalize_advantage=False)
    minibatch, rule = gather(model), UpdateRule()
    evaluation = evaluate_minibatch(model.policy, minibatch)
    terms = minibatch_loss(evaluation, minibatch, rule, COEFFICIENTS)
    names, weights = zip(*model.policy.named_parameters(), strict=True)
    losses = (terms.loss, terms.policy_loss, COEFFICIENTS.vf_coef * terms.value_loss)
    gradients = Gradients(list(names), *([*_gradient(loss, weights)] for loss in losses))
    # The foil: advantages with a graph.
    attached = minibatch._replace(advantages=minibatch.returns - evaluation.values)
    foil = minibatch_loss(evaluation, attached, rule, COEFFICIENTS).policy_loss
    critic = list(model.policy.value_net.parameters())
    lengths = [float(th.cat([g.flatten() for g in _gradient(loss, critic)]).norm()) for loss in (foil, losses[1])]
    return gradients, *lengths  # type: ignore[return-value]


def _gradient(loss: th.Tensor, weights: Any) -> list[th.Tensor]:
    gradients = th.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return [th.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True)]


def _moved(max_grad_norm: float | None, seed: int) -> np.ndarray:
    """``[2]``: by how much a vf_coef a hundred times as large changes what the actor and the critic learn."""
    models = [_model(seed, vf_coef=each, max_grad_norm=max_grad_norm).learn(N_ENVS * N_STEPS) for each in VF_COEFS]
    weights = [dict(model.policy.named_parameters()) for model in models]
    actor, critic = (
        max(
            float((weights[0][n] - weights[1][n]).detach().abs().max())
            for n in weights[0]
            if any(w in n for w in words)
        )
        for words in (("policy_net", "action_net"), ("value_net",))
    )
    return np.array([actor, critic])


def picture(result: Result, figure: Figure) -> None:
    """Who hears whom; and what vf_coef moves."""
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    for axes, gradients, title in ((left, result.separate, "two networks"), (middle, result.shared, "shared trunk")):
        reached = gradients.reached
        # Weights that hear both are coloured alike in both columns.
        colors = np.where(reached.all(axis=1, keepdims=True), 3, reached * np.array([1, 2]))
        axes.imshow(
            colors, aspect="auto", cmap=ListedColormap(["#eeeeee", PALETTE[0], PALETTE[1], PALETTE[5]]), vmin=0, vmax=3
        )
        axes.set_xticks([0, 1], ["policy\nloss", "value\nloss"])
        axes.set_yticks(range(len(gradients.names)), [_short(name) for name in gradients.names], fontsize=6)
        axes.set_title(title)
        axes.grid(False)
        axes.hlines(np.arange(len(gradients.names) - 1) + 0.5, -0.5, 1.5, color="white", linewidth=1)
    moved = np.maximum(result.moved, 1e-8)
    places = np.arange(2)
    for i, (name, color) in enumerate((("actor", PALETTE[0]), ("critic", PALETTE[1]))):
        right.bar(places + (i - 0.5) * 0.35, moved[:, i], 0.35, bottom=0, color=color, label=name)
    right.set_yscale("log")
    right.set_ylim(1e-8, 1)
    right.set_xticks(places, ["no clip", "norm clip"])
    right.set_title("moved by vf_coef × 100")
    right.legend(loc="upper center", ncols=2, handlelength=1)


def _short(name: str) -> str:
    """The tensor's name in few letters."""
    for long, short in (
        ("features_extractor.layers", "trunk"),
        ("mlp_extractor.policy_net", "actor"),
        ("mlp_extractor.value_net", "critic"),
        ("action_net", "actor.out"),
        ("value_net", "critic.out"),
        ("weight", "W"),
        ("bias", "b"),
    ):
        name = name.replace(long, short)
    return name


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "Of separate networks no weight has a gradient of both losses.",
        result.separate.reached.all(axis=1).sum(),
        0,
        mutant="note 22: the actor looks at the critic's features",
    )
    yield Claim(
        "There the gradient of the sum is the sum of the gradients, exactly.",
        result.separate.error_of_the_sum,
        0.0,
        mutant="vf_coef forgotten",
    )
    yield Claim(
        "Of networks with a shared trunk its four tensors hear both.",
        (result.n_both, result.n_shared),
        (4, 8),
        mutant="note 22: the trunk does not hear the critic",
    )
    yield Claim(
        "There it is the sum too, but for rounding.",
        result.shared.error_of_the_sum,
        0.0,
        1e-5,
        mutant="vf_coef forgotten",
    )
    yield Claim(
        "The policy's loss does not reach the critic through the advantages.",
        result.ours,
        0.0,
        mutant="note 22: the actor's loss asks the critic",
    )
    yield Claim(
        "With advantages that have a graph it would.",
        result.foil,
        1e-4,
        relation=">",
        mutant="note 22: the foil is detached",
    )
    yield Claim(
        "Without a clip vf_coef does not move the actor, not a bit.",
        result.moved[0][0],
        0.0,
        mutant="note 22: vf_coef before both losses",
    )
    yield Claim(
        "With the common clip vf_coef moves the actor far more than the critic.",
        result.moved[1][0] / result.moved[1][1],
        100.0,
        relation=">",
        mutant="gradient never clipped",
    )
