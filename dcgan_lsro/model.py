"""The re-ID network: a ResNet, dropout on its pooled map, and one linear layer that classifies identities.

    images -> base -> pool5 -> drop -> classifier        logits (training)
                        +-> L2 norm                      the test feature

Released counterpart: `resnet52_market_gan.m` (a ResNet-50, despite its name) and
`matlab/+dagnn/@DagNN/initParams.m`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones import Backbone, BatchNorm, build_backbone, global_pool
from common.checkpoints import load_strictly
from common.errors import InputError
from dcgan_lsro.config import NetConfig, RecipeConfig

# learning rates as multiples of `base_lr`; a kind of parameter that is not listed has the factor 1
RATE_FACTORS: dict[str, dict[str, float]] = {
    "simple": {},
    "classifier": {"classifier_weight": 0.5},
    # of the released network, in which the classifier's weights learn more slowly than the pretrained layers
    "released": {
        "conv1": 0.005,
        "conv": 1.0,
        "bn_weight": 0.05,
        "bn_bias": 1.0,
        "classifier_weight": 0.5,
        "classifier_bias": 10.0,
    },
}
KINDS = tuple(RATE_FACTORS["released"])


class DeviationNorm2d(nn.BatchNorm2d):
    """Batch norm whose running variance is the square of MatConvNet's running deviation.

    MatConvNet averages sqrt(variance + eps), with the variance over n, where PyTorch averages the variance
    over n - 1. Only the running statistics, and so the test, differ.
    """

    @torch.no_grad()
    def _average(self, x: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
        deviation = (self.running_var + self.eps).sqrt().lerp((variance + self.eps).sqrt(), self.momentum)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.copy_(deviation**2 - self.eps)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._average(x)
        return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


class ReIDNet(nn.Module):
    """A backbone with a classifier of `num_classes`: the identities, and one more for the row "all in one".

    `net` sizes the training and the test images. The classifier is initialised as released: uniform weights
    with a standard deviation of 0.1 / sqrt(num_features), zero biases.
    """

    def __init__(self, backbone: Backbone, num_classes: int, net: NetConfig):
        super().__init__()
        self.net = net
        self.base = backbone
        self.drop = nn.Dropout(net.dropout)
        self.classifier = nn.Linear(backbone.num_features, num_classes)

        bound = 0.1 * (3 / backbone.num_features) ** 0.5
        nn.init.uniform_(self.classifier.weight, -bound, bound)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images `(B, 3, H, W)`, ImageNet-normalised, to logits `(B, num_classes)`."""
        return self.classifier(self.drop(global_pool(self.base(x))))

    def pool5(self, x: Tensor) -> Tensor:
        """Returns the test feature of one view, `(B, num_features)`, L2-normalised."""
        return F.normalize(global_pool(self.base(x)))

    def dense_pool5(self, x: Tensor, window: tuple[int, int]) -> Tensor:
        """Returns the released script's feature of an uncropped image, `(B, num_features)`.

        It is the sum of the L2-normalised features of all positions of the pooling window. `window`: see
        `pooling_window`; 7 x 7 at 224 pixels, and at 256 pixels the map is 8 x 8, so there are 2 x 2
        positions.
        """
        positions = F.avg_pool2d(self.base(x), window, stride=1)
        return F.normalize(positions, dim=1).sum(dim=(2, 3))

    @torch.inference_mode()
    def pooling_window(self) -> tuple[int, int]:
        """Returns height and width of the feature map of a training image, which the classifier pools."""
        device = self.classifier.weight.device
        height, width = self.base(torch.zeros(1, 3, self.net.height, self.net.width, device=device)).shape[2:]
        return height, width


def build_network(net: NetConfig, num_classes: int) -> ReIDNet:
    """Returns the network that a configuration describes."""
    model = ReIDNet(build_backbone(net.backbone, net.weights), num_classes, net)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.momentum = net.bn_momentum
            if net.bn_average == "deviation":
                module.__class__ = DeviationNorm2d
    return model


def load_weights(model: ReIDNet, state: Mapping[str, Tensor], origin: str) -> None:
    """Loads a state dict. Raises `InputError` if its backbone or its classifier (K + 1 classes) differs."""
    classes = state["classifier.weight"].shape[0] if "classifier.weight" in state else "no"
    if classes != model.classifier.out_features:
        raise InputError(
            f"{origin}: a classifier of {classes} classes, expected {model.classifier.out_features} "
            "(all in one has one more than there are identities): load it into the network that was trained"
        )
    load_strictly(model, state, origin)


def parameter_groups(
    model: ReIDNet, recipe: RecipeConfig, weight_decay: float, *, decay_norm: bool = False
) -> list[dict]:
    """Returns one optimiser group for each of `KINDS` of parameters.

    `recipe.lr_groups` selects the `RATE_FACTORS`. Batch norm has no weight decay unless `decay_norm` (the
    released pseudo-label network).
    """
    kinds: dict[str, list[nn.Parameter]] = {kind: [] for kind in KINDS}
    norms = {
        id(p) for module in model.modules() if isinstance(module, BatchNorm) for p in module.parameters()
    }
    for name, parameter in model.named_parameters():
        if name.startswith("classifier."):
            kinds[name.replace(".", "_")].append(parameter)
        elif id(parameter) in norms:
            kinds["bn_weight" if name.endswith("weight") else "bn_bias"].append(parameter)
        else:
            kinds["conv1" if name.startswith("base.conv1.") else "conv"].append(parameter)
    rates = {kind: recipe.base_lr * RATE_FACTORS[recipe.lr_groups].get(kind, 1.0) for kind in kinds}
    return [
        {
            "name": kind,
            "params": parameters,
            "lr": rates[kind],
            "initial_lr": rates[kind],
            "weight_decay": weight_decay if decay_norm or not kind.startswith("bn_") else 0.0,
        }
        for kind, parameters in kinds.items()
    ]
