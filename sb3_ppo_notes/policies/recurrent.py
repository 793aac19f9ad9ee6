"""Policies with a memory: an LSTM or a GRU between the features and the heads."""

from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import nn

from sb3_ppo_notes.formulas.checks import InvalidTypeError, InvalidValueError, check_choice, check_integer
from sb3_ppo_notes.kernels.lstm import Memory
from sb3_ppo_notes.policies.actor_critic import act, evaluate, latents, values_of
from sb3_ppo_notes.policies.masks import mask_tensor
from sb3_ppo_notes.policies.memory import Recurrence, RNNStates, SequenceLayout, States, Steps, is_plain_lstm, run
from sb3_ppo_notes.policies.networks import NotesActorCriticCnnPolicy, NotesActorCriticPolicy, NotesMultiInputPolicy
from sb3_ppo_notes.policies.precision import mixed_precision, remembers_in_single


class NotesRecurrentPolicy(NotesActorCriticPolicy):
    """An actor-critic policy with memory. Its arguments are those of sb3-contrib's ``RecurrentActorCriticPolicy``.

    :param observation_space: of one observation.
    :param action_space: of one action.
    :param lr_schedule: learning rate as a function of the remaining progress.
    :param args: as :class:`NotesActorCriticPolicy`.
    :param lstm_hidden_size: H, units of a recurrent layer.
    :param n_lstm_layers: recurrent layers on top of each other.
    :param shared_lstm: the critic reads the actor's memory (without training it).
    :param enable_critic_lstm: the critic has a memory of its own.
    :param lstm_kwargs: further arguments of ``nn.LSTM`` or ``nn.GRU``.
    :param rnn: ``"lstm"`` or ``"gru"``.
    :param sequence_length: steps over which a gradient goes back at most (truncated backpropagation through time,
        Williams & Peng 1990). A longer sequence is cut, and each piece begins with what was remembered there while the
        rollout was gathered. ``None``: as many as a minibatch holds, as in sb3-contrib. Fewer are faster, because
        pieces are computed side by side; what is to be remembered for longer than that is hard to learn.
    :param kwargs: as :class:`NotesActorCriticPolicy`.
    :raises ValueError: if the critic is to have its own memory and the actor's, or the actor's memory and an extractor
        of its own.
    """

    #: SB3 has no recurrent PPO to equal to the bit; sb3-contrib's is equalled to rounding.
    equals_stock = False
    is_recurrent = True

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any,
        *args: Any,
        lstm_hidden_size: int = 256,
        n_lstm_layers: int = 1,
        shared_lstm: bool = False,
        enable_critic_lstm: bool = True,
        lstm_kwargs: dict[str, Any] | None = None,
        rnn: Literal["lstm", "gru"] = "lstm",
        sequence_length: int | None = None,
        **kwargs: Any,
    ):
        check_integer("lstm_hidden_size", lstm_hidden_size, minimum=1)
        check_integer("n_lstm_layers", n_lstm_layers, minimum=1)
        check_choice("rnn", rnn, ("lstm", "gru"))
        if sequence_length is not None:
            check_integer("sequence_length", sequence_length, minimum=1)
        if shared_lstm and enable_critic_lstm:
            raise InvalidValueError("enable_critic_lstm must be False when shared_lstm=True, got True")
        for name in ("batch_first", "bidirectional", "proj_size"):
            if (lstm_kwargs or {}).get(name):
                raise InvalidValueError(
                    f"lstm_kwargs must not contain {name!r}, which changes shapes; got {lstm_kwargs!r}"
                )
        self.recurrent_arguments = {
            "lstm_hidden_size": lstm_hidden_size,
            "n_lstm_layers": n_lstm_layers,
            "shared_lstm": shared_lstm,
            "enable_critic_lstm": enable_critic_lstm,
            "lstm_kwargs": lstm_kwargs,
            "rnn": rnn,
            "sequence_length": sequence_length,
        }
        self.sequence_length = sequence_length
        self.lstm_hidden_size = lstm_hidden_size
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)
        if shared_lstm and not self.share_features_extractor:
            # The critic's features would reach nothing, and its extractor would get no gradient.
            raise InvalidValueError("share_features_extractor must be True when shared_lstm=True, got False")
        build = {"lstm": nn.LSTM, "gru": nn.GRU}[rnn]
        # SB3 sums a MultiDiscrete space's sizes in NumPy, and torch wants an int of Python's.
        sizes = (int(self.features_dim), lstm_hidden_size, n_lstm_layers)
        self.lstm_actor = build(*sizes, **(lstm_kwargs or {}))
        self.lstm_critic = build(*sizes, **(lstm_kwargs or {})) if enable_critic_lstm else None
        self.critic = None if shared_lstm or enable_critic_lstm else nn.Linear(self.features_dim, lstm_hidden_size)
        # SB3 has built its optimiser before the recurrent layers were there.
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = MlpExtractor(
            self.lstm_hidden_size, net_arch=self.net_arch, activation_fn=self.activation_fn, device=self.device
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | self.recurrent_arguments

    @property
    def sequences(self) -> SequenceLayout:
        """The sequences that it learns from."""
        return SequenceLayout(self.sequence_length, self.supports_mid_sequence_reset)

    @property
    def supports_mid_sequence_reset(self) -> bool:
        """``True`` if the memory can be reset in the middle of a lane, so that sequences may lie end to end.

        On a GPU not: weights that are put together for a call are copied once more there. And a memory that is run in a
        way of somebody's own knows nothing of lanes.
        """
        memories = (self.lstm_actor,) if self.lstm_critic is None else (self.lstm_actor, self.lstm_critic)
        is_own = type(self).remember is not NotesRecurrentPolicy.remember or "remember" in vars(self)
        return self.device.type == "cpu" and not is_own and all(map(is_plain_lstm, memories))

    def initial_states(self, n: int) -> States:
        """The state before anything was seen: zeros.

        :param n: number of environments.
        :return: the actor's states, then the critic's if it has its own; ``[layers, n, H]`` each.
        """
        shape = (self.lstm_actor.num_layers, n, self.lstm_hidden_size)
        n_states = self._n_states * (2 if self.lstm_critic is not None else 1)
        return tuple(th.zeros(shape, device=self.device) for _ in range(n_states))

    def one_step(self, states: States, episode_starts: th.Tensor) -> Recurrence:
        """A batch of one step in every environment.

        :param states: ``[layers, B, H]`` each.
        :param episode_starts: ``[B]``, 1 where an episode has just begun and the past must be forgotten.
        :return: for :meth:`remember`.
        """
        n = episode_starts.shape[0]  # len would fix the size of an exported batch
        nonterminal = (1.0 - episode_starts.float()).reshape(1, n, 1)
        return Recurrence(th.arange(n, device=self.device), 1, n, tuple(state * nonterminal for state in states))

    def remember(self, features: Any, recurrence: Recurrence) -> tuple[th.Tensor, th.Tensor, States]:
        """Features of this step and of those before it, for actor and critic.

        :param features: ``[N, k]``, or one such tensor each for actor and critic.
        :param recurrence: how the rows lie in sequences.
        :return: ``[N, H]`` of the actor, ``[N, H]`` of the critic, and the states after the step; of several steps at
            once, from which one learns and does not go on, there may be none.
        """
        pi_features, vf_features = (features, features) if isinstance(features, th.Tensor) else features
        is_single = remembers_in_single(self)
        if is_single:
            pi_features, vf_features = pi_features.float(), vf_features.float()
        half = len(recurrence.states) // (2 if self.lstm_critic is not None else 1)
        memories = [Memory(self.lstm_actor, pi_features, recurrence.states[:half])]
        if self.lstm_critic is not None:
            memories.append(Memory(self.lstm_critic, vf_features, recurrence.states[half:]))
        with th.autocast(self.device.type, enabled=False) if is_single else nullcontext():
            (latent_pi, *others), states = run(memories, recurrence)
        if others:
            return latent_pi, others[0], states
        # Shared: the critic reads the actor's memory, but only the actor trains it.
        latent_vf = latent_pi.detach() if self.critic is None else self.critic(vf_features)
        return latent_pi, latent_vf, states

    @property
    def lstm_hidden_state_shape(self) -> tuple[int, int, int]:
        """The shape of a state of one environment, under sb3-contrib's name."""
        return self.lstm_actor.num_layers, 1, self.lstm_hidden_size

    def forward(  # type: ignore[override]
        self,
        obs: Any,
        lstm_states: Any = None,
        episode_starts: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, RNNStates]:
        """Actions, values, log-probabilities and the next states, by sb3-contrib's interface.

        :param obs: ``[S·L, ...]`` tensor or dict of tensors: L steps of a sequence, then of the next; L is usually 1.
        :param lstm_states: before the first step: ``pi`` and ``vf``, hidden and cell state ``[layers, S, H]`` each.
        :param episode_starts: ``[S·L]``, 1 where an episode has just begun and the past must be forgotten.
        :param deterministic: the mode (of a Beta the mean) and not a sample.
        :param action_masks: ``[S·L, n]``, ``True`` where an action is allowed; ``None`` for no masks.
        :return: ``[S·L, ...]``, ``[S·L, 1]``, ``[S·L]``, and the states after the last step.
        :raises TypeError: if states or starts are left out.
        """
        steps = self._steps("forward", obs, self._both(lstm_states), episode_starts)
        action = act(self, obs, self._masks(action_masks, steps), steps, deterministic)
        assert action.states is not None  # it has a memory
        pi, vf = action.states[: self._n_states], action.states[self._n_states :]
        if self.lstm_critic is None:
            vf = pi if self.critic is not None else tuple(state.detach() for state in pi)
        return action.actions, action.values, action.log_probs, RNNStates(pi, vf)

    def evaluate_actions(
        self, obs: Any, actions: Any, lstm_states: Any = None, episode_starts: Any = None, action_masks: Any = None
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """Values, log-probabilities and entropy for actions that were taken, by sb3-contrib's interface.

        :param obs: as of :meth:`forward`.
        :param actions: ``[S·L]`` (Discrete) or ``[S·L, d]``.
        :param lstm_states: as of :meth:`forward`.
        :param episode_starts: as of :meth:`forward`.
        :param action_masks: as of :meth:`forward`.
        :return: ``[S·L, 1]``, ``[S·L]``, ``[S·L]``; no entropy where there is no formula for it.
        :raises TypeError: if states or starts are left out.
        """
        steps = self._steps("evaluate_actions", obs, self._both(lstm_states), episode_starts)
        evaluation = evaluate(self, obs, actions, self._masks(action_masks, steps), steps)
        return evaluation.values.unsqueeze(1), evaluation.log_probs, evaluation.entropy

    def get_distribution(  # type: ignore[override]
        self, obs: Any, lstm_states: Any = None, episode_starts: Any = None, action_masks: Any = None
    ) -> tuple[Any, States]:
        """π(·|s) and the actor's next states, by sb3-contrib's interface.

        :param obs: as of :meth:`forward`.
        :param lstm_states: of the actor before the first step, ``[layers, S, H]`` each.
        :param episode_starts: as of :meth:`forward`.
        :param action_masks: as of :meth:`forward`.
        :return: an SB3 distribution, and the actor's states after the last step.
        :raises TypeError: if states or starts are left out.
        """
        steps = self._steps("get_distribution", obs, self._beside(lstm_states, 0), episode_starts)
        with mixed_precision(self):
            latent = latents(self, obs, steps)
        assert latent.states is not None  # it has a memory
        latent_pi = latent.pi.float()
        if action_masks is None:
            distribution = self._get_action_dist_from_latent(latent_pi)
        else:
            distribution = self._masked_distribution(latent_pi, action_masks)
        return distribution, latent.states[: self._n_states]

    def predict_values(self, obs: Any, lstm_states: Any = None, episode_starts: Any = None) -> th.Tensor:
        """V(s), by sb3-contrib's interface.

        :param obs: as of :meth:`forward`.
        :param lstm_states: of the critic before the first step, ``[layers, S, H]`` each; of the actor, whose memory it
            shares, if it has none of its own.
        :param episode_starts: as of :meth:`forward`.
        :return: ``[S·L, 1]``; reward units.
        :raises TypeError: if states or starts are left out.
        """
        steps = self._steps("predict_values", obs, self._beside(lstm_states, -1), episode_starts)
        return values_of(self, obs, steps)

    @property
    def _n_states(self) -> int:
        """Tensors of one memory's state."""
        return 2 if isinstance(self.lstm_actor, nn.LSTM) else 1

    def _both(self, lstm_states: Any) -> Any:
        """The states of actor and critic in a row."""
        if lstm_states is None:
            return None
        pi, vf = lstm_states
        return (*pi, *vf) if self.lstm_critic is not None else tuple(pi)

    def _beside(self, lstm_states: Any, which: int) -> Any:
        """The states of actor (0) or critic (-1), and zeros for the other's, whose result is not read."""
        if lstm_states is None or self.lstm_critic is None:
            return lstm_states
        zeros = self.initial_states(lstm_states[0].shape[1])
        return (*lstm_states, *zeros[self._n_states :]) if which == 0 else (*zeros[: self._n_states], *lstm_states)

    def _steps(self, method: str, obs: Any, states: Any, episode_starts: Any) -> Steps:
        """Sequences as sb3-contrib lays them out."""
        if states is None or episode_starts is None:
            missing = "lstm_states" if states is None else "episode_starts"
            order = "obs, actions, lstm_states" if method == "evaluate_actions" else "obs, lstm_states"
            raise InvalidTypeError(
                f"{missing} must be given to a policy with memory, as to sb3-contrib's: {method}({order}, "
                "episode_starts), got None"
            )
        n = len(next(iter(obs.values()))) if isinstance(obs, dict) else len(obs)
        n_sequences, starts = states[0].shape[1], th.as_tensor(episode_starts, device=self.device)
        if starts.numel() != n or n % n_sequences:
            raise InvalidValueError(
                f"episode_starts must have an entry for each of the {n} observations, which belong to the "
                f"{n_sequences} sequences of lstm_states in equal parts, got {starts.numel()}"
            )
        return Steps(tuple(states), starts.reshape(n_sequences, -1))

    def _masks(self, action_masks: Any, steps: Steps) -> th.Tensor | None:
        if action_masks is None:
            return None
        return mask_tensor(action_masks, self.action_space, steps.starts.numel(), self.device)

    def _choose(
        self, observations: Any, state: Any, episode_start: Any, deterministic: bool, action_masks: Any
    ) -> tuple[th.Tensor, tuple[np.ndarray, ...] | None]:
        n = len(next(iter(observations.values()))) if isinstance(observations, dict) else len(observations)
        states = self.initial_states(n)
        if state is not None:
            states = tuple(th.as_tensor(part, dtype=th.float32, device=self.device) for part in state)
        starts = th.zeros(n) if episode_start is None else th.as_tensor(np.asarray(episode_start)).float()
        masks = None if action_masks is None else mask_tensor(action_masks, self.action_space, n, self.device)
        action = act(self, observations, masks, self.one_step(states, starts.to(self.device)), deterministic)
        return action.actions, tuple(part.cpu().numpy() for part in action.states or ())


class NotesCnnRecurrentPolicy(NotesActorCriticCnnPolicy, NotesRecurrentPolicy):
    """The same for images: the first base chooses the extractor, the second remembers."""


class NotesMultiInputRecurrentPolicy(NotesMultiInputPolicy, NotesRecurrentPolicy):
    """The same for Dict observations: the first base chooses the extractor, the second remembers."""


#: Under sb3-contrib's names; files of models hold the shorter ones.
NotesRecurrentActorCriticPolicy = NotesRecurrentPolicy
NotesRecurrentActorCriticCnnPolicy = NotesCnnRecurrentPolicy
NotesRecurrentMultiInputActorCriticPolicy = NotesMultiInputRecurrentPolicy
