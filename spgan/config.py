"""Every switch of SPGAN, with where its value comes from; imports neither PyTorch nor TensorFlow, since both
wings read it.

Field defaults are the fact sheet's suggested defaults: the released GAN with a true image pool, the blog's
schedule, one IDE recipe for every row. "Caffe" is the released Caffe net of the translated images, "IDE" and
"IDE+" are the first author's PyTorch scripts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from common.errors import InputError


@dataclass(frozen=True)
class GanConfig:
    """The translator: two generators, two discriminators and SiaNet."""

    height: int = 256  # released code; the paper's images are squashed to a square
    width: int = 256  # released code
    load_height: int = 286  # images are brought to this size, then cropped; released code
    load_width: int = 286  # released code
    # training images; legacy: TF1's sampler without half-pixel centres, as released
    resize: Literal["legacy", "half_pixel"] = "legacy"
    g_channels: int = 64  # of the generator's first layer
    blocks: int = 9  # residual blocks, released code
    residual: bool = False  # output = input + change, cut to -1..1: the demo's deviation, see README
    d_channels: int = 64  # of the discriminator's first layer
    # of SiaNet's first layer; the embedding has as many dimensions, twice as many with fc128
    sia_channels: int = 64
    sia_size: int = 256  # SiaNet sees squares of this side; other images are resized to it, gradients pass
    # FC128, leaky ReLU, dropout, FC64; one FC (blog) of 64, of 128 (paper, unverified)
    sia_head: Literal["released", "fc64", "fc128"] = "released"
    # always on, masks by image and step, as released; no effect on fc64, fc128
    sia_dropout: Literal["independent", "shared", "off"] = "independent"
    # negative pairs; released: real images; paper: (G(x_S), x_T), (F(x_T), x_S)
    neg: Literal["real_real", "fake_real", "espgan"] = "real_real"
    # divides the contrastive terms; released: 3 (January 2018), 4 (December 2017); blog's formula: 1; no
    # effect on neg=espgan
    con_div: float = 3.0
    # distance of two embeddings; released: Euclid on the sphere; blog: 1 - cos (paper: unverified)
    dist: Literal["euclid", "onecos"] = "euclid"
    margin: float = 2.0  # m of the contrastive loss
    lambda1: float = 10.0  # of the cycle loss
    lambda2: float = 5.0  # of the identity-mapping loss; 0: plain CycleGAN
    lambda3: float = 2.0  # of the contrastive loss; 0: no SiaNet
    epochs: float = 6.0  # passes of the smaller domain; released code; blog: 5 (paper: unverified)
    # iterations are rounded down to a multiple; released: 1000, since nothing later is saved (77,000 of
    # 77,616)
    round_down: int = 1
    batch: int = 1  # released code
    lr: float = 2e-4  # of the four Adams, constant
    beta1: float = 0.5  # of Adam
    # fakes for the discriminators; lag1: what the demo script's reseeding comes to
    pool: Literal["history", "lag1", "none"] = "history"
    pool_size: int = 50  # released code


@dataclass(frozen=True)
class TranslateConfig:
    """How translated images are made and stored."""

    # statistics: colour mean and deviation of the target's training set, a control of ours
    kind: Literal["gan", "statistics"] = "gan"
    # images translated elsewhere (by the authors' code, say: market_X.jpg or X.jpg), used in place of `kind`
    folder: str = ""
    quality: int = 75  # JPEG quality, Pillow's default, as released
    truncate: bool = True  # 0..255 by truncation at reading and at saving, as released, not rounding


@dataclass(frozen=True)
class NetConfig:
    """The re-ID network and the size of its images."""

    backbone: str = "resnet50"  # torchvision's, stride in the 3x3; Caffe: MSRA's
    weights: str = "imagenet"  # imagenet (torchvision V1), none, or a file
    height: int = 224  # Caffe, where conv5 is 7x7; IDE and IDE+: 256
    width: int = 224  # Caffe; IDE and IDE+: 128
    # none: resized and mirrored (Caffe); random: resized to 9/8 and cropped (IDE, IDE+)
    crop: Literal["none", "random"] = "none"
    # fc: one linear layer (IDE, Caffe); bottleneck: linear 512, BN, leaky ReLU, dropout, linear (IDE+)
    head: Literal["fc", "bottleneck"] = "fc"
    dropout: float = 0.5  # of the bottleneck head


@dataclass(frozen=True)
class RecipeConfig:
    """How the re-ID network is trained."""

    # of the backbone in training; eval: running statistics stand still (Caffe's use_global_stats, IDE, IDE+)
    bn: Literal["train", "eval"] = "eval"
    # gamma and beta of the backbone's batch norm; Caffe: frozen, but learning in its Market baseline
    freeze_affine: bool = False
    freeze_conv1_res2: bool = False  # Caffe: frozen, but learning in its Market baseline
    # of cross-entropy on the source before every row, in place of ImageNet weights: the demo's deviation
    pretrain_epochs: int = 0
    lr: float = 1e-3  # of the backbone; Caffe, IDE, IDE+; the blog's IDE (train.py): 0.01
    # the head's rate over the backbone's; IDE, IDE+: 10; Caffe: 2 (translated images), 1 (baselines)
    head_lr_factor: float = 10.0
    lr_scale: float = 1.0  # times both rates: 3 in the demo, so that keys keep the paper's numbers
    # paper (as the blog has it): `epochs`, one drop; caffe: 50,000 steps, drops at 20,000 and 40,000
    schedule: Literal["paper", "caffe"] = "paper"
    epochs: int = 50  # blog (paper: unverified); IDE, IDE+: 60; no effect with schedule=caffe
    # rates x 0.1 from here (not with caffe); the released call of the scheduler takes effect an epoch early
    # in today's PyTorch
    drop_epoch: int = 40
    batch: int = 16  # released code, blog
    momentum: float = 0.9  # released code
    nesterov: bool = True  # IDE, IDE+; Caffe: no
    # IDE, IDE+: on everything; Caffe: twice on the head's weight (translated images), not on its bias
    weight_decay: float = 5e-4
    erasing: float = 0.0  # probability of random erasing; released code has it, switched off
    colour_jitter: float = 0.0  # of labelled images: a control of ours


@dataclass(frozen=True)
class MethodConfig:
    """Which images a row of Table 2 is trained on."""

    # source: direct transfer; target: supervised; both: with the originals
    images: Literal["source", "target", "translated", "both"] = "translated"


@dataclass(frozen=True)
class TestConfig:
    """How the target's test images are ranked; both AP rules and all poolings of Table 3 are always recorded."""

    interpolation: Literal["bilinear", "bicubic"] = "bilinear"  # Caffe; IDE and IDE+: bicubic
    flip: bool = False  # add the mirrored image's feature; IDE and IDE+: yes; Caffe: no
    part_norm: bool = False  # each part to length 1 before the whole feature; released: the whole only
    # only the first images of the ranked list can be hits; the released Duke script: 2000
    cut: int | None = None


