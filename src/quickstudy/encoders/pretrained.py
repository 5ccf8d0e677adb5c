"""`pretrained`, the encoders of others by name: of timm, torchvision and Hugging Face, and in ONNX files.

Each brings its own preprocessing. The libraries are optional, and imported when they are asked for.
"""

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.encoders.backbone import INTERPOLATIONS, Backbone, Preprocessing
from quickstudy.encoders.photos import PhotoEncoder
from quickstudy.encoders.tuning import low_rank, unfreeze

PHOTOS = "photos"
KINDS = ("timm", "torchvision", "hf", "onnx")
FORMS = "photos, timm:NAME, torchvision:NAME, hf:NAME or onnx:FILE"
"""The names there are."""


def is_pretrained_name(name: str) -> bool:
    """Whether a name has the form of a pretrained network's.

    Args:
        name: Name, such as "photos" or "timm:resnet18".
    """
    kind, colon, rest = name.partition(":")
    return name == PHOTOS or bool(colon and rest and kind in KINDS)


def pretrained(
    name: str,
    *,
    size: int | None = None,
    train: int | str | None = None,
    rank: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Backbone:
    """A pretrained network as an encoder of colour pictures in [0, 1], with its own preprocessing.

    - `"photos"`: EfficientNet-Lite0, whose weights come inside a package; see `PhotoEncoder`.
    - `"timm:NAME"`: of timm, or of a folder that `timm.models.save_for_hf` wrote.
    - `"torchvision:NAME"`: of torchvision, with its default weights; `"torchvision:NAME@FILE"` with those of
      a state dict in a file.
    - `"hf:NAME"`: `AutoModel` of transformers, with its `AutoImageProcessor`; a local folder wherever a name.
    - `"onnx:FILE"`: a network from pictures [B, 3, H, W] to features, run by ONNX Runtime on the CPU. Such a
      file says nothing of its preprocessing, so `mean` and `std` do.

    timm, torchvision and transformers fetch the weights of a name when it is first used, and keep them.

    Args:
        name: Name of the network.
        size: Side in pixels of the pictures that the network sees; its own by default.
        train: What of it is trained: nothing by default, "all", or the number of blocks from the last one
            (see `unfreeze`).
        rank: Rank of additions to the weights that are trained in their place, see `low_rank`; none by
            default.
        mean: Mean of each channel that is subtracted, of pictures in [0, 1]; the network's own by default.
        std: Standard deviation of each channel that is divided by; the network's own by default.

    Returns:
        The encoder, a `Backbone`, with the number of features as `dimensions`.

    Raises:
        ValueError: If the name is of no such form or not known to the library, the library is missing, the
            network takes or gives something else, or `train` and `rank` can't be done.
        FileNotFoundError: If a file is missing.
    """
    if not is_pretrained_name(name):
        raise ValueError(f"there is no pretrained network {name!r}: name {FORMS}")
    if train is not None and rank is not None:
        raise ValueError(f"train is {train!r} and rank {rank}: give one of them")
    if isinstance(train, str) and train != "all":
        raise ValueError(f"train is {train!r}: it is 'all', or a number of blocks from the last one")
    kind, _, rest = name.partition(":")
    if name == PHOTOS:
        made: Backbone = PhotoEncoder() if size is None else PhotoEncoder(size)
    else:
        network, own = {"timm": _timm, "torchvision": _torchvision, "hf": _hf, "onnx": _onnx}[kind](rest)
        if size is not None:
            own = replace(own, resize=(size, size), crop=None)
        made = Backbone(network, own, name)
    given = {"mean": mean, "std": std}
    changed = {part: _three(values, part) for part, values in given.items() if values is not None}
    made.preprocessing = replace(made.preprocessing, **changed)
    if (train is not None or rank is not None) and not list(made.parameters()):
        raise ValueError(f"{name} can't be trained, as ONNX Runtime only runs it: leave train and rank out")
    if rank is not None:
        low_rank(made.network, rank)
    elif train is not None:
        unfreeze(made.network, None if isinstance(train, str) else train)
    return made


def _three(values: Sequence[float], name: str) -> tuple[float, float, float]:
    if len(values) != 3:
        raise ValueError(f"{name} is {values}: it takes three numbers, one a channel")
    return float(values[0]), float(values[1]), float(values[2])


def _library(module: str, kind: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError, AttributeError) as error:  # torchvision beside another torch, too
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            raise ValueError(f"{kind}: networks take {module}: pip install 'quickstudy[{kind}]'") from None
        raise ValueError(
            f"{kind}: networks take {module}, which can't be loaded here ({_first_line(error)}): install "
            f"versions that fit each other, pip install 'quickstudy[{kind}]'"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _timm(name: str) -> tuple[nn.Module, Preprocessing]:
    timm = _library("timm", "timm")
    wanted = f"local-dir:{name}" if Path(name).is_dir() else name
    try:
        network: nn.Module = timm.create_model(wanted, pretrained=True, num_classes=0)
    except Exception as error:  # timm and the hub throw anything
        raise ValueError(
            f"timm:{name} can't be loaded ({_first_line(error)}): name one of "
            "timm.list_models(pretrained=True), or a folder"
        ) from None
    stated: dict[str, Any] = timm.data.resolve_model_data_config(network)
    height, width = stated["input_size"][1:]
    share, how = stated.get("crop_pct") or 1.0, stated.get("interpolation", "bicubic")
    squashed = stated.get("crop_mode") == "squash" or height != width
    resize = (int(height / share), int(width / share)) if squashed else int(height / share)
    return network, _stated(resize, (height, width), stated["mean"], stated["std"], how, f"timm:{name}")


def _torchvision(name: str) -> tuple[nn.Module, Preprocessing]:
    models = _library("torchvision", "torchvision").models
    name, _, file = name.partition("@")
    try:
        weights = models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"torchvision:{name} is not known ({_first_line(error)}): name one of "
            "torchvision.models.list_models()"
        ) from None
    if file:
        network: nn.Module = models.get_model(name, weights=None)
    else:
        try:
            network = models.get_model(name, weights=weights)
        except Exception as error:  # the download throws anything
            raise ValueError(
                f"torchvision:{name} can't be fetched ({_first_line(error)}): go online, or give a state "
                f"dict, torchvision:{name}@FILE"
            ) from None
    last = [path for path, m in network.named_modules() if isinstance(m, nn.Linear)]
    if not last:
        raise ValueError(f"torchvision:{name} ends in no linear layer: name a network for classification")
    _replace(network, last[-1])
    if file:
        _load_state(network, Path(file), last[-1])
    stated: Any = weights.transforms()
    crop = int(stated.crop_size[0])
    how = str(stated.interpolation.value)
    resize = int(stated.resize_size[0])
    return network, _stated(resize, (crop, crop), stated.mean, stated.std, how, f"torchvision:{name}")


def _replace(network: nn.Module, path: str) -> None:
    """Put nothing in the place of the last linear layer."""
    parent, _, last = path.rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())


