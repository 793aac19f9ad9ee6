"""Deliberate bugs, and the test that must notice each. Coverage says which lines ran; this says which lines are watched.

A mutant is (name, file below ``sb3_ppo_notes/``, the right text, the wrong text, the test that has to turn red). ``test_mutants.py`` plants them one by
one in a copy of the package and runs the named test against it.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
    name: str
    file: str
    right: str
    wrong: str
    caught_by: str


ADVANTAGES = "tests/formulas/test_advantages.py::"
OBJECTIVES = "tests/formulas/test_objectives.py::"
DIVERGENCES = "tests/formulas/test_divergences.py::"
DISTRIBUTIONS = "tests/formulas/test_distributions.py::"
CONTRACT = "tests/algorithms/test_contract.py::"
RULES = "tests/recipes/test_rules.py::"
MASKS = "tests/policies/test_masks.py::"
RECURRENT = "tests/policies/test_recurrent.py::"
STOCK = "tests/parity/test_stock.py::"

MUTANTS = [
    Mutant(
        "clip deleted",
        "formulas/objectives.py",
        "clipped = advantages * th.clamp(ratio, 1 - clip_range, 1 + clip_range)",
        "clipped = advantages * ratio",
        OBJECTIVES + "test_gradient_table_of_the_clip",
    ),
    Mutant(
        "clip deleted, seen by parity",
        "formulas/objectives.py",
        "clipped = advantages * th.clamp(ratio, 1 - clip_range, 1 + clip_range)",
        "clipped = advantages * ratio",
        STOCK + "test_ppo_is_bit_for_bit_stock[cartpole_4_envs]",
    ),
    Mutant(
        "max in place of min",
        "formulas/objectives.py",
        "return th.min(unclipped, clipped)",
        "return th.max(unclipped, clipped)",
        OBJECTIVES + "test_clipped_surrogate_is_a_lower_bound",
    ),
    Mutant(
        "minimum dropped, clip alone",
        "formulas/objectives.py",
        "return th.min(unclipped, clipped)",
        "return clipped",
        OBJECTIVES + "test_gradient_table_of_the_clip",
    ),
    Mutant(
        "time-limit bootstrap dropped",
        "formulas/advantages.py",
        "return rewards.astype(np.float32, copy=False) + np.float32(gamma) * terminal_values.astype(np.float32, copy=False)",
        "return rewards.astype(np.float32, copy=False)",
        ADVANTAGES + "test_boundary_table",
    ),
    Mutant(
        "time-limit bootstrap not called",
        "rollouts/collector.py",
        "if bootstrap_truncated else []",
        "if not bootstrap_truncated else []",
        STOCK + "test_ppo_is_bit_for_bit_stock[pendulum_time_limits]",
    ),
    Mutant(
        "terminated episodes bootstrapped too",
        "rollouts/collector.py",
        'if infos[index].get("TimeLimit.truncated", False) and infos[index]',
        "if infos[index]",
        STOCK + "test_ppo_is_bit_for_bit_stock[cartpole_4_envs]",
    ),
    Mutant(
        "last value forgotten",
        "formulas/advantages.py",
        "return np.concatenate([values[1:], last_values[np.newaxis]])",
        "return np.concatenate([values[1:], 0 * last_values[np.newaxis]])",
        ADVANTAGES + "test_gae_equals_the_explicit_sum",
    ),
    Mutant(
        "episode borders shifted by one",
        "formulas/advantages.py",
        "return np.concatenate([1.0 - episode_starts[1:].astype(np.float32, copy=False), last[np.newaxis]])",
        "return 1.0 - episode_starts.astype(np.float32, copy=False)",
        ADVANTAGES + "test_nothing_leaks_over_an_episode_border",
    ),
    Mutant(
        "advantage leaks over the border",
        "formulas/advantages.py",
        "decays = gamma * gae_lambda * nonterminal",
        "decays = gamma * gae_lambda * np.ones_like(nonterminal)",
        ADVANTAGES + "test_nothing_leaks_over_an_episode_border",
    ),
    Mutant(
        "lambda forgotten",
        "formulas/advantages.py",
        "decays = gamma * gae_lambda * nonterminal",
        "decays = gamma * nonterminal",
        ADVANTAGES + "test_gae_golden_value",
    ),
    Mutant(
        "float32 rounded in another order",
        "formulas/advantages.py",
        "decays = gamma * gae_lambda * nonterminal",
        "decays = np.float32(gamma) * (np.float32(gae_lambda) * nonterminal)",
        STOCK + "test_rollout_data_equal_stocks",
    ),
    Mutant(
        "n-step window one too long",
        "formulas/advantages.py",
        "for _ in range(min(n, len(rewards))):",
        "for _ in range(min(n + 1, len(rewards))):",
        ADVANTAGES + "test_n_step_golden_value",
    ),
    Mutant(
        "normalisation with ddof 0",
        "formulas/objectives.py",
        "advantages.std(-1, keepdim=True, correction=ddof)",
        "advantages.std(-1, keepdim=True, correction=0)",
        OBJECTIVES + "test_normalisation_golden_values",
    ),
    Mutant(
        "default ddof 0",
        "rules/advantages.py",
        "ddof: int = 1",
        "ddof: int = 0",
        STOCK + "test_ppo_is_bit_for_bit_stock[pendulum_4_envs]",
    ),
    Mutant(
        "mean not subtracted",
        "formulas/objectives.py",
        "return (advantages - advantages.mean(-1, keepdim=True)) / (deviations + eps)",
        "return advantages / (deviations + eps)",
        OBJECTIVES + "test_normalisation_ignores_scale_and_shift",
    ),
    Mutant(
        "one sample normalised",
        "formulas/objectives.py",
        "if advantages.shape[-1] <= 1:",
        "if advantages.shape[-1] < 1:",
        CONTRACT + "test_a_single_normalised_sample_in_a2c_does_not_become_nan",
    ),
    Mutant(
        "value clip is the pessimistic one",
        "rules/objectives.py",
        "return formulas.mean_squared_error(clipped, returns)",
        "return formulas.pessimistic_value_error(values, old_values, returns, self.clip_range_vf).mean()",
        STOCK + "test_ppo_is_bit_for_bit_stock[cartpole_4_envs]",
    ),
    Mutant(
        "value error reduced in another order",
        "rules/objectives.py",
        "return formulas.mean_squared_error(values, returns)",
        "return formulas.squared_value_error(values, returns).mean()",
        STOCK + "test_ppo_is_bit_for_bit_stock[no_value_clip]",
    ),
    Mutant(
        "entropy bonus with the wrong sign",
        "algorithms/loss.py",
        "entropy_loss = -th.mean(entropy)",
        "entropy_loss = th.mean(entropy)",
        STOCK + "test_ppo_is_bit_for_bit_stock[pendulum_4_envs]",
    ),
    Mutant(
        "entropy without its minus",
        "formulas/distributions/categorical.py",
        "return -(bounded * probabilities(log_probs)).sum(-1)",
        "return (bounded * probabilities(log_probs)).sum(-1)",
        DISTRIBUTIONS + "test_categorical_entropy_golden_values",
    ),
    Mutant(
        "vf_coef forgotten",
        "algorithms/loss.py",
        "coefficients.vf_coef * value_loss",
        "value_loss",
        STOCK + "test_ppo_is_bit_for_bit_stock[no_value_clip]",
    ),
    Mutant(
        "ratio upside down",
        "formulas/objectives.py",
        "return th.exp(log_probs - old_log_probs)",
        "return th.exp(old_log_probs - log_probs)",
        OBJECTIVES + "test_at_ratio_one_the_gradient_is_the_policy_gradient",
    ),
    Mutant(
        "k3 replaced by k1",
        "formulas/divergences.py",
        "return (th.exp(log_ratio) - 1) - log_ratio",
        "return -log_ratio",
        DIVERGENCES + "test_golden_values_per_action",
    ),
    Mutant(
        "factor 1.5 forgotten",
        "rules/kl_control.py",
        "return bool(kl > self.factor * self.target)",
        "return bool(kl > self.target)",
        CONTRACT + "test_early_stop_is_strict_and_has_its_factor",
    ),
    Mutant(
        "early stop ends the epoch only",
        "algorithms/update.py",
        'self.record.update_is_stopped = early_stop.scope == "update"',
        "self.record.update_is_stopped = False",
        STOCK + "test_ppo_is_bit_for_bit_stock[target_kl_reached]",
    ),
    Mutant(
        "gradient never clipped",
        "algorithms/stepping.py",
        "flat.gradient.vector.mul_(coefficient)",
        "pass",
        STOCK + "test_ppo_is_bit_for_bit_stock[cartpole_4_envs]",
    ),
    Mutant(
        "gradient not checked",
        "algorithms/stepping.py",
        "if not math.isfinite(norm.item()):",
        "if False:",
        CONTRACT + "test_a_non_finite_gradient_stops_before_the_weights",
    ),
    Mutant(
        "observations not checked below the normaliser",
        "rollouts/finite.py",
        "wrapper.venv.step_wait = guard.step_wait",
        "pass",
        CONTRACT + "test_a_non_finite_step_names_environment_and_step_and_touches_nothing",
    ),
    Mutant(
        "progress not clamped",
        "algorithms/on_policy.py",
        "min(max(1.0 - float(num_timesteps) / float(total_timesteps), 0.0), 1.0)",
        "1.0 - float(num_timesteps) / float(total_timesteps)",
        CONTRACT + "test_no_schedule_ends_negative_when_the_last_rollout_overshoots",
    ),
    Mutant(
        "minibatches never shuffled",
        "rollouts/minibatches.py",
        "np.random.permutation(n_samples) if is_shuffled else",
        "np.arange(n_samples) if is_shuffled else",
        STOCK + "test_ppo_is_bit_for_bit_stock[cartpole_4_envs]",
    ),
    Mutant(
        "actions not clipped for the environment",
        "rollouts/collector.py",
        "np.clip(actions, space.low, space.high)",
        "actions",
        STOCK + "test_ppo_is_bit_for_bit_stock[box]",
    ),
    Mutant(
        "noise trains the features",
        "policies/actor_critic.py",
        "latent_pi if distribution.learn_features else latent_pi.detach()",
        "latent_pi",
        STOCK + "test_ppo_is_bit_for_bit_stock[gsde]",
    ),
    Mutant(
        "Gaussian KL the other way round",
        "formulas/distributions/gaussian.py",
        "variance_ratio = (old_std / new_std).pow(2)",
        "variance_ratio = (new_std / old_std).pow(2)",
        DISTRIBUTIONS + "test_gaussian_kl_is_not_symmetric",
    ),
    Mutant(
        "target of the critic is the normalised advantage",
        "rules/advantages.py",
        "return formulas.lambda_returns(advantages, rollout.values)",
        "return formulas.lambda_returns(advantages / (advantages.std() + 1), rollout.values)",
        STOCK + "test_rollout_data_equal_stocks",
    ),
    Mutant(
        "last update not logged",
        "algorithms/on_policy.py",
        "dump_last_update(self.logger, self.num_timesteps)\n",
        "pass\n",
        CONTRACT + "test_the_last_update_is_logged",
    ),
    Mutant(
        "KL penalty with the wrong sign",
        "formulas/divergences.py",
        "return surrogate - coefficient * kl",
        "return surrogate + coefficient * kl",
        RULES + "test_a_huge_penalty_holds_the_policy_where_it_is",
    ),
    Mutant(
        "penalty without a floor",
        "formulas/adaptation.py",
        "return max(coefficient / factor, bounds[0])",
        "return coefficient / factor",
        RULES + "test_penalty_neither_dies_nor_overflows",
    ),
    Mutant(
        "adaptive learning rate not strict",
        "formulas/adaptation.py",
        "if kl > threshold * kl_factor:",
        "if kl >= threshold * kl_factor:",
        RULES + "test_adaptive_learning_rate_trace",
    ),
    Mutant(
        "adapted learning rate overwritten by the schedule",
        "algorithms/on_policy.py",
        "self.rule_state.learning_rate is not None:",
        "self.rule_state.learning_rate is None:",
        RULES + "test_adapted_learning_rate_is_logged_saved_and_loaded",
    ),
    Mutant(
        "bias gets no gradient",
        "policies/towers.py",
        "gradients[id(bias)] = gradient.sum(0)",
        "gradients[id(bias)] = gradient.sum(0) * 0",
        STOCK + "test_ppo_is_bit_for_bit_stock[cartpole_4_envs]",
    ),
    Mutant(
        "flat optimiser keeps its state to itself",
        "algorithms/elementwise.py",
        "self.optimizer.state[parameter][name] = part",
        "pass",
        STOCK + "test_ppo_is_bit_for_bit_stock[cartpole_4_envs]",
    ),
    Mutant(
        "Adam's second moment not corrected",
        "formulas/optimizers.py",
        "(1 - beta2**step) ** 0.5",
        "1.0",
        STOCK + "test_ppo_is_bit_for_bit_stock[cartpole_4_envs]",
    ),
    Mutant(
        "compiled step taken beyond the KL limit",
        "algorithms/program.py",
        "old.copy_(th.where(is_taken, new, old))",
        "old.copy_(new)",
        "tests/algorithms/test_compile.py::test_early_stop_takes_no_step_beyond_the_limit",
    ),
    Mutant(
        "schedules fixed in the compiled code",
        "algorithms/program.py",
        "object.__setattr__(choice, name, number)",
        "pass",
        "tests/algorithms/test_compile.py::test_schedules_reach_the_compiled_code",
    ),
    Mutant(
        "loss of float16 not unscaled before the clip",
        "algorithms/stepping.py",
        "scaler.unscale_(optimizer)",
        "pass",
        "tests/algorithms/test_precision.py::test_an_overflow_skips_the_step_and_halves_the_scale",
    ),
    Mutant(
        "second optimiser not saved",
        "algorithms/building.py",
        '(["critic_optimizer"] if self.rule.optimization.separate else [])',
        "[]",
        RULES + "test_separate_optimizers_are_saved_and_loaded",
    ),
    Mutant(
        "critic stops with the policy",
        "algorithms/update.py",
        'if early_stop.scope == "policy" and phase.trains == "both":',
        "if False:",
        RULES + "test_scope_policy_leaves_the_actor_alone_and_goes_on_with_the_critic",
    ),
    Mutant(
        "advantages never computed again",
        "algorithms/update.py",
        'if epoch > 0 and self.rule.computed == "every_epoch":',
        "if False:",
        "tests/recipes/test_against_originals.py::test_minimal_rl_update",
    ),
    Mutant(
        "sequential means environment by environment",
        "rollouts/minibatches.py",
        ".reshape(self.n_envs, self.buffer_size).T.ravel()",
        ".ravel()",
        "tests/recipes/test_against_originals.py::test_skrl_update_equals_skrls_own_code",
    ),
    Mutant(
        "reward z-score over all trajectories",
        "formulas/normalization.py",
        "ends = np.flatnonzero(nonterminal[:-1, environment] == 0) + 1",
        "ends = np.zeros(0, dtype=int)",
        RULES + "test_reward_z_scores_stay_within_their_trajectory",
    ),
    Mutant(
        "success one step too early",
        "rollouts/wrappers.py",
        "success = self.lengths >= self.shortest_success",
        "success = self.lengths >= self.shortest_success - 1",
        RULES + "test_episode_end_reward_threshold",
    ),
    Mutant(
        "masks forgotten in the update",
        "algorithms/loss.py",
        'getattr(minibatch, "action_masks", None), getattr(minibatch, "recurrence", None)',
        'None, getattr(minibatch, "recurrence", None)',
        MASKS + "test_masked_training_equals_maskable_ppo",
    ),
    Mutant(
        "state not forgotten at an episode's start",
        "policies/recurrent.py",
        "kept = (1.0 - episode_starts.float()).reshape(1, n, 1)",
        "kept = (0.0 * episode_starts.float() + 1.0).reshape(1, n, 1)",
        RECURRENT + "test_an_episodes_start_forgets_everything",
    ),
    Mutant(
        "sequences run over an episode's start",
        "rollouts/sequences.py",
        "begins = episode_starts != 0",
        "begins = episode_starts > 9",
        RECURRENT + "test_the_update_sees_what_the_rollout_saw[two_memories]",
    ),
    Mutant(
        "chunks begin with the wrong state",
        "rollouts/sequences.py",
        "states[start // longest][k]",
        "states[0][k]",
        RECURRENT + "test_the_update_sees_what_the_rollout_saw[two_memories]",
    ),
    Mutant(
        "shared memory trained by the critic",
        "policies/recurrent.py",
        "latent_vf = latent_pi.detach() if self.critic is None",
        "latent_vf = latent_pi if self.critic is None",
        RECURRENT + "test_recurrent_training_equals_recurrent_ppo_on_the_same_minibatches[shared]",
    ),
    Mutant(
        "squashed entropy without the slope",
        "formulas/distributions/squashed.py",
        "return gaussian_entropy(std) + (slopes * weights).sum(dim=(1, 2))",
        "return gaussian_entropy(std)",
        DISTRIBUTIONS + "test_bounded_distributions_by_numerical_integration",
    ),
    Mutant(
        "Beta without the stretching",
        "formulas/distributions/beta.py",
        "return (log_densities - math.log(2)).sum(dim=1)",
        "return log_densities.sum(dim=1)",
        DISTRIBUTIONS + "test_bounded_distributions_by_numerical_integration",
    ),
]
