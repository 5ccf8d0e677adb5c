"""fit and evaluate: they learn, they stop well, and they go on as if they had never stopped."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from quickstudy.core import checkpoint
from quickstudy.core.learner import Learner, with_embedding
from quickstudy.core.scores import Score
from quickstudy.data.augment.images import RandomAffine
from quickstudy.data.episodes import Episodes
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.encoders.conv4 import Conv4
from quickstudy.encoders.postprocess import WCCN, Embedding
from quickstudy.metric.prototypical import Prototypical
from quickstudy.training.averaging import WeightAverage
from quickstudy.training.evaluate import evaluate
from quickstudy.training.fit import fit
from quickstudy.training.run_folder import read_log
from quickstudy.training.schedules import Schedule, cosine_schedule, halve_every, linear_decay, restarted
from tests.support.pools import noisy_pool

ROOT = Path(__file__).parents[2]


def small_learner(seed: int = 0) -> Learner:
    torch.manual_seed(seed)
    return Prototypical(nn.Sequential(Conv4(1, 8), nn.Dropout(0.2)))


def small_fit(learner: Learner, out: Path | None = None, steps: int = 20, **options):
    pool = noisy_pool()
    settings = {"validation": Episodes(pool, Setting(5, 1, 3), 4, 1), "validation_episodes": 8, "every": 4}
    return fit(learner, Episodes(pool, Setting(5, 1, 3), 2), steps, out=out, **(settings | options))


class PerPixel(Learner):
    """Logistic regression: one weight a pixel of the query, the same for every class but its bias."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(256, 5))

    def predict(self, support, query_x):
        return query_x.flatten(2) @ self.weight


