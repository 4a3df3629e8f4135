"""The re-ID network: a ResNet, dropout on its pooled map, one linear layer that classifies people.

    images -> base -> pool5 -> drop -> classifier        logits (training)
                        +-> L2 norm                      the test feature

Released counterpart: `resnet52_market_gan.m` (a ResNet-50, its name notwithstanding) and
`matlab/+dagnn/@DagNN/initParams.m`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones import Backbone, BatchNorm, build_backbone, global_pool
from common.errors import InputError
from dcgan_lsro.config import NetConfig, RecipeConfig

# learning rates of the released net as multiples of its convolutions' 0.002; the classifier learns more
# slowly than what is pretrained
RELEASED_FACTORS = {
    "conv1": 0.005,
    "conv": 1.0,
    "bn_weight": 0.05,
    "bn_bias": 1.0,
    "classifier_weight": 0.5,
    "classifier_bias": 10.0,
}


class ReIDNet(nn.Module):
    """`num_classes`: the people, and one more for the row "all in one".

    The classifier starts as released, uniform with a standard deviation of 0.1 / sqrt(num_features), biases
    at zero.
    """

    def __init__(self, backbone: Backbone, num_classes: int, *, dropout: float = 0.75):
        super().__init__()
        self.base = backbone
        self.drop = nn.Dropout(dropout)
        self.classifier = nn.Linear(backbone.num_features, num_classes)

        bound = 0.1 * (3 / backbone.num_features) ** 0.5
        nn.init.uniform_(self.classifier.weight, -bound, bound)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(B, 3, H, W)`, ImageNet-normalised, to logits `(B, num_classes)`."""
        return self.classifier(self.drop(global_pool(self.base(x))))

    def pool5(self, x: Tensor) -> Tensor:
        """The test feature of one view, `(B, num_features)`, L2-normalised."""
        return F.normalize(global_pool(self.base(x)))

    def dense_pool5(self, x: Tensor, window: tuple[int, int]) -> Tensor:
        """The released script's feature of an uncropped image, `(B, num_features)`: the sum of the unit
        features of all places of the pooling window.

        `window`: the size of the map of a training image (7 x 7 for 224 pixels); at 256 pixels the map is 8 x
        8, so there are 2 x 2 places.
        """
        places = F.avg_pool2d(self.base(x), window, stride=1)
        return F.normalize(places, dim=1).sum(dim=(2, 3))


def build_network(net: NetConfig, num_classes: int) -> ReIDNet:
    """The network that a configuration describes."""
    model = ReIDNet(build_backbone(net.backbone, net.weights), num_classes, dropout=net.dropout)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.momentum = net.bn_momentum
    return model


def load_weights(model: ReIDNet, state: dict[str, Tensor], origin: str) -> None:
    """Loads a state dict. Raises `InputError` if its head is another one (K + 1 classes into K, say) or its
    backbone is.
    """
    classes = state["classifier.weight"].shape[0] if "classifier.weight" in state else "no"
    if classes != model.classifier.out_features:
        raise InputError(
            f"{origin}: a classifier of {classes} classes, expected {model.classifier.out_features} "
            "(all in one has one more than there are people): load it into the network that it was trained as"
        )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"{origin}: does not fit this network: {' '.join(str(error).split())[:300]}"
        ) from None


def parameter_groups(
    model: ReIDNet, recipe: RecipeConfig, weight_decay: float, *, decay_norm: bool = False
) -> list[dict]:
    """Optimiser groups by kind of parameter: `conv1`, `conv`, `bn_weight`, `bn_bias`, `classifier_weight`,
    `classifier_bias`.

    `recipe.lr_groups` sets their rates as multiples of `base_lr`: `simple`, all 1; `classifier`, the
    classifier's weights 0.5; `released`, `RELEASED_FACTORS`. Batch norm has no weight decay unless
    `decay_norm` (the released pseudo-label net).
    """
    kinds: dict[str, list[nn.Parameter]] = {kind: [] for kind in RELEASED_FACTORS}
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
    factors = {"simple": {}, "classifier": {"classifier_weight": 0.5}, "released": RELEASED_FACTORS}[
        recipe.lr_groups
    ]
    return [
        {
            "name": kind,
            "params": parameters,
            "lr": recipe.base_lr * factors.get(kind, 1.0),
            "initial_lr": recipe.base_lr * factors.get(kind, 1.0),
            "weight_decay": weight_decay if decay_norm or not kind.startswith("bn_") else 0.0,
        }
        for kind, parameters in kinds.items()
    ]
