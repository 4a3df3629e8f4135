"""One run of one experiment: its configuration, data, device and stages, and the record that it leaves."""

from __future__ import annotations

import datetime
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.checks import non_negative
from common.datasets.base import ReIDDataset
from common.datasets.table import write_names
from common.datasets.validate import unmatched_queries
from common.errors import RunError
from common.files import write_atomic
from common.hashing import canonical, digest
from common.provenance import code_version, hardware, library_versions
from common.records import Experiment, Record, numerics_of, numerics_text
from common.runs import Stage, StageStore, cpu_threads, rank_and_world, run_folder

if TYPE_CHECKING:
    import torch

log = logging.getLogger("run")
MAX_PICTURE = 1 << 20
LONGER = "recipe.epochs"  # the length of every re-ID training
SCORES = "scores"  # the stage of every paper that ranks the target's test set


class NoTestSet(Exception):
    """The row is trained; its target has nothing to score it on."""


@dataclass(frozen=True)
class Options:
    """The flags that all five papers share."""

    # starting values: demo, study, shared, released, paper, blog, scratch, scratch_cpu or photos_cpu, as the
    # paper offers them
    preset: str = "demo"
    experiment: tuple[str, ...] = ()  # keys to run, from --list-experiments; 'hhl/table2/*' matches several
    list_experiments: bool = False  # print this paper's experiments as JSON and exit
    # print every field of the configuration, with its value in each preset, as JSON and exit
    list_switches: bool = False
    source: str = "synthetic-duke"  # labelled dataset
    target: str = "synthetic-market"  # dataset to test on
    # folder that holds the datasets; synthetic ones are drawn into the cache without it
    data_root: Path | None = None
    seed: int = non_negative(0)  # of all random numbers
    data_seed: int = non_negative(0)  # of the drawing of the synthetic domains
    out: Path | None = None  # output folder; default: runs/ in the paper's folder
    resume: bool = False  # continue from the checkpoint of an interrupted run
    fresh: bool = False  # recompute every stage
    device: Literal["auto", "cpu", "cuda"] = "auto"  # device of the networks
    workers: int = non_negative(0)  # processes that load images
    # CPU threads of each process; 0: one in the presets demo and study, so that their scores do not depend on
    # the number of cores, else torch's choice
    threads: int = non_negative(0)
    # of the re-ID networks; bf16: autocast, scores are no longer reproducible bit by bit
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False  # torch.compile the re-ID networks: slower first steps, faster later ones
    # keep the optimiser of a finished training, so that --resume with more epochs goes on from it
    keep_state: bool = True
    # decode training images once into one file below the output folder and augment on the device
    pack: bool = False
    # forbid CUDA kernels whose results vary; on a CPU, runs with equal --threads are equal bit by bit without
    # it, on one kind of machine with equal libraries
    deterministic: bool = False
    tensorboard: bool = False  # also write TensorBoard files (needs the extra)

    @property
    def numerics(self) -> dict[str, Any]:
        """What sets a trained network apart from that of a plain run: part of its key; empty for a plain run.

        `compile` is excluded: it changes results by float32 rounding only, as another machine would. `pack`
        is included: that both paths agree bit by bit depends on Pillow's rounding. So is the number of
        `torchrun` processes: each normalises its own part of a batch.
        """
        return numerics_of(self.all_numerics)

    @property
    def all_numerics(self) -> dict[str, Any]:
        """Returns the values of `NUMERICS` of this run."""
        return {"precision": self.precision, "pack": self.pack, "processes": rank_and_world()[1]}


@dataclass
class Workspace:
    """The folder of a stage under construction, with all that its builder runs with."""

    folder: Path
    resume: bool = False  # continue from what an interrupted run kept
    seed: int = 0
    device: Any = None  # torch.device; None in processes without PyTorch
    options: Options = field(default_factory=Options)
    cache: Path | None = None  # folder of packed training images (--pack); None: workers decode the images
    collective: bool = False  # all `torchrun` processes build it together
    # the field whose increase a finished training can be continued to ("recipe.epochs"); empty: none
    longer: str = ""

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def curves(self) -> Path:
        return self.folder / "curves.jsonl"

    @property
    def kept(self) -> Path:
        """Marks a folder that is worth resuming: later runs keep it unless --fresh."""
        return self.folder / "kept"

    @property
    def state(self) -> Path:
        """Holds the last checkpoint of a finished training, from which a longer one goes on."""
        return self.folder / "state.pt"

    @property
    def rank_and_world(self) -> tuple[int, int]:
        """This process's rank and the number of processes that share each batch of this stage."""
        return rank_and_world() if self.collective else (0, 1)

    def write_json(self, name: str, value: Any) -> None:
        write_atomic(self.folder / name, json.dumps(canonical(value), indent=1))