def logged(folder: Path) -> list[dict]:
    """The log without what the clock writes."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tasks_per_second")} for line in lines]


def same_result(a: Path, b: Path) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        (x, _), (y, _) = checkpoint.load(a / name), checkpoint.load(b / name)
        assert x.keys() == y.keys()
        for key in x:
            assert torch.equal(x[key], y[key]), key
    assert logged(a) == logged(b)


def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.medium
def test_it_learns_and_keeps_the_best():
    learner = small_learner()
    episodes = Episodes(noisy_pool(seed=1), Setting(5, 1, 3), 4, 9)
    before = evaluate(learner, episodes, 100)
    progress = fit(
        learner,
        Episodes(noisy_pool(40), Setting(5, 1, 3), 2),
        100,
        optimizer=partial(torch.optim.Adam, lr=3e-3),
    )
    after = evaluate(learner, episodes, 100)
    assert progress.stopped == "finished"
    assert after.accuracy > before.accuracy + 0.1


def test_the_best_weights_are_the_ones_left_and_saved(tmp_path: Path):
    learner = small_learner()
    progress = small_fit(learner, tmp_path, optimizer=partial(torch.optim.Adam, lr=0.03))
    validation = Episodes(noisy_pool(), Setting(5, 1, 3), 4, 1)
    assert (
        evaluate(learner, validation, 8).accuracy
        == progress.best
        == max(x["validation"] for x in logged(tmp_path))
    )
    weights, manifest = checkpoint.load(tmp_path / "best.safetensors")
    assert all(torch.equal(v, weights[k]) for k, v in learner.state_dict().items())
    assert manifest["training"]["steps"] == progress.best_step


def test_the_last_weights_are_kept_where_that_is_asked_for(tmp_path: Path):
    objective = iter((0.9, 0.5, 0.7, 0.2, 0.4))

    def worse() -> Score:
        return Score(next(objective), 0.1, 8, 1, "5w1s", "inductive")

    learner = small_learner()
    progress = small_fit(
        learner, tmp_path, optimizer=partial(torch.optim.Adam, lr=0.03), validation=worse, keep="last"
    )
    assert (progress.stopped, progress.best_step, progress.best) == ("finished", 20, 0.4)
    best, last = (checkpoint.load(tmp_path / f"{name}.safetensors")[0] for name in ("best", "last"))
    assert all(torch.equal(v, best[k]) for k, v in learner.state_dict().items())
    assert all(torch.equal(v, last[f"learner.{k}"]) for k, v in best.items())


def test_there_is_no_patience_where_the_last_weights_are_kept():
    with pytest.raises(ValueError, match="patience needs the best validation"):
        small_fit(small_learner(), keep="last", patience=2, report=lambda *_: pytest.fail("trained"))


class KilledError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 4, 6, 11, 19])
def test_a_stopped_training_resumes_bit_for_bit(tmp_path: Path, at: int):
    small_fit(small_learner(), tmp_path / "whole", schedule=cosine_schedule(20, 3))

    def die(step, report):
        if step == at:
            raise KilledError

    with pytest.raises(KilledError):
        small_fit(small_learner(), tmp_path / "cut", schedule=cosine_schedule(20, 3), report=die)
    # another initialisation, which the checkpoint must overrule wherever there is one
    learner = small_learner(0 if at < 4 else 1)
    small_fit(learner, tmp_path / "cut", schedule=cosine_schedule(20, 3), resume=True)
    same_result(tmp_path / "whole", tmp_path / "cut")


def test_interrupted_by_a_signal_it_saves_at_once_and_resumes(tmp_path: Path):
    small_fit(small_learner(), tmp_path / "whole")

    def interrupt(step, report):
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        small_fit(small_learner(), tmp_path / "cut", report=interrupt)
    assert checkpoint.load(tmp_path / "cut" / "last.safetensors")[1]["progress"]["step"] == 7
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    progress = small_fit(small_learner(1), tmp_path / "cut", resume=True)
    assert (progress.stopped, progress.step) == ("finished", 20)
    same_result(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_killed_in_the_middle_by_the_system_it_resumes_bit_for_bit(tmp_path: Path):
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path\n"
        "import tests.training.test_fit as t\n"
    )
    run = "t.small_fit(t.small_learner(), Path(sys.argv[1]), every=5, steps=400, resume=True)"
    command = [sys.executable, "-c", script + run]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment)
    for kills in range(3):
        child = subprocess.Popen([*command, str(tmp_path / "cut")], env=environment)
        begun = time.monotonic()
        while not (tmp_path / "cut" / "log.jsonl").exists() and time.monotonic() < begun + 60:
            time.sleep(0.01)
        time.sleep(2.5 + 0.37 * kills)
        child.kill()
        child.wait()
    subprocess.run([*command, str(tmp_path / "cut")], check=True, env=environment)
    same_result(tmp_path / "whole", tmp_path / "cut")


def test_a_last_line_of_the_log_that_a_power_cut_left_half_written_is_dropped(tmp_path: Path):
    small_fit(small_learner(), tmp_path)
    whole = read_log(tmp_path / "log.jsonl")
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 2')
    assert read_log(tmp_path / "log.jsonl") == whole
    small_fit(small_learner(), tmp_path, resume=True)
    assert logged(tmp_path)  # each line is whole again
    (tmp_path / "log.jsonl").write_text('{"st\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"log.jsonl, line 1, is not JSON"):
        small_fit(small_learner(), tmp_path, resume=True)


@pytest.mark.parametrize("at", [1, 6])
def test_with_an_average_it_resumes_bit_for_bit(tmp_path: Path, at: int):
    small_fit(small_learner(), tmp_path / "whole", ema_decay=0.8)

    def interrupt(step, report):
        if step == at:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        small_fit(small_learner(), tmp_path / "cut", ema_decay=0.8, report=interrupt)
    small_fit(small_learner(1), tmp_path / "cut", ema_decay=0.8, resume=True)
    same_result(tmp_path / "whole", tmp_path / "cut")
    with pytest.raises(ValueError, match=r"with ema_decay 0\.8, not None"):
        small_fit(small_learner(), tmp_path / "cut", resume=True)


def test_the_average_is_validated_and_kept_and_training_goes_on_with_the_weights(tmp_path: Path):
    """Beside the definition, and beside the same training without an average."""

    def weights(learner: nn.Module) -> dict[str, torch.Tensor]:
        return {k: v.clone() for k, v in learner.state_dict().items()}

    def trained(out: Path, decay: float | None):
        learner, steps, validated = small_learner(), [], []

        def validation() -> Score:
            validated.append(weights(learner))
            return Score(len(validated) / 10, 0.1, 2, 0, "5w1s", "inductive")  # the last is the best

        def report(step, news):
            steps.append(weights(learner))

        how = {"every": 2, "validation": validation, "report": report, "ema_decay": decay}
        small_fit(learner, out, steps=6, **how)
        return steps, validated, weights(learner)

    steps, validated, kept = trained(tmp_path / "average", d := 0.7)
    plain, _, _ = trained(tmp_path / "plain", None)
    same_weights(steps[-1], plain[-1])
    same_weights(kept, validated[-1])
    same_weights(kept, checkpoint.load(tmp_path / "average" / "best.safetensors")[0])
    last = checkpoint.load(tmp_path / "average" / "last.safetensors")[0]
    same_weights(checkpoint.without_prefix("learner.", last), plain[-1])
    moved = 0.0
    for t, found in zip((2, 4, 6), validated, strict=True):
        for name, average in found.items():
            p = [step[name].double() for step in steps[:t]]
            if not steps[0][name].is_floating_point():
                assert torch.equal(average, steps[t - 1][name])
                continue
            expected = sum((1 - d) * d ** (t - i) * p[i - 1] for i in range(1, t + 1)) / (1 - d**t)
            torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-6)
            moved = max(moved, (p[-1] - expected).abs().max().item())
    assert moved > 1e-3


def test_the_average_of_weights_is_its_definition():
    torch.manual_seed(0)
    module, d = nn.BatchNorm1d(3).double(), 0.9
    average, seen = WeightAverage(module, d), []
    for t in range(1, 40):
        with torch.no_grad():
            for weight in (module.weight, module.running_var):
                weight.copy_(torch.randn(3))
        average.update(t)
        seen.append((module.weight.detach().clone(), module.running_var.clone()))
        for name, values in zip(("weight", "running_var"), zip(*seen, strict=True), strict=True):
            expected = sum((1 - d) * d ** (t - i) * p for i, p in enumerate(values, 1)) / (1 - d**t)
            torch.testing.assert_close(average.average[name], expected, rtol=0, atol=1e-10)
    with average.applied():
        assert torch.equal(module.running_var, average.average["running_var"])
    assert torch.equal(module.running_var, seen[-1][1])
    with pytest.raises(ValueError, match=r"ema_decay is 1\.0: it must lie between 0 and 1"):
        small_fit(small_learner(), ema_decay=1.0)


def test_without_validation_the_average_is_left_and_saved(tmp_path: Path):
    learner = small_learner()
    small_fit(learner, tmp_path, steps=5, validation=None, ema_decay=0.9)
    last = checkpoint.load(tmp_path / "last.safetensors")[0]
    average = checkpoint.without_prefix("average.", last)
    best = checkpoint.load(tmp_path / "best.safetensors")[0]
    same_weights(best, learner.state_dict())
    same_weights({name: best[name] for name in average}, average)
    assert not torch.equal(last["learner.encoder.0.convs.0.weight"], average["encoder.0.convs.0.weight"])


@pytest.mark.parametrize("decay", [None, 0.9])
def test_what_is_saved_instead_of_the_learner_is_kept_and_restored(tmp_path: Path, decay: float | None):
    learner, out = small_learner(), tmp_path / "run"
    saved = with_embedding(learner, lambda encoder: Embedding(encoder, [WCCN(64)]))
    counted: list[float] = []

    def validation() -> Score:
        """Best the first time; it notes when it was by what is fitted."""
        counted.append(float(len(counted)))
        saved.encoder.transforms[0].mean.fill_(counted[-1])
        return Score(1 - counted[-1] / 10, 0.0, 1, 0, "2w1s", "inductive")

    small_fit(learner, out, steps=6, every=2, validation=validation, saved=saved, ema_decay=decay)
    assert counted == [0, 1, 2]
    best, last = (checkpoint.load(out / f"{name}.safetensors")[0] for name in ("best", "last"))
    assert best.keys() == saved.state_dict().keys()
    for weights, when, prefix in ((best, 0, ""), (last, 2, "learner.")):
        assert (weights[f"{prefix}encoder.transforms.0.mean"] == when).all()
    assert all(torch.equal(best[k], v) for k, v in saved.state_dict().items())
    for name, tensor in learner.encoder.state_dict().items():
        assert torch.equal(best[f"encoder.encoder.{name}"], tensor), "the learner has the best weights too"


def test_what_is_saved_must_share_the_parameters():
    with pytest.raises(ValueError, match="saved, a Prototypical, lacks parameters of the learner"):
        small_fit(small_learner(), saved=small_learner())


def test_an_existing_training_is_not_overwritten(tmp_path: Path):
    small_fit(small_learner(), tmp_path)
    with pytest.raises(ValueError, match="already holds a training run: add --resume"):
        small_fit(small_learner(), tmp_path)


def test_resuming_another_training_is_refused(tmp_path: Path):
    small_fit(small_learner(), tmp_path, manifest={"seed": 1})
    with pytest.raises(ValueError, match=r"holds a training run with seed 1, not 2"):
        small_fit(small_learner(), tmp_path, manifest={"seed": 2}, resume=True)


POOL = noisy_pool(16)
HALVES = replace(POOL, splits={"train": np.arange(8), "test": np.arange(8, 16)})


def tasks(pool: ClassPool = POOL, seed: int = 0, count: int = 2, **rest) -> Episodes:
    return Episodes(pool, Setting(5, 1, 3), count, seed, **rest)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"seed": 1}, {"seed": 2}, r"train\.seed 1, not 2"),
        ({"count": 2}, {"count": 4}, r"train\.tasks 2, not 4"),
        ({}, {"pool": noisy_pool(16, seed=3)}, r"train\.pool\.digest \w+, not \w+"),
        (
            {"pool": HALVES.split("train")},
            {"pool": HALVES.split("test")},
            r"train\.pool\.name pool\.train, not",
        ),
        ({}, {"setting": Setting(4, 1, 3)}, r"train\.setting\.ways 5, not 4"),
        ({}, {"augment": RandomAffine()}, r"train\.augment None, not RandomAffine\("),
        ({}, {"steps": 24}, "steps 20, not 24"),
        ({}, {"clip": 1.0}, r"clip None, not 1\.0"),
        ({}, {"schedule": halve_every(5)}, r"schedule \[1\.0, .*\], not \[1\.0, .*0\.125\]"),
        (
            {},
            {"optimizer": partial(torch.optim.Adam, lr=0.1)},
            r"parameter_groups .*'lr': 0\.001.*, not .*'lr': 0\.1",
        ),
        ({}, {"optimizer": partial(torch.optim.Adam, weight_decay=1e-4)}, "'weight_decay': 0.0001"),
        ({}, {"optimizer": partial(torch.optim.SGD, lr=1e-3)}, "optimizer Adam, not SGD"),
        ({}, {"validation": tasks(seed=8)}, r"validation\.seed 7, not 8"),
        ({}, {"validation_episodes": 9}, "validation_episodes 8, not 9"),
        ({}, {"keep": "last"}, "keep best, not last"),
        (
            {},
            {"fabric": Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")},
            "precision 32-true, not",
        ),
    ],
)
def test_resuming_another_training_is_refused_whatever_differs(
    tmp_path: Path, before: dict, after: dict, message: str
):
    def run(resume: bool, **options):
        own = {"setting", "augment", "pool", "seed", "count"}
        given = {k: v for k, v in options.items() if k in own}
        episodes = tasks(**{k: v for k, v in given.items() if k != "setting"})
        if "setting" in given:
            episodes = Episodes(POOL, given["setting"], 2)
        rest = {k: v for k, v in options.items() if k not in own}
        settings = {"validation": tasks(seed=7), "validation_episodes": 8, "every": 10, "steps": 20} | rest
        return fit(small_learner(), episodes, out=tmp_path, resume=resume, **settings)

    run(False, **before)
    untouched = (tmp_path / "last.safetensors").read_bytes()
    with pytest.raises(
        ValueError, match=f"holds a training run with {message}" if "'" not in message else message
    ):
        run(True, **(before | after))
    assert (tmp_path / "last.safetensors").read_bytes() == untouched
    assert run(True, **before).step == 20


def test_a_training_of_an_earlier_version_is_not_gone_on_with(tmp_path: Path):
    small_fit(small_learner(), tmp_path)
    tensors, manifest = checkpoint.load(tmp_path / "last.safetensors")
    del manifest["fit"]
    checkpoint.save(tmp_path / "last.safetensors", tensors, manifest)
    with pytest.raises(ValueError, match="a training run of an earlier version of quickstudy"):
        small_fit(small_learner(), tmp_path, resume=True)


def test_the_manifest_knows_the_classes_and_its_copy_their_number(tmp_path: Path):
    small_fit(small_learner(), tmp_path, manifest={"classes": {"calibration": {"x": "00"}}})
    classes = checkpoint.load(tmp_path / "best.safetensors")[1]["classes"]
    assert classes["train"] == classes["validation"] == noisy_pool().class_digests()
    assert classes["calibration"] == {"x": "00"}
    assert json.loads((tmp_path / "best.json").read_text())["classes"]["train"] == 12


def test_resuming_without_an_option_that_the_training_had_is_refused(tmp_path: Path):
    small_fit(small_learner(), tmp_path, manifest={"arguments": {"method": "prototypical"}})
    with pytest.raises(ValueError, match=r"a training run with arguments.method prototypical, not None"):
        small_fit(small_learner(), tmp_path, manifest={"arguments": {}}, resume=True)


def test_a_manifest_of_tuples_is_the_same_once_saved(tmp_path: Path):
    for resume in (False, True):
        small_fit(small_learner(), tmp_path, manifest={"split": (0.6, 0.2, 0.2)}, resume=resume)


def test_there_is_nothing_to_resume_without_a_folder():
    with pytest.raises(ValueError, match="nothing to resume without a folder"):
        small_fit(small_learner(), resume=True)


def test_a_loss_that_is_not_finite_stops_and_spares_the_best(tmp_path: Path):
    learner = small_learner()

    def poison(step, report):
        if step == 9:
            with torch.no_grad():
                next(learner.parameters()).fill_(float("nan"))

    with pytest.raises(FloatingPointError, match="loss became nan at step 10; the last good weights are in"):
        small_fit(learner, tmp_path, report=poison)
    for name in ("best.safetensors", "last.safetensors"):
        tensors, _ = checkpoint.load(tmp_path / name)
        assert all(torch.isfinite(t).all() for t in tensors.values())


class Blown(PerPixel):
    """Its loss is finite always, its gradient is not from a step on."""

    def __init__(self, step: int):
        super().__init__()
        self.steps = step

    def forward(self, episode):
        self.steps -= self.training
        loss = super().forward(episode)
        return loss + (0 * self.weight.sum()).sqrt() if self.steps < 0 else loss


@pytest.mark.parametrize(("good", "saved"), [(3, False), (6, True)])
def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, good: int, saved: bool):
    kept = "the last good weights are in" if saved else "nothing was saved"
    with pytest.raises(FloatingPointError, match=rf"became .* at step {4 * (1 + saved)}; {kept}"):
        small_fit(Blown(good), tmp_path, steps=8)
    for path in tmp_path.glob("*.safetensors"):
        assert all(t.isfinite().all() for t in checkpoint.load(path)[0].values())
    assert (tmp_path / "last.safetensors").exists() == saved


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fill(step, report):
        if step == 5:

            def full(_):
                raise OSError(errno.ENOSPC, "No space left on device")

            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match=r"No space left on device.*free some space"):
        small_fit(small_learner(), tmp_path, report=fill)
    monkeypatch.undo()
    assert checkpoint.load(tmp_path / "last.safetensors")[1]["progress"]["step"] == 4
    assert not list(tmp_path.glob(".*"))
    assert small_fit(small_learner(), tmp_path, resume=True).step == 20


def test_an_output_folder_that_cannot_be_written_fails_before_training(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="can't write"):
        small_fit(small_learner(), tmp_path / "file" / "out", report=lambda *_: pytest.fail("trained"))


def test_early_stopping_and_budget(tmp_path: Path):
    # with a rate of nought and no batch norm nothing changes: the first validation is the best
    progress = small_fit(PerPixel(), optimizer=lambda p: torch.optim.SGD(p, 0.0), patience=2)
    assert (progress.stopped, progress.step, progress.best_step) == ("patience", 12, 4)
    still = {"optimizer": lambda p: torch.optim.SGD(p, 0.0)}
    small_fit(PerPixel(), tmp_path / "patient", patience=2, **still)
    assert small_fit(PerPixel(), tmp_path / "patient", patience=2, resume=True, **still).step == 12
    assert small_fit(PerPixel(), tmp_path / "patient", resume=True, **still).step == 20
    progress = small_fit(small_learner(), tmp_path, minutes=1e-9)
    assert (progress.stopped, progress.step) == ("minutes", 1)
    assert small_fit(small_learner(), tmp_path, resume=True).step == 20


def test_schedules():
    assert [halve_every(2)(i) for i in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    at = cosine_schedule(12, 2)
    assert [at(0), at(1), at(2)] == [0.5, 1.0, 1.0]
    assert at(7) == pytest.approx(0.5)
    assert at(12) == at(99) == 0
    short = cosine_schedule(4, 200)  # half of it is warm-up
    assert [short(0), short(1), short(2)] == [0.5, 1.0, 1.0]
    assert short(4) == 0


@pytest.mark.parametrize(
    "schedule", [halve_every(3), cosine_schedule(12, 2), linear_decay(12), restarted(12)]
)
def test_schedules_are_lambda_lrs(schedule: Schedule) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    for step in range(12):
        assert scheduler.get_last_lr() == [0.3 * schedule(step)]
        optimizer.step()
        scheduler.step()


def test_gradients_are_clipped():
    learner = PerPixel()
    small_fit(learner, validation=None, optimizer=lambda p: torch.optim.SGD(p, 1.0), clip=1e-3)
    # twenty steps, none longer than the clipping norm times the rate
    assert 0 < learner.weight.norm().item() <= 20 * 1e-3 * 1.001


def test_the_schedule_multiplies_the_rate():
    learner = PerPixel()
    small_fit(
        learner, validation=None, optimizer=lambda p: torch.optim.SGD(p, 1.0), schedule=lambda step: 0.0
    )
    assert learner.weight.abs().max() == 0


def test_evaluation_counts_each_task_once_and_restores_the_mode():
    learner = small_learner().train()
    episodes = Episodes(noisy_pool(), Setting(5, 1, 3), 4, 3)
    score = evaluate(learner, episodes, 10)
    assert learner.training
    learner.eval()
    each = []
    for i in range(3):
        e = episodes[i]
        with torch.no_grad():
            told = learner.predict(e.support, e.query_x).argmax(-1)
        each += (told == e.query_y).double().mean(-1).tolist()
    assert score.accuracy == pytest.approx(np.mean(each[:10]))
    assert score.ci95 == pytest.approx(2.262157 * np.std(each[:10], ddof=1) / np.sqrt(10))
    assert (score.episodes, score.setting, score.mode, score.seed) == (10, "5w1s", "inductive", 3)


def test_transductive_evaluation_differs_and_leaves_no_trace():
    learner = small_learner()
    small_fit(learner)
    before = {k: v.clone() for k, v in learner.state_dict().items()}
    episodes = Episodes(noisy_pool(), Setting(5, 1, 3), 4, 3)
    inductive, transductive = evaluate(learner, episodes, 40), evaluate(learner, episodes, 40, "transductive")
    assert inductive.accuracy != transductive.accuracy
    assert transductive.mode == "transductive"
    assert all(torch.equal(v, before[k]) for k, v in learner.state_dict().items())


def test_the_authors_mode_is_transductive_with_one_query_a_class():
    learner = small_learner()
    one, three = (Episodes(noisy_pool(), Setting(5, 1, queries), 4, 3) for queries in (1, 3))
    score = evaluate(learner, one, 40, "authors")
    assert replace(score, mode="transductive") == evaluate(learner, one, 40, "transductive")
    for refused in (
        lambda: evaluate(learner, three, 40, "authors"),
        lambda: small_fit(learner, validation=three, validation_mode="authors"),
    ):
        with pytest.raises(ValueError, match=r"one query a class, not 3: give the setting queries=1"):
            refused()
    small_fit(learner, validation=one, validation_mode="authors")


def test_evaluation_refuses_nonsense():
    with pytest.raises(ValueError, match="mode 'psychic'"):
        evaluate(small_learner(), Episodes(noisy_pool(), Setting(5, 1, 3)), 10, "psychic")  # type: ignore[arg-type]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path):
    """Same tasks, same gradients, same running statistics, same figures, same checkpoint."""
    for devices in (1, 2):
        command = [
            sys.executable,
            "-m",
            "tests.support.two_processes",
            str(devices),
            str(tmp_path / str(devices)),
        ]
        subprocess.run(command, check=True, timeout=120, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    one, two = (json.loads((tmp_path / f"{n}" / "score.json").read_text()) for n in (1, 2))
    assert one == two
    (a, _), (b, _) = (checkpoint.load(tmp_path / n / "best.safetensors") for n in ("1", "2"))
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=1e-6)
    lines = [logged(tmp_path / n) for n in ("1", "2")]
    assert len(lines[0]) == len(lines[1]) == 3
    for x, y in zip(*lines, strict=True):
        assert x == pytest.approx(y, rel=1e-4)


def test_tasks_that_cannot_be_shared_out_are_refused():
    class TwoProcesses:
        world_size, global_rank = 2, 0

    with pytest.raises(
        ValueError, match="3 tasks or items per step can't be shared by 2 processes: choose a multiple of 2"
    ):
        fit(small_learner(), Episodes(noisy_pool(), Setting(5, 1, 3), 3), 1, fabric=TwoProcesses())  # type: ignore[arg-type]
