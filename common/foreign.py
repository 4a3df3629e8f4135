"""Recognises the networks of other programs by the names in their checkpoints, and says what it used.

Read are ResNets of torchvision, torchreid, fast-reid (BagTricks), reid-strong-baseline, layumi's baseline,
open-reid and HHL's released code, SPGAN's authors and this project, and torchreid's OSNet; the test features
are those of their own programs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from common.checkpoints import load_checkpoint, origin, read_state_dict
from common.errors import InputError

log = logging.getLogger("run")
# (residual blocks of each layer, three convolutions a block) -> torchvision's name
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
STEM = "conv1.weight"
TRUNK = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")
OTHERS = ("efficientnet_lite0",)  # backbones of this project that are no ResNet
OSNET = "osnet"  # its backbone's name
OSNET_TRUNK = ("conv1.", "conv2.", "conv3.", "conv4.", "conv5.")


@dataclass(frozen=True)
class Program:
    """How one program names its network and computes its test feature."""

    name: str
    trunk: str  # prefix of the backbone's names
    marks: tuple[str, ...]  # names that its checkpoints have, beside the backbone's
    own: str = ""  # the papers of this project that name their networks so
    neck: str = ""  # prefix of the layers between pooling and the test feature
    relu: bool = False  # a ReLU follows each batch norm of the neck
    last_stride: int = 2  # of layer4
    ceil_pool: bool = False  # the max pooling rounds sizes up and does not pad
    stem_relu: bool = True  # a ReLU follows bn1
    interpolation: str = "bicubic"  # of the test images' resize
    flip: bool = False  # the feature of the mirrored image is added
    normalise: bool = True  # the feature is L2-normalised
    osnet: bool = False  # the backbone is an OSNet, not a ResNet

    @property
    def differences(self) -> list[str]:
        """What its ResNet does differently from torchvision's with the same tensors."""
        found = {
            "layer4 has stride 1": self.last_stride == 1,
            "max pooling rounds up": self.ceil_pool,
            "no ReLU after bn1": not self.stem_relu,
        }
        return [words for words, differs in found.items() if differs]

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the backbone's parts."""
        return OSNET_TRUNK if self.osnet else TRUNK


# the first whose marks are there; `!` before a mark: must not be there
PROGRAMS = (
    # before release 1.0 (2021) its max pooling was torchvision's
    Program("fast-reid before 1.0", "backbone.", ("heads.bnneck.",), neck="heads.bnneck.", last_stride=1),
    Program(
        "fast-reid",
        "backbone.",
        ("heads.",),
        neck="heads.bottleneck.",
        last_stride=1,
        ceil_pool=True,
    ),
    Program(
        "reid-strong-baseline",
        "base.",
        ("bottleneck.",),
        neck="bottleneck.",
        last_stride=1,
        stem_relu=False,
        interpolation="bilinear",
    ),
    Program("layumi's ft_net", "model.", ("classifier.add_block.",), neck="classifier.add_block.", flip=True),
    Program("the first SPGAN author's ft_net", "model.", ("model.fc.0.", "classifier.0."), flip=True),
    Program("ARN (pooled map of E_I, not e_c)", "encoder_base.", ("encoder_c.",)),
    Program("HHL or open-reid", "base.", ("feat.", "feat_bn."), own="HHL"),
    Program("SPGAN (IDE)", "base.", ("head.",), own="SPGAN", interpolation="bilinear"),
    Program("open-reid (IDE)", "base.", ("classifier.",), own="PTGAN or LSRO"),
    Program(
        "torchreid (fc512)",
        "",
        ("fc.0.", "fc.1.", "classifier."),
        neck="fc.",
        relu=True,
        last_stride=1,
        interpolation="bilinear",
        normalise=False,
    ),
    Program(
        "torchreid",
        "",
        ("conv2.0.conv2a.", "conv5."),
        neck="fc.",
        relu=True,
        interpolation="bilinear",
        normalise=False,
        osnet=True,
    ),
    Program("torchreid", "", ("classifier.", "!fc."), interpolation="bilinear", normalise=False),
    Program("torchvision", "", ()),
    Program("a ResNet", "base.", (), own="HHL"),
    Program("a ResNet", "backbone.", ()),
    Program("a ResNet", "model.", ()),
)


OWN = Program("network", "base.", (), own="network")


@dataclass(frozen=True)
class Recognised:
    """The parts of a foreign checkpoint, under torchvision's names."""

    where: str
    program: Program
    backbone: str  # one of `common.backbones.BACKBONES`, or `osnet`
    trunk: dict[str, Tensor]
    neck: dict[str, Tensor] = field(default_factory=dict)  # without the neck's prefix
    left_out: dict[str, tuple[int, ...]] = field(default_factory=dict)  # names and shapes
    settings: Mapping[str, Any] = field(default_factory=dict)  # `net` of this project's checkpoints

    def lines(self) -> list[str]:
        """Returns what was recognised, what is used and what is not, a line each."""
        used = f"{len(self.trunk)} tensors of {self.backbone}"
        if self.neck:
            used += f", {len(self.neck)} of {self.program.neck.rstrip('.')}"
        groups: dict[str, list[str]] = {}
        for name, shape in self.left_out.items():
            group = name.rsplit(".", 1)[0]
            groups.setdefault(group, []).append("x".join(map(str, shape)) or "1")
        rest = ", ".join(f"{group} ({', '.join(shapes[:2])})" for group, shapes in list(groups.items())[:6])
        more = f" and {len(groups) - 6} more" if len(groups) > 6 else ""
        own = self.program.own or self.program.name
        name = f"this project's {own}" if self.settings else self.program.name
        return [
            f"{self.where}: recognised as {name}, {self.backbone}",
            f"  loaded: {used}",
            f"  left out: {rest + more or 'nothing'}",
            *(f"  unlike torchvision's: {words}" for words in self.program.differences),
        ]


