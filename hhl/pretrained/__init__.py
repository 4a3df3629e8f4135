"""A small trained HHL network and its camera-style StarGAN, of drawn people, and the command that makes them.

python -m hhl.pretrained make                         # from the record of the last run of the preset study
python -m hhl.pretrained styles --out styles.png      # drawn people in the style of each camera
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from common.checkpoints import load_checkpoint, load_strictly, save_checkpoint
from common.checks import check_fields
from common.errors import InputError
from common.evaluation.networks import load_feature_network, plain_state_dict
from common.files import write_atomic
from common.hashing import canonical
from common.records import METRICS, read_record_file
from hhl.config import GANConfig
from hhl.stargan.train import build_generator, load_generator

FOLDER = Path(__file__).parent
REID, STARGAN, ABOUT = (FOLDER / name for name in ("reid.pt", "stargan.pt", "README.md"))
MOST_BYTES = 2_000_000  # of both files together
RECORD = "runs/hhl+table2+L_CD/synthetic-duke+synthetic-market/study+seed=0/record.json"  # in hhl/runs


def make(runs: Path, folder: Path = FOLDER, record: str = RECORD) -> list[Path]:
    """Writes both networks and their origin into `folder`, from the stages of a run's record in `runs`.

    Raises `InputError` if the run has no such record or the files would be larger than 2 MB.
    """
    path = runs / record
    origin = read_record_file(path)
    stages = {name: runs / "stages" / f"{name}-{stage['hash']}" for name, stage in origin.stages.items()}
    missing = sorted({"reid", "stargan"} - stages.keys())
    if missing:
        raise InputError(f"{path}: expected a run with the stages reid and stargan, found no {missing[0]}")
    network = load_feature_network(stages["reid"] / "model.pt")
    gan = GANConfig(**origin.config["stargan"])
    cameras = int(origin.data["target"]["cameras"])
    generator = load_generator(gan, cameras, stages["stargan"] / "generator.pt")
    state = {f"base.{name}": value for name, value in plain_state_dict(network).items()}
    contents: dict[Path, dict[str, Any]] = {
        folder / REID.name: {"state_dict": state, "net": dict(network.found.settings)},
        folder / STARGAN.name: {
            "state_dict": generator.state_dict(),
            "gan": canonical(gan),
            "num_cameras": cameras,
        },
    }
    for file, content in contents.items():
        save_checkpoint(file, content)
    size = sum(file.stat().st_size for file in contents)
    if size > MOST_BYTES:
        for file in contents:
            file.unlink()
        raise InputError(
            f"{path}: expected networks of at most {MOST_BYTES:,} bytes together, found {size:,}"
        )
    write_atomic(folder / ABOUT.name, _about(origin, size))
    return [*contents, folder / ABOUT.name]


def _about(origin: Any, size: int) -> str:
    scores = ", ".join(f"{name} {100 * origin.scores['last'][name]:.1f}" for name in METRICS)
    pair, code = f"{origin.source} to {origin.target}, seed {origin.seed}", origin.code_version
    return ABOUT_TEXT.format(
        key=origin.key,
        preset=origin.preset,
        pair=pair,
        size=size / 1e6,
        config=origin.config_hash,
        code=code,
        target=origin.target,
        scores=scores,
    )


ABOUT_TEXT = """# Pretrained networks

`reid.pt` is the backbone of the network that HHL trains with the preset {preset} ({key}, {pair}).
`stargan.pt` is the generator of its camera styles; {size:.1f} MB together. All people are drawn.
Made by `python train.py --preset {preset} --experiment {key}` in `hhl/`, then `python -m hhl.pretrained make`
from the repository's root; configuration {config}, code {code}.
Scores on {target}, in percent: {scores}.

```sh
python -m common.evaluation rank --checkpoint hhl/pretrained/reid.pt \\
    --query IMAGE --gallery DIR --out ranked.png
python -m hhl.pretrained styles --out styles.png
```
"""


def load_stargan(path: Path = STARGAN) -> tuple[nn.Module, GANConfig, int]:
    """Returns the generator of a `stargan.pt` in evaluation mode, its settings and the number of cameras."""
    saved = load_checkpoint(path, expected=("state_dict", "gan", "num_cameras"))
    try:
        gan, cameras = GANConfig(**saved["gan"]), saved["num_cameras"]
        check_fields(gan)
        if not isinstance(cameras, int) or not 1 <= cameras <= 100:
            raise ValueError(cameras)
    except Exception:  # the file holds anything
        raise InputError(f"{path}: expected a file of python -m hhl.pretrained make, found another") from None
    generator = build_generator(gan, cameras)
    load_strictly(generator, saved["state_dict"], path)
    return generator.eval(), gan, cameras
