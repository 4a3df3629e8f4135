"""Every switch of DCGAN + LSRO, with where its value comes from.

Field defaults are the fact sheet's suggested defaults: the paper's words where they are clear, the authors'
code where the paper is silent. "Git history" is the DCGAN that the authors' repository held in July 2017,
later replaced by a link to a fork of another depth.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from common.backbones import BACKBONES
from common.errors import InputError

MARKET_IMAGES = 12_936  # of the training set of Market-1501: the paper's amounts are multiples of it


@dataclass(frozen=True)
class NetConfig:
    """The re-ID network and the size of its images."""

    # Sec. 5.2; torchvision's has its stride in the 3x3, the released one in the first 1x1
    backbone: str = "resnet50"
    weights: str = "imagenet"  # imagenet (torchvision V1; its mean and std come with it), none, or a file
    height: int = 224  # Sec. 5.2
    width: int = 224  # Sec. 5.2
    resize_height: int = 256  # images are brought to this size before the crop, Sec. 5.2
    resize_width: int = 256
    dropout: float = 0.75  # on pool5, Sec. 5.2 (Market, Duke); CUHK03: 0.5
    bn_momentum: float = 0.1  # of the running statistics; released code: 0.001


@dataclass(frozen=True)
class RecipeConfig:
    """How the re-ID network is trained."""

    epochs: int = 50  # Sec. 5.2; an epoch is one pass over the real and the generated images together
    drop_epoch: int = 40  # learning rates x 0.1 from here, Sec. 5.2
    batch: int = 64  # released code; the last batch of an epoch is as small as it comes
    base_lr: float = 0.002  # Sec. 5.2
    # one rate; classifier weights x 0.5; all factors of the released net
    lr_groups: Literal["simple", "classifier", "released"] = "classifier"
    momentum: float = 0.9  # Sec. 5.2
    nesterov: bool = True  # released code
    weight_decay: float = 1e-4  # released code; none on batch norm
    # of the pseudo-label rows, batch norm included; released code: 5e-4, which confounds Table 2
    pseudo_weight_decay: float | None = None
    # paper: 256 -> 224, Sec. 5.2; scale: 85 to 100 % of the side, resized (released code)
    crop: Literal["paper", "scale"] = "paper"
    # share of the real images drawn for validation, with replacement; released code: 0.1
    holdout: float = 0.0


@dataclass(frozen=True)
class MethodConfig:
    """What a row of Tables 1 to 5 does with the unlabelled images."""

    # Eq. 7; its rivals of Sec. 4.2; none: the baseline
    loss: Literal["none", "lsro", "all_in_one", "pseudo"] = "lsro"
    # unlabelled images for each real one; 24,000 on Market-1501 is the paper's best; released scripts: 6,000
    amount: float = 24_000 / MARKET_IMAGES
    # generated ones, or real people of another dataset without their labels (Table 4)
    images: Literal["gan", "people"] = "gan"
    # a control of ours: the baseline with as many steps as a run with `amount` has
    step_matched: bool = False
    # label smoothing (LSR); lsro, none: of the real images, all_in_one, pseudo: of all; the paper leaves it
    # out
    eps: float = 0.0
    gan_weight: float = 1.0  # of a generated image's loss, Eq. 7; acts with loss lsro only
    # released: the script's pseudo-labels never switch on, and the images only fill batches
    pseudo: Literal["paper", "released"] = "paper"
    pseudo_weight: float = 0.1  # of a pseudo-labelled image's loss, Sec. 4.2
    pseudo_start: int = 20  # epochs before the generated images come in, Sec. 4.2


@dataclass(frozen=True)
class DCGANConfig:
    """The generator and discriminator of Sec. 3.1."""

    # paper: 5 + 1 deconvolutions, 5 convolutions (git history); fork: 4 and 4, what the README links to
    network: Literal["paper", "fork"] = "paper"
    # whose training images it sees; empty: those of the run's own dataset; Table 5: market1501
    dataset: str = ""
    height: int = 128  # Sec. 3.1
    width: int = 128  # Sec. 3.1
    z_dim: int = 100  # Sec. 3.1
    g_channels: int = 64  # of the generator's last hidden layer; its first has 16 times as many (fork: 8)
    d_channels: int = 64  # of the discriminator's first layer
    # git history; the paper's words are ReLU, then batch norm
    order: Literal["bn_relu", "relu_bn"] = "bn_relu"
    epochs: int = 30  # Sec. 3.1; fork: 25, which the row dcgan=fork sets in every preset
    batch: int = 64  # git history
    lr: float = 2e-4  # of Adam, git history
    beta1: float = 0.5  # of Adam, the paper and git history
    beta2: float = 0.999  # TensorFlow's default, git history; the paper: 0.99
    g_steps: int = 2  # steps of G for one of D, all with the same z, git history
    flip: bool = True  # Sec. 3.1; fork: none
    shuffle: bool = True  # git history: file order, sorted by identity, the same batches every epoch


@dataclass(frozen=True)
class PoolConfig:
    """The unlabelled images: how they are drawn and stored, or where they come from."""

    # images drawn for each one that the GAN sees, git history; a row takes the first: nested sets
    amount: float = 48_000 / MARKET_IMAGES
    # statistics at generation; git history: batch; fork: running
    gen_bn: Literal["batch", "running"] = "batch"
    batch: int = 64  # images drawn together; with gen_bn=batch it is part of the picture
    height: int = 256  # stored size, bilinear, the paper
    width: int = 256
    # fixed: (x + 1) / 2; stretch: each image from its darkest to its brightest value (released)
    range: Literal["fixed", "stretch"] = "fixed"
    format: Literal["png", "jpeg"] = "png"  # released code: JPEG
    quality: int = 75  # of JPEG, released code
    # a folder of unlabelled images made elsewhere, any names, taken in sorted order; empty: draw them
    folder: str = ""
    people: str = "cuhk03"  # the dataset of Table 4's real people without labels


@dataclass(frozen=True)
class EvalConfig:
    """Which test features are scored besides the paper's one 224 x 224 view."""

    # the released script's view: the uncropped size, 2 x 2 locations, and the mirror image
    dense256: bool = True
    # all images of the query's person and camera, pooled by mean and by max; needs `gt_bbox` on real data
    multi_query: bool = True
    cut: int | None = None  # only the first images of the ranked list can be hits; released code: 2000
    cuhk03_protocol: Literal["classic", "767/700"] = "classic"  # the paper: 1,367 / 100 ids, single shot
    cuhk03_split: int = 0  # of the 20 classic splits; the paper reports the mean of all

    def __post_init__(self) -> None:
        if self.cut is not None and self.cut < 1:
            raise InputError(
                f"--eval.cut {self.cut}: expected 1 or more images of the ranked list, or none for all of them"
            )


