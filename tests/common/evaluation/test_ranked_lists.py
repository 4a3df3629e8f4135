"""Ranked-list sheets: right images, right frames, at most 1 MB."""

import numpy as np
import pytest
from PIL import Image

from common.datasets.base import Sample
from common.errors import InputError
from common.evaluation.pictures import image_grid
from common.evaluation.ranked_lists import FRAMES, good_and_bad, judge, ranked_lists
from common.evaluation.ranking import evaluate, ids_of


@pytest.fixture
def world(tmp_path):
    """Four queries and a gallery in one dimension: the nearest to query q is its right image, then a wrong
    one, then junk.
    """

    def samples(split, ids):
        result = []
        for number, (pid, camid) in enumerate(ids):
            path = tmp_path / f"{split}{number}.png"
            Image.new("RGB", (32, 64), (40 * number, 90, 10)).save(path)
            result.append(Sample(path, pid, camid))
        return result

    query = samples("q", [(1, 0), (2, 0), (3, 0), (9, 0)])
    gallery = samples("g", [(1, 1), (0, 1), (-1, 1), (2, 1), (2, 0), (3, 1)])
    return (
        np.array([[0.0], [10], [20], [90]]),
        query,
        np.array([[0.1], [0.2], [0.3], [12], [11], [40]]),
        gallery,
    )


def test_judgements(world):
    _, query, _, gallery = world
    assert [judge(query[1], sample) for sample in gallery] == [
        "wrong",
        "wrong",
        "junk",
        "right",
        "junk",
        "wrong",
    ]
    assert judge(Sample(query[0].path, 0, 0), gallery[1]) == "wrong"


def test_sheet_frames_in_ranked_order(world, tmp_path):
    path = tmp_path / "sheet.png"
    assert ranked_lists(*world, path, queries=[1], top=4) == [1]
    pixels = np.asarray(Image.open(path))
    columns = [
        np.flatnonzero((pixels == FRAMES[name]).all(axis=2).any(axis=0)).min()
        for name in ("junk", "right", "wrong")
    ]
    assert columns == sorted(columns)  # at 11, 12, 0.3; the query at 10


def test_default_takes_good_and_bad_queries(world, tmp_path):
    query_features, query, gallery_features, gallery = world
    ap = evaluate(query_features, *ids_of(query), gallery_features, *ids_of(gallery)).ap
    assert good_and_bad(ap, query, each=1) == [0, 2]
    assert ranked_lists(*world, tmp_path / "sheet.png") == [0, 1, 2]


def test_wrong_indices_and_lengths_are_named(world, tmp_path):
    with pytest.raises(InputError, match="from 0 to 3, found 7"):
        ranked_lists(*world, tmp_path / "sheet.png", queries=[7])
    with pytest.raises(InputError, match="one feature an image"):
        ranked_lists(world[0][:2], *world[1:], tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_noise_shrinks_until_it_fits(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 100, 3), dtype=np.uint8)
    image_grid(
        [[noise] * 12] * 9,
        tmp_path / "grid.png",
        column_titles=[f"camera {k}" for k in range(12)],
        row_titles=["image"] * 9,
    )
    assert (tmp_path / "grid.png").stat().st_size <= 1_000_000
    assert Image.open(tmp_path / "grid.png").width > 12 * 20


def test_a_grid_without_a_picture_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one picture"):
        image_grid([[None]], tmp_path / "grid.png")
