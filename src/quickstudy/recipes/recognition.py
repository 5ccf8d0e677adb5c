"""Recognition: encoders of faces, words and voices, for the gallery; and of your own folders.

No paper's recipe. A step is one task of many classes; Adam's learning rate rises over a short warm-up and
falls along a cosine to 0. Any method can be trained on the same encoder:

- "siamese": contrastive loss, cosine energy, margin 0.7 (half of its scale), all pairs of a task;
- "euclidean": contrastive loss, Euclidean energy, margin 10 for 64 or 128 dimensions of unit variance;
- "prototypical": squared Euclidean distances to prototypes;
- "supervised-contrastive": cosine energy, temperature 0.1, of the faces of LFW 0.05.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from torch import nn

from quickstudy.core.learner import Learner
from quickstudy.data.augment.audio import Noise, Shift, Speed
from quickstudy.data.augment.images import FACE_AUGMENT, Augment, Compose
from quickstudy.data.datasets.faces import lfw, orl
from quickstudy.data.datasets.layouts import folder_pool
from quickstudy.data.datasets.speech import (
    DIGITS_8K,
    VOICES_16K,
    WORDS_16K,
    arabic_speakers,
    arabic_words,
    fsdd,
)
from quickstudy.data.formats.audio import VERSION, AudioFormat, Place
from quickstudy.data.formats.images import ImageFormat
from quickstudy.data.formats.items import ItemFormat
from quickstudy.data.setting import Setting
from quickstudy.data.splits import FRACTIONS
from quickstudy.encoders.postprocess import WCCN, CohortNorm, Embedding
from quickstudy.encoders.resnet import ResNet
from quickstudy.encoders.spectrogram import LogMel, SpecAugment
from quickstudy.encoders.tdnn import TDNN
from quickstudy.encoders.test_time import FlipTTA, ShiftSpeedTTA
from quickstudy.metric.distances import cosine_distance
from quickstudy.metric.prototypical import Prototypical
from quickstudy.metric.siamese import Siamese, contrastive_loss
from quickstudy.metric.supervised_contrastive import SupervisedContrastive
from quickstudy.recipes.recipe import MakePool, Recipe
from quickstudy.training.schedules import Schedule, cosine_schedule, restarted

Method = Literal["siamese", "euclidean", "prototypical", "supervised-contrastive"]
COSINES: tuple[Method, ...] = ("siamese", "supervised-contrastive")
"""The methods that compare by cosines, which are what embeddings are normalised for after training."""

WORDS = Compose((Speed(0.87, 1.15), Shift(0.1), Noise(5.0, 30.0)))
"""What may happen to a clip without its becoming another word."""
FAINT_WORDS = Compose((Speed(0.87, 1.15), Noise(0.0, 30.0, recorded=0.5), Shift(0.1)))
"""The same where many clips are faint, so that their noise is loud, and shorter than what is heard."""
SOUNDS = Compose((Shift(0.2), Noise(5.0, 30.0)))
"""What may happen to a clip without its becoming another sound, whatever a class is."""
VOICES = Shift(0.2)
"""What may happen to a clip without its becoming another person's; no noise, which hides what is
faint in a voice, and the room it is heard in."""
OTHER_VOICES = Speed(0.86, 1.16)
"""What makes another person's clips of one's."""


def faces_orl(method: Method = "siamese") -> Recipe:
    """The 40 people of ORL: s1 … s25 to train on, s26 … s30 for validation, s31 … s40 for the test.

    25 people are few to learn from: begin with what was learned from others, by `--set start=…` with a run of
    `faces_lfw`, and then 40 steps at a rate of 1e-5 were best in cross-validation over s1 … s30.

    Args:
        method: What the encoder is trained by; see the module.
    """
    return _recipe(
        "faces of ORL, unseen people",
        orl,
        ImageFormat(64, 1, whole=True),
        method,
        _face_encoder,
        FACE_AUGMENT,
        embedding=FlipTTA,
        train=Setting(25, 1, 3),
        steps=600,
        validation=Setting(5, 1, 5),
        tests=(Setting(10, 1, 5), Setting(10, 5, 5)),
    )


def faces_lfw(method: Method = "supervised-contrastive") -> Recipe:
    """Labeled Faces in the Wild: the people of folds 9 and 10 of View 2 for the test, of 8 for validation.

    Args:
        method: What the encoder is trained by; see the module.
    """
    return _recipe(
        "Labeled Faces in the Wild, unseen people",
        partial(lfw, least=2),
        ImageFormat(64, 1, whole=True),
        method,
        _face_encoder,
        FACE_AUGMENT,
        embedding=FlipTTA,
        train=Setting(64, 1, 1),
        steps=6_000,
        schedule=restarted,
        temperature=0.05,
        validation=Setting(20, 1, 1),
        tests=(Setting(20, 1, 1),),
    )


def words_arabic(method: Method = "supervised-contrastive", version: int = VERSION) -> Recipe:
    """Arabic words: 8 unseen words by 6 unseen speakers, enrolled from some speakers and said by another.

    18 words are few to learn from: 306 more are spliced from two of them each, and all are played
    backwards too.

    Args:
        method: What the encoder is trained by; see the module.
        version: Version of the rule by which clips are cut out, see `AudioFormat`.
    """
    return _recipe(
        "Arabic words, unseen words and speakers",
        partial(arabic_words, spliced=306, version=version),
        replace(WORDS_16K, version=version),
        method,
        partial(_speech_encoder, 16_000, grid=(1, 6)),
        WORDS,
        embedding=lambda encoder: _normalized(
            ShiftSpeedTTA(encoder, reach=2), method, centered=True, strength=0.08
        ),
        train=Setting(48, 1, 2),
        steps=1_200,
        validation=Setting(4, 1, 5),
        tests=(Setting(8, 1, 5), Setting(8, 5, 5)),
        cross_source=True,
    )


def speakers_arabic(method: Method = "supervised-contrastive", version: int = VERSION) -> Recipe:
    """Speakers of Arabic words: 6 unseen ones, enrolled from some words and heard saying another.

    18 speakers are few to learn from: in each task all clips of a speaker are played faster or slower, by one
    factor, which makes somebody else of each.

    Args:
        method: What the encoder is trained by; see the module.
        version: Version of the rule by which clips are cut out, see `AudioFormat`.
    """
    return _recipe(
        "speakers of Arabic words, unseen speakers",
        partial(arabic_speakers, version=version),
        replace(VOICES_16K, version=version),
        method,
        _voice_encoder,
        VOICES,
        embedding=partial(_normalized, method=method, strength=0.2),
        augment_classes=OTHER_VOICES,
        train=Setting(18, 1, 5),
        steps=1_600,
        validation=Setting(6, 1, 5),
        tests=(Setting(6, 1, 5), Setting(6, 5, 5)),
        cross_source=True,
    )


def digits_fsdd(method: Method = "supervised-contrastive", version: int = VERSION) -> Recipe:
    """Spoken English digits by unseen speakers.

    A task mixes them: the one speaker of the validation can't be kept apart from others. The benchmark of
    recognition does keep the two of the test apart.

    Args:
        method: What the encoder is trained by; see the module.
        version: Version of the rule by which clips are cut out, see `AudioFormat`.
    """
    return _recipe(
        "spoken digits, unseen speakers",
        partial(fsdd, version=version),
        replace(DIGITS_8K, version=version),
        method,
        partial(_speech_encoder, 8_000, grid=(1, 6)),
        FAINT_WORDS,
        train=Setting(10, 1, 9),
        steps=400,
        validation=Setting(10, 1, 5),
        tests=(Setting(10, 1, 5), Setting(10, 5, 5)),
    )


def siamese(
    images: str | Path | None = None,
    audio: str | Path | None = None,
    method: Method = "siamese",
    size: int = 64,
    grey: bool = False,
    seconds: float = 1.0,
    rate: int = 16_000,
    place: Place = "strongest",
    version: int = VERSION,
    pattern: str | None = None,
    ways: int | None = None,
    shots: int = 1,
    queries: int = 3,
    split: str | Path | Sequence[float] = FRACTIONS,
    skip_corrupt: bool = False,
) -> Recipe:
    """A recognizer of your own pictures or clips: faces, things, voices, words, sounds.

    Args:
        images: Folder, zip or tar of pictures, `images/NAME/*.jpg`; faces must be cropped, all alike.
        audio: Folder, zip or tar of clips, `audio/NAME/*.wav`, or as `pattern` says.
        method: What the encoder is trained by: siamese, euclidean, prototypical or supervised-contrastive.
        size: Pixels of height and width that pictures are resized to.
        grey: Whether pictures are read without color.
        seconds: Length of the clips.
        rate: Samples per second that clips are resampled to.
        place: Which window of a recording is taken: strongest, centered, middle or start; see `AudioFormat`.
        version: Version of the rule by which clips are cut out, see `AudioFormat`.
        pattern: How the clips are called, such as {class}/{source}_{take}.
        ways: Classes of a task in training; 16, or all there are to train on, by default.
        shots: Items of each class in a training task, together with `queries`.
        queries: Items of each class in a training task, together with `shots`.
        split: Fractions of the classes for training, validation and test, or a JSON file of their names.
        skip_corrupt: Whether files that can't be read are left out, instead of an error.

    Raises:
        ValueError: If not just one of `images` and `audio` is given.
    """
    if (images is None) == (audio is None):
        raise ValueError(
            "siamese needs --set images=DIR or --set audio=DIR, a folder that holds a folder for each name"
        )
    form: ItemFormat
    if images is not None:
        form = ImageFormat(size, 1 if grey else 3)
        encoder: Callable[[], nn.Module] = partial(
            ResNet, 1 if grey else 3, (16, 32, 64, 128), 128, (4, 4), 0.2
        )
        augment: Augment = FACE_AUGMENT
    else:
        form = AudioFormat(rate, seconds, place, version)
        encoder, augment = partial(_speech_encoder, rate, grid=(2, 4)), SOUNDS
    return _recipe(
        "your own folders, --set images=DIR or --set audio=DIR",
        folder_pool(images or audio or "", form, split, skip_corrupt, pattern),
        form,
        method,
        encoder,
        augment,
        embedding=partial(_normalized, method=method),
        train=Setting(ways or 16, shots, queries),
        fewer_ways=ways is None,
        steps=1_500,
        validation=Setting(5, 1, shots + queries - 1),
        tests=(Setting(5, 1, shots + queries - 1),),
    )


def _face_encoder() -> nn.Module:
    return ResNet(1, (24, 48, 96, 192), 128, (4, 4), dropout=0.2)


def _speech_encoder(rate: int, grid: tuple[int, int]) -> nn.Module:
    return nn.Sequential(LogMel(rate), SpecAugment(), ResNet(1, (16, 32, 64, 128), 128, grid, dropout=0.2))


def _voice_encoder() -> nn.Module:
    # windows long enough, and bands narrow enough, to tell the pitches of voices apart
    heard = LogMel(16_000, mels=80, window=0.08, hop=0.02)
    return nn.Sequential(heard, SpecAugment(), TDNN(80))


def _normalized(
    encoder: nn.Module, method: Method, centered: bool = False, strength: float = 0.12
) -> nn.Module:
    if method not in COSINES:
        return encoder
    whitening = WCCN(128, centered=centered, unit=method == "siamese")
    return Embedding(encoder, [whitening, CohortNorm(128, strength=strength)])


_warmed = partial(cosine_schedule, warmup=100)


def _learner(method: Method, encoder: nn.Module, temperature: float) -> Learner:
    if method == "siamese":
        return Siamese(encoder, cosine_distance, partial(contrastive_loss, margin=0.7))
    if method == "euclidean":
        return Siamese(encoder, loss=partial(contrastive_loss, margin=10.0))
    return Prototypical(encoder) if method == "prototypical" else SupervisedContrastive(encoder, temperature)


def _recipe(
    what: str,
    pool: MakePool,
    form: ItemFormat,
    method: Method,
    encoder: Callable[[], nn.Module],
    augment: Augment,
    train: Setting,
    steps: int,
    validation: Setting,
    tests: tuple[Setting, ...],
    schedule: Callable[[int], Schedule] = _warmed,
    augment_classes: Augment | None = None,
    cross_source: bool = False,
    fewer_ways: bool = False,
    temperature: float = 0.1,
    embedding: Callable[[nn.Module], nn.Module] | None = None,
) -> Recipe:
    if method not in get_args(Method):
        raise ValueError(f"method is {method!r}: it must be one of {', '.join(get_args(Method))}")
    return Recipe(
        summary=f"{method} on {what}",
        paper="no paper's recipe",
        pool=pool,
        item_format=form,
        learner=lambda: _learner(method, encoder(), temperature),
        embedding=embedding,
        train=train,
        fewer_ways=fewer_ways,
        steps=steps,
        lr=2e-3,
        schedule=schedule,
        validation=validation,
        every=250,
        tests=tests,
        augment=augment,
        augment_classes=augment_classes,
        cross_source=cross_source,
    )
