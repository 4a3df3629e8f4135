"""Person masks by MediaPipe's selfie segmentation, which pip installs: where no weights can be downloaded.

The network (Apache 2.0, 250 kB) is a file in the package `mediapipe`, which itself is not needed: LiteRT runs
the file. `pip install -e ".[masks]"` and `pip install --no-deps mediapipe==0.10.14`. The network expects
squares. Boxes that are squeezed into one lose people, with grey beside them they do not (on 16 photographs
looked at, two masks were empty; with the grey, none).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.checkpoints import check_sha256, packaged_file
from common.errors import InputError

PACKAGE = "mediapipe"
FILE = "modules/selfie_segmentation/selfie_segmentation.tflite"
NETWORK_HASH = "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c"  # sha256 of the file
SIDE = 256  # of the square that the network sees
GREY = (127, 127, 127)
INSTALL = (
    'pip install -e ".[masks]" and pip install --no-deps mediapipe==0.10.14, or use --masks.kind gaussian'
)


def load_selfie_network() -> Callable[[np.ndarray], np.ndarray]:
    """Returns the network: an image `(256, 256, 3)` in 0..1 -> probabilities `(256, 256)` of a person.

    Raises `InputError` if a package is missing or holds another network than the one that was looked at.
    """
    path = packaged_file(PACKAGE, FILE)
    if path is None:
        raise InputError(f"--masks.kind selfie: the network is in a package that is missing: {INSTALL}")
    check_sha256(path, NETWORK_HASH, INSTALL)
    return _run(path)


def _run(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise InputError(f"--masks.kind selfie: LiteRT is missing: {INSTALL}") from None
    interpreter: Any = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    entry, exit_ = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def network(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(entry, image[None].astype(np.float32))
        interpreter.invoke()
        return np.array(interpreter.get_tensor(exit_)[0, ..., 0])

    return network


def selfie_mask(network: Callable[[np.ndarray], np.ndarray], image: Image.Image) -> np.ndarray:
    """Returns uint8 `(H, W)` of the image's size: 1 where a person is likelier than not.

    The image is centred in a grey square whose side is its longer one.
    """
    side = max(image.size)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    square = Image.new("RGB", (side, side), GREY)
    square.paste(image, (left, top))
    seen = np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32) / 255
    likely = Image.fromarray(network(seen).astype(np.float32))
    likely = likely.resize((side, side), Image.Resampling.BILINEAR)
    likely = likely.crop((left, top, left + image.width, top + image.height))
    return (np.asarray(likely) > 0.5).astype(np.uint8)
