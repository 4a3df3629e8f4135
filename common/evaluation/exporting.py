"""Exports a feature network as a torchvision state dict or as ONNX."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.checkpoints import save_checkpoint
from common.errors import InputError, RunError
from common.evaluation.networks import FeatureNetwork
from common.files import write_atomic

TOLERANCE = 1e-4  # largest difference between PyTorch's and ONNX's features
BATCHES = (1, 3)  # sizes of the batches that are compared


class Exported(nn.Module):
    """Maps ImageNet-normalised images `(B, 3, H, W)` to the feature of a feature file `(B, D)`."""

    def __init__(self, network: FeatureNetwork):
        super().__init__()
        self.network, self.flip, self.normalise = network.network, network.flip, network.normalise

    def forward(self, images: Tensor) -> Tensor:
        feature = self.network(images)
        if self.flip:
            feature = feature + self.network(images.flip(3))
        return F.normalize(feature) if self.normalise else feature


def export_torchvision(network: FeatureNetwork, path: Path) -> None:
    """Writes the backbone's tensors under torchvision's names, without a classifier.

    `torchvision.models.resnet50().load_state_dict(torch.load(path), strict=False)` loads them.
    """
    state = network.network.base.state_dict()
    save_checkpoint(path, {name: value.contiguous() for name, value in state.items()})


def export_onnx(network: FeatureNetwork, path: Path) -> float:
    """Writes the network as ONNX with a batch of any size, and returns the largest difference of its features
    from PyTorch's, as onnxruntime computes them.

    Raises `InputError` without the extra `export`, and `RunError`, without writing, for a difference above
    1e-4.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path}: ONNX needs the extra: pip install -e '.[export]' ({error})") from None
    model = Exported(network).eval().to(memory_format=torch.contiguous_format)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        _write_onnx(model, file, network)
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        difference = max(_difference(model, session, network, batch) for batch in BATCHES)
        if not difference <= TOLERANCE:
            raise RunError(
                f"{path}: ONNX's features differ from PyTorch's by {difference:.1e}, expected at most "
                f"{TOLERANCE:.0e}: nothing was written"
            )
        write_atomic(path, file.read_bytes())
    return difference


def _write_onnx(model: nn.Module, file: Path, network: FeatureNetwork) -> None:
    """Writes the graph with torch's exporter by tracing, or with the newer one if that is all there is."""
    example = torch.zeros(2, 3, network.height, network.width)
    options: dict[str, Any] = {
        "input_names": ["images"],
        "output_names": ["features"],
        "dynamic_axes": {"images": {0: "batch"}, "features": {0: "batch"}},
    }
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(model, (example,), str(file), dynamo=False, **options)
        except (TypeError, ValueError, NotImplementedError, ImportError):
            torch.onnx.export(model, (example,), str(file), dynamo=True, external_data=False, **options)


@torch.inference_mode()
def _difference(model: nn.Module, session, network: FeatureNetwork, batch: int) -> float:
    generator = torch.Generator().manual_seed(batch)
    images = torch.randn(batch, 3, network.height, network.width, generator=generator)
    (features,) = session.run(None, {"images": images.numpy()})
    return float(np.abs(features - model(images).numpy()).max())
