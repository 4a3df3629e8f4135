"""No switch does nothing: every field of the configuration, set to another value, changes the result that it
is there to change, and leaves alone what it must.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from arn.config import ARNConfig
from arn.data import labelled_samples
from arn.evaluate import load_network, score
from arn.judges import judge_codes
from arn.pretrain import pretrain
from arn.train import ei_learns_first, train_jointly
from common.backbones import build_backbone
from common.checkpoints import load_checkpoint, save_checkpoint
from common.cli import override
from common.datasets import ReIDDataset, load_dataset
from common.job import Workspace

# one step of four images of each domain, in which every module learns and every term has a weight
TINY = override(
    ARNConfig(),
    {
        "net.backbone": "thin",
        "net.weights": "none",
        "net.height": 16,
        "net.width": 8,
        "latent.width": 4,
        "latent.kernel": "auto",
        "w.diff": 2.0,
        "w.mmd": 0.5,
        "lr.ei": 0.01,
        "lr.latent": 0.02,
        "lr.cls": 0.03,
        "pretrain.epochs": 2,
        "pretrain.drop_epoch": 2,
        "pretrain.batch": 4,
        "recipe.warmup": "none",
        "recipe.batch": 4,
        "recipe.ids": 2,
        "recipe.epochs": 1,
    },
)

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """Another value for one field; what must differ then, and only then."""

    value: Any
    # names of tensors or numbers begin with one of these; nothing else may differ
    only: tuple[str, ...] = ("",)
    also: dict[str, Any] = field(default_factory=dict)  # of both runs: where the field matters
    of: str = "joint"  # the stage whose result is compared


C = ("encoder_c", "encoder_base")  # what a term of e_c of the source moves
CLASSIFIED = (*C, "classifier")
REBUILT = ("encoder_", "decoder_base")
SEPARATED = ("encoder_",)
WARM_UP = {"recipe.epochs": 2, "recipe.warmup_epochs": 1}

CASES: dict[str, Case] = {
    "net.arch": Case("released"),
    "net.backbone": Case("resnet18", of="start"),
    "net.weights": Case("thin.pt", ("encoder_base",), of="start"),
    "net.height": Case(24),
    "net.width": Case(16),
    "net.normalise": Case("half"),
    "net.bn": Case("joint"),
    "net.bn_emulate_double": Case(True, ("encoder_t", "encoder_c", "encoder_s")),
    "net.bn_splits": Case(2),
    "latent.private": Case(False),
    "latent.width": Case(6),
    "latent.kernel": Case(1),
    "latent.batch_norm": Case(False),
    "latent.relu": Case(False),
    "latent.last": Case("bn_relu"),
    "latent.dropout": Case(0.2),
    "latent.pool": Case("flatten", also={"latent.kernel": 1}),
    "latent.init": Case("identical", ("encoder_t", "encoder_s", "decoder", "classifier"), of="start"),
    "dec.norm": Case(False),
    "dec.last": Case("relu", REBUILT),
    "w.cls": Case(0.7, CLASSIFIED),
    "w.ctr": Case(0.2, C),
    "w.rec": Case(3.0, REBUILT),
    "w.diff": Case(5.0, SEPARATED),
    "w.mmd": Case(0.9, C),
    "cls.reduction": Case("sum", CLASSIFIED),
    "cls.dropout": Case(0.2, CLASSIFIED),
    "ctr.distance": Case("l2", C),
    "ctr.margin": Case(1.5, C),
    "ctr.square_hinge": Case(False, C),
    "ctr.reduction": Case("mean", C),
    "rec.norm": Case("l1", REBUILT),
    "rec.reduction": Case("pixel", REBUILT),
    "rec.detach_target": Case(False, ("encoder_base",)),
    "diff.form": Case("dot", SEPARATED),
    "diff.row_norm": Case(False, SEPARATED),
    "diff.center": Case(True, SEPARATED),
    "diff.reduction": Case("sum", SEPARATED),
    "lr.ei": Case(0.005, ("encoder_base",)),
    "lr.latent": Case(0.005, ("encoder_t", "encoder_c", "encoder_s", "decoder_base")),
    "lr.cls": Case(0.005, ("classifier",)),
    "pretrain.epochs": Case(3, of="pretrain"),
    "pretrain.drop_epoch": Case(1, of="pretrain"),
    "pretrain.batch": Case(3, of="pretrain"),
    "pretrain.lr": Case(0.05, of="pretrain"),
    "pretrain.dropout": Case(0.1, of="pretrain"),
    "pretrain.head_lr_factor": Case(2.0, of="pretrain"),
    "recipe.warmup": Case("freeze_ei", ("encoder_base",), also={"recipe.warmup_epochs": 1}),
    "recipe.warmup_epochs": Case(2, also={**WARM_UP, "recipe.warmup": "freeze_ei"}),
    "recipe.rest": Case("all", also={**WARM_UP, "recipe.warmup": "literal_ei"}),
    "recipe.init": Case("start.pt"),
    "recipe.ei_bn_eval": Case(False),
    "recipe.source_split": Case("all"),
    "recipe.sampler": Case("uniform"),
    "recipe.ids": Case(1),
    "recipe.batch": Case(6),
    "recipe.epochs": Case(2),
    "recipe.drop_epoch": Case(1, also={"recipe.epochs": 2}),
    "recipe.momentum": Case(0.5, also={"recipe.epochs": 2}),
    "recipe.optimizer": Case("adam"),
    "recipe.weight_decay": Case(0.05),
    "recipe.flip": Case(1.0),
    "test.feature": Case("X", ("last",), of="scores"),
    "test.judge_steps": Case(3, ("rec_explained", "domain_read", "cs_accuracy"), of="judged"),
}
# fields of the joint recipe that the stage of E_I shares
ALSO_OF_EI = {
    name: replace(CASES[name], of="pretrain", also={})
    for name in ("net.height", "net.normalise", "net.bn_splits", "recipe.momentum", "recipe.weight_decay")
    + ("recipe.flip", "recipe.source_split")
}


def fields_of(config: Any, prefix: str = "") -> Iterator[str]:
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}"


# ---------------------------------------------------------------- the stages on tiny data


@dataclass(frozen=True)
class Data:
    source: ReIDDataset
    target: ReIDDataset
    folder: Path

    def workspace(self, name: str) -> Workspace:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return Workspace(folder, seed=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def data(data_root, tmp_path_factory) -> Data:
    """Seven images of three people as source, seven as target; a backbone's weights, a network's."""
    duke, market = (load_dataset(name, data_root) for name in ("dukemtmc", "market1501"))
    people = sorted({sample.pid for sample in duke.train})[:3]
    each = [[s for s in duke.train if s.pid == pid][: 3 if pid == people[0] else 2] for pid in people]
    source = replace(duke, train=sum(each, []), query=duke.query[:3], gallery=duke.gallery[-12:])
    target = replace(market, train=list(market.train)[::9][:7])
    folder = tmp_path_factory.mktemp("switches")
    data = Data(source, target, folder)
    torch.manual_seed(8)
    torch.save(build_backbone("thin").state_dict(), folder / "thin.pt")
    torch.manual_seed(9)
    start = trained(override(TINY, {"recipe.epochs": 0}), replace_seed(data))
    save_checkpoint(folder / "start.pt", {"state_dict": start})
    return data


def replace_seed(data: Data) -> Data:
    """The same data; another seed."""

    class Other(Data):
        def workspace(self, name: str) -> Workspace:
            return replace(Data.workspace(self, name), seed=2)

    return Other(data.source, data.target, data.folder)


def trained(config: ARNConfig, data: Data) -> Result:
    """Every tensor of the network after the joint training."""
    work = data.workspace("joint")
    train_jointly(config, labelled_samples(data.source, config.recipe.source_split), data.target, None, work)
    return load_checkpoint(work.folder / "model.pt")["state_dict"]


def started(config: ARNConfig, data: Data) -> Result:
    """The same before it."""
    return trained(override(config, {"recipe.epochs": 0}), data)


def pretrained(config: ARNConfig, data: Data) -> Result:
    """Every tensor of E_I after its own stage."""
    source = labelled_samples(data.source, config.recipe.source_split)
    work = data.workspace("pretrain")
    pretrain(config.net, config.pretrain, config.recipe, source, work)
    return load_checkpoint(work.folder / "base.pt")["state_dict"]


def scored(config: ARNConfig, data: Data) -> Result:
    """Every score on the target, and the ranked features."""
    trained(config, data)
    net, network = load_network(data.folder / "joint" / "model.pt")
    work = data.workspace("scores")
    score(network, net, config.ranked, data.target, work)
    return json.loads((work.folder / "scores.json").read_text(encoding="utf-8"))


def judged(config: ARNConfig, data: Data) -> Result:
    """The yardsticks of the record."""
    trained(config, data)

    def stage(name: str, depends_on: Mapping[str, Any], build: Callable) -> SimpleNamespace:
        build(data.workspace("judged"))
        return SimpleNamespace(
            json=lambda name: json.loads((data.folder / "judged" / name).read_text(encoding="utf-8"))
        )

    job = SimpleNamespace(config=config, source=data.source, target=data.target, stage=stage)
    joint = SimpleNamespace(folder=data.folder / "joint", hash="")
    return judge_codes(job, labelled_samples(data.source, "train"), joint)


RESULT = {"joint": trained, "start": started, "pretrain": pretrained, "scores": scored, "judged": judged}


def differing(first: Result, second: Result) -> set[str]:
    """Names of what only one has, or whose values differ."""

    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, Tensor) else a == b

    shared = set(first) & set(second)
    return set(first) ^ set(second) | {name for name in shared if not same(first[name], second[name])}


# ---------------------------------------------------------------- the tests


def test_every_field_has_a_case():
    assert set(CASES) == set(fields_of(ARNConfig()))


@pytest.fixture(scope="module")
def results(data) -> Callable[[str, ARNConfig], Result]:
    """The result of a stage under a configuration; that of the base is shared by the cases."""
    known: list[tuple[str, ARNConfig, Result]] = []

    def result(stage: str, config: ARNConfig) -> Result:
        for name, other, value in known:
            if name == stage and other == config:
                return value
        known.append((stage, config, RESULT[stage](config, data)))
        return known[-1][2]

    return result


@pytest.mark.parametrize(
    "name, case", [*CASES.items(), *ALSO_OF_EI.items()], ids=[*CASES, *(f"{n} of E_I" for n in ALSO_OF_EI)]
)
def test_another_value_changes_what_it_should(data, results, name, case):
    base = override(TINY, case.also)
    value = str(data.folder / case.value) if str(case.value).endswith(".pt") else case.value
    changed = override(base, {name: value})
    assert changed != base
    different = differing(results(case.of, base), RESULT[case.of](changed, data))
    assert different
    stray = {entry for entry in different if not entry.startswith(case.only)}
    assert not stray, sorted(stray)[:5]


def test_equal_configurations_give_equal_results(data):
    """Otherwise every case above would pass by chance."""
    for run in RESULT.values():
        assert not differing(run(TINY, data), run(TINY, data))


def test_the_source_learns_first_unless_a_warm_up_or_a_checkpoint_replaces_it():
    assert ei_learns_first(override(TINY, {"recipe.warmup": "source_ce"}))
    assert not ei_learns_first(TINY)
    assert not ei_learns_first(override(TINY, {"recipe.warmup": "source_ce", "recipe.init": "x.pt"}))
