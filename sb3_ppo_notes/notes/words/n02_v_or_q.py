"""Is this value V or Q?

V, the value of the *state*. The critic sees the state and no action, and gives one number: V(s), what the policy may
expect from here on. Q(s, a) would be what to expect after a certain action, and would need one number an action. (And π
is neither: π(a|s) are probabilities that add up to 1, Q are rewards of any size.)

**V is the mean of Q under the policy**, V(s) = Σ π(a|s)·Q(s, a): neither the sum nor the maximum. By hand: with π =
({hand_pi[0]:g}, {hand_pi[1]:g}) and Q = ({hand_q[0]:g}, {hand_q[1]:g}) it is {hand_mean:g}, not the sum {hand_sum:g}
and not the maximum {hand_max:g}.

An experiment: one state, three actions that pay {rewards[0]:g}, {rewards[1]:g} and {rewards[2]:g}. A2C is trained with
so large an entropy bonus that the policy stays undecided, at ({policy[0]:.3f}, {policy[1]:.3f}, {policy[2]:.3f}). Its
critic then says {value:.3f}. The mean of the rewards under that policy is {mean:.3f}, the largest of them {largest:g},
their sum {total:g}.

**Advantage plus value is one sample of Q.** The buffer calls it `returns`: Â + V(s) is the value of the action that was
*taken*, here its reward. It is the target of V nevertheless. Nothing is mixed up: averaged over the actions that the
policy takes, those samples of Q have the mean V, and a mean is what a regression learns. For the same reason the
advantage, Q − V, is 0 on average ({hand_advantage:g} in the example by hand): it says by how much an action beats the
policy's own average.

**How can that begin, if both are wrong at first?** The samples of Q hold rewards, which are right from the start. What
else is in them is the critic's own word for later states, and that gets better as the critic does. With λ = 1, as A2C
has it, the critic is asked only where the end of the rollout cuts an episode.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch as th
from matplotlib.figure import Figure

from sb3_ppo_notes.algorithms import NotesA2C
from sb3_ppo_notes.charts import PALETTE
from sb3_ppo_notes.envs import LeanVecEnv
from sb3_ppo_notes.formulas.advantages import gae, lambda_returns, td_residuals
from sb3_ppo_notes.notes.environments import Bandit
from sb3_ppo_notes.notes.note import Claim, Note
from sb3_ppo_notes.notes.reports import Reports

NOTE = Note(
    name="v-or-q",
    number=2,
    titles=dict(
        en="Is this value V or Q?",
        ja="このvalueは状態価値か行動価値か",
        fr="Cette valeur est-elle V ou Q ?",
        ko="이 값은 V인가 Q인가?",
    ),
    answers=("1.1", "1.2", "5.1", "5.7"),
    formulas=(td_residuals, lambda_returns),
    tests=(
        "tests/formulas/test_advantages.py::test_lambda_return_golden_value",
        "tests/algorithms/test_contract.py::test_a_critic_learns_the_value_of_an_endless_reward",
    ),
)
REWARDS = (1.0, 0.0, 2.0)
N_ENVS, N_STEPS, N_UPDATES = 32, 5, 100


class Result(NamedTuple):
    rewards: tuple[float, ...]
    policy: np.ndarray  # [3], probabilities of the trained policy
    value: float  # of the trained critic
    values: np.ndarray  # [updates], of the critic over the training
    mean: float
    largest: float
    total: float
    return_error: float
    hand_pi: np.ndarray  # [2]
    hand_q: np.ndarray  # [2]
    hand_mean: float
    hand_sum: float
    hand_max: float
    hand_advantage: float
    environment_steps: int


def experiment(seed: int = 0) -> Result:
    """A2C on a bandit, and a mean by hand."""
    env = LeanVecEnv([lambda: Bandit(REWARDS)] * N_ENVS)
    model = NotesA2C(
        "MlpPolicy",
        env,
        learning_rate=lambda progress_remaining: 0.1 * progress_remaining,
        n_steps=N_STEPS,
        ent_coef=1.0,
        use_rms_prop=False,
        policy_kwargs=dict(net_arch=[]),
        seed=seed,
        device="cpu",
    )
    watcher = Reports("update")
    model.learn(N_ENVS * N_STEPS * N_UPDATES, callback=watcher)

    with th.no_grad():
        values, log_probs, _ = model.policy.evaluate_actions(th.zeros(3, 1), th.arange(3))
    policy, value = log_probs.double().exp().numpy(), values[0].item()
    returns, rewards = model.rollout_buffer.returns, model.rollout_buffer.rewards

    pi, q = np.array([0.75, 0.25]), np.array([2.0, 6.0])
    # Three times the first action and once the second, as often as π takes them; each episode ends at once.
    paid, nothing = q[[0, 0, 0, 1]][np.newaxis], np.zeros((1, 4))
    samples, hand_advantages = (_returns(paid, values, nothing) for values in (nothing + 17, nothing + pi @ q))
    return Result(
        rewards=REWARDS,
        policy=policy,
        value=value,
        values=np.array([*(report.values.mean for report in watcher.reports if report.values), value]),
        mean=float(policy @ REWARDS),
        largest=max(REWARDS),
        total=sum(REWARDS),
        return_error=float(np.abs(returns - rewards).max()),
        hand_pi=pi,
        hand_q=q,
        hand_mean=float(samples[1].mean()),
        hand_sum=float(q.sum()),
        hand_max=float(q.max()),
        hand_advantage=float(hand_advantages[0].mean()),
        environment_steps=model.num_timesteps,
    )


def _returns(rewards: np.ndarray, values: np.ndarray, nonterminal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and returns of episodes of one step."""
    deltas = td_residuals(rewards, values, values, nonterminal, gamma=0.99)
    advantages = gae(deltas, nonterminal, gamma=0.99, gae_lambda=1.0)
    return advantages, lambda_returns(advantages, values)


