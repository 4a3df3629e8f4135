"""More epochs than a finished training has: --resume goes on from it, exactly as one long training."""

import logging
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from common.job import Options, Workspace
from common.runs import read_curves, shorter_in
from common.training import Loop, scale_learning_rate, seed_everything

STEPS = 5  # of an epoch


@dataclass(frozen=True)
class Recipe:
    epochs: int = 2
    lr: float = 0.1


def train(work: Workspace, recipe: Recipe) -> None:
    """Trains with momentum, dropout and a rate that drops after two epochs."""
    seed_everything(work.seed)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=0.9)
    optimizer.param_groups[0]["initial_lr"] = recipe.lr
    state = {"model": model, "optimizer": optimizer}
    loop = Loop(work, recipe.epochs * STEPS, state, label="toy", save_every=3, log_every=1)
    for step in loop:
        scale_learning_rate(optimizer, 0.1 if step >= 2 * STEPS else 1.0)
        images = torch.as_tensor(np.random.default_rng(step).normal(size=(8, 4)), dtype=torch.float32)
        loss = model(images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loop.log(step, loss=loss)
    torch.save(model.state_dict(), work.folder / "model.pt")


@pytest.fixture
def run(toy_job):
    """`run(out, epochs, **options)`: the folder of the finished training."""

    def start(out, epochs, lr=0.1, **options):
        job, recipe = toy_job(out, options=Options(**options)), Recipe(epochs, lr)
        stage = job.training_stage(
            "reid", {"recipe": recipe}, lambda work: train(work, recipe), weights="none"
        )
        return stage.folder

    return start


def weights(folder):
    return torch.load(folder / "model.pt", weights_only=True)


def losses(folder):
    return [(line["step"], line["loss"]) for line in read_curves(folder / "curves.jsonl")]


def test_a_longer_training_goes_on_bit_by_bit(run, tmp_path, caplog):
    whole = run(tmp_path / "whole", 4)
    first = run(tmp_path / "parts", 2)
    with caplog.at_level(logging.INFO, "run"):
        second = run(tmp_path / "parts", 4, resume=True)
    assert "a finished one of 2 epochs is there: this one goes on from it" in caplog.text
    assert "continues from step 10 of 20" in caplog.text
    assert first.is_dir() and first != second
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(second)[name])
    assert losses(second) == losses(whole) and len(losses(whole)) == 20
    assert not list(second.glob("*checkpoint*")) and not (second / "kept").exists()


def test_without_the_state_only_the_network_is_kept(run, tmp_path):
    folder = run(tmp_path, 2, keep_state=False)
    assert sorted(path.name for path in folder.iterdir()) == ["curves.jsonl", "model.pt", "stage.json"]


def test_the_longest_of_several_is_continued(run, tmp_path, caplog):
    for epochs in (1, 3, 2):
        run(tmp_path, epochs)
    with caplog.at_level(logging.INFO, "run"):
        run(tmp_path, 4, resume=True)
    assert "finished one of 3 epochs" in caplog.text


@pytest.mark.parametrize(
    "options, other, words",
    [
        ({}, {}, None),  # without --resume nothing is continued
        ({"resume": True}, {"lr": 0.2}, None),  # another setting differs too
        ({"resume": True}, {"seed": 1}, None),
        ({"resume": True}, {"keep_state": False}, "its optimiser was not kept (--no-keep-state)"),
    ],
)
def test_what_cannot_go_on_starts_at_the_beginning(run, tmp_path, caplog, options, other, words):
    run(tmp_path, 2, **other)
    with caplog.at_level(logging.INFO, "run"):
        folder = run(tmp_path, 3, **options)
    assert "goes on" not in caplog.text and "continues" not in caplog.text
    assert words is None or words in caplog.text
    whole = run(tmp_path / "whole", 3)
    assert losses(folder) == losses(whole)


def test_a_shorter_training_is_not_cut_from_a_longer_one(run, tmp_path, caplog):
    run(tmp_path, 3)
    with caplog.at_level(logging.INFO, "run"):
        folder = run(tmp_path, 2, resume=True)
    assert "goes on" not in caplog.text and len(losses(folder)) == 10


def test_which_dependencies_are_those_of_a_shorter_training():
    known = {"recipe": {"epochs": 2, "lr": 0.1}, "seed": 0}
    longer = {"recipe": {"epochs": 3, "lr": 0.1}, "seed": 0}
    assert shorter_in(known, longer) == ("recipe.epochs", 2)
    assert shorter_in(longer, known) is None and shorter_in(known, known) is None
    assert shorter_in(known, {**longer, "seed": 1}) is None
    assert shorter_in(known, {**longer, "more": 1}) is None
    assert shorter_in(known, {**known, "seed": 1}) is None  # a number, but no length
    assert shorter_in(None, longer) is None
    assert shorter_in({"recipe": {"epochs": True}}, {"recipe": {"epochs": 3}}) is None


def test_a_schedule_that_depends_on_its_length_starts_at_the_beginning(toy_job, tmp_path, caplog):
    for iterations in (100, 200):
        job = toy_job(tmp_path, options=Options(resume=True))
        with caplog.at_level(logging.INFO, "run"):
            job.stage("gan", {"config": {"iterations": iterations}}, lambda work: None)
    assert (
        "gan: a finished one of 100 iterations is there, but its schedule depends on its length"
        in caplog.text
    )
