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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from arn.config import ARNConfig, DecoderConfig, LatentConfig, NetConfig, RateConfig
from common.backbones import Backbone, BatchNorm, build_backbone, split_batch_norm
from common.checkpoints import load_strictly, origin, read_state_dict
from common.errors import InputError
from common.training import gather

log = logging.getLogger("run")

# the released decoder's blocks have 1024, 512, 256, 64 channels after 2048; the last has 3
NARROWER = (2, 4, 8, 32)

Modules = tuple[nn.Module, nn.Sequential, nn.Sequential]  # E_I, E_C, D_C


@dataclass(frozen=True)
class Codes:
    """The network's outputs for one domain's batch."""

    feature_map: Tensor  # X, (B, C, h, w)
    common: Tensor  # e_c, (B, D), pooled if the code map is larger than 1x1
    private: Any  # e_p, (B, D), of E_S or E_T; None without private encoders
    rebuilt: Any  # D_C of e_c + e_p; None if not requested
    original: Tensor  # the target of `rebuilt`: X, or the image
    logits: Any = None  # of C_S, (B, K); None for the target

    def gathered(self) -> Codes:
        """Returns the whole batch, on every process."""
        present = {name: value for name, value in vars(self).items() if value is not None}
        return replace(self, **{name: gather(value) for name, value in present.items()})


class ARNNet(nn.Module):
    """The network of the paper's figure, for both architectures.

    `net.bn`: under `joint`, shared modules see both domains in one pass, so that batch norm does too;
    otherwise the target's pass comes first, as released. `net.bn_splits`: parts of a batch that batch norm
    treats separately; in a joint pass each part holds its share of both domains.
    """

    encoder_t: nn.Module | None
    encoder_s: nn.Module | None

    def __init__(self, config: ARNConfig, modules: Modules, classifier: nn.Module):
        """Takes E_T and E_S, if the row has them, from copies of E_C."""
        super().__init__()
        latent = config.latent
        self.encoder_base, encoder, decoder = modules
        self.encoder_t = second_encoder(encoder, latent.init) if latent.private else None
        self.encoder_c = encoder
        self.encoder_s = second_encoder(encoder, latent.init) if latent.private else None
        self.decoder_base = decoder
        self.classifier = classifier
        self.paints_image = config.net.arch == "released"
        self.flatten = latent.pool == "flatten"
        self.joint, self.splits = config.net.bn == "joint", config.net.bn_splits
        self.detach = config.rec.detach_target

    def forward(
        self, target: Tensor, source: Tensor | None = None, *, rebuild: bool = True
    ) -> tuple[Codes, Codes | None]:
        """Encodes images `(B, 3, H, W)` of the target and, in training, of the source; `rebuild=False` omits
        D_C.
        """
        images = [target] if source is None else [target, source]
        maps = self._shared(self.encoder_base, images)
        common = self._shared(self.encoder_c, maps)
        encoders = (self.encoder_t, self.encoder_s)
        private = [None if encoder is None else encoder(x) for encoder, x in zip(encoders, maps)]
        fused = [c if p is None else c + p for c, p in zip(common, private)]
        rebuilt = self._shared(self.decoder_base, fused) if rebuild else [None, None]
        codes = [
            Codes(x, self.vector(c), None if p is None else self.vector(p), r, self._original(image, x))
            for image, x, c, p, r in zip(images, maps, common, private, rebuilt)
        ]
        if source is None:
            return codes[0], None
        return codes[0], replace(codes[1], logits=self.classifier(codes[1].common))

    def vector(self, code: Tensor) -> Tensor:
        """Turns a code map `(B, D, h, w)` into codes `(B, D)`."""
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


def second_encoder(encoder: nn.Sequential, init: str) -> nn.Module:
    """Returns another encoder of the same form: a copy, or with independent random weights."""
    other = copy.deepcopy(encoder)
    if init == "independent":
        for module in other.modules():
            if reset := getattr(module, "reset_parameters", None):
                reset()
        init_latent(other)
    return other


# ---------------------------------------------------------------- blog: codes by conv6-8, D_C rebuilds X


