"""Folders that `fit` wrote in Python, and recipes of one's own, as every command takes them."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core import checkpoint
from quickstudy.core.learner import Learner, embed
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.pool import ClassPool
from quickstudy.encoders import R2D2Encoder
from quickstudy.metric import R2D2, MetaOptNet, Siamese, contrastive_loss
from quickstudy.recipes.weights import recipe_of
from tests.cli.test_cli import Run, call, draw, fresh_machine, refused

MINE = '''
from dataclasses import replace

import quickstudy as qs
from quickstudy.recipes.metric import prototypical_glyphs
from tests.recipes.test_without import Cosine


def cosine(scale: float = 10.0):
    """Cosines to prototypes.

    Args:
        scale: Factor of the cosines.
    """
    return replace(prototypical_glyphs(), learner=lambda: Cosine(qs.Conv4(1, 8), scale))
'''


class Cosine(Learner):
    """A method of one's own."""

    def __init__(self, encoder: nn.Module, scale: float) -> None:
        super().__init__()
        self.encoder, self.scale = encoder, scale

    def predict(self, support: qs.Support, query_x: Tensor) -> Tensor:
        z = nn.functional.normalize(embed(self.encoder, torch.cat([support.x, query_x], 1)), dim=-1)
        shots, queries = z.split([support.x.shape[1], query_x.shape[1]], 1)
        member = nn.functional.one_hot(support.y, support.ways).to(z.dtype).mT
        return self.scale * queries @ (member @ shots).mT


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    cache = tmp_path.parent / "cache of glyphs"  # drawn once
    fresh_machine(tmp_path, monkeypatch)
    monkeypatch.setenv("QUICKSTUDY_CACHE", str(cache))
    return call


def fitted(learner: Learner, out: Path, pool: ClassPool | None = None) -> Path:
    pool = pool or qs.glyphs().split("train")
    qs.fit(learner, qs.Episodes(pool, qs.Setting(5, 1, 3), 2), 2, out=out)
    return out


LEARNERS = {
    "prototypical": lambda: qs.Prototypical(qs.Conv4(1, 8)),
    "r2d2": lambda: R2D2(R2D2Encoder(1, (4, 4, 4, 4))),
    "metaoptnet": lambda: MetaOptNet(R2D2Encoder(1, (4, 4, 4, 4))),
    "siamese": lambda: Siamese(qs.Conv4(1, 8), loss=partial(contrastive_loss, margin=0.5)),
    "maml": lambda: qs.MAML(
        qs.Classifier(qs.Conv4(1, 8, running_statistics=False), 5, 8), lr=0.1, steps=1, test_steps=2
    ),
}


@pytest.mark.medium
@pytest.mark.parametrize("name", LEARNERS)
def test_a_folder_that_fit_wrote_is_taken_by_every_command(name: str, run: Run, tmp_path: Path) -> None:
    trained = LEARNERS[name]()
    fitted(trained, tmp_path / "r")
    learner, manifest = qs.load_learner(tmp_path / "r")
    assert type(learner) is type(trained)
    assert not learner.training
    episode = qs.Episodes(qs.glyphs().split("test"), qs.Setting(5, 1, 3), 2)[0]
    trained.eval()
    with torch.no_grad():
        expected = trained.predict(episode.support, episode.query_x)
        assert torch.equal(learner.predict(episode.support, episode.query_x), expected)
    assert manifest["items"] == ImageFormat(28, 1, invert=True).as_dict()
    evaluated = run("evaluate r --episodes 6 --json")
    assert evaluated.code == 0, evaluated.err
    told = json.loads(evaluated.out)[0]
    test = qs.Episodes(qs.glyphs().split("test"), qs.Setting(5, 1, 3), 10)
    assert told["accuracy"] == pytest.approx(qs.evaluate(trained, test, 6).accuracy)
    for folder in sorted(draw(tmp_path / "pics").iterdir())[5:]:
        shutil.rmtree(folder)  # MAML's head tells five classes
    predicted = run("predict r --support pics --query 'pics/class 00 (é)' --format json")
    assert predicted.code == 0, predicted.err
    assert len(json.loads(predicted.out)) == 12
    assert run("evaluate r --images pics --episodes 2 --setting 3w1s --queries 2").code == 0
    assert run("plot r --out drawn").code == 0
    assert (tmp_path / "drawn" / "episode.png").exists()


