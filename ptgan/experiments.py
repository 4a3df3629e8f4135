"""The rows of PTGAN's tables and our experiments on masks and identity loss, as named configurations."""

from __future__ import annotations

from pathlib import Path

from common.records import Experiment, Paper
from ptgan.config import PRESETS

DIRECT, CYCLEGAN, PTGAN_ROW = (f"ptgan/transfer/{row}" for row in ("direct", "CycleGAN", "PTGAN"))

# every pair of the transfer tables is one of these rows with --source and --target
TRANSFER = [
    Experiment(DIRECT, "direct transfer", {"translation.kind": "none"}),
    Experiment(CYCLEGAN, "CycleGAN", {"gan.lambda_id": 0.0}),
    Experiment(PTGAN_ROW, "PTGAN"),
]

# the paper's picture of transferred people, measured: how far the inside and the outside of the mask change
FIGURE = [
    Experiment("ptgan/figure/CycleGAN", "CycleGAN", alias_of=CYCLEGAN),
    Experiment("ptgan/figure/PTGAN", "PTGAN", alias_of=PTGAN_ROW),
]

MASKS = [
    Experiment(
        "ptgan/masks/oracle",
        "the dataset's own masks (true ones on the synthetic domains)",
        {"masks.kind": "oracle"},
    ),
    Experiment("ptgan/masks/gaussian", "a Gaussian blob in place of the mask", {"masks.kind": "gaussian"}),
    Experiment("ptgan/masks/ones", "the whole image as mask", {"masks.kind": "ones"}),
    Experiment("ptgan/masks/zeros", "no mask at all: CycleGAN", alias_of=CYCLEGAN),
    Experiment("ptgan/masks/torchvision", "DeepLabV3's masks", {"masks.kind": "torchvision"}),
    Experiment("ptgan/masks/selfie", "masks of a small network that pip installs", {"masks.kind": "selfie"}),
    Experiment("ptgan/mask_aug/joint", "masks that follow the image", {"masks.aug": "joint"}),
    Experiment("ptgan/mask_aug/released", "masks that do not, as released", {"masks.aug": "released"}),
]

ID_LOSS = [
    Experiment("ptgan/id_loss/mse", "masked squares over all pixels, as released", alias_of=PTGAN_ROW),
    Experiment("ptgan/id_loss/mse,mask", "masked squares over the mask's pixels", {"gan.id_reduce": "mask"}),
    Experiment("ptgan/id_loss/l2", "the printed norm, weight 10", {"gan.id_loss": "l2"}),
    Experiment(
        "ptgan/id_loss/l2_rms", "the norm over the root of the image's size", {"gan.id_loss": "l2_rms"}
    ),
    Experiment("ptgan/lambda_id/0", "lambda_ID = 0", alias_of=CYCLEGAN),
    Experiment("ptgan/lambda_id/1", "lambda_ID = 1", {"gan.lambda_id": 1.0}),
    Experiment(
        "ptgan/lambda_id/10", "lambda_ID = 10 (20 in study, shared and photos_cpu)", alias_of=PTGAN_ROW
    ),
    Experiment("ptgan/lambda_id/100", "lambda_ID = 100", {"gan.lambda_id": 100.0}),
]

CONTROLS = [
    Experiment(
        "ptgan/control/colour_jitter",
        "direct transfer with colour jitter",
        {"translation.kind": "none", "recipe.colour_jitter": 0.3},
    ),
    Experiment(
        "ptgan/control/identity",
        "source images, only resized and stored as the fakes are",
        {"translation.kind": "identity"},
    ),
    # the blog: PTGAN's CycleGAN pictures do not look like SPGAN's, whose CycleGAN has this term
    Experiment(
        "ptgan/control/identity_mapping,CycleGAN",
        "CycleGAN with identity mapping, weight 5",
        {"gan.lambda_id": 0.0, "gan.lambda_idt": 5.0},
    ),
    Experiment(
        "ptgan/control/identity_mapping,PTGAN",
        "PTGAN with identity mapping, weight 5",
        {"gan.lambda_idt": 5.0},
    ),
]

# run with --target prid2011; the published numbers are recalled, not checked, and never compared
PRID = [Experiment("ptgan/prid/direct", "PRID, unverified: direct transfer", alias_of=DIRECT)]
PRID += [
    Experiment(
        f"ptgan/prid/{name}", f"PRID, unverified: transferred to {to}", {"gan.target_cameras": cameras}
    )
    for name, to, cameras in (
        ("cam1", "camera 1", (1,)),
        ("cam2", "camera 2", (2,)),
        ("cam1+cam2", "either camera, pooled", (1, 2)),
    )
]

PTGAN = Paper(
    name="ptgan",
    folder=Path(__file__).resolve().parent,
    presets=PRESETS,
    experiments=[*TRANSFER, *FIGURE, *MASKS, *ID_LOSS, *CONTROLS, *PRID],
    demo=(DIRECT, CYCLEGAN, PTGAN_ROW),
    headline=(DIRECT, PTGAN_ROW),
)
