"""The base networks of Fig. 7: a ResNet with IDE's linear layer or IDE+'s bottleneck head, and the pooling of
its last map (LMP, Table 3).

Released counterpart: the Caffe nets in `models/`, `model.py` of the first author's
`Person_reID_baseline_pytorch`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones import BatchNorm, build_backbone, global_pool
from common.checkpoints import load_strictly, saved_network
from spgan.config import NetConfig

BOTTLENECK = 512
RES2 = ("conv1", "layer1")  # torchvision's names of the first convolution and of Caffe's res2


class IDENet(nn.Module):
    """Backbone, mean over the map, and a head by `net.head`.

    `fc`: one linear layer. `bottleneck`: linear 512, BN, leaky ReLU 0.1, dropout, linear.
    """

    def __init__(self, net: NetConfig, num_ids: int):
        super().__init__()
        self.net = net
        self.base = build_backbone(net.backbone, net.weights)
        width = self.base.num_features
        classifier = nn.Linear(BOTTLENECK if net.head == "bottleneck" else width, num_ids)
        nn.init.normal_(classifier.weight, std=0.001)
        nn.init.zeros_(classifier.bias)
        if net.head == "bottleneck":
            reduce, norm = nn.Linear(width, BOTTLENECK), nn.BatchNorm1d(BOTTLENECK)
            nn.init.kaiming_normal_(reduce.weight, mode="fan_out")
            nn.init.zeros_(reduce.bias)
            nn.init.normal_(norm.weight, 1.0, 0.02)
            self.head = nn.Sequential(reduce, norm, nn.LeakyReLU(0.1), nn.Dropout(net.dropout), classifier)
        else:
            self.head = nn.Sequential(classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images `(B, 3, H, W)`, ImageNet-normalised, to logits `(B, num_ids)`."""
        return self.head(global_pool(self.base(x)))


def load_network(path: Path) -> IDENet:
    """Returns the network of a `model.pt`, in evaluation mode. Raises `InputError` for one of another paper
    and for weights that do not fit.
    """
    net, num_ids, state = saved_network(path, NetConfig, "SPGAN")
    model = IDENet(replace(net, weights="none"), num_ids)
    load_strictly(model, state, path)
    return model.eval()


def set_training_mode(model: IDENet, bn: str) -> None:
    """Sets the whole network to training (`train`), or only the head (`eval`), so that the backbone's batch
    norm keeps its running statistics.
    """
    model.train(bn == "train")
    model.head.train()


def freeze(model: IDENet, *, affine: bool = False, conv1_res2: bool = False) -> None:
    """Excludes from training gamma and beta of the backbone's batch norm (`affine`), and the convolutions of
    `conv1` and `layer1` (`conv1_res2`, named as in Caffe).
    """
    for name, module in model.base.named_modules():
        if isinstance(module, BatchNorm) and affine:
            module.weight.requires_grad_(False)
            module.bias.requires_grad_(False)
        if isinstance(module, nn.Conv2d) and conv1_res2 and name.split(".")[0] in RES2:
            module.weight.requires_grad_(False)


def parameter_groups(model: IDENet, lr: float, head_lr: float) -> list[dict]:
    """Returns the optimiser's groups `base` and `head` without frozen parameters; a schedule scales
    `initial_lr`.
    """
    groups = (("base", model.base, lr), ("head", model.head, head_lr))
    return [
        {
            "name": name,
            "params": [p for p in module.parameters() if p.requires_grad],
            "lr": rate,
            "initial_lr": rate,
        }
        for name, module, rate in groups
    ]


def local_pool(feature_map: Tensor, parts: int, mode: str, *, part_norm: bool = False) -> Tensor:
    """Pools a map `(B, C, h, w)` over `parts` horizontal stripes (LMP): `(B, parts * C)`, part after part.

    `mode`: `max` or `avg`. The stripes are those of adaptive pooling; on the 7 rows of a 224x224 image they
    are the released Caffe windows: for 2 parts rows 0-3 and 3-6 (window 4x7, stride 3). `part_norm`:
    normalise each part.
    """
    pool = F.adaptive_max_pool2d if mode == "max" else F.adaptive_avg_pool2d
    stripes = pool(feature_map, (parts, 1)).squeeze(3).transpose(1, 2)
    return (F.normalize(stripes, dim=2) if part_norm else stripes).flatten(1)
