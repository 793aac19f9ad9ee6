"""Half precision for the networks, single precision for everything that is made of their outputs."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch as th

#: What the networks compute in. bfloat16 has float32's range; float16 has not, and needs its loss scaled.
PRECISIONS = {"float32": th.float32, "bfloat16": th.bfloat16, "float16": th.float16}


def mixed_precision(policy: Any) -> AbstractContextManager[Any]:
    """The context in which a policy's networks run.

    Matrix products and convolutions are rounded to the lower precision, weights and optimiser stay in float32. Acting
    and updating must both be in it: otherwise the ratio of the very first minibatch would not be 1.

    Source: Micikevicius et al. 2018 (arXiv:1710.03740); ``torch.autocast``.

    :param policy: its attribute ``precision`` says which; without one, float32.
    :return: a context manager.
    """
    precision = getattr(policy, "precision", "float32")
    if precision == "float32":
        return nullcontext()
    return th.autocast(policy.device.type, dtype=PRECISIONS[precision])