def picture(result: Result, figure: Figure) -> None:
    """The critic's value over the training, between three lines."""
    axes = figure.subplots()
    axes.plot(result.values, color=PALETTE[0], label="V of the critic")
    for height, words, color in (
        (result.total, "sum of the rewards", PALETTE[1]),
        (result.largest, "largest reward", PALETTE[3]),
        (result.mean, "mean under the policy", PALETTE[2]),
    ):
        axes.axhline(height, color=color, linestyle="--")
        axes.text(len(result.values) - 1, height + 0.04, words, color=color, ha="right", va="bottom")
    axes.set(xlabel="updates", ylabel="reward", ylim=(min(0, result.values.min()) - 0.1, 3.4), xlim=(0, None))
    axes.legend(loc="lower right")


def claims(result: Result) -> Iterator[Claim]:
    """Claims of the text."""
    yield Claim(
        "The critic says the mean of the rewards under the policy.",
        result.value,
        result.mean,
        0.1,
        mutant="residual without the value it is compared with",
    )
    yield Claim(
        "It is far below the sum of the rewards.",
        result.value,
        result.total - 1.2,
        relation="<",
        mutant="entropy bonus with the wrong sign",
    )
    yield Claim(
        "It is below the largest reward.",
        result.value,
        result.largest - 0.3,
        relation="<",
        mutant="entropy bonus with the wrong sign",
    )
    yield Claim(
        "Advantage plus value is the reward of the action taken.",
        result.return_error,
        0.0,
        1e-5,
        mutant="target of the critic is the normalised advantage",
    )
    yield Claim(
        "By hand: samples of Q, as often as the policy takes the action, have the mean V, whatever the critic says.",
        (result.hand_mean, result.hand_sum, result.hand_max),
        (3, 8, 6),
        1e-12,
        mutant="residual without the value it is compared with",
    )
    yield Claim(
        "Against the right V advantages average to 0.",
        result.hand_advantage,
        0.0,
        1e-12,
        mutant="residual without the value it is compared with",
    )
