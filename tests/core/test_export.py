"""Whole predictions are exported, and encoders compiled, as the how-to says."""

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core.learner import Learner
from quickstudy.metric import FEAT, MetaBaseline, MetaOptNet


class Predict(nn.Module):
    """A prediction as a module of three tensors."""

    def __init__(self, learner: Learner, ways: int) -> None:
        super().__init__()
        self.learner, self.ways = learner, ways

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        return self.learner.predict(qs.Support(support_x, support_y, self.ways), query_x)


@pytest.mark.medium
def test_a_prediction_is_exported_and_an_encoder_compiled() -> None:
    torch.manual_seed(0)
    whole = Predict(qs.Prototypical(qs.Conv4(1, 4)).eval(), 3)
    task = torch.rand(2, 3, 1, 16, 16), torch.arange(3).expand(2, 3).contiguous(), torch.rand(2, 5, 1, 16, 16)
    with torch.no_grad():
        expected = whole(*task)
        exported = torch.export.export(whole, task).module()
        assert torch.allclose(exported(*task), expected, atol=1e-6)
        encoder = whole.learner.encoder
        compiled = torch.compile(encoder, backend="eager")
        assert torch.allclose(compiled(task[2][0]), encoder(task[2][0]), atol=1e-6)
    with pytest.raises(ValueError, match="support label 3 is outside 0 … 2"):
        whole(task[0], task[1] + 1, task[2])


@pytest.mark.slow
@pytest.mark.parametrize(
    "learner",
    [MetaOptNet(qs.Conv4(1, 4)), FEAT(qs.Conv4(1, 4), 4), MetaBaseline(qs.Conv4(1, 4))],
    ids=lambda of: type(of).__name__,
)
def test_heads_that_are_learned_through_are_exported(learner: Learner) -> None:
    whole = Predict(learner.eval(), 3)
    task = torch.rand(2, 3, 1, 16, 16), torch.arange(3).expand(2, 3).contiguous(), torch.rand(2, 5, 1, 16, 16)
    with torch.no_grad():
        exported = torch.export.export(whole, task).module()
        torch.testing.assert_close(exported(*task), whole(*task), rtol=1e-5, atol=1e-5)
