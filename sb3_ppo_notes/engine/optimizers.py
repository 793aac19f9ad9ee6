"""Optimisers that treat every weight alike, and so can step all weights as one vector: which they are, and how."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch.optim import optimizer as torch_optimizer

from sb3_ppo_notes.engine.vectors import FlatVector, flattened
from sb3_ppo_notes.formulas import optimizers as formulas
from sb3_ppo_notes.policies.shipped import has_shipped_methods

#: Elements that are stepped at once. What they leave behind on the way, 128 KB each, stays in the cache and with the
#: process: the allocator gives larger pieces back to the system, and takes them again page by page.
BLOCK = 32_768
Vectors = tuple[th.Tensor, ...]
Options = dict[str, Any]


class Elementwise(NamedTuple):
    """One optimiser class as a pure function of vectors.

    :param names: what its state is called in ``torch.optim``.
    :param initial: what each vector of its state is filled with before the first step.
    :param scalars: the numbers of a step that change from one to the next, from its options and the steps taken with
        this one.
    :param step: (weights, gradient, state, scalars, options) -> (weights, state).
    :param fixed: options, and the only values for which this is the class's arithmetic.
    """

    names: tuple[str, ...]
    initial: tuple[float, ...]
    scalars: Callable[[Options, int], tuple[float, ...]]
    step: Callable[[th.Tensor, th.Tensor, Vectors, Sequence[Any], Options], tuple[th.Tensor, Vectors]]
    fixed: Options


def _adam_scalars(options: Options, step: int) -> tuple[float, ...]:
    return formulas.adam_corrections(step, options["lr"], options["betas"])


def _adam(
    weights: th.Tensor, gradient: th.Tensor, state: Vectors, scalars: Sequence[Any], options: Options
) -> tuple[th.Tensor, Vectors]:
    exp_avg, exp_avg_sq = state
    moments = formulas.adam_moments(gradient, exp_avg, exp_avg_sq, options["betas"])
    return formulas.adam_step(weights, *moments, (scalars[0], scalars[1]), options["eps"]), moments


def _rmsprop_scalars(options: Options, step: int) -> tuple[float, ...]:
    return (-options["lr"],)


def _rmsprop(
    weights: th.Tensor, gradient: th.Tensor, state: Vectors, scalars: Sequence[Any], options: Options
) -> tuple[th.Tensor, Vectors]:
    square = formulas.rmsprop_square(gradient, state[0], options["alpha"])
    return formulas.rmsprop_step(weights, gradient, square, scalars[0], options["eps"]), (square,)


def _rmsprop_tf(
    weights: th.Tensor, gradient: th.Tensor, state: Vectors, scalars: Sequence[Any], options: Options
) -> tuple[th.Tensor, Vectors]:
    square = formulas.rmsprop_square(gradient, state[0], options["alpha"])
    return formulas.rmsprop_tf_step(weights, gradient, square, scalars[0], options["eps"]), (square,)


#: What an option must be for the formulas to be the whole of it; options not named here may be anything.
_PLAIN: Options = {
    "weight_decay": 0,
    "maximize": False,
    "capturable": False,
    "differentiable": False,
    "foreach": None,
    "fused": None,
}
_NO_MOMENTUM: Options = _PLAIN | {"momentum": 0, "centered": False}

#: By exact class: a subclass may do something else.
ELEMENTWISE: dict[type[th.optim.Optimizer], Elementwise] = {
    th.optim.Adam: Elementwise(
        ("exp_avg", "exp_avg_sq"), (0.0, 0.0), _adam_scalars, _adam, _PLAIN | {"amsgrad": False}
    ),
    th.optim.RMSprop: Elementwise(("square_avg",), (0.0,), _rmsprop_scalars, _rmsprop, _NO_MOMENTUM),
    RMSpropTFLike: Elementwise(("square_avg",), (1.0,), _rmsprop_scalars, _rmsprop_tf, _NO_MOMENTUM),
}


def elementwise_of(optimizer: th.optim.Optimizer, parameters: Sequence[th.nn.Parameter]) -> Elementwise | None:
    """The optimiser as a function of vectors; ``None`` if it cannot be one, or not with the same result.

    That is for an unknown class, options beyond the formulas, hooks, several groups of parameters, or steps counted
    differently.
    """
    rule = ELEMENTWISE.get(type(optimizer))
    if rule is None or len(optimizer.param_groups) != 1 or _is_watched(optimizer):
        return None
    options = optimizer.param_groups[0]
    if options["eps"] == 0:
        return None  # the padding between two weights has no gradient: 0 / 0
    if any(options[name] != value for name, value in rule.fixed.items() if name in options):
        return None
    group = {id(parameter) for parameter in options["params"]}
    plain = all(
        id(parameter) in group and parameter.dtype == th.float32 and parameter.device == parameters[0].device
        for parameter in parameters
    )
    counts = {int(optimizer.state[parameter]["step"]) for parameter in parameters if optimizer.state.get(parameter)}
    fresh = any(not optimizer.state.get(parameter) for parameter in parameters)
    return rule if plain and (len(counts) + fresh == 1) and not isinstance(options["lr"], th.Tensor) else None


def _is_watched(optimizer: Any) -> bool:
    """``True`` if somebody wants to be asked at each step: hooks, or another ``step`` (a learning-rate scheduler's)."""
    hooks = (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        torch_optimizer._global_optimizer_pre_hooks,
        torch_optimizer._global_optimizer_post_hooks,
    )
    return any(hooks) or "step" in vars(optimizer) or not has_shipped_methods(type(optimizer), "step")


def clears_gradients(optimizer: Any) -> bool:
    """``True`` if an optimiser's ``zero_grad`` is PyTorch's: a gradient then owes nothing to the one before."""
    return "zero_grad" not in vars(optimizer) and has_shipped_methods(type(optimizer), "zero_grad")


class FlatOptimizer:
    """A torch optimiser whose weights and state lie in vectors while an update goes on.

    :param optimizer: the owner of the state; :meth:`give_back` brings it up to date.
    :param is_exact: whether the step must be torch's default one to the bit; if not, one pass over the memory may do
        for Adam, which with half a million weights is what counts.
    """

    def __init__(
        self,
        optimizer: th.optim.Optimizer,
        rule: Elementwise,
        parameters: Sequence[th.nn.Parameter],
        is_exact: bool = True,
    ):
        self.is_fused = not is_exact and isinstance(optimizer, th.optim.Adam)
        self.optimizer = optimizer
        self.rule = rule
        self.parameters = parameters
        self.weights = flattened(parameters)
        self.gradient = FlatVector(parameters)
        self.state = tuple(self._load_state(name, fill) for name, fill in zip(rule.names, rule.initial, strict=True))
        vectors = self.weights.vector, self.gradient.vector, *self.state
        self._blocks = list(zip(*(th.split(vector, BLOCK) for vector in vectors), strict=True))
        first = optimizer.state.get(parameters[0])
        self.n_steps = int(first["step"]) if first else 0
        self._counts = th.zeros(len(parameters))
        self._is_bound = False
        #: Of each parameter: what its state was last views as, and where that lies in memory.
        self._views: list[dict[str, tuple[Any, int | None]]] = [{} for _ in parameters]

    @property
    def options(self) -> Options:
        """The optimiser's options as they are now: callbacks and KL control change the learning rate."""
        return self.optimizer.param_groups[0]

    def _load_state(self, name: str, fill: float) -> th.Tensor:
        flat = FlatVector(self.parameters, fill)
        for parameter, part in zip(self.parameters, flat.parts, strict=True):
            if self.optimizer.state.get(parameter):
                part.copy_(self.optimizer.state[parameter][name])
        return flat.vector

    def step(self) -> None:
        """Step all weights down ``gradient``."""
        self.n_steps += 1
        if self.is_fused:
            self._fused_step()
            return
        scalars = self.rule.scalars(self.options, self.n_steps)
        for weights, gradient, *state in self._blocks:
            stepped, new_state = self.rule.step(weights, gradient, tuple(state), scalars, self.options)
            th._foreach_copy_((weights, *state), (stepped, *new_state))

    def _fused_step(self) -> None:
        options, (exp_avg, exp_avg_sq) = self.options, self.state
        n_steps = th.tensor(float(self.n_steps), device=exp_avg.device)
        beta1, beta2 = options["betas"]
        th._fused_adam_(
            [self.weights.vector],
            [self.gradient.vector],
            [exp_avg],
            [exp_avg_sq],
            [],
            [n_steps],
            lr=options["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=options["eps"],
            amsgrad=False,
            maximize=False,
        )

    def snapshot(self) -> tuple[list[th.Tensor], int]:
        """Copies of everything that a step changes, for :meth:`restore`."""
        return [vector.clone() for vector in (self.weights.vector, *self.state)], self.n_steps

    def restore(self, snapshot: tuple[list[th.Tensor], int]) -> None:
        """Go back to a snapshot."""
        copies, self.n_steps = snapshot
        th._foreach_copy_((self.weights.vector, *self.state), copies)
        for parameter, part in zip(self.parameters, self.weights.parts, strict=True):
            if parameter.data_ptr() != part.data_ptr():  # somebody has given it other memory since
                parameter.copy_(part)
        self._counts.fill_(self.n_steps)
        self.give_back()

    def give_back(self) -> None:
        """Show the state where ``optimizer.state_dict()`` looks for it: as views of the vectors."""
        if self.n_steps == 0:
            return
        self._counts.fill_(self.n_steps)
        is_tensor = not isinstance(self.optimizer, RMSpropTFLike)
        if self._is_bound and is_tensor:
            return
        self._is_bound = True
        for index, views in enumerate(self._views):
            # A number of its own for each parameter: torch counts each up in place.
            views["step"] = _with_address(self._counts[index] if is_tensor else self.n_steps)
        for name, vector in zip(self.rule.names, self.state, strict=True):
            for views, part in zip(self._views, self.weights.split(vector), strict=True):
                views[name] = _with_address(part)
        for parameter, views in zip(self.parameters, self._views, strict=True):
            self.optimizer.state[parameter].update({name: part for name, (part, _) in views.items()})

    def is_current(self, optimizer: th.optim.Optimizer, parameters: Sequence[th.nn.Parameter]) -> bool:
        """``True`` if these vectors are what the optimiser and the weights of the update about to begin look at: nobody
        has loaded a state, replaced a weight's data or stepped the optimiser since.
        """
        if optimizer is not self.optimizer or not self._is_bound or _is_watched(optimizer):
            return False
        if any(self.options[name] != value for name, value in self.rule.fixed.items() if name in self.options):
            return False
        if len(optimizer.param_groups) != 1 or len(parameters) != len(self.parameters):
            return False
        triples = list(zip(parameters, self.parameters, self.weights.parts, strict=True))
        if any(theirs is not mine or theirs.data_ptr() != part.data_ptr() for theirs, mine, part in triples):
            return False
        # Whoever steps the optimiser counts the steps up in place.
        return all(map(self._is_view, parameters, self._views)) and bool((self._counts == self.n_steps).all())

    def _is_view(self, parameter: th.nn.Parameter, expected: dict[str, tuple[Any, int | None]]) -> bool:
        state = self.optimizer.state.get(parameter, {})
        # The very object, in the same memory.
        return all(
            state.get(name) is part and (place is None or part.data_ptr() == place)
            for name, (part, place) in expected.items()
        )


def _with_address(part: Any) -> tuple[Any, int | None]:
    return part, part.data_ptr() if isinstance(part, th.Tensor) else None


class Undo:
    """Weights and optimiser state as they were, to go back to.

    :param flat: the vectors that hold them, where there are some: three copies instead of forty.
    """

    def __init__(self, optimizer: th.optim.Optimizer, flat: FlatOptimizer | None):
        self.optimizer = optimizer
        self.flat = flat
        #: Somebody's own optimiser need not have any.
        self._state: Any = getattr(optimizer, "state", {})
        self._kept = None if flat is None else flat.snapshot()
        if flat is None:
            self._pairs = [(tensor, tensor.clone()) for tensor in self._tensors()]
            self._plain = {weight: _numbers(state) for weight, state in self._state.items()}

    def _tensors(self) -> list[th.Tensor]:
        if self.flat is not None:
            return [self.flat.weights.vector, *self.flat.state]
        weights = [weight.detach() for group in self.optimizer.param_groups for weight in group["params"]]
        states = [value for state in self._state.values() for value in state.values()]
        return weights + [value for value in states if isinstance(value, th.Tensor) and value.is_floating_point()]

    def is_needed(self) -> bool:
        """``True`` if something is not finite now."""
        tensors = self._tensors()
        # A sum is finite if all its terms are, unless it overflows.
        with th.no_grad():
            return not all(math.isfinite(tensor.sum().item()) or bool(tensor.isfinite().all()) for tensor in tensors)

    def restore(self) -> None:
        """Go back."""
        with th.no_grad():
            if self.flat is not None and self._kept is not None:
                self.flat.restore(self._kept)
                return
            for tensor, kept in self._pairs:
                tensor.copy_(kept)
            for weight in list(self._state):
                if weight in self._plain:
                    self._state[weight].update(self._plain[weight])
                else:
                    # It came into being in the update that is undone.
                    del self._state[weight]


def _numbers(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if not isinstance(value, th.Tensor)}
