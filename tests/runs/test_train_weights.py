"""Weights of a model, counted."""

import pytest
import torch as th
from torch import nn

from sb3_ppo_notes.runs.train.weights import count_weights, weights_table

# -- weights: batch-ppo's nine tests of count_weights, with torch's names ----------------------------------------


class Weights(nn.Module):
    def __init__(self, trainable=True, **parts):
        super().__init__()
        for name, part in parts.items():
            weights = part if isinstance(part, nn.Module) else nn.Parameter(th.zeros(part), requires_grad=trainable)
            setattr(self, name, weights)


NESTED = dict(a=(3, 2), foo=Weights(b=(5, 2), bar=Weights(c=(1, 2))))


@pytest.mark.parametrize(
    ("module", "scope", "exclude", "count"),
    [
        (Weights(a=(5, 3), b=(1, 1), c=(5,)), "", None, 21),
        (Weights(trainable=False, a=(5, 3), b=(1, 1), c=(5,)), "", None, 0),
        (Weights(a=(5, 3), b=(1, 1), c=(5,), d=Weights(trainable=False, e=(8, 8))), "", None, 21),
        (Weights(a=(3, 2), foo=Weights(b=(5, 2))), "", None, 16),
        (Weights(**NESTED), "foo", None, 12),
        (Weights(**NESTED), "foo.bar", None, 2),
        (Weights(**NESTED), "bar", None, 0),
        (Weights(**NESTED), "fo", None, 0),
        (Weights(**NESTED), "", ".*", 0),
        (Weights(**NESTED), "", r"foo\.", 6),
        (Weights(**NESTED), "", r".*\bbar\.", 16),
        (Weights(**NESTED), "", "bar", 18),  # matched from the beginning
    ],
)
def test_weights_are_counted(module, scope, exclude, count):
    assert count_weights(module, scope, exclude) == count


def test_a_wrong_expression_is_refused():
    with pytest.raises(ValueError, match=r"exclude must be a regular expression, got '\('"):
        count_weights(Weights(a=(1,)), exclude="(")


def test_the_table_of_weights_sums_up_modules():
    table = weights_table(Weights(**NESTED))
    assert [list(column.cells) for column in table.columns] == [["a", "foo", "foo.bar", "all"], ["6", "10", "2", "18"]]
