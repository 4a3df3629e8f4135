"""HHL's re-ID network: backbone, FC-1024, and two heads, one that classifies identities and one that embeds
for the triplet loss.

    images -> base -> pool5 -> feat -> feat_bn -> ReLU -+-> drop -> classifier      logits  (cross-entropy,
    source)
                                                        +-> triplet                 FC-128  (triplet loss,
                                                        source and target)

Released counterpart: `reid/models/resnet.py`; the children keep its names, so that its checkpoints load.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from common.backbones import Backbone, build_backbone, global_pool, split_batch_norm
from common.checkpoints import load_strictly, read_state_dict
from hhl.config import NetConfig


class HHLNet(nn.Module):
    """The network of Fig. 1.

    `triplet_dim=0` leaves the triplet head out (released `baseline.py`). The backbone comes with its own
    weights; the new layers start as released: Kaiming normal with fan-out for `feat`, N(0, 0.001^2) for both
    heads, zero biases.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_ids: int,
        *,
        embed_dim: int = 1024,
        triplet_dim: int = 128,
        dropout: float = 0.5,
        triplet_after_dropout: bool = False,
    ):
        super().__init__()
        self.triplet_after_dropout = triplet_after_dropout
        self.base = backbone
        self.feat = nn.Linear(backbone.num_features, embed_dim)
        self.feat_bn = nn.BatchNorm1d(embed_dim)
        self.drop = nn.Dropout(dropout)
        self.classifier = nn.Linear(embed_dim, num_ids)
        self.triplet = nn.Linear(embed_dim, triplet_dim) if triplet_dim > 0 else None

        nn.init.kaiming_normal_(self.feat.weight, mode="fan_out")
        nn.init.zeros_(self.feat.bias)
        for head in filter(None, (self.classifier, self.triplet)):
            nn.init.normal_(head.weight, std=0.001)
            nn.init.zeros_(head.bias)

    def forward(self, x: Tensor, output: str = "logits") -> Tensor | tuple[Tensor, Tensor]:
        """Images `(B, 3, H, W)`, ImageNet-normalised, to one output.

        `logits`: `(B, num_ids)`. `triplet`: `(B, triplet_dim)`, taken before the dropout (unless
        `triplet_after_dropout`), not normalised. `both`: the two of them. `pool5`: `(B, num_features)`, the
        pooled map, L2-normalised: the test feature; `pooled`: the map's mean itself.
        """
        if output not in ("logits", "triplet", "both", "pool5", "pooled") or (
            output in ("triplet", "both") and self.triplet is None
        ):
            raise ValueError(
                f"output {output!r}: expected logits, pool5, pooled, or triplet or both (which need triplet_dim > 0)"
            )
        pooled = global_pool(self.base(x))
        if output in ("pool5", "pooled"):
            return F.normalize(pooled) if output == "pool5" else pooled
        embedding = F.relu(self.feat_bn(self.feat(pooled)))
        if output == "triplet" and not self.triplet_after_dropout:
            return self.triplet(embedding)
        dropped = self.drop(embedding)
        if output == "logits":
            return self.classifier(dropped)
        triplet = self.triplet(dropped if self.triplet_after_dropout else embedding)
        return triplet if output == "triplet" else (self.classifier(dropped), triplet)


def build_network(net: NetConfig, num_ids: int, *, triplet: bool) -> HHLNet:
    """The network that a configuration describes; `triplet=False` leaves the triplet head out."""
    backbone = build_backbone(net.backbone, net.weights)
    model = HHLNet(
        backbone,
        num_ids,
        embed_dim=net.embed_dim,
        triplet_dim=net.triplet_dim if triplet else 0,
        dropout=net.dropout,
        triplet_after_dropout=net.triplet_after_dropout,
    )
    model.image_size = (net.height, net.width)
    return split_batch_norm(model, net.bn_splits)


def parameter_groups(
    model: HHLNet, *, base_lr: float, classifier_lr: float, embed_lr: float | None
) -> list[dict]:
    """Optimiser groups `base`, `classifier` and, unless `embed_lr` is None, `embedding` (feat, feat_bn,
    triplet).

    None is the released `HHL.py`, whose optimiser never sees these layers: they stay at their random start,
    while the running statistics of `feat_bn` move. Here they also stop asking for gradients, which the
    released code gathers and never reads. The paper trains them at 0.01, the blog and the released
    `baseline.py` at 0.1.
    """
    embedding = [
        p
        for module in (model.feat, model.feat_bn, model.triplet)
        if module is not None
        for p in module.parameters()
    ]
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

    `base.fc.*` (ImageNet's classifier, unused there) and `module.` prefixes are dropped; anything else that
    does not fit is an `InputError`.
    """
    state = {
        key: value for key, value in read_state_dict(checkpoint).items() if not key.startswith("base.fc.")
    }
    load_strictly(model, state, checkpoint)
