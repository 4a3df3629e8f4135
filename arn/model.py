"""ARN's modules: E_I, the encoders E_T, E_C, E_S, the decoder D_C and the classifier C_S, in the blog's and
in the released architecture.

    target -> E_I -> X^t -+-> E_T -> e_p^t --+
                          +-> E_C -> e_c^t --+-> D_C -> X^t rebuilt       (released: D_C paints the image)
    source -> E_I -> X^s -+-> E_C -> e_c^s --+-> D_C -> X^s rebuilt
                          |           +-> C_S -> identities
                          +-> E_S -> e_p^s --+

Released counterpart: `reid_network.py`; the children keep its names, so that its checkpoints load.
"""

from __future__ import annotations

import copy
import logging
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from arn.config import ARNConfig, DecoderConfig, LatentConfig
from common.backbones import Backbone, BatchNorm, build_backbone, split_batch_norm
from common.checkpoints import load_strictly, origin, read_state_dict
from common.errors import InputError
from common.training import gather

log = logging.getLogger("run")

# how often a backbone halves its map, with ceil rounding; five times for a ResNet
STAGES_HALVED = {"thin": 3}
# the released decoder's blocks have 1024, 512, 256, 64 channels after 2048; the last has 3
NARROWER = (2, 4, 8, 32)


@dataclass(frozen=True)
class Codes:
    """What the network makes of one domain's batch."""

    feature_map: Tensor  # X, (B, C, h, w)
    common: Tensor  # e_c, (B, D), pooled if the code map is larger than 1x1
    private: Tensor | None  # e_p, (B, D), of E_S or E_T; None without private encoders
    rebuilt: Tensor | None  # what D_C makes of e_c + e_p; None if not asked for
    original: Tensor  # what it should be: X, or the image
    logits: Tensor | None  # of C_S, (B, K), source only

    def gathered(self) -> Codes:
        """The whole batch, on every process."""
        return Codes(
            **{
                f.name: None if getattr(self, f.name) is None else gather(getattr(self, f.name))
                for f in fields(self)
            }
        )


