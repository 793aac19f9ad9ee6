"""SB3's model file, written so that an old one is never lost to a failed new one."""

import os
import warnings
from collections.abc import Iterable
from io import BufferedIOBase
from pathlib import Path

import cloudpickle
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import is_json_serializable

from sb3_ppo_notes._atomic import replacing
from sb3_ppo_notes.formulas.checks import InvalidTypeError

#: Attributes that no file holds under their own names: made anew, or of the process that learns.
OF_THE_PROCESS = frozenset(
    {"critic_optimizer", "_engine", "_said_execution", "watchers", "last_checkpoint_path", "between_steps"}
    | {"on_resume", "resume_report", "_paused_at", "_unfinished_step", "_is_learning"}
)
#: Attributes of a run that goes on: a checkpoint holds them, SB3's model file does not.
OF_A_RUN = frozenset({"_last_states", "_iteration", "_run_id"})


class SavesAtomically(BaseAlgorithm):
    """``save`` in SB3's format, whole or not at all."""

    def save(
        self,
        path: str | Path | BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Write the model to a zip file, see SB3's ``BaseAlgorithm.save``.

        SB3 empties an old file of that name before it knows whether a new one can be written. Here the old one stays
        until the new one is complete and on the disk.

        :param path: the file; ``.zip`` is added to a name without a suffix.
        :param exclude: attributes to leave out beside those that always are.
        :param include: attributes to put in although they usually are not.
        :raises TypeError: if an attribute cannot be pickled, naming it; nothing was written.
        """
        kept = None if exclude is None else list(exclude)
        wanted = None if include is None else list(include)
        if not isinstance(path, str | os.PathLike):
            super().save(path, kept, wanted)
            return
        with replacing(_target(Path(path))) as file:
            try:
                super().save(file, kept, wanted)  # type: ignore[arg-type]
            except Exception as error:
                name = self._unpicklable(kept or [], wanted or [])
                if name is None:
                    raise
                raise InvalidTypeError(
                    f"{name} must be something that can be pickled to be saved with the model, got "
                    f"{vars(self)[name]!r} ({error}); {path} is as it was (leave it out with exclude=[{name!r}])"
                ) from error

    def _unpicklable(self, exclude: list[str], include: list[str]) -> str | None:
        """The attribute that cannot be saved."""
        left_out = (set(exclude) | set(self._excluded_save_params())) - set(include)
        names, others = self._get_torch_save_params()
        left_out |= {name.split(".")[0] for name in names + others}
        for name, value in vars(self).items():
            if name in left_out or is_json_serializable(value):
                continue
            try:
                cloudpickle.dumps(value)
            except Exception:
                return name
        return None


def _target(path: Path) -> Path:
    """Where SB3 would write: a suffix for a bare name, another name beside a folder, a folder that is missing."""
    target = path if path.suffix else path.with_name(f"{path.name}.zip")
    if target.is_dir():
        warnings.warn(f"Path '{target}' is a folder. Will save instead to {target}_2", UserWarning, stacklevel=3)
        target = target.with_name(f"{target.name}_2")
    if not target.parent.exists():
        warnings.warn(f"Path '{target.parent}' does not exist. Will create it.", UserWarning, stacklevel=3)
        target.parent.mkdir(parents=True, exist_ok=True)
    return target
