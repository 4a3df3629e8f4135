"""Judges of a transferred source: each measure on images whose answer is known."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from common.datasets.synthetic import ImageKey, SyntheticDomain, load_synthetic, moved, oracle
from common.errors import InputError
from common.evaluation import transfers
from common.evaluation.transfers import Judges, edge_correlation, judge_transfer
from common.job import Job, Options, Workspace
from common.records import Experiment
from common.runs import StageStore

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    return [
        load_synthetic(f"synthetic-{name}", root, train_ids=3, test_ids=1, workers=1)
        for name in ("duke", "market")
    ]


@pytest.fixture
def painted(tmp_path):
    """`painted(name, change)`: the samples' files, changed; PNG, so that nothing else changes."""

    def paint(samples, name, change):
        (tmp_path / name).mkdir()
        copies = []
        for sample in samples:
            path = tmp_path / name / f"{sample.path.stem}.png"
            change(Image.open(sample.path)).save(path)
            copies.append(replace(sample, path=path))
        return copies

    return paint


def test_a_person_is_moved_before_the_other_domains_camera(domains):
    """Before its own camera it is the file; elsewhere the person stays, background and style differ."""
    source, target = domains
    sample = source.train[0]
    assert np.array_equal(moved(sample, source.root, sample.camid), np.asarray(Image.open(sample.path)))
    elsewhere = [moved(sample, target.root, camera) for camera in range(2)]
    assert not np.array_equal(*elsewhere)
    assert not np.array_equal(elsewhere[0], oracle(sample, 0))

    duke, market = (SyntheticDomain(f"synthetic-{name}") for name in ("duke", "market"))
    key = ImageKey.parse(sample.path)
    (own, coverage), (other, same) = duke.scene(key), duke.scene(key, market._panoramas[0])
    inside, outside = coverage > 0.99, coverage < 0.01
    assert np.array_equal(coverage, same) and np.allclose(own[inside], other[inside], atol=0.02)
    assert np.abs(own - other)[outside].mean() > 0.05
    with pytest.raises(InputError, match="has the cameras 0..5"):
        moved(sample, target.root, 6)


def test_edges_kept(domains, painted):
    """Colours and brightness may change; mirrored or empty images lose the edges."""
    samples = domains[0].train[:8]
    inverted, mirrored, grey = (
        painted(samples, name, change)
        for name, change in (
            ("inverted", ImageOps.invert),
            ("mirrored", ImageOps.mirror),
            ("grey", lambda image: Image.new("RGB", image.size, (90, 90, 90))),
        )
    )
    assert edge_correlation(samples, samples) == pytest.approx(1)
    assert edge_correlation(samples, inverted) > 0.95
    assert edge_correlation(samples, mirrored) < 0.6
    assert edge_correlation(samples, [sample.path for sample in grey]) == 0


@pytest.fixture
def known(monkeypatch, domains):
    """Judges that know the answers: the domain by brightness, people by the file's name."""
    dark = lambda image: np.asarray(Image.open(getattr(image, "path", image))).mean() < 80  # noqa: E731

    def styles(network, images, device):
        return np.array([int(dark(image)) for image in images])

    def found(network, queries, originals, gallery, device):
        assert gallery == domains[0].train and len(queries) == len(originals)
        names = [Path(getattr(query, "path", query)).stem for query in queries]
        return float(np.mean([name == sample.path.stem for name, sample in zip(names, originals)]))

    monkeypatch.setattr(transfers, "judged_styles", styles)
    monkeypatch.setattr(transfers, "share_found", found)

    def distance(features, first, second, device):  # of the style judge, or of the person judge
        changed = np.mean([not dark(image) for image in first])
        return float(changed if features == "style" else 10 + len(first) / len(second))

    monkeypatch.setattr(transfers, "feature_distance", distance)
    monkeypatch.setattr(transfers, "load_style_judge", lambda folder, classes, device: Sliced())
    person = SimpleNamespace(features="person")
    monkeypatch.setattr(transfers, "load_person_judge", lambda folder, people, device: person)


