"""What a resumed run may be trusted with."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ResumeReport:
    """What of a checkpoint was put back exactly, and what was not.

    :param path: the checkpoint.
    :param num_timesteps: environment steps that the run had made.
    :param total_timesteps: environment steps that it was to make.
    :param not_exact: what differs from the run that was cut, and why; empty if nothing does.
    :param skipped: newer checkpoints that are damaged, and how.
    """

    path: Path
    num_timesteps: int
    total_timesteps: int
    not_exact: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether the run goes on bit for bit as if it had not been cut."""
        return not self.not_exact

    @property
    def remaining_timesteps(self) -> int:
        """For ``learn(..., reset_num_timesteps=False)``, so that schedules go on as they would have."""
        return max(self.total_timesteps - self.num_timesteps, 0)

    def __str__(self) -> str:
        lines = [f"{self.path}: step {self.num_timesteps:,} of {self.total_timesteps:,}"]
        lines += [f"skipped: {reason}" for reason in self.skipped]
        lines += [f"not exact: {reason}" for reason in self.not_exact] or ["exact: everything"]
        return "\n".join(lines)
