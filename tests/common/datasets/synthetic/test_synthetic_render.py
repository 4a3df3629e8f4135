"""What is drawn: people, masks, scenes, camera styles, and the plan of who is seen where."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from common.datasets.base import DISTRACTOR, JUNK
from common.datasets.synthetic import DOMAINS, ImageKey, SyntheticDomain
from common.datasets.synthetic.domains import MARKET, PERSON, make_plan, stream
from common.datasets.synthetic.figure import Pose, draw_figure
from common.datasets.synthetic.people import draw_person
from common.datasets.synthetic.scenes import compose
from common.datasets.synthetic.styles import StyleRanges, draw_styles, photograph
from common.errors import InputError


@pytest.fixture(scope="module", params=sorted(DOMAINS))
def domain(request):
    return SyntheticDomain(request.param, data_seed=5)


def pose(**changes) -> Pose:
    return dataclasses.replace(Pose(yaw=0.3, phase=1.0, size=0.96, dx=0.0, dy=0.0, side_light=0.2), **changes)


def person(pid: int = 1):
    return draw_person(stream(5, MARKET, PERSON, pid), MARKET.wardrobe)


@pytest.mark.parametrize("pid", range(1, 13))
def test_the_mask_is_where_the_person_was_drawn(pid):
    """What changes before a flat background is the mask (IoU), the shadow at the feet apart."""
    background = np.full((128, 64, 3), (0.9, 0.1, 0.9), np.float32)
    scene, coverage = compose(person(pid), pose(yaw=pid / 2, dx=0.05), background, np.random.default_rng(pid))
    above = np.arange(128)[:, None] < 112
    changed, mask = (np.abs(scene - background).max(axis=2) > 0.2) & above, (coverage >= 0.5) & above
    assert (changed & mask).sum() / (changed | mask).sum() > 0.85


def test_masks_have_a_sensible_size(domain):
    plan = make_plan(domain.domain, 5, 20, 1)
    shares = np.array([(domain.mask(key) > 0).mean() for key in plan.train])
    assert 0.15 < np.median(shares) < 0.45 and shares.min() > 0.02 and shares.max() < 0.6


def test_some_distractors_show_nobody_and_junk_is_off_centre(domain):
    plan = make_plan(domain.domain, 5, 1, 60)
    masks = {
        pid: [domain.mask(key) > 0 for key in plan.gallery if key.pid == pid] for pid in (DISTRACTOR, JUNK)
    }
    empty = [not mask.any() for mask in masks[DISTRACTOR]]
    assert 0.1 < np.mean(empty) < 0.7
    people = [domain.mask(key) > 0 for key in plan.query]
    average = np.mean(people, axis=0)
    junk, usual = (
        np.mean([(average * mask).sum() / average.sum() for mask in group]) for group in (masks[JUNK], people)
    )
    assert junk < 0.8 * usual


def test_a_figure_has_the_colours_of_its_clothes():
    red = dataclasses.replace(
        person(),
        top=(250, 0, 0),
        pattern="plain",
        bottom=(0, 0, 250),
        legwear="trousers",
        coat=False,
        open_coat=False,
    )
    red = dataclasses.replace(red, backpack=None, handbag=None, side_stripe=None, boots=False)
    colour, coverage = draw_figure(red, pose())
    assert colour.shape == (128, 64, 3) and coverage.shape == (128, 64)
    assert colour[45, 32].argmax() == 0 and colour[45, 32, 1:].max() < 0.1  # the chest
    rows = colour[80:110][coverage[80:110] > 0.9]
    assert rows[:, 2].mean() > 4 * rows[:, 0].mean()  # the legs


def test_the_face_is_seen_from_the_front_only():
    bare = dataclasses.replace(
        person(), skin=(240, 200, 180), hair=(10, 10, 10), hair_style="short", hat=None, height=1.0
    )
    front, back = (draw_figure(bare, pose(yaw=yaw))[0] for yaw in (0.0, np.pi))
    head = slice(8, 18), slice(26, 38)
    assert front[head].mean() > 1.5 * back[head].mean()


@pytest.mark.parametrize("yaw", np.linspace(0, 2 * np.pi, 9))
@pytest.mark.parametrize("pid", range(1, 9))
def test_every_person_can_be_drawn_from_every_side(pid, yaw):
    colour, coverage = draw_figure(person(pid), pose(yaw=float(yaw)))
    assert np.isfinite(colour).all() and 0 <= colour.min() and colour.max() <= 1
    assert 0.1 < coverage.mean() < 0.5
    assert (colour.max(axis=2) <= coverage * 1.1 + 1e-6).all()  # premultiplied


def test_people_differ_and_stay_themselves():
    people = [person(pid) for pid in range(1, 60)]
    assert len({(p.top, p.bottom, p.shoes) for p in people}) == 59
    assert person(3) == people[2]


def test_renderings_depend_on_seed_camera_and_frame_only(domain):
    key = ImageKey(3, 1, 2, 400)
    again = SyntheticDomain(domain.domain.name, 5)
    assert np.array_equal(again.image(key, 0), domain.image(key, 0))
    others = [SyntheticDomain(domain.domain.name, 6).image(key), domain.image(key, 2)]
    others += [domain.image(key._replace(frame=401)), domain.image(key._replace(camid=0))]
    assert all(not np.array_equal(other, domain.image(key)) for other in others)


def test_a_camera_style_is_more_than_a_global_change_of_colour(domain):
    """The best affine map of all pixels' colours (12 numbers, more than jitter has) leaves most of the
    difference between styles.
    """
    left = []
    for camid in range(1, domain.domain.num_cameras):
        key = ImageKey(2, 0, 1, 100)
        here, there = (domain.image(key, style).reshape(-1, 3).astype(float) for style in (0, camid))
        design = np.column_stack([here, np.ones(len(here))])
        residual = there - design @ np.linalg.lstsq(design, there, rcond=None)[0]
        left.append(np.abs(residual).mean() / np.abs(there - here).mean())
    assert np.mean(left) > 0.2


def test_styles_without_any_effect_leave_the_scene_as_it_is():
    zero = {
        field.name: 0.0 for field in dataclasses.fields(StyleRanges) if field.name not in ("axis", "quality")
    }
    off = dataclasses.replace(MARKET.style, **(zero | {"shrink": 1.0}), quality=(95, 95))
    style = draw_styles(np.random.default_rng(0), off, 3)[1]
    scene = np.tile(np.linspace(0.2, 0.8, 128, dtype=np.float32)[:, None, None], (1, 64, 3))
    pixels = np.asarray(Image.open(io.BytesIO(photograph(scene, style, np.random.default_rng(0))))) / 255
    exposure = (pixels / scene).mean()  # differs a little from shot to shot
    assert abs(exposure - 1) < 0.2 and np.abs(pixels - exposure * scene).max() < 0.02


def test_plans_grow_without_changing_what_was_there(domain):
    small, large = make_plan(domain.domain, 5, 10, 5), make_plan(domain.domain, 5, 12, 8)
    assert set(small.train) <= set(large.train)
    assert {key for key in small.query if key.pid == 15} <= set(large.query)


def test_plans_follow_the_domains_numbers(domain):
    plan = make_plan(domain.domain, 5, 80, 40)
    cameras = [len({key.camid for key in plan.train if key.pid == pid}) for pid in range(1, 81)]
    assert (min(cameras), max(cameras)) == domain.domain.cameras_per_id
    assert {key.camid for key in plan.train} == set(range(domain.domain.num_cameras))
    assert len({*plan.train, *plan.query, *plan.gallery}) == len(plan.train) + len(plan.query) + len(
        plan.gallery
    )
    assert {key.pid for key in plan.train}.isdisjoint(key.pid for key in (*plan.query, *plan.gallery))


def test_a_camera_that_is_not_there_is_refused(domain):
    with pytest.raises(InputError, match="camera 9"):
        domain.image(ImageKey(1, 0, 1, 1), 9)
    with pytest.raises(InputError, match="camera 9"):
        domain.image(ImageKey(1, 9, 1, 1), 0)
