"""Every switch of PTGAN, with where its value comes from.

Field defaults are the fact sheet's suggested defaults: the released code where it is sound. What is known of
the paper's own text comes from those who quote it; "unverified" marks what rests on memory. The released
repository holds the GAN alone: no re-ID code, no masks, no weights.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from common.backbones import BACKBONES
from common.errors import InputError

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
    backbone: str = "resnet50"
    weights: str = "imagenet"  # imagenet (torchvision V1), none, or a file
    height: int = 256  # ours, as the other papers of the blog
    width: int = 128  # ours
    dropout: float = 0.5  # on the pooled map; ours, the usual IDE recipe


@dataclass(frozen=True)
class RecipeConfig:
    """How the re-ID network is trained: the usual IDE recipe, the paper's is not known."""

    epochs: int = 60  # ours
    drop_epoch: int = 40  # learning rates x 0.1 from here; ours
    batch: int = 32  # ours
    base_lr: float = 0.01  # the backbone; ours
    classifier_lr: float = 0.1  # the classification layer; ours
    momentum: float = 0.9  # ours
    nesterov: bool = True  # ours
    weight_decay: float = 5e-4  # ours
    colour_jitter: float = 0.0  # of training images: a control of ours


@dataclass(frozen=True)
class MaskConfig:
    """Where the foreground masks come from; they are needed while the GAN trains, never afterwards."""

    # paper: PSPNet, once and offline; released code reads .npy
    kind: Literal["disk", "oracle", "torchvision", "gaussian", "ones", "zeros"] = "disk"
    # joint: the image's own resize, crop and flip; released: none of them, mean IoU 0.66
    aug: Literal["joint", "released"] = "joint"
    # disk: <stem>.png or .npy of the source; empty: the dataset's own, else <split>_mask beside its images
    source_folder: str = ""
    target_folder: str = ""  # disk: the same of the target
    model: str = "deeplabv3_resnet50"  # torchvision: the segmentation network
    # torchvision: what is foreground; paper: "foreground", its figure shows VOC's colours
    classes: Literal["person", "any_fg"] = "person"


@dataclass(frozen=True)
class GANConfig:
    """The two generators and two discriminators, their losses and their training."""

    height: int = 256  # released code; the generator sees squares
    width: int = 256  # released code
    load_height: int = 286  # images are brought to this size before the crop, released code
    load_width: int = 286  # released code
    channels: int = 64  # of the generator's first layer, released code
    blocks: int = 9  # residual blocks, released code
    downsamplings: int = 2  # released code
    residual: bool = False  # output = input + change: the demo's deviation, see README
    d_channels: int = 64  # of the discriminator's first layer, released code
    d_layers: int = 3  # its convolutions of stride 2: 3 give the 70x70 patches of paper and code
    # TensorFlow's SAME; symmetric: as PyTorch's CycleGAN pads, shifted by a pixel
    pad_mode: Literal["tf_same", "symmetric"] = "tf_same"
    # released code; its sigmoid cross-entropy cannot be reached from the command line
    adversarial: Literal["lsgan", "sigmoid"] = "lsgan"
    lambda_cyc: float = 10.0  # released code (L1_lambda); lambda 2 of the paper (10, unverified)
    # released code (L2_lambda); lambda 1 of the paper (10, unverified); 0 is CycleGAN
    lambda_id: float = 10.0
    # released: mse, masked; l2: paper and blog, a norm an image; l2_rms: over the root of its size
    id_loss: Literal["mse", "l2", "l2_rms"] = "mse"
    # of mse and l2_rms: over all pixels (released), or over the mask's
    id_reduce: Literal["all", "mask"] = "all"
    # of |G(b) - b|, which keeps colours; neither paper nor code has it, SPGAN does (5)
    lambda_idt: float = 0.0
    lr: float = 2e-4  # of the generators, released code
    lr_d: float = 2e-4  # of the discriminators, released code; paper: 1e-4 (unverified)
    beta1: float = 0.5  # of Adam, released code
    epochs: int = 200  # released code; an epoch is min(source, target) images; paper: 40 (unverified)
    # released: to zero from decay_epoch on; paper: none stated (unverified)
    decay: Literal["linear", "none"] = "linear"
    decay_epoch: int = 100  # released code
    batch: int = 1  # released code
    pool_size: int = 50  # pairs of earlier fakes that the discriminators see, released code; 0: none
    shared_aug: bool = True  # released: one crop and flip for the source and the target image of a step
    # released: scipy stretches every image to 0..255, at loading and at saving
    io: Literal["plain", "scipy_bytescale"] = "plain"
    # a GAN for each of these cameras (from 1), their sets pooled: PRID tables; none: one for all
    target_cameras: tuple[int, ...] = ()


@dataclass(frozen=True)
class TranslationConfig:
    """The transferred training set."""

    # none: direct transfer; identity: untouched, but resized and stored as a fake is
    kind: Literal["gan", "none", "identity"] = "gan"
    # of the stored image: the source file's own, or the generator's (released: 256x256)
    size: Literal["file", "generator"] = "file"
    quality: int = 95  # of JPEG; released: scipy's imsave, 75
    # kind gan only: transferred images made elsewhere, in place of a GAN's; the source's names, an AtoB_
    # before them is dropped
    folder: str = ""