@dataclass(frozen=True)
class LSROConfig:
    """One run of DCGAN + LSRO."""

    net: NetConfig = field(default_factory=NetConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    dcgan: DCGANConfig = field(default_factory=DCGANConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        net, recipe, method, dcgan, pool = self.net, self.recipe, self.method, self.dcgan, self.pool
        _check_positive(net, "net", ("height", "width"))
        _check_positive(recipe, "recipe", ("epochs", "drop_epoch", "batch", "base_lr"))
        _check_positive(
            dcgan,
            "dcgan",
            ("height", "width", "z_dim", "g_channels", "d_channels", "epochs", "batch", "lr", "g_steps"),
        )
        _check_positive(pool, "pool", ("batch", "height", "width", "amount"))
        if net.backbone not in BACKBONES:
            raise InputError(f"--net.backbone {net.backbone}: expected one of {', '.join(BACKBONES)}")
        if net.resize_height < net.height or net.resize_width < net.width:
            raise InputError(
                f"--net.resize-height {net.resize_height}, --net.resize-width {net.resize_width}: "
                f"expected at least the crop's {net.height}, {net.width}"
            )
        for name, value in (
            ("net.dropout", net.dropout),
            ("recipe.holdout", recipe.holdout),
            ("method.eps", method.eps),
            ("dcgan.beta1", dcgan.beta1),
            ("dcgan.beta2", dcgan.beta2),
        ):
            if not 0 <= value < 1:
                raise InputError(f"--{name} {value}: expected 0 to less than 1")
        if not 0 <= net.bn_momentum <= 1:
            raise InputError(f"--net.bn-momentum {net.bn_momentum}: expected 0 to 1")
        for name, value in (
            ("weight-decay", recipe.weight_decay),
            ("pseudo-weight-decay", recipe.pseudo_weight_decay),
        ):
            if value is not None and not value >= 0:
                raise InputError(f"--recipe.{name} {value}: expected 0 or more")
        _check_method(method)
        if not 0 <= recipe.momentum < 1 or (recipe.nesterov and recipe.momentum == 0):
            raise InputError(
                f"--recipe.momentum {recipe.momentum}: expected 0 to less than 1, and more than 0 with --recipe.nesterov"
            )
        if not 1 <= pool.quality <= 100:
            raise InputError(f"--pool.quality {pool.quality}: expected 1 to 100")


def _check_method(method: MethodConfig) -> None:
    if min(method.amount, method.gan_weight, method.pseudo_weight, method.pseudo_start) < 0:
        raise InputError(
            "expected --method.amount, --method.gan-weight, --method.pseudo-weight and --method.pseudo-start of 0 or more"
        )
    if method.loss != "none" and method.amount == 0:
        raise InputError(
            f"--method.loss {method.loss} with --method.amount 0: expected unlabelled images; use --method.loss none"
        )
    if method.step_matched and (method.loss != "none" or method.amount == 0):
        raise InputError(
            f"--method.step-matched with --method.loss {method.loss}, --method.amount {method.amount:g}: "
            "expected loss none and, as its steps are those of LSRO with that amount, more than 0"
        )


def _check_positive(config: object, group: str, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(config, name) <= 0:
            raise InputError(f"--{group}.{name} {getattr(config, name)}: expected a positive number")


_DEFAULT = LSROConfig()

PRESETS: dict[str, LSROConfig] = {
    # small enough for 2 CPU cores; deviations: a thin ResNet from scratch instead of ImageNet's ResNet-50, so
    # a learning rate x 25; 7 epochs
    # instead of 50, so batches of 16 (as many steps as time allows) and no dropout: with it the baseline
    # would not have learned its training
    # set, and a regulariser has nothing to hold back; a DCGAN of an eighth of the channels at 64x32, batches
    # of 32,
    # learning rate x 3
    "demo": LSROConfig(
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
        dcgan=DCGANConfig(height=64, width=32, g_channels=8, d_channels=8, epochs=12, batch=32, lr=6e-4),
        pool=PoolConfig(amount=36_000 / MARKET_IMAGES, height=73, width=37, people="synthetic-duke"),
    ),
    # the MATLAB scripts, and the DCGAN of the git history that made the paper's images
    "released": LSROConfig(
        net=NetConfig(bn_momentum=0.001),
        recipe=RecipeConfig(lr_groups="released", pseudo_weight_decay=5e-4, crop="scale", holdout=0.1),
        method=MethodConfig(pseudo="released"),
        dcgan=DCGANConfig(shuffle=False),
        pool=PoolConfig(range="stretch", format="jpeg"),
        eval=EvalConfig(cut=2000),
    ),
    # the paper to the letter, order of ReLU and batch norm included
    "paper": dataclasses.replace(
        _DEFAULT, recipe=RecipeConfig(lr_groups="simple"), dcgan=DCGANConfig(order="relu_bn", beta2=0.99)
    ),
    # real photographs without ImageNet weights, for a GPU: the learning rate x 25 as in the demo
    "scratch": dataclasses.replace(
        _DEFAULT, net=NetConfig(weights="none"), recipe=RecipeConfig(base_lr=0.05, lr_groups="simple")
    ),
}
