"""Masks of the kind `selfie`: where the image lies in the network's square, and what may be missing."""

import hashlib
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from ptgan import selfie
from ptgan.selfie import load_selfie_network, selfie_mask
from ptgan.train import main


def reddish(square: np.ndarray) -> np.ndarray:
    """A network that takes red for people, and shows that it got what it expects."""
    assert (
        square.shape == (256, 256, 3)
        and square.dtype == np.float32
        and 0 <= square.min() <= square.max() <= 1
    )
    return (square[..., 0] > 0.8).astype(np.float64)


@pytest.mark.parametrize("size", [(64, 128), (61, 128), (128, 64), (100, 100)])
def test_the_mask_lies_where_the_person_is(size):
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2, 0] = 255
    mask = selfie_mask(reddish, Image.fromarray(pixels))
    assert mask.shape == (height, width) and mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1}
    wrong = mask != (pixels[..., 0] > 0)
    inside = np.zeros_like(wrong)  # more than two pixels from the person's outline nothing is wrong
    inside[height // 4 + 2 : height // 2 - 2, width // 4 + 2 : width // 2 - 2] = True
    outside = np.ones_like(wrong)
    outside[height // 4 - 2 : height // 2 + 2, width // 4 - 2 : width // 2 + 2] = False
    assert inside.any() and not wrong[inside].any() and not wrong[outside].any()


def test_beside_the_image_the_network_sees_grey():
    seen = []
    selfie_mask(lambda square: seen.append(square) or square[..., 0], Image.new("RGB", (32, 64), (255, 0, 0)))
    np.testing.assert_allclose(seen[0][:, :62], 127 / 255, atol=1e-6)
    np.testing.assert_allclose(seen[0][:, 66:190], np.broadcast_to([1.0, 0, 0], (256, 124, 3)))


def test_what_is_missing_is_said_with_its_installation(tmp_path, monkeypatch):
    monkeypatch.setattr(selfie, "PACKAGE", "no_such_package")
    with pytest.raises(InputError, match="in a package that is missing: pip install"):
        load_selfie_network()
    monkeypatch.setattr(selfie, "packaged_file", lambda package, file: tmp_path / file)
    with pytest.raises(InputError, match="selfie_segmentation.tflite: No such file"):
        load_selfie_network()
    path = tmp_path / selfie.FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"another network")
    with pytest.raises(InputError, match="expected the sha256 9ee168ec7c8f, found"):
        load_selfie_network()
    monkeypatch.setattr(selfie, "NETWORK_HASH", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(InputError, match="LiteRT is missing: pip install"):
        load_selfie_network()


def test_the_network_is_run_on_one_image(tmp_path, monkeypatch):
    class Interpreter:
        def __init__(self, model_path, num_threads):
            assert model_path == str(tmp_path) and num_threads == 1

        def allocate_tensors(self):
            self.tensors = {}

        def get_input_details(self):
            return [{"index": 3}]

        def get_output_details(self):
            return [{"index": 7}]

        def set_tensor(self, index, value):
            assert value.shape == (1, 256, 256, 3) and value.dtype == np.float32
            self.tensors[index] = value

        def invoke(self):
            self.tensors[7] = self.tensors[3][..., :1] / 2

        def get_tensor(self, index):
            return self.tensors[index]

    module = ModuleType("ai_edge_litert.interpreter")
    module.Interpreter = Interpreter
    monkeypatch.setitem(sys.modules, "ai_edge_litert", ModuleType("ai_edge_litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)
    square = np.random.default_rng(0).random((256, 256, 3))
    np.testing.assert_allclose(selfie._run(tmp_path)(square), square[..., 0] / 2, rtol=1e-6)


def test_a_run_says_so_before_it_trains(monkeypatch, capsys):
    monkeypatch.setattr(selfie, "PACKAGE", "no_such_package")
    assert main(["--experiment", "ptgan/masks/selfie"]) == 2
    assert (
        "error: --masks.kind selfie: the network is in a package that is missing" in capsys.readouterr().err
    )