def latent_encoder(channels: int, kernel: tuple[int, int], latent: LatentConfig) -> nn.Sequential:
    """Builds conv6 - conv7 - conv8 of FCN: X `(B, channels, h, w)` to a code map, 1x1 where the kernel is as
    large as X.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    shapes = [(channels, kernel), (latent.width, (1, 1)), (latent.width, (1, 1))]
    for number, (in_channels, size) in enumerate(shapes, start=6):
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
    """Builds D_C of the blog: deconvolutions 1x1, 1x1, and one with conv6's kernel, code map
    `(B, width, ., .)` to X `(B, channels, h, w)`.
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


def init_latent(module: nn.Sequential) -> nn.Sequential:
    """Draws (de)convolutions from N(0, 2 / fan-in) and zeroes their biases. A deconvolution's input is one
    pixel: its fan-in is its channels.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            fan_in = layer.in_channels if isinstance(layer, nn.ConvTranspose2d) else layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def halvings(backbone: str) -> int:
    """Returns the number of times that a backbone halves its map, with ceil rounding."""
    return 3 if backbone == "thin" else 5


def blog_modules(backbone: Backbone, config: ARNConfig) -> Modules:
    """Returns E_I, the whole backbone; E_C and D_C."""
    kernel, channels, latent = conv6_kernel(config.net, config.latent), backbone.num_features, config.latent
    encoder = latent_encoder(channels, kernel, latent)
    return backbone, encoder, map_decoder(channels, kernel, latent.width, config.dec)


def map_size(net: NetConfig) -> tuple[int, int]:
    """Returns height and width of X (in `released`, of the last stage's map)."""
    stride = 2 ** halvings(net.backbone)
    return math.ceil(net.height / stride), math.ceil(net.width / stride)


def conv6_kernel(net: NetConfig, latent: LatentConfig) -> tuple[int, int]:
    """Returns the size of conv6. Raises `InputError`, with the arithmetic, where it is larger than X, so that
    no deconvolution can mirror it.
    """
    height, width = map_size(net)
    kernel, stride = latent.kernel, 2 ** halvings(net.backbone)
    if kernel == "auto":
        return height, width
    if kernel > min(height, width):
        raise InputError(
            f"--net.height {net.height} --net.width {net.width}: conv6 cannot be placed: X is "
            f"{height}x{width} (each side / {stride}, rounded up), conv6 is {kernel}x{kernel} without "
            f"padding: use images of {(kernel - 1) * stride + 1} pixels a side or more, or "
            "--latent.kernel auto"
        )
    return kernel, kernel


# ------------------------------------- released: the last stage as encoder, D_C paints the image


class ImageDecoder(nn.Sequential):
    """Released D_C: five blocks of three 3x3 deconvolutions, the first of which doubles the map; BN,
    LeakyReLU(0.2), Tanh at the end.
    """

    def __init__(self, in_channels: int, blocks: int = 5):
        """Builds as many blocks as the backbone halves its map."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        widths = [*(in_channels // part for part in NARROWER[: blocks - 1]), 3]
        for number, channels in enumerate(widths, start=1):
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


def check_image_size(net: NetConfig) -> None:
    """Raises `InputError` unless the released decoder, which doubles the map, reaches the image's size."""
    stride = 2 ** halvings(net.backbone)
    if net.height % stride or net.width % stride:
        height, width = (side * stride for side in map_size(net))
        raise InputError(
            f"--net.height {net.height} --net.width {net.width}: the released decoder paints multiples of "
            f"{stride} pixels a side: use {height}x{width}"
        )


def released_modules(backbone: Backbone, net: NetConfig) -> Modules:
    """Returns E_I, all stages of the backbone but the last; E_C, the last; and D_C."""
    *first, (name, last) = backbone.named_children()
    encoder = nn.Sequential(OrderedDict({name: last}))
    decoder = ImageDecoder(backbone.num_features, halvings(net.backbone))
    return nn.Sequential(OrderedDict(first)), encoder, decoder


# ---------------------------------------------------------------- both


def code_size(net: NetConfig, latent: LatentConfig) -> tuple[int, int]:
    """Returns height and width of the code map. Raises `InputError` for images of a wrong size."""
    height, width = map_size(net)
    if net.arch == "released":
        check_image_size(net)
        return height, width
    kernel = conv6_kernel(net, latent)
    return height - kernel[0] + 1, width - kernel[1] + 1


def build_network(config: ARNConfig, num_ids: int, start: Mapping[str, Tensor] | None = None) -> ARNNet:
    """Builds the network of a configuration, its backbone with the weights `start` (a backbone's state dict)
    or with `net.weights`.

    Under `recipe.init`, a checkpoint of the whole network that is loaded next, the backbone starts at random:
    no other weights are fetched.
    """
    net, latent = config.net, config.latent
    height, width = code_size(net, latent)
    weights = net.weights if start is None and not config.recipe.init else "none"
    backbone = build_backbone(net.backbone, weights)
    if start is not None:
        backbone.load_state_dict(start)
    if net.arch == "released":
        channels, modules = backbone.num_features, released_modules(backbone, net)
    else:
        channels, modules = latent.width, blog_modules(backbone, config)
    features = channels * (height * width if latent.pool == "flatten" else 1)
    layers = OrderedDict(dropout=nn.Dropout(config.cls.dropout), linear=nn.Linear(features, num_ids))
    model = ARNNet(config, modules, nn.Sequential(layers))
    if net.bn_emulate_double:
        emulate_double(model)
    split_batch_norm(model, net.bn_splits)
    return model


def emulate_double(model: ARNNet) -> None:
    """Moves the encoders' running statistics as if each pass were run twice: two moves by m are one by 1 -
    (1 - m)^2.
    """
    for encoder in filter(None, (model.encoder_t, model.encoder_c, model.encoder_s)):
        for module in encoder.modules():
            if isinstance(module, BatchNorm) and module.momentum is not None:
                module.momentum = 1 - (1 - module.momentum) ** 2


def released_names(model: ARNNet) -> dict[str, str]:
    """Maps the names of our state dict to those of the released code, which numbers the backbone's stages."""
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


def load_weights(
    model: ARNNet, checkpoint: str | Path | Mapping[str, Any], *, classifier: bool = True
) -> None:
    """Loads a checkpoint of the authors' code or of ours; `classifier=False` keeps C_S unchanged, as
    `reid_main.py` does.

    `decoder_c.*`, which the released code builds and never runs, is dropped, and so are E_T and E_S where the
    row has none, which the log reports. Raises `InputError` for anything else that does not fit.
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
        state = {key: value for key, value in state.items() if not key.startswith("classifier.")}
        state |= {f"classifier.{key}": value for key, value in model.classifier.state_dict().items()}
    load_strictly(model, state, checkpoint)


def without_private(
    state: Mapping[str, Tensor], checkpoint: str | Path | Mapping[str, Any]
) -> dict[str, Tensor]:
    """Returns a state dict without E_T and E_S, for a row without them."""
    kept = {key: value for key, value in state.items() if not key.startswith(("encoder_t.", "encoder_s."))}
    if len(kept) < len(state):
        log.info(
            "%s: this row has no private encoders: E_T and E_S of the checkpoint are left out",
            origin(checkpoint),
        )
    return kept


def modules_of_group(model: ARNNet, name: str) -> list[nn.Module]:
    """Returns the modules of a parameter group: E_I (`ei`), encoders and D_C (`latent`) or C_S (`cls`)."""
    latent = (model.encoder_t, model.encoder_c, model.encoder_s, model.decoder_base)
    return {
        "ei": [model.encoder_base],
        "latent": [module for module in latent if module is not None],
        "cls": [model.classifier],
    }[name]


def parameter_groups(model: ARNNet, rates: RateConfig) -> list[dict[str, Any]]:
    """Returns optimiser groups, named as the fields of `rates`. At a rate of 0, E_I requires no gradient and
    has no group.
    """
    model.encoder_base.requires_grad_(rates.ei > 0)
    names = [name for name in ("ei", "latent", "cls") if name != "ei" or rates.ei > 0]
    return [
        {
            "name": name,
            "params": list(nn.ModuleList(modules_of_group(model, name)).parameters()),
            "lr": getattr(rates, name),
        }
        for name in names
    ]
