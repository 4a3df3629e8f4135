from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from common.datasets import load_dataset
from common.datasets.loading import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Draw,
    EvalTransform,
    SampleImages,
    normalise,
    ordered_loader,
    planned_loader,
    read_image,
)
from common.datasets.plans import epoch_plan
from common.errors import InputError


def jittered(image: Image.Image, rng: random.Random) -> torch.Tensor:
    """An augmentation that shows its random numbers: a random crop times a random gain."""
    left = rng.randrange(8)
    return normalise(image.crop((left, 0, left + 8, 16)), (0, 0, 0), (1, 1, 1)) * rng.random()


@pytest.fixture(scope="module")
def paths(tmp_path_factory, trees):
    folder = tmp_path_factory.mktemp("images")
    return [trees.image(folder / f"{i}.jpg") for i in range(13)]


@pytest.fixture(scope="module")
def images(paths):
    return SampleImages(paths, jittered, seed=5, stream="source", cache=True)


def batches(loader) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(batch, index) for batch, index in loader]


def assert_equal(first, second):
    assert len(first) == len(second) > 0
    for (images_a, index_a), (images_b, index_b) in zip(first, second, strict=True):
        assert torch.equal(images_a, images_b) and torch.equal(index_a, index_b)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers_or_the_cache(images, paths, workers):
    plan = epoch_plan(13, 4, seed=5)
    from_files = SampleImages(paths, jittered, seed=5, stream="source")
    expected = batches(planned_loader(images, plan, 0, 7))
    assert_equal(expected, batches(planned_loader(from_files, plan, 0, 7, workers=workers)))
    assert expected[0][0].shape == (4, 3, 16, 8) and expected[0][1].dtype == torch.int64


@pytest.mark.parametrize("start", [1, 3, 6])
def test_a_run_resumed_at_step_k_sees_the_same_images(images, start):
    plan = epoch_plan(13, 4, seed=5)
    unbroken = batches(planned_loader(images, plan, 0, 8))
    assert_equal(unbroken[start:], batches(planned_loader(images, plan, start, 8)))


def test_ranks_share_a_batch_and_draw_as_one_process_would(images):
    plan = epoch_plan(13, 6, seed=5)
    whole = batches(planned_loader(images, plan, 0, 4))
    parts = [batches(planned_loader(images, plan, 0, 4, rank=rank, world=3)) for rank in range(3)]
    joined = [
        (torch.cat([b for b, _ in ranks]), torch.cat([i for _, i in ranks]))
        for ranks in zip(*parts, strict=True)
    ]
    assert_equal(whole, joined)


def test_ranks_that_do_not_divide_the_batch_are_refused(images):
    with pytest.raises(InputError, match="a batch of 4 images does not divide into 3 equal parts"):
        list(planned_loader(images, epoch_plan(13, 4, seed=5), 0, 1, rank=0, world=3))
    with pytest.raises(InputError, match="rank 3 of 3"):
        planned_loader(images, epoch_plan(13, 3, seed=5), 0, 1, rank=3, world=3)


def test_seed_stream_step_and_slot_change_the_draw(paths):
    def value(seed=5, stream="source", key=Draw(0, 0, 2)):  # noqa: B008
        return SampleImages(paths, lambda image, rng: rng.random(), seed=seed, stream=stream)[key][0]

    values = [
        value(),
        value(seed=6),
        value(stream="target"),
        value(key=Draw(1, 0, 2)),
        value(key=Draw(0, 1, 2)),
        value(key=2),
        value(key=3),
    ]
    assert len(set(values)) == len(values) and value() == value() == value(key=Draw(0, 0, 7))


def test_loading_leaves_the_global_generators_alone(images):
    torch.manual_seed(1)
    random.seed(1)
    expected = torch.rand(3), random.random()
    torch.manual_seed(1)
    random.seed(1)
    list(planned_loader(images, epoch_plan(13, 4, seed=5), 0, 2))
    assert torch.equal(torch.rand(3), expected[0]) and random.random() == expected[1]


def test_steps_without_end_or_without_any(images):
    plan = epoch_plan(13, 4, seed=5)
    assert len(planned_loader(images, plan, 3, 10)) == 7 and list(planned_loader(images, plan, 3, 3)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_ordered_loader_keeps_the_last_images(paths, workers):
    images = SampleImages(paths, EvalTransform(16, 8))
    loader = ordered_loader(images, 5, workers=workers)
    indices = [index.tolist() for _, index in loader]
    assert indices == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12]] and len(loader) == 3
    assert torch.equal(next(iter(loader))[0][2], images[2][0])