class Sliced:
    """A judge whose features are all but its last layer."""

    def __getitem__(self, layers: slice) -> str:
        assert layers == slice(None, -1)
        return "style"


def test_every_measure_is_of_its_own_images(known, domains, painted, tmp_path):
    source, target = domains
    black = painted(source.train, "black", lambda image: Image.new("RGB", image.size))
    half = [b if i % 2 else s for i, (s, b) in enumerate(zip(source.train, black))]
    measures = transfers.judge(
        Workspace(tmp_path, device=CPU), source, target, half, Judges(tmp_path, tmp_path)
    )
    odd = len(half) // 2 / len(half)
    bright = np.mean([np.asarray(Image.open(s.path)).mean() < 80 for s in source.train])
    assert measures["target_share"] == pytest.approx(odd + bright * (1 - odd), abs=0.1)
    assert measures["target_share_untouched"] == pytest.approx(bright, abs=1e-4)
    assert measures["people_found"] == measures["people_found_untouched"] == 1
    assert measures["people_found_oracle"] == 0  # numbered files
    assert measures["edges_kept"] == pytest.approx(1 - odd, abs=1e-3)
    assert measures["edges_kept_untouched"] == 1 > measures["edges_kept_oracle"] > 0
    assert len(list((tmp_path / "oracle").iterdir())) == len(source.train)
    assert measures["oracle_distance"] == pytest.approx(1 - measures["target_share"], abs=1e-4)
    assert measures["oracle_distance_untouched"] == pytest.approx(1 - bright, abs=1e-4)
    assert measures["oracle_person_distance"] == measures["oracle_person_distance_untouched"] == 11
    assert not {"oracle_distance_oracle", "oracle_person_distance_oracle"} & set(measures)


def test_images_of_several_gans_belong_to_their_originals(known, domains, painted, tmp_path):
    source, target = domains
    twice = [*source.train, *source.train]
    measures = transfers.judge(
        Workspace(tmp_path, device=CPU), source, target, twice, Judges(tmp_path, tmp_path)
    )
    assert measures["people_found"] == 1 and measures["edges_kept"] == 1


def test_judges_are_stages_of_the_data_alone(domains, tmp_path):
    """A second row trains none; 0 steps: no stage."""
    source, target = domains
    job = Job(
        *("ptgan", Experiment("ptgan/t/a", ""), None, source, target),
        CPU,
        Options(threads=1),
        StageStore(tmp_path),
    )
    assert judge_transfer(job, source.train, "x", 0) == {} and not job.stages
    measures = judge_transfer(job, source.train, "x", 2)
    assert set(job.stages) == {"domain-judge", "person-judge", "judged"}
    assert measures["target_share"] == measures["target_share_untouched"]
    assert measures == json.loads((job.stages["judged"].folder / "judged.json").read_text("utf-8"))
    judge_transfer(job, target.train[: len(source.train)], "y", 2)
    assert job.stages["domain-judge"].reused and job.stages["person-judge"].reused
    assert not job.stages["judged"].reused
    lines = (job.stages["person-judge"].folder / "curves.jsonl").read_text("utf-8").splitlines()
    assert json.loads(lines[-1])["step"] == 6


def test_the_domain_judges_accuracy_is_a_mean_over_the_domains(domains):
    """A judge that sees the target everywhere is right for half of the domains."""
    everywhere = lambda images, device: np.ones(len(images))  # noqa: E731
    assert transfers.accuracy(everywhere, *domains, CPU) == 0.5
    both = {
        id(image): domain for domain, data in enumerate(domains) for image in (*data.query, *data.gallery)
    }
    right = lambda images, device: np.array([both[id(image)] for image in images])  # noqa: E731
    assert transfers.accuracy(right, *domains, CPU) == 1.0