def _load_state(network: nn.Module, file: Path, head: str) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file} of weights")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict({k: v for k, v in state.items() if not k.startswith(f"{head}.")})
    except Exception as error:  # damaged files, and those of another network, throw anything
        raise ValueError(f"{file} holds no weights of this network ({_first_line(error)})") from None


class _HuggingFace(nn.Module):
    """What there is of features in the outputs of a model of transformers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        # a transformer with a token for the whole picture
        self.by_token = any(name.endswith("cls_token") for name, _ in model.named_parameters())

    def forward(self, x: Tensor) -> Any:
        """Pictures [B, 3, H, W] → features [B, D], or places [B, D, H, W]."""
        if hasattr(self.model, "get_image_features"):  # of pictures and texts
            found = self.model.get_image_features(pixel_values=x)
            return found if isinstance(found, Tensor) else found.pooler_output
        out = self.model(pixel_values=x)
        last, pooled = out.last_hidden_state, getattr(out, "pooler_output", None)
        if last.ndim == 3 and self.by_token:
            return last[:, 0]
        return last if pooled is None else pooled.flatten(1)


def _hf(name: str) -> tuple[nn.Module, Preprocessing]:
    transformers = _library("transformers", "hf")
    try:
        processor: Any = transformers.AutoImageProcessor.from_pretrained(name)
        model: Any = transformers.AutoModel.from_pretrained(name)
    except Exception as error:  # transformers and the hub throw anything
        raise ValueError(
            f"hf:{name} can't be loaded ({_first_line(error)}): name a model of pictures on the hub, or a "
            "folder with its config, weights and preprocessor_config.json"
        ) from None
    stated: dict[str, Any] = processor.to_dict()
    size: Any = stated.get("size") or {}
    if "shortest_edge" in size:
        resize: int | tuple[int, int] = int(size["shortest_edge"])
    elif "height" in size and "width" in size:
        resize = int(size["height"]), int(size["width"])
    else:
        raise ValueError(f"hf:{name} resizes pictures to {size}, which isn't understood here: name another")
    crop = None
    if (share := stated.get("crop_pct")) and isinstance(resize, int) and resize < 384:  # as of ConvNeXt
        resize, crop = int(resize / share), (resize, resize)
    elif stated.get("do_center_crop") and stated.get("crop_size"):
        cut: Any = stated["crop_size"]
        crop = (int(cut["height"]), int(cut["width"])) if isinstance(cut, dict) else (int(cut), int(cut))
    if isinstance(resize, int) and crop is None:  # pictures of a folder are squares
        crop = (resize, resize)
    normal = stated.get("do_normalize", True)
    mean = stated.get("image_mean") if normal else None
    std = stated.get("image_std") if normal else None
    how = {0: "nearest", 2: "bilinear", 3: "bicubic"}.get(int(stated.get("resample") or 2), "bicubic")
    network = _HuggingFace(model)
    return network, _stated(resize, crop, mean or (0.0,) * 3, std or (1.0,) * 3, how, f"hf:{name}")


class _Onnx(nn.Module):
    """A network in an ONNX file, which ONNX Runtime runs; no gradient goes through it."""

    def __init__(self, session: Any, one_by_one: bool) -> None:
        super().__init__()
        self.session, self.one_by_one = session, one_by_one
        self.input = session.get_inputs()[0].name

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] → features [B, ...]."""
        items = np.ascontiguousarray(x.detach().cpu().numpy(), dtype=np.float32)
        parts = [items[i : i + 1] for i in range(len(items))] if self.one_by_one else [items]
        found = [self.session.run(None, {self.input: part})[0] for part in parts]
        return torch.from_numpy(np.concatenate(found)).to(x)


