"""Symptoms to warn of: the measure that shows it, its limit, and the remedy; one row each."""

import math
from collections.abc import Callable
from operator import ge as at_least
from operator import gt as above
from operator import le as at_most
from operator import lt as below
from typing import Any, NamedTuple

#: Of a measured value and a limit; ``False`` for NaN.
Test = Callable[[Any, Any], bool]


class Symptom(NamedTuple):
    """A reason to look at a run.

    :param measure: shows it.
    :param is_bad: compares the measure with the limit.
    :param limit: in the measure's unit.
    :param patience: looks in a row before anything is said.
    :param text: what is wrong and what to do; ``{value}`` and ``{limit}`` are filled in.
    :param not_before: share of the training that must have passed.
    """

    measure: str
    is_bad: Test
    limit: float
    patience: int
    text: str
    not_before: float = 0.0


#: P: the limit is published; H: a rule of thumb of ours.
SYMPTOMS: dict[str, Symptom] = {
    # P: Huang et al. 2022, "37 details": usually below 0.02; Spinning Up stops at 0.015
    "policy_moves_too_far": Symptom(
        "kl", above, 0.03, 5, "the policy moves too far: KL(old ‖ new) is {value:.3g} nats, above {limit}; lower "
        "learning_rate or n_epochs, or set target_kl=0.015"),
    "policy_hardly_moves": Symptom(  # H
        "kl", below, 1e-5, 20, "the policy hardly moves: KL(old ‖ new) is {value:.1g} nats, below {limit}; raise "
        "learning_rate, and look whether rewards differ at all"),
    "kl_estimate_is_off": Symptom(  # H
        "kl_error", above, 3.0, 3, "the KL estimated from samples is {value:.1f} standard errors from the exact one: "
        "the actions of the rollout were not drawn from this policy (a forward of its own, actions replaced by hand)"),
    "stops_at_once": Symptom(  # H
        "stopped_share", above, 0.5, 1, "{value:.0%} of the last updates were stopped in their first epoch: lower "
        "learning_rate, or raise target_kl"),
    "first_ratio_is_not_one": Symptom(  # P: it must be 1
        "ratio/first_error", above, 1e-5, 1, "before the first step of an update a ratio is off by {value:.1g}: acting "
        "and learning disagree about the same policy (dropout, batch normalisation, a forward that differs from "
        "evaluate_actions)"),
    "few_samples_count": Symptom(  # H
        "ratio/sample_size", below, 0.5, 3, "only {value:.0%} of the samples still count, the ratios differ so much: "
        "lower learning_rate or n_epochs"),
    "clips_too_much": Symptom(  # H
        "clip_fraction", above, 0.4, 5, "{value:.0%} of the ratios are clipped (5 to 30 % is healthy): lower "
        "learning_rate or n_epochs"),
    "never_clips": Symptom(  # H
        "clip_fraction", at_most, 0.0, 20, "no ratio has reached the clip range for 20 looks: learning_rate is too "
        "small, or clip_range too large to matter"),
    # P: Jones, "Debugging RL"; the limits are H
    "entropy_collapses": Symptom(
        "entropy", below, 0.05, 3, "the policy hardly explores any more: its entropy is {value:.1%} of the largest "
        "possible; if the task is not solved yet, raise ent_coef or lower learning_rate"),
    "deviation_vanishes": Symptom(
        "std/min", below, math.exp(-3), 3, "an action dimension hardly varies any more: its standard deviation is "
        "{value:.3g}; if the task is not solved yet, raise ent_coef or lower learning_rate"),
    "deviation_explodes": Symptom(
        "std/max", above, math.exp(1.5), 3, "an action dimension's standard deviation runs away: it is {value:.3g}; "
        'lower ent_coef, or use policy_kwargs=dict(action_distribution="beta")'),
    "critic_is_worse_than_a_mean": Symptom(  # P: SB3's documentation; the 20 % is H
        "explained_variance", below, 0.0, 5, "the critic predicts worse than the mean return would: explained variance "
        "is {value:.2f}; raise n_epochs or vf_coef, look at the returns' scale, or give it a network of its own",
        not_before=0.2),
    "gradients_are_cut_short": Symptom(  # H
        "gradient/excess", above, 1000.0, 5, "gradients are {value:,.0f} times as long as max_grad_norm, and the "
        "critic's error leaves nothing of the policy's: normalise rewards (VecNormalize), or lower vf_coef"),
    "weights_are_rewritten": Symptom(  # H, from the rule of thumb of 1e-3 a step
        "weights/change", above, 0.5, 3, "an update changes the weights by {value:.0%} of their length: lower "
        "learning_rate"),
    "advantages_are_flat": Symptom(  # H
        "scale/advantage_std", below, 1e-6, 3, "all advantages are the same (their deviation is {value:.1g}): there is "
        "nothing to learn from; does the reward ever change?"),
    "advantages_have_outliers": Symptom(  # H
        "scale/advantage_peak", above, 20.0, 3, "one advantage is {value:.0f} times as large as their deviation and "
        "drowns the others: clip or normalise rewards"),
    "returns_are_large": Symptom(  # H
        "unscaled_return_std", above, 100.0, 3, "the returns' standard deviation is {value:.3g}: the critic needs "
        "thousands of steps to get there; wrap the environment in VecNormalize (norm_reward=True)"),
    # P: Sokar et al. 2023; the 30 % is H
    "units_are_dormant": Symptom(
        "units/dormant", above, 0.3, 2, "{value:.0%} of a layer's units never say anything: lower learning_rate, or "
        "use tanh in place of ReLU"),
    "units_are_saturated": Symptom(
        "units/saturated", above, 0.3, 2, "{value:.0%} of a tanh layer's outputs are stuck at -1 or 1 and pass no "
        "gradient on: normalise observations (VecNormalize), or lower learning_rate"),
    # P: Moalla et al. 2024; the 20 % is H
    "features_lose_rank": Symptom(
        "units/rank_left", below, 0.2, 2, "the actor's features use {value:.0%} of the directions that they used at "
        "the start: states look alike to it, a collapse may follow; lower learning_rate or n_epochs"),
    "actions_are_out_of_bounds": Symptom(  # H
        "action/outside", above, 0.5, 3, "{value:.0%} of an action dimension's samples lie outside its bounds and are "
        'clipped: use policy_kwargs=dict(action_distribution="beta"), or lower log_std_init'),
    "observations_are_out_of_space": Symptom(  # H
        "observation/outside", above, 0.01, 1, "{value:.1%} of an observation component's values lie outside of "
        "observation_space: the space is not what the environment says it is"),
}  # fmt: skip


WORDS: dict[Test, str] = {above: "above", below: "below", at_least: "at least", at_most: "at most"}


def markdown_table() -> str:
    """The symptoms as Markdown, for ``docs/diagnostics.md``."""
    lines = ["| warning | when, for how many looks in a row |", "|---|---|"]
    for name, symptom in SYMPTOMS.items():
        after = f", after {symptom.not_before:.0%} of the training" if symptom.not_before else ""
        condition = f"`{symptom.measure}` {WORDS[symptom.is_bad]} {symptom.limit:.3g}"
        lines.append(f"| `{name}` | {condition}, {symptom.patience}{after} |")
    return "\n".join(lines)