def test_a_learner_of_ones_own_is_given_or_its_recipe_is_named(run: Run, tmp_path: Path) -> None:
    trained = Cosine(qs.Conv4(1, 8), 10.0)
    fitted(trained, tmp_path / "r")
    refused(run("evaluate r"), "r/best.safetensors was trained in Python and holds a Cosine", "learner=…")
    learner, _ = qs.load_learner(tmp_path / "r", learner=Cosine(qs.Conv4(1, 8), 10.0))
    assert isinstance(learner, Cosine)
    assert torch.equal(learner.encoder.convs[0].weight, trained.encoder.convs[0].weight)
    with pytest.raises(ValueError, match="belongs to another encoder"):
        qs.load_learner(tmp_path / "r", learner=Cosine(qs.Conv4(1, 4), 10.0))
    (tmp_path / "mine.py").write_text(MINE)
    assert run("evaluate r --recipe mine.py:cosine --episodes 2 --setting 5w1s --queries 2").code == 0
    assert isinstance(qs.load_learner(tmp_path / "r", recipe=f"{tmp_path}/mine.py:cosine")[0], Cosine)


@pytest.mark.slow
def test_a_recipe_of_ones_own_is_trained_and_used(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    train = "train mine.py:cosine --set scale=3 --steps 2 --test-episodes 4 --accelerator cpu --out r"
    done = run(train)
    assert done.code == 0, done.err
    assert "5w1s" in done.out
    manifest = checkpoint.load(tmp_path / "r" / "best.safetensors")[1]
    assert (manifest["recipe"], manifest["arguments"]) == ("mine.py:cosine", {"scale": 3.0})
    hint = "--recipe mine.py:cosine"
    for line in ("evaluate r", "predict r --support . --query .", "plot r"):
        refused(run(line), "was trained by a recipe of your own, mine.py:cosine", hint)
    assert run(f"evaluate r {hint} --episodes 2 --queries 2").code == 0
    draw(tmp_path / "pics")
    assert run(f"predict r {hint} --support pics --query pics/'class 01 (é)'/03.png").code == 0
    assert run(f"plot r {hint} --out drawn").code == 0
    learner, _ = qs.load_learner(tmp_path / "r", recipe="mine.py:cosine")
    assert isinstance(learner, Cosine)
    assert learner.scale == 3.0, "with the arguments that it was trained with"
    assert "going on" not in run(f"{train} --resume").err
    refused(run(train.replace("scale=3", "scale=4") + " --resume"), "arguments.scale 3.0, not 4.0")


def test_code_that_a_file_names_is_not_imported(run: Run, tmp_path: Path) -> None:
    fitted(LEARNERS["prototypical"](), tmp_path / "r")
    weights, manifest = checkpoint.load(tmp_path / "r" / "best.safetensors")
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    for named in ({"recipe": "evil.py:f", "arguments": {}}, {"recipe": "evil:f", "arguments": {}}):
        checkpoint.save(tmp_path / "x.safetensors", weights, manifest | named)
        refused(run("evaluate x.safetensors"), "was trained by a recipe of your own, evil")
    plan = {"class": "evil.f", "arguments": {}}
    checkpoint.save(
        tmp_path / "x.safetensors", weights, manifest | {"fit": manifest["fit"] | {"learner": plan}}
    )
    refused(run("evaluate x.safetensors"), "does not fit this version")


def test_data_that_only_a_program_can_load_are_asked_for(run: Run, tmp_path: Path) -> None:
    items = np.random.default_rng(0).integers(0, 256, (60, 1, 28, 28), dtype=np.uint8)
    pool = ClassPool.from_grouped(items, [f"c{i}" for i in range(6)], [10] * 6)
    fitted(LEARNERS["prototypical"](), tmp_path / "r", pool)
    refused(run("evaluate r"), "data that only your program can load", "--images DIR", "--recipe")
    draw(tmp_path / "pics")
    refused(run("predict r --support pics --query pics"), "doesn't say what its encoder takes", "--recipe")
    glyphs = qs.glyphs()
    other = replace(glyphs.split("train"), classes=tuple(f"x{i}" for i in range(len(glyphs.split("train")))))
    fitted(LEARNERS["prototypical"](), tmp_path / "other", other)
    refused(run("evaluate other"), "on another glyphs.train than quickstudy makes")


def test_the_recipe_of_a_training_in_python_tests_what_it_was_validated_on(tmp_path: Path) -> None:
    pool = qs.glyphs()
    qs.fit(
        LEARNERS["prototypical"](),
        qs.Episodes(pool.split("train"), qs.Setting(20, 1, 3)),
        1,
        validation=qs.Episodes(pool.split("validation"), qs.Setting(4, 2, 6)),
        validation_episodes=2,
        out=tmp_path,
    )
    manifest = checkpoint.load(tmp_path / "best.safetensors")[1]
    assert recipe_of(manifest).tests == (qs.Setting(4, 2, 6),)