ONNX_SIZE = 224
"""Side in pixels where a file states none."""


def _onnx(file: str) -> tuple[nn.Module, Preprocessing]:
    runtime = _library("onnxruntime", "onnx")
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}")
    try:
        session: Any = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions have no common class
        raise ValueError(f"{file} is no network that ONNX Runtime reads ({_first_line(error)})") from None
    taken, given = session.get_inputs(), session.get_outputs()
    shape = list(taken[0].shape)
    if len(taken) != 1 or len(shape) != 4 or shape[1] != 3 or taken[0].type != "tensor(float)":
        raise ValueError(
            f"{file} takes {' and '.join(f'{i.name} {i.shape} of {i.type}' for i in taken)}: it must take "
            "colour pictures [B, 3, H, W] of tensor(float); export it so"
        )
    if given[0].shape is not None and len(given[0].shape) not in (2, 3, 4):
        raise ValueError(
            f"{file} gives {given[0].shape}: features must be [B, D], [B, L, D] or [B, D, H, W]; export it so"
        )
    if isinstance(shape[0], int) and shape[0] != 1:
        raise ValueError(
            f"{file} takes batches of {shape[0]} pictures only: export it with a dynamic batch size"
        )
    sides = tuple(n if isinstance(n, int) else ONNX_SIZE for n in shape[2:])
    network = _Onnx(session, shape[0] == 1)
    return network, _stated((sides[0], sides[1]), None, (0.0,) * 3, (1.0,) * 3, "bicubic", f"onnx:{file}")


def _stated(
    resize: int | tuple[int, int],
    crop: tuple[int, int] | None,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str,
    source: str,
) -> Preprocessing:
    """The preprocessing as a library states it; what torch can't do of it is done nearly so."""
    how = interpolation if interpolation in INTERPOLATIONS else "bicubic"  # lanczos, or random in training
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(
            f"{source} takes {len(mean)} channels: name a network of colour pictures, of three channels"
        )
    return Preprocessing(resize, crop, _three(mean, "mean"), _three(std, "std"), how)