def test_samples_of_a_dataset_load(market):
    dataset = load_dataset("market1501", market)
    images = SampleImages(dataset.train, EvalTransform(16, 8))
    assert len(images) == 4 and images[3][0].shape == (3, 16, 8) and images[3][1] == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_one_line_that_names_it(tmp_path, trees, workers):
    path = trees.image(tmp_path / "0002_c1s1_000451_03.jpg")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError) as error:
        list(ordered_loader(SampleImages([path], EvalTransform(16, 8)), 1, workers=workers))
    assert str(error.value).startswith(f"{path}: broken image (") and "\n" not in str(error.value)
    with pytest.raises(InputError, match="broken image"):
        SampleImages([path], EvalTransform(16, 8), cache=True)


@pytest.mark.parametrize(
    "content, message",
    [(None, "found no such file"), (b"", "not an image"), (b"<html>404</html>", "not an image")],
)
def test_read_image_says_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"a.png: .*{message}"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_files_of_every_kind_are_found(tmp_path, trees, suffix, kept):
    path = trees.image(tmp_path / f"a.{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(InputError, match=f"a.{suffix}: "):
        read_image(path)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (4, 6)).save(path)
    assert (read_image(path).mode, read_image(path).size) == ("RGB", (4, 6))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_an_epoch_covers_each_image_at_most_once(n, batch_size, seed, epoch):
    if n < batch_size:
        with pytest.raises(InputError, match=f"^{n} images do not fill one batch of {batch_size}"):
            epoch_plan(n, batch_size, seed=seed)
        return
    plan = epoch_plan(n, batch_size, seed=seed)
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    drawn = [int(i) for step in steps for i in plan(step)]
    assert len(drawn) == len(set(drawn)) == n - n % batch_size and set(drawn) <= set(range(n))
    assert all(len(plan(step)) == batch_size for step in steps)


def test_epochs_are_shuffled_anew_and_depend_on_seed_and_stream_alone():
    plan = epoch_plan(100, 100, seed=3, stream="source")
    epochs = [tuple(plan(step)) for step in range(20)]
    assert len(set(epochs)) == 20 and epochs[0] != tuple(range(100))
    assert tuple(plan(0)) == epochs[0]  # forgotten by the cache and drawn again
    assert (
        tuple(epoch_plan(100, 100, seed=3, stream="target")(0))
        != epochs[0]
        != tuple(epoch_plan(100, 100, seed=4, stream="source")(0))
    )


@pytest.mark.parametrize("batch_size, seed", [(0, 0), (-4, 0), (4, -1)])
def test_epoch_plan_refuses_senseless_numbers(batch_size, seed):
    with pytest.raises(InputError, match=f"batch size {batch_size}, seed {seed}"):
        epoch_plan(13, batch_size, seed=seed)


@pytest.mark.parametrize("mean, std", [(IMAGENET_MEAN, IMAGENET_STD), ((0.5,) * 3, (0.5,) * 3)])
def test_normalise_equals_torchvision(paths, mean, std):
    image = read_image(paths[0])
    expected = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])(
        image
    )
    found = normalise(image, mean, std)
    assert found.dtype == torch.float32 and found.is_contiguous()
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=0, atol=2e-6)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_eval_transform_equals_torchvision_on_pillow_images(paths, interpolation):
    image = read_image(paths[1])
    mode = v2.InterpolationMode[interpolation.upper()]
    resized = v2.Resize((24, 12), interpolation=mode)(image)
    assert torch.equal(EvalTransform(24, 12, interpolation)(image), normalise(resized))
    assert not np.array_equal(
        EvalTransform(24, 12, "bicubic")(image), EvalTransform(24, 12, "bilinear")(image)
    )


def test_eval_transform_travels_to_workers_and_checks_its_numbers():
    transform = EvalTransform(24, 12)
    assert pickle.loads(pickle.dumps(transform)) == transform
    wrong = [
        ((0, 12), "image size 0 x 12"),
        ((24, -1), "image size 24 x -1"),
        ((24, 12, "nearest"), "expected one of bilinear, bicubic"),
    ]
    for bad, message in wrong:
        with pytest.raises(InputError, match=message):
            EvalTransform(*bad)