@dataclass
class Job:
    """What a paper's `train(job) -> Record` works with.

    `config` is the paper's configuration; `source` is labelled, `target` is tested on. A stage is declared
    once, with everything that its result depends on: see `stage` and `training_stage`.
    """

    paper: str
    experiment: Experiment
    config: Any
    source: ReIDDataset
    target: ReIDDataset
    device: torch.device
    options: Options
    store: StageStore
    listed: str = ""  # config hash of the experiment without further flags; empty: this configuration's
    stages: dict[str, Stage] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @property
    def seed(self) -> int:
        return self.options.seed

    @property
    def main(self) -> bool:
        """Whether this process draws pictures and writes the record (rank 0)."""
        return rank_and_world()[0] == 0

    @property
    def folder(self) -> Path:
        options = self.options
        key = self.experiment.runs_as
        pair = (options.source, options.target)
        drawn = (self.seed, options.preset, options.data_seed)
        return run_folder(self.store.out, key, pair, *drawn, ",".join(filter(None, self._setting())))

    def _setting(self) -> Iterator[str]:
        """Yields what sets this run apart from the listed experiment's plain run, for its folder's name."""
        config = digest(self.config)
        yield f"config={config[:8]}" if self.listed not in ("", config) else ""
        yield numerics_text(self.options.numerics)

    def stage(
        self,
        name: str,
        depends_on: Mapping[str, Any],
        build: Callable[[Workspace], None],
        *,
        seed: int | None = None,
        collective: bool = False,
        longer: str = "",
    ) -> Stage:
        """Returns a finished stage: reused if the output folder holds it, else built by `build(workspace)`.

        `depends_on`: all configuration, manifests and stage hashes that the result depends on; a `seed` is
        added to it and reaches the builder as `workspace.seed`. `collective`: all `torchrun` processes train
        it together. `longer`: a field such as "recipe.epochs"; with --resume, a finished stage that has a
        smaller value there and is equal in all else is continued. Raises `InputError` for an interrupted
        build without --resume or --fresh, and `NoTestSet` for the scores of a target without queries.
        """
        if name == SCORES and not getattr(self.target, "query", True):
            raise NoTestSet
        if seed is not None:
            depends_on = {**depends_on, "seed": seed}
        if collective and rank_and_world()[1] > 1:
            depends_on = {**depends_on, "processes": rank_and_world()[1]}
        work = replace(self._workspace(seed or 0, collective), longer=longer)
        stage = self.store.obtain(name, depends_on, build, work)
        log.info("%s: %s (%.0f s)", name, "reused" if stage.reused else "done", stage.seconds)
        self.stages[name] = stage
        return stage

    def training_stage(
        self,
        name: str,
        depends_on: Mapping[str, Any],
        build: Callable[[Workspace], None],
        *,
        weights: str,
        seed: int | None = None,
    ) -> Stage:
        """Returns a stage in which all processes train a re-ID network from `weights` (a name or a file).

        Its key includes the seed (the run's, if not given), the content of a weights file and the numerics.
        Its learning rates must depend on the epoch alone, not on the number of epochs: with --resume, more
        epochs continue a finished training.
        """
        from common.checkpoints import weights_content  # imports PyTorch

        depends_on = {**depends_on, **weights_content(weights), **self.options.numerics}
        seed = self.seed if seed is None else seed
        return self.stage(name, depends_on, build, seed=seed, collective=True, longer=LONGER)

    def finished(self, name: str, depends_on: Mapping[str, Any], *, seed: int | None = None) -> Path | None:
        """Returns the folder of a stage that an earlier row or run finished; builds and records nothing."""
        return self.store.finished(name, depends_on if seed is None else {**depends_on, "seed": seed})

    def _workspace(self, seed: int, collective: bool) -> Workspace:
        cache = self.store.out / "cache" if self.options.pack else None
        return Workspace(Path(), False, seed, self.device, self.options, cache, collective)

    def picture(self, name: str) -> Path:
        """Returns the path for the picture `name` (`*.png`) of this run and lists it in the record."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        self.pictures.append(path.relative_to(self.store.out).as_posix())
        return path

    def record(
        self, scores: Mapping[str, Mapping[str, float]], *, measures: Mapping[str, float] | None = None
    ) -> Record:
        """Writes `record.json` and returns it. The scores are those of the last epoch."""
        options = self.options
        self._check_pictures()
        unmatched = unmatched_queries(self.target) if self.target.gallery else 0
        counted = {"queries_without_match": float(unmatched)} if unmatched else {}
        record = Record(
            paper=self.paper,
            key=self.experiment.runs_as,
            preset=options.preset,
            source=options.source,
            target=options.target,
            seed=self.seed,
            config=canonical(self.config),
            config_hash=digest(self.config),
            data={"source": self.source.manifest, "target": self.target.manifest},
            scores=canonical(scores),
            measures={**(measures or {}), **counted},
            selection="last epoch",
            stages={
                name: {
                    "hash": stage.hash,
                    "reused": stage.reused,
                    "seconds": stage.seconds,
                    **stage.throughput,
                    **({"threads": stage.threads} if stage.threads not in (0, cpu_threads()) else {}),
                }
                for name, stage in self.stages.items()
            },
            code_version=code_version(),
            libraries=library_versions(),
            hardware=hardware(self._device_name()) | self._acceleration(),
            seconds=round(time.perf_counter() - self.started, 1),
            curves=self._curves(),
            pictures=list(self.pictures),
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )
        if self.main:
            write_atomic(self.folder / "record.json", record.to_json() + "\n")
            for role, dataset in {"source": self.source, "target": self.target}.items():
                if dataset.camera_names:
                    write_names(self.folder / f"{role}_names.csv", dataset)
        return record

    def _check_pictures(self) -> None:
        for picture in self.pictures:
            size = (self.store.out / picture).stat().st_size
            if size > MAX_PICTURE:
                raise RunError(f"{picture}: expected a picture of at most 1 MB, found {size} bytes")

    def _curves(self) -> list[str]:
        files = [stage.folder / "curves.jsonl" for stage in self.stages.values()]
        return [path.relative_to(self.store.out).as_posix() for path in files if path.is_file()]

    def _acceleration(self) -> dict[str, Any]:
        """Returns how the networks were computed; `threads`: of PyTorch on the CPU."""
        import torch

        flags = {name: True for name in ("compile", "deterministic") if getattr(self.options, name)}
        return self.options.all_numerics | {"threads": torch.get_num_threads()} | flags

    def _device_name(self) -> str:
        if self.device.type == "cpu":
            return str(self.device)
        import torch

        return torch.cuda.get_device_name(self.device)
