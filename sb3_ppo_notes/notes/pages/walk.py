"""The walk through the code: fifteen stations from ``learn()`` to the last formula, in the order in which one asks."""

from typing import NamedTuple


class Station(NamedTuple):
    """A stop on the walk.

    :param number: from 1.
    :param name: of its page.
    :param title: what is to be seen there.
    :param text: what to look at and why; one paragraph.
    :param modules: whole files, in the order of reading, below the package.
    """

    number: int
    name: str
    title: str
    text: str
    modules: tuple[str, ...]


def _stations(*rows: tuple[str, str, str, tuple[str, ...]]) -> tuple[Station, ...]:
    return tuple(Station(number, *row) for number, row in enumerate(rows, 1))


STATIONS = _stations(
    (
        "loop",
        "The loop: gather a rollout, learn from it, again",
        "``learn()`` is SB3's own: it asks for a rollout and calls ``train()``. What ours do with the two calls: "
        "the rollout is gathered by the collector (station 4), ``train()`` resolves the schedules and runs one update "
        "(station 9).",
        ("algorithms.on_policy",),
    ),
    (
        "arguments",
        "PPO and A2C: arguments become a rule",
        "Read ``_default_rule`` of both side by side. They differ in the objective, in the number of epochs and in the "
        "optimiser; everything else is shared.",
        ("algorithms.ppo", "algorithms.a2c"),
    ),
    (
        "rule",
        "The rule: one choice for each slot",
        "Which formulas an update uses is a small frozen table. ``estimate`` turns rewards and values into advantages "
        "and targets.",
        ("rules.update_rule",),
    ),
    (
        "collector",
        "Gathering: act, step, store",
        "One loop for every policy and space. The log-probability is stored here, with the value; that is the old "
        "policy of the ratio.",
        ("rollouts.collector",),
    ),
    (
        "distributions",
        "π(a|s): what an action's probability is",
        "A network's output becomes a distribution: draw from it, log-probability, entropy, exact KL.",
        ("formulas.distributions.categorical", "formulas.distributions.gaussian"),
    ),
    (
        "advantages",
        "Returns and advantages",
        "All estimators, top to bottom; each recursion runs backwards and is cut where an episode ends.",
        ("formulas.advantages",),
    ),
    (
        "estimators",
        "Which of them a slot picks",
        "An estimator and a value target are choices in the rule's table; each is a few lines that call a formula.",
        ("rules.advantages",),
    ),
    (
        "minibatches",
        "Minibatches: shuffle, cut, normalise",
        "A rollout is cut into minibatches, once an epoch, in SB3's order; advantages are normalised over a "
        "minibatch or over the rollout.",
        ("rollouts.minibatches",),
    ),
    (
        "update",
        "The update: epochs, minibatches, steps",
        'Algorithm 1 of the PPO paper from "Optimize surrogate" on. ``_learn_epoch`` is the loop; one line in it does '
        "the step, and the next station shows it.",
        ("algorithms.update",),
    ),
    (
        "loss",
        "The step and its loss: equation 9",
        "``EagerStepper.step`` is the specification of one step: evaluate, loss, KL limit, gradient, clip, optimiser. "
        "``minibatch_loss`` is equation 9. Faster ways of running the same step are tested against this one and not "
        "shown on the walk.",
        ("engine.step", "rules.loss"),
    ),
    (
        "objectives",
        "Ratio, surrogate, clip, and the critic's error",
        "The heart of it: what the actor climbs and what the critic descends.",
        ("formulas.objectives", "rules.objectives"),
    ),
    (
        "divergences",
        "How far the policy has moved, and what then",
        "Three estimators of the KL from samples and the exact one, when to stop, and how a penalty or a learning rate "
        "follows the KL.",
        ("formulas.divergences", "rules.kl_control", "formulas.adaptation"),
    ),
    (
        "descent",
        "Down the gradient: norm clip and optimiser",
        "The length of a gradient is bounded here, which has nothing to do with PPO's clip; then Adam or RMSprop takes "
        "the step.",
        ("engine.descent", "formulas.optimizers"),
    ),
    (
        "report",
        "What an update says about itself",
        "Numbers of an update, what is read from them, and which symptom means what.",
        ("algorithms.report", "formulas.diagnostics", "callbacks.symptoms"),
    ),
    (
        "recipes",
        "Other systems as differences from all this",
        "Each of the original implementations is a row: a rule, hyperparameters, network, and what it does not "
        "reproduce.",
        ("recipes",),
    ),
)

#: Rooms that are not on the walk, and why nobody needs them to understand PPO.
BESIDE = {
    "engine": "the same numbers, faster: recorded and compiled steps, tested against EagerStepper",
    "kernels": "the LSTM in C, tested against PyTorch's",
    "envs": "vectorised environments, their processes and their errors",
    "policies": "networks: observations to distribution parameters and values",
    "persistence": "checkpoints and safe loading",
    "processes": "several processes that train one model together",
    "configs": "rl_zoo3's words, tuned values, presets",
    "export": "trained policies as files for ONNX and torch.export",
    "runs": "the commands of the shell",
}