@dataclass(frozen=True)
class SPGANConfig:
    """One run of SPGAN."""

    gan: GanConfig = field(default_factory=GanConfig)
    translate: TranslateConfig = field(default_factory=TranslateConfig)
    net: NetConfig = field(default_factory=NetConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    test: TestConfig = field(default_factory=TestConfig)

    def __post_init__(self) -> None:
        _check_positive(
            self.gan,
            "gan",
            (
                "g_channels",
                "blocks",
                "d_channels",
                "sia_channels",
                "con_div",
                "epochs",
                "round_down",
                "batch",
                "lr",
                "pool_size",
            ),
        )
        _check_positive(self.net, "net", ("height", "width"))
        _check_positive(
            self.recipe, "recipe", ("lr", "head_lr_factor", "lr_scale", "epochs", "drop_epoch", "batch")
        )
        _check_gan_sizes(self.gan)
        _check_optimisers(self.gan, self.recipe)
        if min(self.gan.lambda1, self.gan.lambda2, self.gan.lambda3, self.gan.margin) < 0:
            raise InputError(
                "expected --gan.lambda1, --gan.lambda2, --gan.lambda3 and --gan.margin of 0 or more"
            )
        if (
            not 1 <= self.translate.quality <= 100
            or not 0 <= self.net.dropout < 1
            or not 0 <= self.recipe.erasing <= 1
        ):
            raise InputError(
                "expected --translate.quality in 1..100, --net.dropout from 0 to less than 1 and --recipe.erasing in 0..1"
            )
        if (
            self.recipe.pretrain_epochs < 0
            or self.recipe.colour_jitter < 0
            or (self.test.cut is not None and self.test.cut < 1)
        ):
            raise InputError(
                "expected --recipe.pretrain-epochs and --recipe.colour-jitter of 0 or more, --test.cut of at least 1 or none"
            )


def _check_gan_sizes(gan: GanConfig) -> None:
    if min(gan.height, gan.width) < 8 or gan.height % 8 or gan.width % 8:
        raise InputError(
            f"--gan.height {gan.height}, --gan.width {gan.width}: expected multiples of 8, the discriminator's stride"
        )
    if gan.load_height < gan.height or gan.load_width < gan.width:
        raise InputError(
            f"--gan.load-height {gan.load_height}, --gan.load-width {gan.load_width}: "
            f"expected at least the crop's {gan.height}, {gan.width}"
        )
    if gan.sia_size < 256:
        raise InputError(
            f"--gan.sia-size {gan.sia_size}: expected at least 256, SiaNet's stride; make it cheaper with --gan.sia-channels"
        )


def _check_optimisers(gan: GanConfig, recipe: RecipeConfig) -> None:
    if not 0 <= gan.beta1 < 1 or not 0 <= recipe.momentum < 1:
        raise InputError(
            f"--gan.beta1 {gan.beta1}, --recipe.momentum {recipe.momentum}: expected numbers from 0 to less than 1"
        )
    if recipe.nesterov and recipe.momentum == 0:
        raise InputError("--recipe.momentum 0: Nesterov's step needs a momentum; add --recipe.no-nesterov")
    if recipe.weight_decay < 0:
        raise InputError(f"--recipe.weight-decay {recipe.weight_decay}: expected 0 or more")


def _check_positive(config: object, group: str, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(config, name) <= 0:
            raise InputError(f"--{group}.{name} {getattr(config, name)}: expected a positive number")


# What the blog and the released PyTorch scripts call by name; head, batch norm and learning rate are
# independent fields all the same
RECIPES: dict[str, dict] = {
    # train_IDE.py; matches Caffe's use_global_stats
    "author_ide": {"net.head": "fc", "recipe.bn": "eval", "recipe.lr": 1e-3},
    "ide_plus": {"net.head": "bottleneck", "recipe.bn": "eval", "recipe.lr": 1e-3},  # train_IDE_plus.py
    # train.py, what the blog calls IDE
    "blog_ide": {"net.head": "bottleneck", "recipe.bn": "train", "recipe.lr": 1e-2},
}

_DEFAULT = SPGANConfig()

PRESETS: dict[str, SPGANConfig] = {
    # small enough for 2 CPU cores; deviations: a thin ResNet pretrained on the source instead of ImageNet's
    # ResNet-50, 4 epochs instead of 50 with
    # rates x 3; GANs of a quarter of the channels and 3 blocks at 64x32 whose output is input + change,
    # batches of 4, 1.25 passes
    "demo": SPGANConfig(
        gan=GanConfig(
            height=64,
            width=32,
            load_height=72,
            load_width=36,
            g_channels=16,
            blocks=3,
            residual=True,
            d_channels=16,
            sia_channels=8,
            epochs=1.25,
            batch=4,
        ),
        net=NetConfig(backbone="thin", weights="none", height=64, width=32),
        recipe=RecipeConfig(pretrain_epochs=5, epochs=4, drop_epoch=3, lr_scale=3.0),
    ),
    # the demo script of the released GAN and the Caffe net of the translated images
    "released": SPGANConfig(
        gan=GanConfig(pool="lag1", round_down=1000),
        recipe=RecipeConfig(
            freeze_affine=True, freeze_conv1_res2=True, head_lr_factor=2.0, schedule="caffe", nesterov=False
        ),
    ),
    # the paper as the blog prints it, unverified: 1 - cos, translated negatives, no divisor, 5 epochs, "1 FC"
    # in SiaNet; that the FC has 128 outputs
    # and no dropout is unverified too: the blog goes on to list the released head
    "paper": dataclasses.replace(
        _DEFAULT,
        gan=GanConfig(
            sia_head="fc128", sia_dropout="off", neg="fake_real", con_div=1.0, dist="onecos", epochs=5.0
        ),
    ),
}