@dataclass(frozen=True)
class PTGANConfig:
    """One run of PTGAN."""

    net: NetConfig = field(default_factory=NetConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    gan: GANConfig = field(default_factory=GANConfig)
    translation: TranslationConfig = field(default_factory=TranslationConfig)

    def __post_init__(self) -> None:
        gan = self.gan
        _check_positive(self.net, "net", ("height", "width"))
        _check_positive(self.recipe, "recipe", ("epochs", "drop_epoch", "batch", "base_lr", "classifier_lr"))
        _check_positive(
            gan,
            "gan",
            (
                "height",
                "width",
                "channels",
                "blocks",
                "downsamplings",
                "d_channels",
                "d_layers",
                "lr",
                "lr_d",
                "epochs",
                "batch",
            ),
        )
        if self.net.backbone not in (*BACKBONES, GOOGLENET):
            raise InputError(
                f"--net.backbone {self.net.backbone}: expected one of {', '.join((*BACKBONES, GOOGLENET))}"
            )
        if self.masks.model not in SEGMENTERS:
            raise InputError(f"--masks.model {self.masks.model}: expected one of {', '.join(SEGMENTERS)}")
        if not 0 <= self.net.dropout < 1 or not 1 <= self.translation.quality <= 100:
            raise InputError(
                f"--net.dropout {self.net.dropout}, --translation.quality {self.translation.quality}: "
                "expected 0 to less than 1, and 1 to 100"
            )
        _check_recipe(self.recipe)
        _check_gan(gan)


def _check_recipe(recipe: RecipeConfig) -> None:
    if not 0 <= recipe.momentum < 1 or (recipe.nesterov and recipe.momentum == 0):
        raise InputError(
            f"--recipe.momentum {recipe.momentum}: expected 0 to less than 1, and 0 only with --recipe.no-nesterov"
        )
    if recipe.weight_decay < 0 or not 0 <= recipe.colour_jitter <= 1:
        raise InputError(
            f"--recipe.weight-decay {recipe.weight_decay}, --recipe.colour-jitter {recipe.colour_jitter}: "
            "expected 0 or more, and 0 to 1"
        )


def _check_gan(gan: GANConfig) -> None:
    if min(gan.lambda_cyc, gan.lambda_id, gan.lambda_idt, gan.pool_size) < 0:
        raise InputError(
            "expected --gan.lambda-cyc, --gan.lambda-id, --gan.lambda-idt and --gan.pool-size of 0 or more"
        )
    if not 0 <= gan.beta1 < 1:
        raise InputError(f"--gan.beta1 {gan.beta1}: expected 0 to less than 1")
    if gan.load_height < gan.height or gan.load_width < gan.width:
        raise InputError(
            f"--gan.load-height {gan.load_height}, --gan.load-width {gan.load_width}: "
            f"expected at least the crop's {gan.height}, {gan.width}"
        )
    step = 2 ** max(gan.downsamplings, gan.d_layers)
    if gan.height % step or gan.width % step:
        raise InputError(
            f"--gan.height {gan.height}, --gan.width {gan.width}: expected multiples of {step}, "
            f"as {step.bit_length() - 1} layers halve them"
        )
    if min(gan.height, gan.width) < 2 * 2**gan.downsamplings or (
        gan.pad_mode == "symmetric" and min(gan.height, gan.width) < 3 * 2**gan.d_layers
    ):
        raise InputError(
            f"--gan.height {gan.height}, --gan.width {gan.width}: too small for --gan.downsamplings {gan.downsamplings} and "
            f"--gan.d-layers {gan.d_layers}: the generators' innermost map needs 2 pixels a side, and the discriminators' 3 with "
            "--gan.pad-mode symmetric"
        )
    if gan.decay == "linear" and not 0 <= gan.decay_epoch < gan.epochs:
        raise InputError(
            f"--gan.decay-epoch {gan.decay_epoch}: expected 0 to less than --gan.epochs {gan.epochs}, or --gan.decay none"
        )
    if any(camera < 1 for camera in gan.target_cameras) or len(set(gan.target_cameras)) < len(
        gan.target_cameras
    ):
        raise InputError(
            f"--gan.target-cameras {' '.join(map(str, gan.target_cameras))}: expected different cameras, counted from 1"
        )


def _check_positive(config: object, group: str, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(config, name) <= 0:
            raise InputError(f"--{group}.{name} {getattr(config, name)}: expected a positive number")


_DEFAULT = PTGANConfig()

PRESETS: dict[str, PTGANConfig] = {
    # small enough for 2 CPU cores; deviations: a thin ResNet from scratch instead of ImageNet's ResNet-50, so
    # a learning rate of 0.1 and 8
    # epochs; generators of 12 channels and 3 blocks at 64x32, whose output is input + change; 2 epochs in
    # batches of 4
    "demo": PTGANConfig(
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
    ),
    # the TensorFlow code: masks that do not follow the image, stretched images, 256x256 output
    "released": dataclasses.replace(
        _DEFAULT,
        masks=MaskConfig(aug="released"),
        gan=GANConfig(io="scipy_bytescale"),
        translation=TranslationConfig(size="generator", quality=75),
    ),
    # what is told of the paper, all of it unverified: GoogLeNet, 40 epochs without decay, 1e-4 for the
    # discriminators. The printed norm
    # (`id_loss=l2`) with the printed weight would freeze the person, which the paper's own figure does not
    # show: it stays a switch
    "paper": dataclasses.replace(
        _DEFAULT, net=NetConfig(backbone=GOOGLENET), gan=GANConfig(lr_d=1e-4, epochs=40, decay="none")
    ),
    # real photographs without ImageNet weights or a segmentation network, for a GPU: a GAN of 20 epochs with
    # a soft ellipse for a mask
    "scratch": dataclasses.replace(
        _DEFAULT,
        net=NetConfig(weights="none"),
        recipe=RecipeConfig(base_lr=0.1),
        masks=MaskConfig(kind="gaussian"),
        gan=GANConfig(
            height=128, width=64, load_height=144, load_width=72, epochs=20, decay_epoch=10, batch=4
        ),
    ),
}
