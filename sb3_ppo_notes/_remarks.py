"""What parts of PyTorch have to say to us, and not to users."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_remarks(name: str) -> Iterator[None]:
    """Keep warnings, and a logger's below errors, from users: on deprecated calls between PyTorch's own parts, on what
    Inductor leaves to eager code, on packages that an exporter does not find.

    :param name: of the logger.
    :return: a context.
    """
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
