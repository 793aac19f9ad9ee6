"""Deliberate bugs that only a note's claims are about: in a note's own experiment, or in a line that no other test watches.

``test_note_mutants.py`` plants them and asks the claims that name them to fail. In the order of the notes.
"""

from typing import NamedTuple


class NoteMutant(NamedTuple):
    name: str
    file: str
    right: str
    wrong: str


NOTE_MUTANTS = [
    NoteMutant(
        "logits taken for log-probabilities",
        "formulas/distributions/categorical.py",
        "return logits - logits.logsumexp(dim=-1, keepdim=True) if as_sb3 else F.log_softmax(logits, dim=-1)",
        "return logits",
    ),
    NoteMutant(
        "log-probability of another action",
        "formulas/distributions/categorical.py",
        "return log_probs.gather(",
        "return log_probs.flip(-1).gather(",
    ),
    NoteMutant(
        "a sample is the likeliest action",
        "formulas/distributions/categorical.py",
        "return (rates / th.empty_like(rates).exponential_(1)).argmax(-1)",
        "return rates.argmax(-1)",
    ),
    NoteMutant(
        "Gaussian density without its width",
        "formulas/distributions/gaussian.py",
        "(2 * variance) - std.log() - math",
        "(2 * variance) - math",
    ),
    NoteMutant(
        "note 1: the reward is the action itself",
        "notes/n01_what_is_log_prob.py",
        "reward = (1 + th.sign(actions - 1)) / 2",
        "reward = actions",
    ),
    NoteMutant(
        "residual without the value it is compared with",
        "formulas/advantages.py",
        "return rewards + gamma * following_values * nonterminal - values",
        "return rewards + gamma * following_values * nonterminal",
    ),
    NoteMutant(
        "note 3: another environment",
        "notes/n03_what_comes_out.py",
        'gym.make("CartPole-v1")',
        'gym.make("Acrobot-v1")',
    ),
    NoteMutant(
        "the mode is a draw",
        "formulas/distributions/categorical.py",
        "return th.argmax(probabilities(log_probs), dim=1)",
        "return categorical_sample(log_probs)",
    ),
    NoteMutant(
        "note 3: dropout from the start",
        "notes/n03_what_comes_out.py",
        "    observations = th.randn(64, 4)\n",
        "    actor.append(th.nn.Dropout(0.5))\n    observations = th.randn(64, 4)\n",
    ),
    NoteMutant(
        "a policy's mode is not switched",
        "policies/modes.py",
        'vars(module)["training"] = mode',
        'vars(module)["training"] = False',
    ),
    NoteMutant(
        "n-step returns go on after the end of an episode",
        "formulas/advantages.py",
        "returns = rewards + gamma * nonterminal * following_returns",
        "returns = rewards + gamma * following_returns",
    ),
    NoteMutant(
        "n-step windows do not end with the rollout",
        "formulas/advantages.py",
        "following_returns = np.concatenate([returns[1:], following_values[-1:]])",
        "following_returns = np.concatenate([returns[1:], returns[-1:]])",
    ),
    NoteMutant(
        "n-step returns are one step long",
        "formulas/advantages.py",
        "for _ in range(min(n, len(rewards))):",
        "for _ in range(1):",
    ),
    NoteMutant(
        "note 6: the foil's target is a constant",
        "notes/n06_what_the_critic_learns.py",
        "(foil,) = th.autograd.grad(squared_value_error(values, advantages + values).sum(), values)",
        "(foil,) = th.autograd.grad(squared_value_error(values, advantages + 2).sum(), values)",
    ),
    NoteMutant(
        "the critic's error is linear",
        "formulas/objectives.py",
        'return F.mse_loss(returns, values, reduction="none")',
        'return F.l1_loss(returns, values, reduction="none")',
    ),
    NoteMutant(
        "note 6: two epochs are one",
        "notes/n06_what_the_critic_learns.py",
        "for n_epochs in (1, N_EPOCHS):",
        "for n_epochs in (2, N_EPOCHS):",
    ),
    NoteMutant(
        "a rule's truncation is not asked",
        "algorithms/on_policy.py",
        'bootstrap_truncated=rule.truncation == "bootstrap",',
        "bootstrap_truncated=True,",
    ),
    NoteMutant(
        "Monte-Carlo sums are not discounted",
        "formulas/advantages.py",
        "following = rewards[step] + gamma * nonterminal[step] * following",
        "following = rewards[step] + nonterminal[step] * following",
    ),
    NoteMutant(
        "note 8: the value of the likeliest action",
        "notes/n08_why_subtract_v.py",
        "value = float(p @ REWARDS)",
        "value = float(REWARDS[p.argmax()])",
    ),
    NoteMutant(
        "policy gradient without the advantage",
        "formulas/objectives.py",
        "return advantages * log_probs",
        "return log_probs",
    ),
    NoteMutant(
        "deviation not divided by",
        "formulas/objectives.py",
        "return (advantages - advantages.mean(-1, keepdim=True)) / (deviations + eps)",
        "return advantages - advantages.mean(-1, keepdim=True)",
    ),
    NoteMutant(
        "note 9: the median is subtracted",
        "notes/n09_why_normalise_advantages.py",
        "return 1e9 * normalize_advantages(advantages, eps=1e9)",
        "return advantages - advantages.median(-1, keepdim=True).values",
    ),
    NoteMutant(
        "rewards of a trajectory keep their mean",
        "formulas/normalization.py",
        "(part - part.mean()) / (part.std() + eps)",
        "part / (part.std() + eps)",
    ),
    NoteMutant(
        "a rule's reward scaling is not asked",
        "rules/update_rule.py",
        'if self.reward_scaling == "trajectory_z_score":',
        "if False:",
    ),
    NoteMutant(
        "every rule normalises rewards",
        "rules/update_rule.py",
        'if self.reward_scaling == "trajectory_z_score":',
        "if True:",
    ),
    NoteMutant(
        "rewards are not scaled",
        "envs/wrappers.py",
        "rewards * np.float32(self.scale)",
        "rewards",
    ),
    NoteMutant(
        "note 11: the surrogate begins at 0",
        "notes/n11_surrogate.py",
        "old = 0.25",
        "old = 0.0",
    ),
    NoteMutant(
        "policy gradient with the wrong sign",
        "formulas/objectives.py",
        "return advantages * log_probs",
        "return -advantages * log_probs",
    ),
    NoteMutant(
        "effective sample size without the squares",
        "formulas/diagnostics.py",
        "return ratio.sum(-1) ** 2 / (ratio.shape[-1] * (ratio**2).sum(-1))",
        "return ratio.sum(-1) / ratio.shape[-1]",
    ),
    NoteMutant(
        "ratio as a quotient of densities",
        "formulas/objectives.py",
        "return th.exp(log_probs - old_log_probs)",
        "return th.exp(log_probs) / th.exp(old_log_probs)",
    ),
    NoteMutant(
        "note 12: the new policy is the old one",
        "notes/n12_why_old_samples.py",
        "th.tensor([0.6, 0.4], dtype=th.float64)",
        "th.tensor([0.5, 0.5], dtype=th.float64)",
    ),
    NoteMutant(
        "the largest ratio is a mean",
        "algorithms/report.py",
        '"ratio_max": ratio.amax(-1),',
        '"ratio_max": ratio.mean(-1),',
    ),
    NoteMutant(
        "clip fraction counts one side",
        "formulas/diagnostics.py",
        "return (th.abs(ratio - 1) > clip_range).float()",
        "return (ratio - 1 > clip_range).float()",
    ),
    NoteMutant(
        "old log-probabilities are not those that were stored",
        "rollouts/minibatches.py",
        '"old_log_prob": "log_probs"',
        '"old_log_prob": "values"',
    ),
    NoteMutant(
        "note 15: a learning rate of 0",
        "notes/n15_when_is_old_old.py",
        "learning_rate=3e-4",
        "learning_rate=0.0",
    ),
    NoteMutant(
        "note 15: the old policy is never replaced",
        "notes/n15_when_is_old_old.py",
        "if epoch % every == 0:",
        "if epoch == 0:",
    ),
    NoteMutant(
        "note 15: nothing stops",
        "notes/n15_when_is_old_old.py",
        "logits.data[kl > stop] = before[kl > stop]",
        "pass",
    ),
    NoteMutant(
        "note 13: the foil does not clip",
        "notes/n13_why_min.py",
        "return th.clamp(ratio, 1 - clip_range, 1 + clip_range) * advantages",
        "return ratio * advantages",
    ),
    NoteMutant(
        "note 16: advantages not centred",
        "notes/n16_converges.py",
        "(groups - groups.mean(1, keepdim=True)).flatten()",
        "groups.flatten()",
    ),
    NoteMutant(
        "note 16: rewards without noise",
        "notes/n16_converges.py",
        "MEANS[actions] + th.randn(len(actions), dtype=th.float64)",
        "MEANS[actions]",
    ),
    NoteMutant(
        "note 16: descends the objective",
        "notes/n16_converges.py",
        "th.autograd.backward(-objective",
        "th.autograd.backward(objective",
    ),
    NoteMutant(
        "note 17: the shift is not divided by σ",
        "formulas/distributions/gaussian.py",
        "shift = ((old_mean - new_mean) / new_std).pow(2)",
        "shift = (old_mean - new_mean) / new_std",
    ),
    NoteMutant(
        "note 17: log-ratio upside down",
        "notes/n17_which_kl.py",
        "gaussian_log_prob(shift * one, one, actions) - gaussian_log_prob(zero, one, actions)",
        "gaussian_log_prob(zero, one, actions) - gaussian_log_prob(shift * one, one, actions)",
    ),
    NoteMutant(
        "note 17: k3 without its −1",
        "formulas/divergences.py",
        "return (th.exp(log_ratio) - 1) - log_ratio",
        "return th.exp(log_ratio) - log_ratio",
    ),
    NoteMutant(
        "note 17: k2 without its half",
        "formulas/divergences.py",
        "return 0.5 * log_ratio**2",
        "return log_ratio**2",
    ),
    NoteMutant(
        "note 17: the old distribution is asked for though nobody needs it",
        "algorithms/update.py",
        "if self.rule.needs_exact_kl:",
        "if True:",
    ),
    NoteMutant(
        "note 18: the first epoch is left out",
        "algorithms/update.py",
        "for epoch in range(self.phase.n_epochs):",
        "for epoch in range(1, self.phase.n_epochs):",
    ),
    NoteMutant(
        "note 18: nothing is learned",
        "notes/n18_why_break.py",
        "learning_rate=3e-4)",
        "learning_rate=0.0)",
    ),
    NoteMutant(
        "note 18: every stop ends the update",
        "algorithms/kl_control.py",
        'self.update_is_over = stop.scope == "update"',
        "self.update_is_over = True",
    ),
    NoteMutant(
        "note 18: the limit itself exceeds it",
        "rules/kl_control.py",
        "return bool(kl > self.factor * self.target)",
        "return bool(kl >= self.factor * self.target)",
    ),
    NoteMutant(
        "note 20: without the logarithm",
        "formulas/distributions/categorical.py",
        "return -(bounded * probabilities(log_probs)).sum(-1)",
        "return (probabilities(log_probs) * (1 - probabilities(log_probs))).sum(-1)",
    ),
    NoteMutant(
        "note 20: a product of zero and minus infinity",
        "formulas/distributions/categorical.py",
        "bounded = th.clamp(log_probs, min=th.finfo(log_probs.dtype).min)",
        "bounded = log_probs",
    ),
    NoteMutant(
        "note 20: a Gaussian's entropy without its constant",
        "formulas/distributions/gaussian.py",
        "sum_over_dimensions(0.5 + 0.5 * math.log(2 * math.pi) + th.log(std))",
        "sum_over_dimensions(0.5 * math.log(2 * math.pi) + th.log(std))",
    ),
    NoteMutant(
        "note 20: a Gaussian's entropy without log σ",
        "formulas/distributions/gaussian.py",
        "sum_over_dimensions(0.5 + 0.5 * math.log(2 * math.pi) + th.log(std))",
        "sum_over_dimensions(0.5 + 0.5 * math.log(2 * math.pi) + std)",
    ),
    NoteMutant(
        "note 21: rewards ten times as large",
        "notes/n21_entropy_bonus.py",
        "REWARDS, COEFFICIENTS = (1.0, 0.0, 2.0), (0.1, 1.0, 10.0)",
        "REWARDS, COEFFICIENTS = (10.0, 0.0, 20.0), (0.1, 1.0, 10.0)",
    ),
    NoteMutant(
        "note 22: the actor looks at the critic's features",
        "policies/actor_critic.py",
        "return Latents(latent_pi, latent_vf, None)",
        "return Latents(latent_vf, latent_vf, None)",
    ),
    NoteMutant(
        "note 22: the trunk does not hear the critic",
        "policies/actor_critic.py",
        "return Latents(latent_pi, latent_vf, None)",
        "return Latents(latent_pi, latent_vf.detach(), None)",
    ),
    NoteMutant(
        "note 22: the actor's loss asks the critic",
        "rules/loss.py",
        "policy_loss = -rule.policy_objective.objective(terms).mean()",
        "policy_loss = 0.01 * evaluation.values.mean() - rule.policy_objective.objective(terms).mean()",
    ),
    NoteMutant(
        "note 22: the foil is detached",
        "notes/n22_one_loss.py",
        "advantages=minibatch.returns - evaluation.values)",
        "advantages=minibatch.returns - evaluation.values.detach())",
    ),
    NoteMutant(
        "note 22: vf_coef before both losses",
        "rules/loss.py",
        "loss = actor_loss + coefficients.vf_coef * value_loss",
        "loss = coefficients.vf_coef * (actor_loss + value_loss)",
    ),
    NoteMutant(
        "note 21: A2C hardly learns",
        "notes/n21_entropy_bonus.py",
        'learning_rate="lin_1e-1"',
        'learning_rate="lin_1e-4"',
    ),
    NoteMutant(
        "note 23: each tensor clipped by itself",
        "engine/descent.py",
        "flat.gradient.vector.mul_(coefficient)",
        "[part.mul_(clip_number(part.norm().item(), self.phase.max_grad_norm)) for part in flat.gradient.parts]",
    ),
    NoteMutant(
        "note 23: half the clip",
        "engine/norms.py",
        "return min(float(reciprocal * np.float32(max_grad_norm)), 1.0)",
        "return min(float(reciprocal * np.float32(max_grad_norm)), 1.0) / 2",
    ),
    NoteMutant(
        "note 23: the reward is not scaled",
        "notes/n23_gradient_clip.py",
        "SCALES = (1.0, 1000.0)",
        "SCALES = (1.0, 1.0)",
    ),
    NoteMutant(
        "note 23: advantages divided by nothing",
        "formulas/objectives.py",
        "return (advantages - advantages.mean(-1, keepdim=True)) / (deviations + eps)",
        "return advantages - advantages.mean(-1, keepdim=True)",
    ),
    NoteMutant(
        "note 23: every ratio is counted",
        "formulas/diagnostics.py",
        "return (th.abs(ratio - 1) > clip_range).float()",
        "return (th.abs(ratio - 1) >= 0).float()",
    ),
]
