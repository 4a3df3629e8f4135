"""The TensorFlow process: `python -m spgan.gan JOB.json` trains or translates as a job of `spgan.process`
says, and exits as that expects.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from common.errors import InputError, RunError
from common.files import write_atomic
from common.runs import Workspace
from spgan.config import GanConfig, TranslateConfig
from spgan.gan.quiet import keras, tf
from spgan.gan.train import train_gan
from spgan.gan.translate import translate
from spgan.process import DISK_ERRORS, OS_ERROR

log = logging.getLogger("run")


def devices(device: str, threads: int, batch: int) -> tf.distribute.Strategy | None:
    """CPU threads and GPUs of this process; several GPUs share a batch that they divide."""
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    for gpu in tf.config.get_visible_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    count = len(tf.config.list_logical_devices("GPU"))
    if device == "cuda" and count == 0:
        raise InputError(
            "--device cuda: TensorFlow sees no GPU; use --device cpu or auto, or install tensorflow[and-cuda]"
        )
    return tf.distribute.MirroredStrategy() if count > 1 and batch % count == 0 else None


def say_where(gpus: int, batch: int, *, torch_gpu: bool = False) -> None:
    """Logs on what a GAN trains; warns of GPUs that stay idle because they do not divide its batch, or
    because only PyTorch sees them.
    """
    if torch_gpu and gpus == 0:
        log.warning(
            "GAN: TensorFlow sees no GPU although PyTorch does, and trains on the CPU, at full size for weeks: "
            "pip install 'tensorflow[and-cuda]'"
        )
    if gpus > 1 and batch % gpus:
        log.warning(
            "GAN: TensorFlow sees %d GPUs and uses one: --gan.batch %d does not divide by their number",
            gpus,
            batch,
        )
    shared = gpus > 1 and batch % gpus == 0
    log.info(
        "GAN: trains on %s",
        f"{gpus} GPUs, a replica on each; they share batches of {batch}"
        if shared
        else "one GPU"
        if gpus
        else "the CPU",
    )


def run(job: dict) -> None:
    config = GanConfig(**job["gan"])
    strategy = devices(job["device"], job["threads"], config.batch)
    if job["deterministic"]:
        keras.utils.set_random_seed(job["seed"])
        tf.config.experimental.enable_op_determinism()
    if job["task"] == "train":
        say_where(
            len(tf.config.list_logical_devices("GPU")), config.batch, torch_gpu=job.get("torch_gpu", False)
        )
        workspace = Workspace(Path(job["folder"]), job["resume"])
        train_gan(
            config,
            job["source"],
            job["target"],
            job["seed"],
            workspace,
            threads=job["threads"],
            strategy=strategy,
        )
    else:
        translate(
            config, TranslateConfig(**job["translate"]), Path(job["networks"]), job["role"], job["images"]
        )


def main(path: Path) -> int:
    """0; 2 and 1 for an `InputError` and a `RunError`, whose text is then in `<job>.error`; 130 when stopped.

    `OS_ERROR` + errno for a disk that is full or closed to writing, where no text can be left.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    tf.get_logger().setLevel(logging.ERROR)  # the legacy sampler is deprecated, which is why it has a switch
    try:
        run(json.loads(path.read_text()))
    except (InputError, RunError) as error:
        write_atomic(path.with_suffix(".error"), str(error))
        return 2 if isinstance(error, InputError) else 1
    except tf.errors.ResourceExhaustedError:
        write_atomic(
            path.with_suffix(".error"),
            "GAN: out of memory: use a smaller --gan.batch, or free the GPU of other programs",
        )
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        return OS_ERROR + error.errno
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