class ARNNet(nn.Module):
    """The network of the paper's figure, for both architectures.

    `joint`: shared modules see both domains in one pass, so that batch norm does too; else the target's pass
    comes first, as released. `splits`: parts in which batch norm takes a batch; in a joint pass each part
    holds its share of both domains. `detach`: no gradient flows into the X that D_C should rebuild.
    """

    def __init__(
        self,
        base: nn.Module,
        encoder: nn.Module,
        decoder: nn.Module,
        classifier: nn.Module,
        *,
        private: bool,
        init: str,
        paints_image: bool,
        pool: str,
        joint: bool,
        splits: int,
        detach: bool,
    ):
        super().__init__()
        self.encoder_base = base
        self.encoder_t = _another(encoder, init) if private else None
        self.encoder_c = encoder
        self.encoder_s = _another(encoder, init) if private else None
        self.decoder_base = decoder
        self.classifier = classifier
        self.paints_image, self.flatten, self.joint, self.splits, self.detach = (
            paints_image,
            pool == "flatten",
            joint,
            splits,
            detach,
        )

    def forward(
        self, target: Tensor, source: Tensor | None = None, *, rebuild: bool = True
    ) -> tuple[Codes, Codes | None]:
        """Images `(B, 3, H, W)` of the target and, in training, of the source; `rebuild=False` leaves D_C
        out.
        """
        images = [target] if source is None else [target, source]
        maps = self._shared(self.encoder_base, images)
        common = self._shared(self.encoder_c, maps)
        private = [
            encoder(x) if encoder else None for encoder, x in zip((self.encoder_t, self.encoder_s), maps)
        ]
        fused = [c if p is None else c + p for c, p in zip(common, private)]
        rebuilt = self._shared(self.decoder_base, fused) if rebuild else [None, None]
        codes = [
            Codes(x, self.vector(c), None if p is None else self.vector(p), r, self._original(image, x), None)
            for image, x, c, p, r in zip(images, maps, common, private, rebuilt)
        ]
        if source is None:
            return codes[0], None
        logits = self.classifier(codes[1].common)
        return codes[0], Codes(**{**vars(codes[1]), "logits": logits})

    def vector(self, code: Tensor) -> Tensor:
        """Code map `(B, D, h, w)` to code `(B, D)`."""
        return code.flatten(1) if self.flatten else code.mean(dim=(2, 3))

    def _original(self, image: Tensor, feature_map: Tensor) -> Tensor:
        if self.paints_image:
            return image
        return feature_map.detach() if self.detach else feature_map

    def _shared(self, module: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
        if not self.joint:
            return [module(x) for x in inputs]
        # as on `splits` GPUs: each with its part of the target, then its part of the source
        parts = [part for both in zip(*(x.chunk(self.splits) for x in inputs), strict=True) for part in both]
        outputs = module(torch.cat(parts)).split([len(part) for part in parts])
        return [torch.cat(outputs[domain :: len(inputs)]) for domain in range(len(inputs))]


def _another(encoder: nn.Module, init: str) -> nn.Module:
    """A second encoder of the same form: a copy, or one with a random start of its own."""
    other = copy.deepcopy(encoder)
    if init == "independent":
        for module in other.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        init_latent(other)
    return other


# ---------------------------------------------------------------- blog: codes by conv6-8, D_C rebuilds X


def latent_encoder(channels: int, kernel: tuple[int, int], latent: LatentConfig) -> nn.Sequential:
    """conv6 - conv7 - conv8 of FCN: X `(B, channels, h, w)` to a code map, 1x1 where the kernel is as large
    as X.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (in_channels, size) in enumerate(
        [(channels, kernel), (latent.width, 1), (latent.width, 1)], start=6
    ):
        layers[f"conv{number}"] = nn.Conv2d(in_channels, latent.width, size)
        is_last = number == 8
        if latent.last != "none" if is_last else latent.batch_norm:
            layers[f"bn{number}"] = nn.BatchNorm2d(latent.width)
        if latent.last == "bn_relu" if is_last else latent.relu:
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
        if not is_last:
            layers[f"drop{number}"] = nn.Dropout(latent.dropout)
    return init_latent(nn.Sequential(layers))


def map_decoder(channels: int, kernel: tuple[int, int], width: int, dec: DecoderConfig) -> nn.Sequential:
    """D_C of the blog: deconvolutions 1x1, 1x1, and one with conv6's kernel, code map `(B, width, ., .)` to X
    `(B, channels, h, w)`.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number in (1, 2):
        layers[f"deconv{number}"] = nn.ConvTranspose2d(width, width, 1)
        if dec.norm:
            layers[f"bn{number}"] = nn.BatchNorm2d(width)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
    layers["deconv3"] = nn.ConvTranspose2d(width, channels, kernel)
    if dec.last == "bn_relu":
        layers["bn3"] = nn.BatchNorm2d(channels)
    if dec.last != "none":
        layers["relu3"] = nn.ReLU(inplace=True)
    return init_latent(nn.Sequential(layers))


def init_latent(module: nn.Module) -> nn.Module:
    """Convolutions and deconvolutions from N(0, 2 / fan-in), zero biases. A deconvolution's input is one
    pixel: its fan-in is its channels.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            fan_in = layer.in_channels if isinstance(layer, nn.ConvTranspose2d) else layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def map_size(backbone: str, height: int, width: int) -> tuple[int, int]:
    """Height and width of the map of an image: every halving rounds up."""
    stride = 2 ** STAGES_HALVED.get(backbone, 5)
    return math.ceil(height / stride), math.ceil(width / stride)


def conv6_kernel(config: ARNConfig) -> tuple[int, int]:
    """The size of conv6. Raises `InputError`, with the arithmetic, where it is larger than X or nothing
    mirrors back to X.
    """
    net, kernel = config.net, config.latent.kernel
    height, width = map_size(net.backbone, net.height, net.width)
    if kernel == "auto":
        return height, width
    if kernel > min(height, width):
        stride = 2 ** STAGES_HALVED.get(net.backbone, 5)
        raise InputError(
            f"--net.height {net.height} --net.width {net.width}: conv6 cannot be placed: X is {height}x{width} (each side / {stride}, rounded up), "
            f"conv6 is {kernel}x{kernel} without padding: use images of {(kernel - 1) * stride + 1} pixels a side or more, or --latent.kernel auto"
        )
    return kernel, kernel


# ---------------------------------------------------------------- released: the last stage as encoder, D_C
# paints the image


class ImageDecoder(nn.Sequential):
    """Released D_C: five blocks of three 3x3 deconvolutions, the first of which doubles the map; BN,
    LeakyReLU(0.2), Tanh at the end.
    """

    def __init__(self, in_channels: int, blocks: int = 5):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, channels in enumerate(
            [*(in_channels // part for part in NARROWER[: blocks - 1]), 3], start=1
        ):
            layers[f"block{number}"] = nn.Sequential(
                *self._deconv(in_channels, channels, double=True),
                *self._deconv(channels, channels),
                *self._deconv(channels, channels, last=number == blocks),
            )
            in_channels = channels
        super().__init__(layers)

    @staticmethod
    def _deconv(
        in_channels: int, channels: int, *, double: bool = False, last: bool = False
    ) -> list[nn.Module]:
        deconv = nn.ConvTranspose2d(
            in_channels, channels, 3, stride=2 if double else 1, padding=1, output_padding=int(double)
        )
        return [deconv, nn.BatchNorm2d(channels), nn.Tanh() if last else nn.LeakyReLU(0.2, inplace=True)]


def check_image_size(config: ARNConfig) -> None:
    """The released decoder doubles the map again and again, so only whole multiples come back to the size of
    the image.
    """
    net = config.net
    stride = 2 ** STAGES_HALVED.get(net.backbone, 5)
    if net.height % stride or net.width % stride:
        raise InputError(
            f"--net.height {net.height} --net.width {net.width}: the released decoder paints multiples of {stride} pixels a side: "
            f"use {math.ceil(net.height / stride) * stride}x{math.ceil(net.width / stride) * stride}"
        )


# ---------------------------------------------------------------- both


def build_network(config: ARNConfig, num_ids: int, start: Mapping[str, Tensor] | None = None) -> ARNNet:
    """The network that a configuration describes, its backbone with the weights `start` (a backbone's state
    dict) or with `net.weights`.

    Under `recipe.init`, a checkpoint of the whole network that is loaded next, the backbone starts at random:
    no other weights are fetched.
    """
    net, latent, released = config.net, config.latent, config.net.arch == "released"
    kernel = None if released else conv6_kernel(config)
    backbone = build_backbone(
        net.backbone, net.weights if start is None and not config.recipe.init else "none"
    )
    if start is not None:
        backbone.load_state_dict(start)
    if released:
        check_image_size(config)
        base, encoder, width = *without_last_stage(backbone), backbone.num_features
        decoder = ImageDecoder(width, STAGES_HALVED.get(net.backbone, 5))
    else:
        base, encoder, width = backbone, latent_encoder(backbone.num_features, kernel, latent), latent.width
        decoder = map_decoder(backbone.num_features, kernel, width, config.dec)
    classifier = nn.Sequential(
        OrderedDict(
            dropout=nn.Dropout(config.cls.dropout), linear=nn.Linear(width * pooled(config, kernel), num_ids)
        )
    )
    model = ARNNet(
        base,
        encoder,
        decoder,
        classifier,
        private=latent.private,
        init=latent.init,
        paints_image=released,
        pool=latent.pool,
        joint=net.bn == "joint",
        splits=net.bn_splits,
        detach=config.rec.detach_target,
    )
    if net.bn_emulate_double:
        emulate_double(model)
    return split_batch_norm(model, net.bn_splits)


def without_last_stage(backbone: Backbone) -> tuple[nn.Module, nn.Module]:
    """A backbone as released: all stages but the last (E_I), and the last (E_C)."""
    *first, (name, last) = backbone.named_children()
    return nn.Sequential(OrderedDict(first)), nn.Sequential(OrderedDict({name: last}))


def pooled(config: ARNConfig, kernel: tuple[int, int] | None) -> int:
    """How many places of the code map one code vector holds: 1, or all under `latent.pool=flatten`."""
    height, width = map_size(config.net.backbone, config.net.height, config.net.width)
    if kernel:
        height, width = height - kernel[0] + 1, width - kernel[1] + 1
    return height * width if config.latent.pool == "flatten" else 1


def emulate_double(model: ARNNet) -> None:
    """Running statistics of the encoders move as if each pass were run twice: two moves by m are one by 1 -
    (1 - m)^2.
    """
    for encoder in filter(None, (model.encoder_t, model.encoder_c, model.encoder_s)):
        for module in encoder.modules():
            if isinstance(module, BatchNorm):
                module.momentum = 1 - (1 - module.momentum) ** 2


def released_names(model: ARNNet) -> dict[str, str]:
    """Our state dict's names -> those of the released code, which numbers the stages of its backbone."""
    stages = {name: str(number) for number, name in enumerate(dict(model.encoder_base.named_children()))}
    names = {}
    for key in model.state_dict():
        module, *rest = key.split(".")
        if module == "encoder_base":
            rest = ["model", stages[rest[0]], *rest[1:]]
        elif module.startswith("encoder_"):
            rest = ["model", "0", *rest[1:]]
        names[key] = ".".join([module, *rest])
    return names


def load_weights(model: ARNNet, checkpoint: str | Path | Mapping, *, classifier: bool = True) -> None:
    """Loads a checkpoint of the authors' code or of ours; `classifier=False` leaves C_S as it is, as
    `reid_main.py` does.

    `decoder_c.*`, which the released code builds and never runs, is dropped, and so are E_T and E_S where the
    network has none, which the log says; anything else that does not fit is an `InputError`.
    """
    state = {
        key: value for key, value in read_state_dict(checkpoint).items() if not key.startswith("decoder_c.")
    }
    if model.encoder_t is None:
        state = without_private(state, checkpoint)
    if any(key.startswith("encoder_c.model.") for key in state):
        names = {theirs: ours for ours, theirs in released_names(model).items()}
        state = {names.get(key, key): value for key, value in state.items()}
    if not classifier:
        own = model.state_dict()
        state = {key: value for key, value in state.items() if not key.startswith("classifier.")}
        state |= {key: value for key, value in own.items() if key.startswith("classifier.")}
    load_strictly(model, state, checkpoint)


def without_private(state: Mapping[str, Tensor], checkpoint: str | Path | Mapping) -> dict[str, Tensor]:
    """A state dict less E_T and E_S, for a row without them."""
    kept = {key: value for key, value in state.items() if not key.startswith(("encoder_t.", "encoder_s."))}
    if len(kept) < len(state):
        log.info(
            "%s: this row has no private encoders: E_T and E_S of the checkpoint are left out",
            origin(checkpoint),
        )
    return kept


def parameter_groups(model: ARNNet, *, ei: float, latent: float, cls: float) -> list[dict]:
    """Optimiser groups `ei` (E_I), `latent` (E_T, E_C, E_S, D_C) and `cls` (C_S). At a rate of 0, E_I asks
    for no gradient and has no group.
    """
    model.encoder_base.requires_grad_(ei > 0)
    modules = (model.encoder_t, model.encoder_c, model.encoder_s, model.decoder_base)
    groups = [
        {"name": "ei", "params": list(model.encoder_base.parameters()), "lr": ei},
        {
            "name": "latent",
            "params": [p for module in modules if module is not None for p in module.parameters()],
            "lr": latent,
        },
        {"name": "cls", "params": list(model.classifier.parameters()), "lr": cls},
    ]
    return [group for group in groups if group["name"] != "ei" or ei > 0]
