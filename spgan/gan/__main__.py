"""The TensorFlow process: `python -m spgan.gan JOB.json` trains or translates for `spgan.process`."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from common.errors import InputError, RunError
from common.files import write_atomic
from common.job import Options, Workspace
from spgan.config import GANConfig, TranslationConfig
from spgan.gan.quiet import keras, tf
from spgan.gan.train import train_gan
from spgan.gan.translate import translate
from spgan.process import OS_ERROR

log = logging.getLogger("run")
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def devices(device: str, threads: int, batch: int) -> tf.distribute.Strategy | None:
    """Sets this process's CPU threads and GPUs; returns a strategy if several GPUs divide a batch."""
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


def log_devices(gpus: int, batch: int, *, torch_gpu: bool = False) -> None:
    """Logs the devices of a GAN's training; warns of GPUs that stay idle because their number does not divide
    the batch, or because only PyTorch sees them.
    """
    if torch_gpu and gpus == 0:
        log.warning(
            "GAN: TensorFlow sees no GPU although PyTorch does, and trains on the CPU, which takes weeks at "
            "full size: pip install 'tensorflow[and-cuda]'"
        )
    if gpus > 1 and batch % gpus:
        log.warning(
            "GAN: TensorFlow sees %d GPUs and uses one: --gan.batch %d does not divide by their number",
            gpus,
            batch,
        )
    shared = f"{gpus} GPUs, a replica on each; they share batches of {batch}"
    place = "the CPU" if gpus == 0 else "one GPU" if gpus == 1 or batch % gpus else shared
    log.info("GAN: trains on %s", place)


def run(job: dict[str, Any]) -> None:
    config = GANConfig(**job["gan"])
    strategy = devices(job["device"], job["threads"], config.batch)
    if job["deterministic"]:
        keras.utils.set_random_seed(job["seed"])
        tf.config.experimental.enable_op_determinism()
    if job["task"] == "train":
        gpus = len(tf.config.list_logical_devices("GPU"))
        log_devices(gpus, config.batch, torch_gpu=job.get("torch_gpu", False))
        options = Options(threads=job["threads"])
        work = Workspace(Path(job["folder"]), job["resume"], job["seed"], options=options)
        train_gan(work, config, job["source"], job["target"], strategy)
    else:
        translation = TranslationConfig(**job["translate"])
        translate(config, translation, Path(job["networks"]), job["role"], job["images"])


def die_with(parent: int) -> None:
    """Ends this process as soon as `parent`, which started it, is gone: the parent's lock on the stage's
    folder is then free. On Linux the kernel does so at once, elsewhere a thread within 0.2 s.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
    threading.Thread(target=watch, daemon=True).start()


def main(path: Path) -> int:
    """Runs a job and returns the exit code.

    0; 2 for an `InputError` and 1 for a `RunError`, whose text is in `<job>.error`; 130 when interrupted;
    `OS_ERROR` + errno for an error of the file system (a full disk, a missing folder), whose text could not
    be written.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # the legacy sampler warns that it is deprecated; --gan.resize chooses it on purpose
    tf.get_logger().setLevel(logging.ERROR)
    try:
        job = json.loads(path.read_text(encoding="utf-8"))
        die_with(job["parent"])
        run(job)
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
        if error.errno is None:
            raise
        return OS_ERROR + error.errno
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
