"""HHL's re-ID network: a backbone, FC-1024, and two heads, for identities and for the triplet loss.

    images -> base -> pool5 -> feat -> feat_bn -> ReLU -+-> drop -> classifier   logits  (cross-entropy)
                                                        +-> triplet              FC-128  (triplet loss)

Released counterpart: `reid/models/resnet.py`; the children keep its names, so that its checkpoints load.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones import Backbone, build_backbone, global_pool, split_batch_norm
from common.checkpoints import load_strictly, read_state_dict
from hhl.config import NetConfig


class HHLNet(nn.Module):
    """The network of Fig. 1: a backbone with its own weights and new layers that start as released.

    These are Kaiming normal with fan-out for `feat`, N(0, 0.001^2) for both heads, and zero biases.
    `triplet=False` omits the triplet head (released `baseline.py`).
    """

    def __init__(self, backbone: Backbone, num_ids: int, net: NetConfig, *, triplet: bool = True):
        super().__init__()
        self.image_size = (net.height, net.width)
        self.triplet_after_dropout = net.triplet_after_dropout
        self.base = backbone
        self.feat: Any = None
        self.feat_bn: Any = None
        width = backbone.num_features
        if net.head == "fc1024":
            width = net.embed_dim
            self.feat = nn.Linear(backbone.num_features, width)
            self.feat_bn = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(net.dropout)
        self.classifier = nn.Linear(width, num_ids)
        self.triplet: Any = nn.Linear(width, net.triplet_dim) if triplet else None

        if self.feat is not None:
            nn.init.kaiming_normal_(self.feat.weight, mode="fan_out")
            nn.init.zeros_(self.feat.bias)
        for head in filter(None, (self.classifier, self.triplet)):
            nn.init.normal_(head.weight, std=0.001)
            nn.init.zeros_(head.bias)

    def forward(self, x: Tensor, output: str = "logits") -> Any:
        """Maps ImageNet-normalised images `(B, 3, H, W)` to one output.

        `logits`: `(B, num_ids)`. `triplet`: `(B, triplet_dim)`, taken before the dropout (unless
        `triplet_after_dropout`), not normalised. `both`: (logits, triplet). `pool5`: `(B, num_features)`, the
        L2-normalised mean of the last feature map: the test feature; `pooled`: the mean, not normalised.
        """
        if output not in ("logits", "triplet", "both", "pool5", "pooled") or (
            output in ("triplet", "both") and self.triplet is None
        ):
            raise ValueError(
                f"output {output!r}: expected logits, pool5, pooled, or triplet or both (with a triplet head)"
            )
        pooled = global_pool(self.base(x))
        if output in ("pool5", "pooled"):
            return F.normalize(pooled) if output == "pool5" else pooled
        embedding = pooled if self.feat is None else F.relu(self.feat_bn(self.feat(pooled)))
        if output == "triplet" and not self.triplet_after_dropout:
            return self.triplet(embedding)
        dropped = self.drop(embedding)
        if output == "logits":
            return self.classifier(dropped)
        triplet = self.triplet(dropped if self.triplet_after_dropout else embedding)
        return triplet if output == "triplet" else (self.classifier(dropped), triplet)


def build_network(net: NetConfig, num_ids: int, *, triplet: bool) -> HHLNet:
    """Returns the network of a configuration; `triplet=False` omits the triplet head."""
    model = HHLNet(build_backbone(net.backbone, net.weights), num_ids, net, triplet=triplet)
    split_batch_norm(model, net.bn_splits)
    return model


def parameter_groups(
    model: HHLNet, *, base_lr: float, classifier_lr: float, embed_lr: float | None
) -> list[dict]:
    """Returns the optimiser groups `base`, `classifier` and, unless `embed_lr` is None, `embedding`.

    `embedding` is feat, feat_bn and triplet. None is the released `HHL.py`, whose optimiser omits these
    layers: they keep their random start, while the running statistics of `feat_bn` move. Here they also need
    no gradients, which the released code computes and never reads. The paper trains them at 0.01, the blog
    and the released `baseline.py` at 0.1.
    """
    layers = filter(None, (model.feat, model.feat_bn, model.triplet))
    embedding = [parameter for layer in layers for parameter in layer.parameters()]
    for parameter in embedding:
        parameter.requires_grad_(embed_lr is not None)
    groups = [
        {"name": "base", "params": list(model.base.parameters()), "lr": base_lr},
        {"name": "classifier", "params": list(model.classifier.parameters()), "lr": classifier_lr},
    ]
    if embed_lr is not None:
        groups.append({"name": "embedding", "params": embedding, "lr": embed_lr})
    return groups


def load_released(model: HHLNet, checkpoint: str | Path | Mapping) -> None:
    """Loads a checkpoint of the authors' code, `{"state_dict": ..., "epoch": ...}` or the state dict itself.

    Drops `base.fc.*` (ImageNet's classifier, unused there) and `module.` prefixes. Raises `InputError` for
    anything else that does not fit.
    """
    state = read_state_dict(checkpoint)
    load_strictly(model, {k: v for k, v in state.items() if not k.startswith("base.fc.")}, checkpoint)
