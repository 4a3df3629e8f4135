"""The camera styles of the target's training images, from the source that `style.kind` names.

stargan   the paper's: one StarGAN, trained on the target's cameras
stats     each colour channel with the mean and deviation of the target camera: colour statistics alone
oracle    the true style, drawn by the program that drew the image (synthetic targets only): an upper bound
self      the image itself in place of each fake: the effect of more crops of one image
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from common.datasets import ReIDDataset, Sample
from common.datasets.contents import images_key
from common.datasets.images import read_image
from common.datasets.layout import list_images
from common.datasets.synthetic import DOMAINS, oracle
from common.errors import InputError
from common.job import Job, Workspace
from common.runs import Stage
from hhl.config import GANConfig, TranslationConfig
from hhl.stargan.oracle import oracle_errors
from hhl.stargan.train import load_generator, train_stargan
from hhl.stargan.translate import FOLDER, manifest, save_fake, translate

Render = Callable[[Sample, int], np.ndarray]  # a sample and a camera to uint8 (H, W, 3)


@dataclass(frozen=True)
class CameraStyles:
    """A folder of camera-style images, what identifies its content, and its errors against the oracle."""

    folder: Path | None = None  # None: the row needs no styles
    hash: str = ""
    measures: dict[str, float] = field(default_factory=dict)


def camera_styles(job: Job) -> CameraStyles:
    """Returns the camera styles that the row needs."""
    style: TranslationConfig = job.config.style
    if job.config.method.target_views != "camera" and not style.measure:
        return CameraStyles()
    if style.folder:
        folder = Path(style.folder)
        paths = [folder / name for name in list_images(folder) if "_fake_" in name]
        return CameraStyles(folder, images_key(paths, folder))
    fakes = stargan_styles(job) if style.kind == "stargan" else control_styles(job)
    return CameraStyles(fakes.folder / FOLDER, fakes.hash, fakes.json("oracle.json"))


def stargan_styles(job: Job) -> Stage:
    """Trains the StarGAN and translates with it."""
    target, style = job.target, job.config.style
    gan: GANConfig = job.config.stargan.on(len(target.train))
    trained = job.stage(
        "stargan",
        {"config": gan, "target": target.manifest},
        lambda work: train_stargan(work, gan, target),
        seed=job.seed,
    )

    def translation(work: Workspace) -> None:
        generator = load_generator(gan, target.num_cameras, trained.folder / "generator.pt").to(work.device)
        translate(work, generator, target, gan, style)
        work.write_json("manifest.json", manifest("StarGAN", trained.hash, target))
        work.write_json("oracle.json", oracle_errors(target, work.folder / FOLDER))

    depends_on = {"stargan": trained.hash, "quality": style.quality, "truncate": style.truncate}
    return job.stage("camstyle", depends_on, translation)


def control_styles(job: Job) -> Stage:
    """Renders the styles of a control, at the size and in the format of StarGAN's."""
    target, style, gan = job.target, job.config.style, job.config.stargan
    if style.kind == "oracle" and target.name not in DOMAINS:
        raise InputError(
            f"--style.kind oracle: the true styles are known for {', '.join(DOMAINS)} only, "
            f"not for {target.name}"
        )
    depends_on = {
        "kind": style.kind,
        "size": (gan.height, gan.width),
        "target": target.manifest,
        "quality": style.quality,
        "truncate": style.truncate,
    }
    return job.stage(
        "camstyle", depends_on, lambda work: render_styles(work, target, style, (gan.width, gan.height))
    )


def render_styles(
    work: Workspace, target: ReIDDataset, style: TranslationConfig, size: tuple[int, int]
) -> None:
    """Writes the camera-style folder of a control; `size`: (width, height) of its images."""
    renders: dict[str, Render] = {
        "oracle": oracle,
        "self": lambda sample, camera: np.asarray(read_image(sample.path)),
    }
    render = colour_statistics(target.train) if style.kind == "stats" else renders[style.kind]
    for sample in target.train:
        for camera in range(target.num_cameras):
            image = Image.fromarray(render(sample, camera))
            if image.size != size:
                image = image.resize(size, Image.Resampling.BILINEAR)
            save_fake(np.asarray(image), sample, work.folder / FOLDER, camera, style.quality)
    work.write_json("manifest.json", manifest(style.kind, "", target))
    work.write_json("oracle.json", oracle_errors(target, work.folder / FOLDER))


def colour_statistics(train: Sequence[Sample]) -> Render:
    """Returns a renderer that gives each RGB channel the mean and deviation of the target camera.

    The statistics are those of all pixels of a camera's training images (Reinhard et al., 2001, camera by
    camera and without their colour space).
    """
    sums: dict[int, list[np.ndarray]] = {}
    for sample in train:
        pixels = np.asarray(read_image(sample.path), np.float64).reshape(-1, 3)
        sums.setdefault(sample.camid, []).append(np.stack([np.ones(3), pixels.mean(0), (pixels**2).mean(0)]))
    moments = {camera: np.mean(rows, axis=0) for camera, rows in sums.items()}
    mean = {camera: m[1] for camera, m in moments.items()}
    deviation = {camera: np.sqrt(np.maximum(m[2] - m[1] ** 2, 1e-6)) for camera, m in moments.items()}

    def render(sample: Sample, camera: int) -> np.ndarray:
        own = sample.camid
        target = camera if camera in mean else own  # a camera without training images has no statistics
        standard = (np.asarray(read_image(sample.path), np.float64) - mean[own]) / deviation[own]
        return np.clip(standard * deviation[target] + mean[target] + 0.5, 0, 255).astype(np.uint8)

    return render
