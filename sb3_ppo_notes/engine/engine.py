"""The choice of how a policy acts and learns on this machine: made anew whenever something was changed, and said."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch as th

from sb3_ppo_notes.engine.acting import CompiledActor, EagerActor
from sb3_ppo_notes.engine.compiled import CompiledStepper, Compiler
from sb3_ppo_notes.engine.descent import Descent, Phase
from sb3_ppo_notes.engine.fingerprint import Fingerprint, sources
from sb3_ppo_notes.engine.guard import Guard, GuardedStepper
from sb3_ppo_notes.engine.recorded import WAIT, RecordedStepper, own_choice_of
from sb3_ppo_notes.engine.reduced import ReducedStepper
from sb3_ppo_notes.engine.step import EagerStepper, StepSettings
from sb3_ppo_notes.policies.actor_critic import has_known_distribution
from sb3_ppo_notes.policies.hooks import hook_reason
from sb3_ppo_notes.policies.recurrent import NotesRecurrentPolicy
from sb3_ppo_notes.processes import Shards
from sb3_ppo_notes.rollouts.sharding import ShardedActor


class Execution(NamedTuple):
    """The way acting or learning was carried out.

    :param name: ``"eager"``, ``"recorded"`` or ``"compiled"``.
    :param reason: why not by anything faster; ``None`` if nothing faster was asked for or would do.
    :param is_lasting: whether the reason holds until the model is changed.
    """

    name: str
    reason: str | None = None
    is_lasting: bool = True


class EngineReport(NamedTuple):
    """The way the last update and the last rollout were carried out.

    :param steps: by what was trained: ``"both"``, or ``"policy"`` and ``"critic"``.
    """

    steps: dict[str, Execution]
    acting: Execution

    def __str__(self) -> str:
        named = [
            (f"steps of {trains}" if len(self.steps) > 1 else "steps", each) for trains, each in self.steps.items()
        ]
        return "; ".join(
            f"{name} {each.name}" + (f" ({each.reason})" if each.reason else "")
            for name, each in [*named, ("acting", self.acting)]
        )


class Skipped(NamedTuple):
    """Steps left out of an update because something was not finite: how many, whether all, and why the last one."""

    n_steps: int
    is_all: bool
    reason: str


class Engine:
    """Carries out the acting and the learning of one policy.

    :param precision: what the networks compute in.
    :param on_nonfinite: what a loss, gradient or weight that is not finite leads to.
    :param scalers: of float16's losses, by what is trained.
    :param shards: of a training on several processes, which step down the sum of their gradients.
    """

    def __init__(
        self,
        policy: Any,
        *,
        compile: bool = False,
        precision: str = "float32",
        on_nonfinite: str = "raise",
        scalers: dict[str, th.amp.GradScaler] | None = None,
        shards: Shards | None = None,
    ):
        self.policy = policy
        self.compile = compile
        self.precision = precision
        self.on_nonfinite = on_nonfinite
        self.scalers = dict(scalers or {})
        self.shards = shards
        self._reduced: dict[str, ReducedStepper] = {}
        self._sources: tuple[Any, ...] = ()
        self.compiler: Compiler | None = None
        self._actor: EagerActor | None = None
        #: By what is trained: the eager steppers, and those that took the last steps.
        self._eager: dict[str, EagerStepper] = {}
        self.steppers: dict[str, EagerStepper] = {}
        self._guard = Guard(policy, on_nonfinite)
        self._stepper: GuardedStepper | None = None

    def __reduce__(self) -> Any:
        # Fingerprints, recordings and compiled code are of this policy in this process.
        return _engine, (self.policy, self.compile, self.precision, self.on_nonfinite, self.scalers)

    def is_for(self, policy: Any, **choices: Any) -> bool:
        """``False`` for another policy, or other choices than the constructor's arguments."""
        return policy is self.policy and all(getattr(self, name) == value for name, value in choices.items())

    # -- acting -------------------------------------------------------------------------------------------------

    def actor(self) -> EagerActor | ShardedActor:
        """To be begun before each rollout."""
        self._prepare_compiler()
        compiler = self.compiler if self.compiler is not None and self.compiler.compiles_acting else None
        actor = self._actor
        if actor is None or getattr(actor, "compiler", None) is not compiler:
            self._actor = actor = EagerActor(self.policy) if compiler is None else CompiledActor(compiler, self.policy)
        return actor if self.shards is None else ShardedActor(actor, self.shards, self.policy)

    def begin_learning(self) -> None:
        """Begin a call of ``learn``: somebody may have tried another formula in the meantime."""
        self._sources = sources(self._sources)

    def _prepare_compiler(self) -> None:
        if not self.compile:
            self.compiler = None
        elif self.compiler is None or not self.compiler.is_of(self.policy, self._sources):
            self.compiler = Compiler(self.policy, self._sources)

    # -- learning -----------------------------------------------------------------------------------------------

    def begin_update(self) -> None:
        """Begin an update: what is not finite leads back to here."""
        self._prepare_compiler()
        self._guard = Guard(self.policy, self.on_nonfinite)
        self.steppers = {}

    def stepper(self, phase: Phase) -> GuardedStepper:
        """Takes the steps of a phase; to be begun."""
        self._stepper = GuardedStepper(self._guard, lambda settings: self._choose(phase, settings))
        return self._stepper

    def end_update(self) -> Skipped:
        """End an update."""
        guard, self._stepper = self._guard, None
        is_all = guard.n_skipped > 0 and (guard.is_rolled_back or guard.n_steps == 0)
        return Skipped(guard.n_skipped, is_all, guard.last_message)

    @contextmanager
    def interrupted(self, phase: Callable[[], Phase]) -> Iterator[None]:
        """Let somebody else read weights and optimiser in the middle of an update, and change them.

        :param phase: gives the phase as it is afterwards.
        """
        stepper = self._stepper
        if stepper is None:
            yield
            return
        stepper.inner.descent.finish()
        yield
        stepper.choose = lambda settings: self._choose(phase(), settings)
        stepper.resume()

    def _choose(self, phase: Phase, settings: StepSettings) -> EagerStepper | ReducedStepper:
        """The stepper of a phase: as before, if nothing of policy and optimiser was changed since."""
        fingerprint = Fingerprint.of_policy(self.policy)
        eager = self._eager.get(phase.trains)
        if eager is None or not eager.descent.belongs_to(phase, fingerprint):
            self._eager[phase.trains] = eager = self._build(phase, fingerprint)
        eager.descent.begin(phase)
        if isinstance(eager, RecordedStepper):
            eager.sources = self._sources
        self.steppers[phase.trains] = stepper = self._compiled(eager.descent, settings, fingerprint) or eager
        if self.shards is None:
            return stepper
        before = self._reduced.get(phase.trains)
        if before is None or before.inner is not stepper:
            self._reduced[phase.trains] = before = ReducedStepper(stepper, self.shards)
        return before

    def _build(self, phase: Phase, fingerprint: Fingerprint) -> EagerStepper:
        is_exact = getattr(self.policy, "equals_stock", True)
        descent = Descent(phase, is_exact, self.policy, fingerprint)
        if self.precision == "float16":
            device = self.policy.device.type
            descent.scaler = self.scalers.setdefault(phase.trains, th.amp.GradScaler(device))
        return (EagerStepper if self._why_not_recorded(descent) else RecordedStepper)(self.policy, descent)

    def _compiled(self, descent: Descent, settings: StepSettings, fingerprint: Fingerprint) -> CompiledStepper | None:
        compiler = self.compiler
        if compiler is None or descent.phase.trains == "critic":
            return None
        compiler.look(fingerprint)
        reason = descent.reason or own_choice_of(settings.rule)
        if compiler.reason is None and reason is not None:
            compiler.give_up(reason)
        return compiler.stepper(descent) if compiler.reason is None else None

    # -- the report ---------------------------------------------------------------------------------------------

    def report(self) -> EngineReport:
        """Executors of the last update and the last rollout: which executor ran, and why no faster one."""
        is_compiled = isinstance(self._actor, CompiledActor) and self._actor.is_compiled
        reason = self.compiler.reason if self.compiler is not None else None
        acting = Execution("compiled" if is_compiled else "eager", reason)
        return EngineReport({trains: self._execution(each) for trains, each in self.steppers.items()}, acting)

    def _execution(self, stepper: EagerStepper) -> Execution:
        if stepper.name == "compiled":
            return Execution("compiled")
        refused = self.compiler.reason if self.compiler is not None else None
        if stepper.name == "recorded":
            return Execution("recorded", refused)
        if isinstance(stepper, RecordedStepper):
            if refused is None and stepper.reason is None:
                return Execution("eager", f"fewer than {WAIT} minibatches of a kind so far", is_lasting=False)
            return Execution("eager", refused or stepper.reason)
        return Execution("eager", refused or self._why_not_recorded(stepper.descent))

    def _why_not_recorded(self, descent: Descent) -> str | None:
        if descent.phase.trains == "critic":
            return "the critic's own steps are not recorded"
        if isinstance(self.policy, NotesRecurrentPolicy):
            return "a policy with memory is not recorded"
        if self.precision != "float32":
            return f"{self.precision} needs autocast, which is not recorded"
        hooks = hook_reason(self.policy)  # a policy with a hook evaluates actions by itself, too: that would mislead
        if hooks is not None:
            return hooks
        if not has_known_distribution(self.policy):
            return f"{type(self.policy).__name__} evaluates actions by itself, or has a distribution of its own"
        return descent.reason

    # -- checkpoints --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Loss scale of float16, which is doubled after so many good steps; empty without float16."""
        return {name: scaler.state_dict() for name, scaler in self.scalers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self._eager.clear()
        for name, each in state.items():
            self.scalers[name] = th.amp.GradScaler(self.policy.device.type)
            self.scalers[name].load_state_dict(each)


def _engine(policy: Any, compile: bool, precision: str, on_nonfinite: str, scalers: dict[str, Any]) -> Engine:
    return Engine(policy, compile=compile, precision=precision, on_nonfinite=on_nonfinite, scalers=scalers)
