"""The logger: what SB3 leaves out of it, and sinks that fail."""

import warnings
from collections.abc import Callable
from typing import Any

from stable_baselines3.common.logger import FormatUnsupportedError, KVWriter, Logger


def guard_sinks(logger: Logger) -> None:
    """Make a sink that fails (a full disk, a tracking server that is down) a warning, once, and go on without it.

    Its ``write`` is replaced in the object itself: callbacks look sinks up by their class. What a sink refuses to
    write (a figure in a CSV file) stays an error, as in SB3.

    :param logger: the model's.
    """
    for sink in logger.output_formats:
        if isinstance(sink, KVWriter) and "write" not in vars(sink):
            sink.write = _guard(sink, logger, sink.write)  # type: ignore[method-assign]


def _guard(sink: KVWriter, logger: Logger, write: Callable[..., None]) -> Callable[..., None]:
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            write(*args, **kwargs)
        except (FormatUnsupportedError, ValueError, TypeError):
            raise
        except Exception as error:
            # Another list: SB3 is just going through the old one.
            logger.output_formats = [other for other in logger.output_formats if other is not sink]
            warnings.warn(
                f"{type(sink).__name__} failed and is left out from now on ({type(error).__name__}: {error})",
                UserWarning,
                stacklevel=2,
            )

    return guarded


def dump_last_update(logger: Logger, num_timesteps: int) -> None:
    """Log the last update too: SB3 writes its log *before* each update, so the last one never appears in it.

    :param logger: holds what the last update recorded.
    :param num_timesteps: environment steps so far.
    """
    recorded = dict(logger.name_to_value)
    if not any(name.startswith("train/") for name in recorded):
        return
    logger.record("time/total_timesteps", num_timesteps, exclude="tensorboard")
    logger.dump(step=num_timesteps)
    # Dumping empties the logger; a reader of logger.name_to_value shall still see what SB3 leaves there.
    logger.name_to_value.update(recorded)
