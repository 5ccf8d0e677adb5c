"""`train()` and `eval()` change what batch norm and dropout do, and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quickstudy.core.episode import Support
from quickstudy.core.learner import Learner
from quickstudy.encoders.classifier import MLP, Classifier
from quickstudy.encoders.conv4 import AveragedConv4, Conv4
from quickstudy.encoders.moment_norm import MomentNorm
from quickstudy.encoders.postprocess import WCCN, CohortNorm, ConcatFeatures, Embedding, EmbeddingTransform
from quickstudy.encoders.r2d2 import R2D2Encoder
from quickstudy.encoders.resnet import ResNet, WithFeatures
from quickstudy.encoders.resnet12 import ResNet12, ResNet12Block
from quickstudy.encoders.spectrogram import LogMel, SpecAugment
from quickstudy.encoders.tdnn import TDNN
from quickstudy.encoders.test_time import FlipTTA, RotateTTA, ShiftSpeedTTA, TestTimeAugmentation
from quickstudy.metric.relation import relation_encoder
from quickstudy.recipes.catalogue import RECIPES
from quickstudy.recipes.recipe import Recipe
from quickstudy.recipes.sources import EXAMPLES


def resnet() -> ResNet:
    return ResNet(1, (4, 6), dimensions=5, grid=(2, 2), dropout=0.5)


def fitted(transform: EmbeddingTransform, dimensions: int) -> EmbeddingTransform:
    transform.fit(torch.randn(40, dimensions), torch.arange(40) % 5)
    return transform


PICTURES, CLIPS, SPECTROGRAMS, EMBEDDINGS = (6, 1, 32, 32), (6, 2000), (6, 1, 20, 30), (6, 29)
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Conv4": (lambda: Conv4(channels=4), PICTURES),
    "Classifier": (lambda: Classifier(Conv4(channels=4), 3, dimensions=16), PICTURES),
    "MLP": (lambda: MLP(29, (7,), 3), EMBEDDINGS),
    "relation_encoder": (relation_encoder, PICTURES),
    "ResNet": (resnet, PICTURES),
    "ResNet12": (lambda: ResNet12(1, (3, 4, 5, 6), drop_rate=0.1), PICTURES),
    "R2D2Encoder": (lambda: R2D2Encoder(1, (3, 4, 5, 6)), PICTURES),
    "AveragedConv4": (lambda: AveragedConv4(1, 4), PICTURES),
    "TDNN": (lambda: TDNN(20, 4, dimensions=5), SPECTROGRAMS),
    "WithFeatures": (lambda: WithFeatures(resnet()), PICTURES),
    "MomentNorm": (MomentNorm, PICTURES),
    "LogMel": (lambda: LogMel(8000, mels=20), CLIPS),
    "SpecAugment": (lambda: SpecAugment(), SPECTROGRAMS),
    "FlipTTA": (lambda: FlipTTA(resnet()), PICTURES),
    "RotateTTA": (lambda: RotateTTA(WithFeatures(resnet())), PICTURES),
    "ShiftSpeedTTA": (lambda: ShiftSpeedTTA(nn.Sequential(LogMel(8000), SpecAugment(), resnet())), CLIPS),
    "WCCN": (lambda: fitted(WCCN(29, centered=True), 29), EMBEDDINGS),
    "ConcatFeatures": (lambda: fitted(ConcatFeatures(5, 24), 29), EMBEDDINGS),
    "CohortNorm": (lambda: fitted(CohortNorm(29, size=30), 29), EMBEDDINGS),
    "Embedding": (lambda: Embedding(FlipTTA(resnet()), [WCCN(5), CohortNorm(5)]), PICTURES),
}


def in_training(module: nn.Module) -> nn.Module:
    """In training, but for what is to differ there: batch norm, dropout and masks."""
    for part in module.train().modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm | nn.Dropout | SpecAugment):
            part.eval()
        if isinstance(part, ResNet | R2D2Encoder | TDNN):
            part.dropout = 0.0
        if isinstance(part, ResNet12Block):
            part.drop_rate = 0.0
    return module


def same_in_both_modes(module: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        shapes = {module.train(training)(x).shape for training in (True, False)}
        assert len(shapes) == 1
        in_evaluation = module.eval()(x)
        torch.testing.assert_close(in_training(module)(x), in_evaluation)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_means_the_same_in_training_and_evaluation(name: str) -> None:
    torch.manual_seed(0)
    make, shape = MODULES[name]
    same_in_both_modes(make(), torch.rand(shape))


def test_no_transform_or_augmentation_is_left_out() -> None:
    classes = [*EmbeddingTransform.__subclasses__(), *TestTimeAugmentation.__subclasses__()]
    assert {c.__name__ for c in classes if c.__module__.startswith("quickstudy")} <= {*MODULES}


OWN: dict[str, dict[str, Any]] = {
    "prototypical-images": EXAMPLES["images"],
    "maml-images": EXAMPLES["images"],
    "prototypical-features": EXAMPLES["features"],
}
STATED: list[tuple[str, dict[str, Any]]] = [
    *((name, OWN.get(name, {})) for name in RECIPES if name != "siamese" and "-optimizer-" not in name),
    *(
        ("siamese", {kind: "DIR", "method": m})
        for kind in ("images", "audio")
        for m in ("siamese", "euclidean")
    ),
    *((name, {"method": "euclidean"}) for name in ("faces-orl", "words-arabic", "speakers-arabic")),
]


def items(recipe: Recipe, number: int) -> Tensor:
    return torch.rand(number, *recipe.item_format.shape)


@pytest.mark.medium
@pytest.mark.parametrize(("name", "arguments"), STATED, ids=lambda of: of if isinstance(of, str) else None)
def test_the_learners_of_a_recipe_mean_the_same_in_training_and_evaluation(
    name: str, arguments: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    recipe = RECIPES[name](**arguments)
    learner = recipe.learner()
    used, ways = recipe.used(learner), recipe.tests[0].ways
    assert type(used) is type(learner)
    support = Support(items(recipe, ways)[None], torch.arange(ways)[None], ways)
    for one in (learner, used):
        shapes = {scores(one.train(training), support).shape for training in (True, False)}
        assert shapes == {(1, ways, ways)}
        if isinstance(encoder := getattr(one, "encoder", None), nn.Module):
            same_in_both_modes(encoder, items(recipe, 4))


def scores(learner: Learner, support: Support) -> Tensor:
    with torch.no_grad():
        return learner.predict(support, support.x)


@pytest.mark.parametrize("name", ["siamese-omniglot-lake", "faces-lfw", "words-arabic", "speakers-arabic"])
def test_a_used_learner_shares_all_that_is_trained(name: str) -> None:
    recipe = RECIPES[name]()
    learner = recipe.learner()
    encoder, before = learner.encoder, learner.state_dict()
    used = recipe.used(learner)
    assert learner.encoder is encoder
    assert used.encoder is not encoder
    assert learner.state_dict().keys() == before.keys()
    assert [*map(id, used.parameters())] == [*map(id, learner.parameters())]
    learner.double()  # as another device would, it replaces what parameters and buffers hold
    assert all(p.dtype == torch.float64 for p in used.parameters())
    assert {*map(id, learner.buffers())} <= {*map(id, used.buffers())}


def test_a_learner_without_an_encoder_has_no_embedding() -> None:
    stated = RECIPES["maml-glyphs"]()
    with pytest.raises(ValueError, match="MAML has no encoder"):
        replace(stated, embedding=FlipTTA).used(stated.learner())
