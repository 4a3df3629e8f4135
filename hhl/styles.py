"""The target's training images in every camera's style, from the source that `style.kind` names.

stargan   the paper's: one StarGAN trained on the target's cameras
stats     every colour channel brought to the mean and the deviation of the camera asked for: what colour
statistics alone can do
oracle    the true style, drawn again by the program that drew the image (synthetic targets only): the
best a generator could do
self      the image itself in place of each fake: what more crops of one image can do
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.job import Options
from common.datasets import ReIDDataset, Sample
from common.datasets.images import read_image
from common.datasets.layout import refuse_equal_names
from common.datasets.synthetic import DOMAINS, oracle
from common.errors import InputError
from common.hashing import digest
from common.runs import Run, Workspace
from hhl.config import HHLConfig
from hhl.data import camera_style_views
from hhl.stargan.oracle import oracle_errors
from hhl.stargan.train import load_generator, train_stargan
from hhl.stargan.translate import FOLDER, manifest, save_fake, translate

Render = Callable[[Sample, int], np.ndarray]  # a sample and a camera to uint8 (H, W, 3)


def camera_styles(
    config: HHLConfig, target: ReIDDataset, run: Run, device: torch.device, options: Options
) -> tuple[Path | None, str, dict]:
    """The camera-style folder that the row needs, what identifies it, and what was measured on it (synthetic
    targets: against the oracle).
    """
    if config.method.target_views != "camera" and not config.style.measure:
        return None, "", {}
    if config.style.folder:
        folder = Path(config.style.folder)
        return (
            folder,
            digest([(path.name, path.stat().st_size) for path in sorted(folder.glob("*_fake_*.jpg"))]),
            {},
        )
    how = {"quality": config.style.quality, "truncate": config.style.truncate}
    if config.style.kind == "stargan":
        stargan = config.stargan.on(len(target.train))
        gan = run.stage(
            "stargan",
            {"config": stargan, "target": target.manifest, "seed": run.seed},
            lambda work: train_stargan(
                stargan,
                target,
                run.seed,
                device,
                work,
                workers=options.workers,
                deterministic=options.deterministic,
            ),
        )
        fakes = run.stage(
            "camstyle",
            {"stargan": gan.hash, **how},
            lambda work: translated(config, target, gan, work, device, options.workers),
        )
    else:
        if config.style.kind == "oracle" and target.name not in DOMAINS:
            raise InputError(
                f"--style.kind oracle: the true styles are known for {', '.join(DOMAINS)} only, not for {target.name}"
            )
        size = (config.stargan.height, config.stargan.width)
        fakes = run.stage(
            "camstyle",
            {"kind": config.style.kind, "size": size, "target": target.manifest, **how},
            lambda work: rendered(config, target, work),
        )
    return fakes.folder / FOLDER, fakes.hash, fakes.json("oracle.json")


def translated(
    config: HHLConfig, target: ReIDDataset, gan, work: Workspace, device: torch.device, workers: int
) -> None:
    """StarGAN's fakes, and their errors against the oracle."""
    generator = load_generator(config.stargan, target.num_cameras, gan.folder / "generator.pt", device)
    translate(
        generator,
        target,
        config.stargan,
        config.style,
        work,
        device,
        checkpoint_hash=gan.hash,
        workers=workers,
    )
    work.write_json("oracle.json", oracle_errors(target, work.folder / FOLDER))


def rendered(config: HHLConfig, target: ReIDDataset, work: Workspace) -> None:
    """The fakes of a control, at the size and in the format of StarGAN's."""
    size = (config.stargan.width, config.stargan.height)
    render = {"stats": colour_statistics, "oracle": lambda _: oracle, "self": lambda _: itself}[
        config.style.kind
    ](target.train)
    for sample in target.train:
        for camera in range(target.num_cameras):
            image = Image.fromarray(render(sample, camera))
            pixels = np.asarray(
                image.resize(size, Image.Resampling.BILINEAR) if image.size != size else image
            )
            save_fake(pixels, sample, work.folder / FOLDER, camera, config.style.quality)
    work.write_json("manifest.json", manifest(config.style.kind, "", target))
    work.write_json("oracle.json", oracle_errors(target, work.folder / FOLDER))


def itself(sample: Sample, camera: int) -> np.ndarray:
    return np.asarray(read_image(sample.path))


def colour_statistics(train: Sequence[Sample]) -> Render:
    """Renders (x - mean of x's camera) / deviation of x's camera * deviation of the camera asked for + its
    mean, channel by channel, in RGB.

    Statistics over all pixels of a camera's training images (Reinhard et al., 2001, camera by camera and
    without their colour space).
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
        pixels = (np.asarray(read_image(sample.path), np.float64) - mean[own]) / deviation[own] * deviation[
            target
        ] + mean[target]
        return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)

    return render


def expected_views(config: HHLConfig, target: ReIDDataset) -> tuple[Sequence[Sample], int]:
    """`target_views` before the styles are made, each view in place of a style being the image itself: what
    the batches can be planned with.

    Raises `InputError` for names that stand twice, which fakes would share, and for a folder of styles that
    is not this target's.
    """
    needed = config.method.target_views == "camera" or config.style.measure
    if needed:
        refuse_equal_names(target.train)
    if needed and config.style.folder:
        camera_style_views(target.train, Path(config.style.folder), target.num_cameras)
    if config.method.target_views != "camera":
        return target_views(config, target, None)
    num_views = target.num_cameras + config.method.include_own_style
    return [*target.train] * num_views, num_views


def target_views(
    config: HHLConfig, target: ReIDDataset, style_folder: Path | None
) -> tuple[Sequence[Sample], int]:
    """The target images that the triplet loss sees, style by style, and the number of views of each (0: the
    row has no target images).
    """
    if config.method.target_views == "none":
        return (), 0
    if config.method.target_views == "real" or style_folder is None:
        return target.train, 1
    views = camera_style_views(
        target.train, style_folder, target.num_cameras, config.method.include_own_style
    )
    return views, len(views) // len(target.train)
