"""Whatever lies behind a door (a checkpoint, an image, a feature file, a folder, a flag) that is not what it
should be ends in one line, without a hang and without memory for what a file only announces.

A new case is one line in a table; the fuzzed tests draw contents that no table names.
"""

from __future__ import annotations

import io
import json
import os
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import arn.evaluate
import arn.model
import dcgan_lsro.evaluate
import hhl.evaluate
import ptgan.masks
import ptgan.reid
import spgan.reid.model
from arn.config import PRESETS as ARN
from common.checkpoints import load_checkpoint, load_strictly, read_state_dict, saved_network
from common.checks import check_fields, size
from common.cli import exit_code
from common.datasets import load_dataset
from common.datasets.__main__ import main as datasets_command
from common.datasets.images import read_image
from common.errors import InputError
from common.evaluation.__main__ import main as evaluation_command
from common.evaluation.features import load_features, save_features
from common.evaluation.ranking import evaluate
from common.files import locked, remove_leftovers, write_atomic
from common.job import Workspace
from common.runs import StageStore
from dcgan_lsro.config import PRESETS as LSRO
from hhl.config import PRESETS as HHL
from ptgan.config import PRESETS as PTGAN
from spgan.config import PRESETS as SPGAN

FUZZ = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=4),
    st.binary(max_size=4),
    st.just(10**4200),
    st.sampled_from(
        [
            torch.zeros(()),
            torch.zeros(2, 3),
            torch.zeros(3, dtype=torch.complex64),
            torch.zeros(3).to_sparse(),
            torch.zeros(1).expand(3, 10**9),
            torch.zeros(10**12, 0),
            torch.zeros(3, dtype=torch.int64),
            torch.full((3,), float("nan")),
        ]
    ),
)
TREES = st.recursive(
    JUNK,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


def one_line(capsys) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


# ---------------------------------------------------------------- checkpoints


@dataclass(frozen=True)
class Net:
    width: int = size(2)
    name: str = "toy"

    def __post_init__(self):
        check_fields(self)


def toy_checkpoint() -> dict:
    state = {"weight": torch.ones(4, 2), "bias": torch.ones(4)}
    return {"state_dict": state, "net": {"width": 2, "name": "toy"}, "num_ids": 4}


def read_toy(path: Path) -> torch.nn.Module:
    net, num_ids, state = saved_network(path, Net, "toy")
    model = torch.nn.Linear(net.width, num_ids)
    load_strictly(model, state, path)
    return model


def test_a_good_checkpoint_passes(tmp_path):
    torch.save(toy_checkpoint(), tmp_path / "model.pt")
    assert read_toy(tmp_path / "model.pt").weight.tolist() == [[1, 1]] * 4


@FUZZ
@given(content=TREES)
def test_any_object_as_a_checkpoint_is_an_input_error(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(InputError, match="model.pt"):
        read_toy(tmp_path / "model.pt")


@FUZZ
@given(
    entry=st.sampled_from(["state_dict", "net", "num_ids", "weight", "bias", "width", "name"]), value=TREES
)
def test_any_entry_of_a_checkpoint_fits_or_is_an_input_error(tmp_path, entry, value):
    saved = toy_checkpoint()
    for part in (saved, saved["state_dict"], saved["net"]):
        if entry in part:
            part[entry] = value
    torch.save(saved, tmp_path / "model.pt")
    try:
        model = read_toy(tmp_path / "model.pt")
    except InputError as error:
        assert "model.pt" in str(error)
    else:
        assert model.weight.shape == (4, 2) and model.weight.dtype == torch.float32


@FUZZ
@given(start=st.integers(0, 1200), patch=st.binary(min_size=1, max_size=40), cut=st.booleans())
def test_any_bytes_as_a_checkpoint_are_read_or_an_input_error(tmp_path, start, patch, cut):
    buffer = io.BytesIO()
    torch.save(toy_checkpoint(), buffer)
    whole = buffer.getvalue()
    damaged = whole[:start] + patch + (b"" if cut else whole[start + len(patch) :])
    (tmp_path / "model.pt").write_bytes(damaged)
    try:
        load_checkpoint(tmp_path / "model.pt")
    except InputError as error:
        assert "model.pt" in str(error)


@pytest.mark.parametrize("start", [b"", b"a text\n", b"\x80", b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_short_files_are_no_checkpoints(tmp_path, start):
    (tmp_path / "model.pt").write_bytes(start)
    with pytest.raises(InputError, match="model.pt"):
        read_state_dict(tmp_path / "model.pt")


def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(tmp_path):
    torch.save({"state_dict": {"w": torch.zeros(1 << 22)}}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in plain.infolist():
            bomb.writestr(member.filename, plain.read(member))
    with pytest.raises(InputError, match="not a checkpoint that torch can read safely"):
        read_state_dict(tmp_path / "model.pt")


def tiny_networks():
    """Yields each paper's name, its loader, and a checkpoint of its demo's network for six identities."""

    def saved(model, net, **more):
        return {"state_dict": model.state_dict(), "net": asdict(net), "num_ids": 6, **more}

    net = HHL["demo"].net
    yield "hhl", hhl.evaluate.load_network, saved(hhl.evaluate.build_network(net, 6, triplet=True), net)
    net = SPGAN["demo"].net
    yield "spgan", spgan.reid.model.load_network, saved(spgan.reid.model.IDENet(net, 6), net)
    net = PTGAN["demo"].net
    yield "ptgan", ptgan.reid.load_network, saved(ptgan.reid.build_network(net, 6), net)
    net = LSRO["demo"].net
    model = dcgan_lsro.evaluate.build_network(net, 6)
    yield "dcgan_lsro", dcgan_lsro.evaluate.load_network, saved(model, net, num_classes=6)
    config = ARN["demo"]
    content = saved(arn.model.build_network(config, 6), config.net)
    yield "arn", arn.evaluate.load_network, content | {"architecture": arn.evaluate.architecture(config)}


@pytest.mark.parametrize("number", [-1, 0, "x", 10**12, 10**30, 2.5, True, None, [6]], ids=repr)
def test_every_paper_refuses_impossible_numbers_of_identities(tmp_path, number):
    for paper, load, content in NETWORKS:
        names = [name for name in ("num_ids", "num_classes") if name in content]
        for name in names:
            torch.save(content | {name: number}, tmp_path / f"{paper}.pt")
            with pytest.raises(InputError, match=rf"{paper}.pt: .* found {name} = "):
                load(tmp_path / f"{paper}.pt")


NETWORKS = list(tiny_networks())


@pytest.mark.parametrize("paper, load, content", NETWORKS, ids=[name for name, *_ in NETWORKS])
def test_every_paper_reads_its_own_network_and_no_altered_one(tmp_path, paper, load, content):
    path = tmp_path / "model.pt"
    torch.save(content, path)
    load(path)
    key, value = next((k, v) for k, v in content["state_dict"].items() if v.is_floating_point())
    for change in (
        {key: value.to(torch.complex64)},
        {key: value.long()},
        {key: value[:1].clone().expand_as(value)},
        {key: 1.0},
        {7: value},
        {f"module.{key}": value},
    ):
        torch.save(content | {"state_dict": content["state_dict"] | change}, path)
        with pytest.raises(InputError, match="model.pt.*does not fit"):
            load(path)
    for other, _, foreign in NETWORKS:
        if other != paper:
            torch.save(foreign, path)
            with pytest.raises(InputError, match="model.pt"):
                load(path)


# ---------------------------------------------------------------- paths


def special_paths(folder: Path) -> dict[str, Path]:
    """Returns paths that are no regular files."""
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "nowhere").symlink_to(folder / "gone")
    return {
        "a pipe or a device": folder / "pipe",
        "no usable path": folder / "loop",
        "a link that leads nowhere": folder / "nowhere",
        "a folder": folder,
        "no such file": folder / "none",
        "File name too long": folder / ("n" * 300),
        "null byte": folder / "a\0b",
    }


@pytest.mark.parametrize("read", [load_checkpoint, read_image, load_features])
def test_paths_that_are_no_files_are_named(tmp_path, read):
    for words, path in special_paths(tmp_path).items():
        with pytest.raises(InputError) as error:
            read(path)
        assert words in str(error.value)


@pytest.mark.parametrize(
    "out", ["/proc/none/out", "/dev/null/out", f"/tmp/{'n' * 300}", "/tmp/" + "n/" * 3000]
)
def test_output_paths_that_cannot_be_are_one_line(capsys, out):
    assert exit_code(lambda: write_atomic(Path(out) / "record.json", "{}")) == 2
    assert "no finished file has been overwritten" in one_line(capsys)


def test_an_output_folder_removed_while_running_is_one_line(tmp_path, capsys):
    import shutil

    def build(work: Workspace) -> None:
        shutil.rmtree(tmp_path / "out")

    def run() -> None:
        StageStore(tmp_path / "out").obtain("net", {}, build, Workspace(Path()))
        (tmp_path / "out" / "gone").read_text(encoding="utf-8")

    assert exit_code(run) == 2
    one_line(capsys)


def test_a_message_is_one_line_even_if_a_name_has_two(capsys):
    def fail() -> None:
        raise InputError("a\nb")

    assert exit_code(fail) == 2 and one_line(capsys) == "error: a b"


def test_a_lock_never_empties_what_its_link_points_to(tmp_path):
    (tmp_path / "precious").write_text("kept", encoding="utf-8")
    (tmp_path / "x.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="found a link"):
        with locked(tmp_path / "x.lock", "x"):
            pass
    with locked(tmp_path / "precious", "x"):
        pass
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "kept"


def test_no_temporary_file_stays_in_a_finished_stage(tmp_path):
    def build(work: Workspace) -> None:
        (work.folder / "translation").mkdir()
        (work.folder / "translation" / ".a.jpg.x1y2z3w4").write_text("left by a kill", encoding="utf-8")
        (work.folder / "translation" / "a.jpg").write_text("whole", encoding="utf-8")

    stage = StageStore(tmp_path).obtain("translation", {}, build, Workspace(Path()))
    assert [path.name for path in (stage.folder / "translation").iterdir()] == ["a.jpg"]


def test_leftovers_are_files_only(tmp_path):
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".link").symlink_to(tmp_path / ".hidden")
    remove_leftovers(tmp_path)
    assert (tmp_path / ".hidden").is_dir() and (tmp_path / ".link").is_symlink()


# ---------------------------------------------------------------- images


def png_header(width: int, height: int) -> bytes:
    """Returns a PNG that announces a size and holds hardly a byte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"0"))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("width, height", [(20_000, 20_000), (10_000, 8_000), (2**31 - 1, 2**31 - 1), (0, 5)])
def test_pictures_of_impossible_sizes_are_refused_unread(tmp_path, width, height):
    (tmp_path / "a.png").write_bytes(png_header(width, height))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(InputError, match="a.png"):
            read_image(tmp_path / "a.png")


@FUZZ
@given(
    kind=st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "GIF"]),
    start=st.integers(0, 900),
    patch=st.binary(min_size=1, max_size=30),
    cut=st.booleans(),
)
def test_any_bytes_as_an_image_are_read_or_an_input_error(tmp_path, kind, start, patch, cut):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(16 * 8 * 3, dtype=np.uint8).reshape(16, 8, 3)).save(buffer, kind)
    whole = buffer.getvalue()
    start %= len(whole)
    (tmp_path / "a.png").write_bytes(whole[:start] + patch + (b"" if cut else whole[start + len(patch) :]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert read_image(tmp_path / "a.png").mode == "RGB"
        except InputError as error:
            assert "a.png" in str(error)


@pytest.fixture
def market(tmp_path) -> Path:
    root = tmp_path / "market1501"
    for folder, names in {
        "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0007_c2s1_000451_03.jpg"],
        "query": ["0001_c1s1_001051_00.jpg"],
        "bounding_box_test": ["0001_c2s1_001051_00.jpg"],
    }.items():
        (root / folder).mkdir(parents=True)
        for number, name in enumerate(names):
            Image.new("RGB", (4, 8), (number, 0, 0)).save(root / folder / name)
    return root


SPOILED = "0002_c1s1_000999_01.jpg"


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda path: os.mkfifo(path), "a pipe or a device"),
        (lambda path: path.symlink_to(path), "no usable path"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "a pipe or a device"),
    ],
    ids=["pipe", "loop", "folder", "device"],
)
def test_what_is_no_image_among_the_images_is_named(market, spoil, words, capsys):
    spoil(market / "bounding_box_train" / SPOILED)
    with pytest.raises(InputError, match=f"{SPOILED}.*{words}"):
        load_dataset("market1501", market).manifest  # noqa: B018
    assert datasets_command(["check", "market1501", "--root", str(market)]) == 1
    assert SPOILED in capsys.readouterr().out


def test_names_that_are_not_utf_8_are_named(market, capsys):
    path = os.fsencode(market / "query") + b"/0001_c1s1_001051_0\xff.jpg"
    with open(path, "wb"):
        pass
    assert datasets_command(["check", "market1501", "--root", str(market)]) == 2
    assert "expected file names in UTF-8" in one_line(capsys)


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.png", png_header(20_000, 20_000)),
        ("a.png", b"text"),
        ("a.npy", b"text"),
        ("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'}\n"),
        ("lying.npy", (10**12, 256)),
        ("lying.npy", (2**62, 2**62)),
    ],
)
def test_masks_that_are_none_are_named(tmp_path, name, content):
    path = tmp_path / name
    if isinstance(content, tuple):
        header = {"descr": "<f4", "fortran_order": False, "shape": content}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.write(bytes(64))
    else:
        path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(InputError, match=name):
            ptgan.masks.read_mask(path, (256, 256))


@pytest.mark.parametrize("kind", [complex, "U3", "M8[s]"])
def test_masks_hold_real_numbers(tmp_path, kind):
    np.save(tmp_path / "a.npy", np.ones((4, 2)).astype("i8").astype(kind))
    with pytest.raises(InputError, match=r"a.npy: expected a mask as .npy array, found numbers of"):
        ptgan.masks.read_mask(tmp_path / "a.npy", (4, 2))


def test_a_pipe_as_a_mask_does_not_hang(tmp_path):
    for name in ("a.png", "a.npy"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match=f"{name}: expected .*found a pipe"):
            ptgan.masks.read_mask(tmp_path / name, (4, 2))


# ---------------------------------------------------------------- feature files


def arrays_of(count: int = 6) -> dict[str, np.ndarray]:
    """Returns the arrays of a good feature file."""
    return {
        "features": np.sin(np.arange(count * 3, dtype=np.float32)).reshape(count, 3),
        "pids": 1 + np.arange(count) % 3,
        "camids": np.arange(count) // 3,
        "names": np.array([f"{i}.jpg" for i in range(count)]),
        "normalised": np.array(True),
        "model": np.array("toy"),
    }


@pytest.mark.parametrize(
    "name, value",
    [
        ("features", np.ones((6, 3), np.complex64)),
        ("features", np.full((6, 3), "1.5")),
        ("features", np.ones((6, 3), "M8[s]")),
        ("features", np.ones((6, 3), "m8[s]")),
        ("features", np.ones((6, 3), "V4")),
        ("features", np.array(1.0)),
        ("features", np.ones(6)),
        ("pids", np.array(1)),
        ("pids", np.ones(6)),
        ("pids", np.ones(6, np.uint8)),
        ("pids", np.ones((6, 1), int)),
        ("camids", np.array("x")),
        ("names", np.array("0.jpg")),
        ("names", np.ones(6, int)),
        ("normalised", np.array([True, False])),
        ("normalised", np.array("True")),
        ("model", np.array(["a", "b"])),
        ("model", np.array(3)),
    ],
)
def test_feature_files_with_other_arrays_are_refused(tmp_path, capsys, name, value):
    np.savez(tmp_path / "good.npz", **arrays_of())
    np.savez(tmp_path / "bad.npz", **arrays_of() | {name: value})
    assert evaluation_command([str(tmp_path / "good.npz"), str(tmp_path / "good.npz")]) == 0
    assert evaluation_command([str(tmp_path / "bad.npz"), str(tmp_path / "good.npz")]) == 2
    line = one_line(capsys)
    assert "bad.npz" in line and name in line


def test_features_that_are_no_real_numbers_are_not_written(tmp_path):
    for features in (np.ones((1, 2), complex), torch.ones(1, 2, dtype=torch.complex64), [["a", "b"]]):
        with pytest.raises(InputError, match="real numbers"):
            save_features(tmp_path / "a.npz", features, [1], [0], ["a"], normalised=True, model="m")
    assert not list(tmp_path.iterdir())


def lying_npz(path: Path, shape: tuple[int, ...]) -> None:
    """Writes a feature file whose header announces features of `shape`."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays_of().items():
            buffer = io.BytesIO()
            if name == "features":
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(buffer, header)
                buffer.write(array.tobytes())
            else:
                np.lib.format.write_array(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue())


@pytest.mark.parametrize("shape", [(10**12, 3), (6, 10**9), (2**62, 2**62), (-6, -3), (5, 3), (6, 4)])
def test_a_header_that_lies_reserves_no_memory(tmp_path, shape):
    lying_npz(tmp_path / "a.npz", shape)
    tracemalloc.start()
    with pytest.raises(InputError, match="a.npz"):
        load_features(tmp_path / "a.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_zip_bomb_reserves_no_memory(tmp_path):
    count = 30_000_000
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays_of().items():
            with archive.open(f"{name}.npy", "w") as file:
                if name == "features":
                    header = {"descr": "<f4", "fortran_order": False, "shape": (count, 1)}
                    np.lib.format.write_array_header_1_0(file, header)
                    for _ in range(count // 10**6):
                        file.write(bytes(4 * 10**6))
                else:
                    np.lib.format.write_array(file, array)
    tracemalloc.start()
    with pytest.raises(InputError, match="a.npz.*announce"):
        load_features(tmp_path / "a.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_compressed_feature_file_is_still_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **arrays_of())
    assert load_features(tmp_path / "a.npz").features.tolist() == arrays_of()["features"].tolist()


@FUZZ
@given(start=st.integers(0, 2500), patch=st.binary(min_size=1, max_size=40), cut=st.booleans())
def test_any_bytes_as_a_feature_file_are_read_or_an_input_error(tmp_path, start, patch, cut):
    np.savez(tmp_path / "good.npz", **arrays_of())
    whole = (tmp_path / "good.npz").read_bytes()
    start %= len(whole)
    (tmp_path / "a.npz").write_bytes(whole[:start] + patch + (b"" if cut else whole[start + len(patch) :]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            load_features(tmp_path / "a.npz")
        except InputError as error:
            assert "a.npz" in str(error)


ODD = st.one_of(
    JUNK,
    st.lists(st.integers() | st.lists(st.integers(), max_size=2), max_size=3),
    st.sampled_from([np.array(3), np.ones(6, np.uint8), np.ones((6, 1), int), np.array(["a"] * 6)]),
)
PLACES = (
    "query_features",
    "query_pids",
    "query_camids",
    "gallery_features",
    "gallery_pids",
    "gallery_camids",
)


@FUZZ
@given(place=st.sampled_from([*PLACES, "metric", "ranks", "rerank", "no_match", "cut"]), value=ODD)
def test_any_argument_of_evaluate_is_used_or_an_input_error(place, value):
    good = arrays_of()
    values = [good["features"], good["pids"], good["camids"]] * 2
    arguments = dict(zip(PLACES, values)) | {place: value}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert 0 <= evaluate(**arguments).mAP <= 1
        except InputError:
            pass


# ---------------------------------------------------------------- the datasets command


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["check", "synthetic-duke", "--option", "data_seed=two"], "data_seed: expected a whole number"),
        (["check", "synthetic-duke", "--option", "data_seed=-1"], "data seed: expected 0 to"),
        (["check", "synthetic-duke", "--option", "data_seed=²"], "data_seed: expected a whole number"),
        (["check", "synthetic-duke", "--option", f"data_seed={'9' * 5000}"], "expected a whole number"),
        (["check", "synthetic-duke", "--option", f"data_seed={10**29}"], "data seed: expected 0 to"),
        (["check", "synthetic-duke", "--option", "train_ids=x"], "train_ids: expected a whole number"),
        (["check", "synthetic-duke", "--option", f"workers={10**6}"], "expected 0 to 256 workers"),
        (["check", "prid2011", "--option", "split=x"], "split: expected a whole number"),
        (["check", "prid2011", "--option", "query_camera=5"], "query camera 5: expected a or b"),
        (["check", "cuhk03", "--option", "images=5"], "images 5: expected detected or labeled"),
        (["check", "cuhk03", "--option", "root=x"], "unknown option 'root'"),
        (["check", "cuhk03", "--option", "=x"], "option =x: expected KEY=VALUE"),
        (["check", "cuhk03", "--option", "images"], "expected KEY=VALUE"),
        (["check", "cuhk03", "--jobs", str(10**9)], "expected at least 1 and at most 256"),
        (["check", "market1501", "--root", "n" * 300], "File name too long"),
        (["make", "synthetic-duke", "--data-seed", str(10**30)], "data seed: expected 0 to"),
        (["make", "synthetic-duke", "--data-seed", "-1"], "data seed: expected 0 to"),
        (["make", "synthetic-duke", "--root", "/proc/none"], "/proc/none"),
    ],
)
def test_datasets_command_refuses_in_one_line(capsys, arguments, words):
    assert datasets_command(arguments) == 2
    assert words in one_line(capsys)[:400]


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[]", "{}", '{"domain": 1, "data_seed": 1, "files": 3}', "\xff"]
)
def test_manifests_of_drawn_data_are_checked(tmp_path, content):
    from common.datasets.synthetic.build import read_manifest

    (tmp_path / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match="manifest.json: expected the manifest"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "3", json.dumps([{"train": [[5]]}])])
def test_lists_of_cuhk03_are_checked(tmp_path, content):
    (tmp_path / "images_detected").mkdir()
    (tmp_path / "splits_new_detected.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="expected splits as torchreid writes them"):
        load_dataset("cuhk03", tmp_path)


def test_a_pipe_as_list_of_msmt17_does_not_hang(tmp_path):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
    for name in ("train", "val", "query", "gallery"):
        os.mkfifo(tmp_path / f"list_{name}.txt")
    with pytest.raises(InputError, match="list_train.txt: expected a list of images, found a pipe"):
        load_dataset("msmt17", tmp_path)


# ---------------------------------------------------------------- flags


@pytest.mark.parametrize("seed", ["1e20", "1" + "0" * 20, "1" + "0" * 400, "nan", "-1", "x"])
def test_seeds_that_are_no_seeds_are_one_line(tmp_path, capsys, seed):
    from hhl.train import main

    assert main(["--seed", seed, "--out", str(tmp_path / "out")]) == 2
    assert "--seed" in one_line(capsys)
    assert not list(tmp_path.iterdir())