def recognise(checkpoint: str | Path | Mapping) -> Recognised:
    """Recognises the network in a checkpoint. Raises `InputError` if no program's names fit, or if its
    backbone is none of the ResNets that are known here.
    """
    where = origin(checkpoint)
    content = checkpoint if isinstance(checkpoint, Mapping) else load_checkpoint(checkpoint)
    state = read_state_dict(content)
    settings = _settings(content)
    if settings.get("backbone") in OTHERS:
        trunk = _below("base.", state)
        left_out = {name: tuple(value.shape) for name, value in state.items() if not name.startswith("base.")}
        return Recognised(where, OWN, settings["backbone"], trunk, {}, left_out, settings)
    program = next((program for program in PROGRAMS if _fits(program, state)), None)
    if program is None:
        raise InputError(f"{where}: {_unknown(state)}")
    trunk = _below(program.trunk, state, program.parts)
    neck = _below(program.neck, state) if program.neck else {}
    used = {program.trunk + name for name in trunk} | {program.neck + name for name in neck}
    left_out = {name: tuple(value.shape) for name, value in state.items() if name not in used}
    _refuse_extra_layers(program, state, where)
    backbone = OSNET if program.osnet else _architecture(trunk, where)
    return Recognised(where, program, backbone, trunk, neck, left_out, settings)


def trunk_weights(weights: str | Path, backbone: str) -> dict[str, Tensor]:
    """Returns the backbone's tensors of any checkpoint that `recognise` knows, and logs what was used.

    Raises `InputError` for another backbone than `backbone`.
    """
    found = recognise(weights)
    if found.backbone != backbone:
        raise InputError(
            f"{weights}: does not fit this network: expected weights of {backbone}, "
            f"found {found.backbone} ({found.program.name})"
        )
    if found.program.trunk or found.left_out:
        _say_once("\n".join(found.lines()))
    return found.trunk


@lru_cache
def _say_once(text: str) -> None:
    """Logs a text unless it has been logged before: a run checks its weights before it loads them."""
    log.info("%s", text)


def _fits(program: Program, state: Mapping[str, Tensor]) -> bool:
    def present(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in state)

    marks = (not present(mark[1:]) if mark.startswith("!") else present(mark) for mark in program.marks)
    resnet = program.trunk + STEM in state and present(f"{program.trunk}layer1.")
    return (program.osnet or resnet) and all(marks)


def _below(prefix: str, state: Mapping[str, Tensor], parts: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """Returns the tensors below a prefix whose names go on with one of `parts`, without the prefix."""
    inside = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    return {name: value for name, value in inside.items() if name.startswith(parts)}


def _refuse_extra_layers(program: Program, state: Mapping[str, Tensor], where: str) -> None:
    """Raises `InputError` for a backbone with layers that torchvision's ResNets have not."""
    if program.osnet:
        return
    inside = [name.removeprefix(program.trunk) for name in state if name.startswith(program.trunk)]
    others = [name for name in inside if program.trunk and not name.startswith((*TRUNK, "fc."))]
    others += [name for name in inside if re.search(r"\.(IN|BN|se|gate|NL)\.|^NL_|^usam", name)]
    others += [name for name in state if name.startswith("heads.pool_layer.")]  # generalised mean
    if others:
        raise InputError(
            f"{where}: recognised as {program.name}, but its ResNet has layers that torchvision's has not, "
            f"{others[0]} for one: expected a plain ResNet and average pooling (no IBN, attention or GeM)"
        )


def _settings(content: Mapping) -> Mapping[str, Any]:
    """Returns the settings of the network in a checkpoint of this project; empty for another program's."""
    saved = content.get("architecture", content) if "state_dict" in content else {}
    settings = saved.get("net") if isinstance(saved, Mapping) else None
    return settings if isinstance(settings, Mapping) else {}


def _architecture(trunk: Mapping[str, Tensor], where: str) -> str:
    """Returns the name of the backbone whose tensors these are."""
    stem = tuple(trunk[STEM].shape)
    if stem == (16, 3, 3, 3) and "layer1.conv1.weight" in trunk:
        return "thin"
    blocks = tuple(
        len({name.split(".")[1] for name in trunk if name.startswith(f"layer{layer}.")})
        for layer in (1, 2, 3, 4)
    )
    name = RESNETS.get((blocks, any(".conv3." in part for part in trunk)))
    if name is None or stem != (64, 3, 7, 7):
        raise InputError(
            f"{where}: expected a ResNet-18, 34, 50, 101 or 152 or the demo's thin one, "
            f"found blocks {blocks} after a first convolution of shape {stem}"
        )
    return name


def _unknown(state: Mapping[str, Tensor]) -> str:
    names = ", ".join(list(state)[:3])
    programs = ", ".join(dict.fromkeys(program.name for program in PROGRAMS))
    return (
        "does not fit a network that is known here: expected an OSNet or a ResNet of "
        f"{programs}; found {names}"
    )
