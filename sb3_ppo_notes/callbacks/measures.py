"""Measures of an update, a rollout and the networks, by name. ``diagnostics`` collects, ``symptoms`` judges."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_ppo_notes.algorithms.probe import Probe
from sb3_ppo_notes.algorithms.report import UpdateReport
from sb3_ppo_notes.formulas.activity import approximate_rank, dormant_share, saturated_share
from sb3_ppo_notes.formulas.diagnostics import excess_kurtosis, outside_share
from sb3_ppo_notes.policies.actor_critic import latents
from sb3_ppo_notes.policies.parameters import CRITIC

Measures = dict[str, float]

ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.SELU, nn.Softplus, nn.Sigmoid)

#: Entries of a large array that are looked at: enough for a share.
N_ENTRIES = 4096


def update_measures(report: UpdateReport) -> Measures:
    """A report's numbers under the names of the symptoms, NaN where it has none."""
    nan = float("nan")
    last = report.kl_after[-1] if report.kl_after else None
    advantages, returns, values = report.advantages, report.returns, report.values
    measures: Measures = {
        "kl": _kl(report),
        "kl_error": nan,
        "clip_fraction": report.clip_fraction,
        "ratio/min": report.ratio_min,
        "ratio/max": report.ratio_max,
        "ratio/first_error": report.first_ratio_error,
        "ratio/sample_size": report.effective_sample_size,
        "explained_variance": report.explained_variance,
        "residual_variance": 1.0 - report.explained_variance,
        "gradient/norm": report.gradient_norm,
        "gradient/actor": report.actor_gradient_norm,
        "gradient/critic": report.critic_gradient_norm,
        "gradient/clipped": report.clipped_steps,
        "stopped_at_once": float(report.stopped_in_epoch == 0),
    }
    if last is not None and last.exact is not None and last.standard_error:
        measures["kl_error"] = abs(last.k3 - last.exact) / last.standard_error
    if advantages is not None and returns is not None and values is not None:
        measures |= {
            "scale/advantage_mean": advantages.mean,
            "scale/advantage_std": advantages.std,
            "scale/advantage_peak": max(-advantages.min, advantages.max) / advantages.std if advantages.std else nan,
            "scale/return_mean": returns.mean,
            "scale/return_std": returns.std,
            "scale/value_std": values.std,
        }
    return measures


def _kl(report: UpdateReport) -> float:
    """SB3's own; the exact KL afterwards where SB3 logs nothing, or a single minibatch before its step."""
    after = report.kl_after[-1].exact if report.kl_after else None
    is_before_all_steps = report.n_gradient_steps == 1 or report.approx_kl != report.approx_kl
    return after if is_before_all_steps and after is not None else float(report.approx_kl)


def rollout_measures(model: Any) -> Measures:
    """Measures of a full rollout buffer in its original order; shares are in [0, 1].

    Before the update of a stock model, before or after that of ours.
    """
    buffer = model.rollout_buffer
    advantages = buffer.advantages
    measures: Measures = {
        "advantage/positive": float((advantages > 0).mean()),
        "advantage/kurtosis": excess_kurtosis(advantages.ravel()),
    }
    space = model.action_space
    if isinstance(space, spaces.Box):
        actions = _some(buffer.actions.reshape(-1, space.low.size))
        # A squashed or bounded policy acts on [-1, 1], whatever the environment's bounds are.
        low, high = (-1.0, 1.0) if model.policy.squash_output else (space.low.ravel(), space.high.ravel())
        measures["action/outside"] = float(np.max(outside_share(actions, low, high)))  # type: ignore[arg-type]
    observation_space, observations = model.observation_space, buffer.observations
    normalizer = model.get_vec_normalize_env()
    # Normalised observations are not in the space, and are not meant to be.
    is_raw = normalizer is None or not normalizer.norm_obs
    if is_raw and isinstance(observation_space, spaces.Box) and isinstance(observations, np.ndarray):
        entries = _some(observations.reshape(-1, observation_space.low.size))
        outside = outside_share(entries, observation_space.low.ravel(), observation_space.high.ravel())
        measures["observation/outside"] = float(np.max(outside))
        measures["observation/constant"] = float((np.ptp(entries, axis=0) == 0).mean())
    return measures


def _some(rows: np.ndarray) -> np.ndarray:
    return rows[:: max(1, len(rows) // N_ENTRIES)]


class Layer(NamedTuple):
    """Inputs and outputs ``[N, k]`` of one activation layer, which may be the critic's alone."""

    is_critics: bool
    kind: type[nn.Module]
    before: th.Tensor
    after: th.Tensor


@contextmanager
def record_layers(policy: nn.Module) -> Iterator[list[Layer]]:
    """A list that grows by one entry a layer and call while this is open. The hooks are gone afterwards."""
    layers: list[Layer] = []

    def watch(name: str, module: nn.Module) -> Any:
        def note(_: nn.Module, inputs: Any, output: th.Tensor) -> None:
            # Pictures: every place of a channel is a sample of it.
            before, after = (each.detach().movedim(1, -1).reshape(-1, each.shape[1]) for each in (inputs[0], output))
            layers.append(Layer(name.startswith(CRITIC), type(module), before, after))

        return module.register_forward_hook(note)

    hooks = [watch(name, module) for name, module in policy.named_modules() if isinstance(module, ACTIVATIONS)]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()


def network_measures(probe: Probe) -> Measures:
    """Ability to learn: the worst layer's dormant and saturated units, the features' rank; empty without layers.

    The critic's last layer saturates in the healthiest of runs: it has to add up to returns of hundreds. So its share
    is measured apart.

    Costs a pass over the probe's states and an eigenvalue problem: nothing for every update.
    """
    policy: Any = probe.policy
    is_training = policy.training
    policy.set_training_mode(False)
    with th.no_grad(), record_layers(policy) as layers:
        latent = latents(policy, probe.states.observations, probe.states.recurrence).pi
    policy.set_training_mode(is_training)
    if not layers:
        return {}
    saturated: dict[bool, float] = {}
    for layer in layers:
        if layer.kind is nn.Tanh:
            share = float(saturated_share(layer.after))
            saturated[layer.is_critics] = max(saturated.get(layer.is_critics, 0.0), share)
    return {
        "units/dormant": max(float(dormant_share(layer.after)) for layer in layers),
        "units/saturated": saturated.get(False, float("nan")),
        "units/critic_saturated": saturated.get(True, float("nan")),
        "units/norm": max(float(layer.before.norm(dim=1).mean()) for layer in layers),
        "units/rank": float(approximate_rank(latent)),
    }
