"""The small networks in the repository: made from a run's record, used by rank and by the camera styles."""

import json

import pytest
import torch
from PIL import Image

from common.checkpoints import save_checkpoint
from common.datasets.images import read_image
from common.datasets.loading import EvalTransform
from common.datasets.synthetic import load_synthetic
from common.errors import InputError
from common.evaluation.__main__ import main as evaluation
from common.evaluation.networks import load_feature_network
from common.evaluation.ranking import evaluate_dataset
from common.hashing import canonical
from common.records import Record
from hhl.config import PRESETS
from hhl.model import build_network
from hhl.pretrained import MOST_BYTES, RECORD, REID, load_stargan, make
from hhl.pretrained.__main__ import main
from hhl.stargan.model import camera_one_hot
from hhl.stargan.train import HALF, build_generator


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The stages and the record of a demo's run, with networks that were not trained."""
    out, config = tmp_path_factory.mktemp("runs"), PRESETS["demo"]
    torch.manual_seed(0)
    model = build_network(config.net, 10, triplet=True)
    content = {"state_dict": model.state_dict(), "net": canonical(config.net), "num_ids": 10}
    save_checkpoint(out / "stages" / "reid-a" / "model.pt", content)
    generator = build_generator(config.stargan, 6)
    save_checkpoint(out / "stages" / "stargan-b" / "generator.pt", generator.state_dict())
    data = {"name": "synthetic-market", "cameras": 6}
    stages = {
        name: {"hash": key, "reused": False, "seconds": 1.0}
        for name, key in (("reid", "a"), ("stargan", "b"))
    }
    record = Record(
        paper="hhl", key="hhl/table2/L_CD", preset="demo", source="synthetic-duke", target="synthetic-market",
        seed=0, config=canonical(config), config_hash="0" * 12, data={"source": data, "target": data},
        scores={"last": {"R-1": 0.5, "R-5": 0.6, "R-10": 0.7, "R-20": 0.8, "mAP": 0.3, "mAP_step": 0.4}},
        measures={}, selection="last epoch", stages=stages, code_version="abc", libraries={}, hardware={},
        seconds=1.0, curves=[], pictures=[], created="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    path = out / RECORD
    path.parent.mkdir(parents=True)
    path.write_text(record.to_json(), encoding="utf-8")
    return out


def test_both_networks_are_small_and_say_where_they_come_from(runs, tmp_path):
    reid, stargan, about = make(runs, tmp_path)
    assert reid.stat().st_size + stargan.stat().st_size < MOST_BYTES
    text = about.read_text(encoding="utf-8")
    assert "R-1 50.0" in text and "hhl/table2/L_CD" in text and "synthetic-duke to synthetic-market" in text


def test_rank_and_styles_use_them(runs, tmp_path, capsys):
    reid, stargan, _ = make(runs, tmp_path)
    network = load_feature_network(reid)
    assert (network.height, network.width) == (64, 32) and "this project's HHL" in network.found.lines()[0]
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        Image.new("RGB", (32, 64), (80 * number, 20, 30)).save(photos / f"{number}.png")
    command = ["rank", "--checkpoint", str(reid), "--query", str(photos / "0.png"), "--gallery", str(photos)]
    assert evaluation([*command, "--out", str(tmp_path / "ranked.png"), "--device", "cpu"]) == 0
    out = tmp_path / "styles.png"
    assert main(["styles", "--images", str(photos), "--generator", str(stargan), "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert picture.width > 7 * 64 and picture.height > 3 * 128
    assert main(["styles", "--people", "0", "--out", str(out)]) == 2


def test_what_is_no_stargan_is_one_line(runs, tmp_path):
    reid, stargan, _ = make(runs, tmp_path)
    with pytest.raises(InputError, match="has no gan"):
        load_stargan(reid)
    saved = torch.load(stargan, weights_only=True)
    save_checkpoint(stargan, {**saved, "gan": {"channels": -1}})
    with pytest.raises(InputError, match="expected a file of python -m hhl.pretrained make"):
        load_stargan(stargan)


def test_a_run_without_a_stargan_or_a_network_too_large(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("hhl.pretrained.MOST_BYTES", 1000)
    with pytest.raises(InputError, match="at most 1,000 bytes"):
        make(runs, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="no such file|No such file"):
        make(runs, tmp_path, record="runs/absent/record.json")
    content = json.loads((runs / RECORD).read_text(encoding="utf-8"))
    del content["stages"]["stargan"]
    (runs / "other.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="found no stargan"):
        make(runs, tmp_path, record="other.json")


@torch.inference_mode()
def test_the_committed_networks_know_cameras_and_people(tmp_path):
    """Styles of one image differ by more than JPEG does; people of another drawing are found above chance."""
    people = load_synthetic("synthetic-market", tmp_path, data_seed=9, train_ids=1, test_ids=10)
    generator, gan, cameras = load_stargan()
    image = EvalTransform(gan.height, gan.width, "bilinear", HALF, HALF)(read_image(people.query[0].path))
    styles = camera_one_hot(torch.arange(cameras), cameras)
    fakes = generator(image[None].expand(cameras, -1, -1, -1), styles)
    apart = (fakes[:, None] - fakes[None]).abs().mean((2, 3, 4)) * 255 / 2
    assert apart[~torch.eye(cameras, dtype=torch.bool)].min() > 3

    network = load_feature_network(REID)
    pool5 = network.embedder(torch.device("cpu"))
    query, gallery = (
        pool5.embed(network.network, samples)["feature"] for samples in (people.query, people.gallery)
    )
    assert evaluate_dataset(people, query, gallery).cmc[1] > 0.5
