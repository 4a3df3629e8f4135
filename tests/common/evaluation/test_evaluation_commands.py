"""`python -m common.evaluation extract | rank | score | export`, as a new user runs them on own folders."""

import contextlib
import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import loadmat, savemat

from common.backbones import adabn_on, thin_resnet
from common.datasets.base import Sample
from common.datasets.loading import EvalTransform
from common.errors import InputError
from common.evaluation.__main__ import main
from common.evaluation.features import load_features, save_features
from common.evaluation.folders import folder_samples
from common.evaluation.formats import read_features, write_features
from common.evaluation.matlab import read_matlab
from common.evaluation.protocols import pool_tracklets
from common.evaluation.ranking import evaluate
from common.evaluation.retrieval import rank
from common.provenance import ROOT

COLOURS = {"0002": (200, 30, 30), "0007": (30, 160, 30), "0011": (30, 30, 200)}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A thin ResNet without training, as a bare state dict."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "thin.pth"
    torch.save(thin_resnet().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three people of one colour each, cameras 1 and 2, two images a camera, below a folder with a space."""
    root = tmp_path_factory.mktemp("my photos")
    for person, colour in COLOURS.items():
        for camera in (1, 2):
            for frame in (1, 2):
                pixels = np.full((32, 16, 3), colour, np.uint8)
                pixels[: 4 * camera + frame] //= 2
                (root / person).mkdir(exist_ok=True)
                Image.fromarray(pixels).save(root / person / f"{person}_c{camera}s1_00000{frame}.png")
    (root / "Thumbs.db").write_bytes(b"x")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "0002_c1s1_000009.png").write_bytes(b"x")
    return root


@pytest.fixture
def features(network, photos, tmp_path, capsys):
    """Features of the photographs, written by the command, and the flags of the network."""
    flags = ["--checkpoint", str(network), "--size", "32x16", "--device", "cpu"]
    assert main(["extract", *flags, "--images", str(photos), "--out", str(tmp_path / "f.npz")]) == 0
    capsys.readouterr()
    return tmp_path / "f.npz", flags


def line(capsys) -> str:
    """The only line on stderr that is no report of a network."""
    lines = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
    assert len(lines) == 1
    return lines[0]


# ---------------------------------------------------------------- extract


def test_extract_finds_images_people_and_cameras(features, photos):
    content = load_features(features[0])
    assert content.features.shape == (12, 128) and len(set(content.names)) == 12
    assert content.names[0] == "0002/0002_c1s1_000001.png" and content.folder == str(photos)
    assert sorted(set(content.pids.tolist())) == [2, 7, 11] and set(content.camids.tolist()) == {0, 1}
    assert "thin.pth" in content.model and "32x16" in content.model


@pytest.mark.parametrize("suffix", ["mat", "csv"])
def test_other_formats_hold_the_same(features, tmp_path, suffix):
    content = load_features(features[0])
    write_features(tmp_path / f"f.{suffix}", content)
    read = read_features(tmp_path / f"f.{suffix}", "gallery")
    np.testing.assert_allclose(read.features, content.features, rtol=1e-6)
    assert (read.pids.tolist(), read.camids.tolist()) == (content.pids.tolist(), content.camids.tolist())
    assert read.names == content.names and read.normalised == content.normalised
    assert suffix == "csv" or (read.model, read.folder) == (content.model, content.folder)


def test_images_without_labels_are_ranked_but_not_scored(network, tmp_path, capsys):
    folder = tmp_path / "ünlabelled"
    folder.mkdir()
    for name in ("a b.png", "ö.png", "z.PNG"):
        Image.new("RGB", (16, 32), (100, len(name), 5)).save(folder / name)
    out, flags = str(tmp_path / "f.npz"), ["--checkpoint", str(network), "--size", "32x16"]
    assert main(["extract", *flags, "--images", str(folder), "--out", out]) == 0
    assert "3 images" in capsys.readouterr().out
    assert main(["score", out, out]) == 2
    assert "3 of 3 images have no known person" in line(capsys)
    assert main(["rank", "--query", out, "--gallery", out, "--out", str(tmp_path / "r.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "r.csv").open(encoding="utf-8")))
    assert len(rows) == 3 * 2  # no image finds itself
    assert {row["verdict"] for row in rows} == {""} and {row["pid"] for row in rows} == {""}


def test_people_from_folders(photos, tmp_path):
    samples = folder_samples(photos, "folders")
    assert [s.pid for s in samples] == [1] * 4 + [2] * 4 + [3] * 4
    Image.new("RGB", (4, 4)).save(tmp_path / "loose.png")
    with pytest.raises(InputError, match="loose.png"):
        folder_samples(tmp_path, "folders")
    with pytest.raises(InputError, match="names like 0002_c1"):
        folder_samples(tmp_path, "market")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--out", "f.txt"], "ends in .npz, .mat, .csv"),
        (["--size", "big"], "expected HEIGHTxWIDTH"),
        (["--workers", "-1"], "--workers -1: expected 0 to 4,096"),
        (["--batch", "0"], "--batch 0: expected 1 to 4,096"),
        (["--images", "absent"], "found nothing"),
        (["--checkpoint", "absent.pt"], "no such file"),
    ],
)
def test_bad_flags_of_extract_are_one_line(network, photos, tmp_path, capsys, arguments, words):
    flags = {"--checkpoint": str(network), "--images": str(photos), "--out": str(tmp_path / "f.npz")}
    flags |= dict([arguments])
    assert main(["extract", *(word for pair in flags.items() for word in pair)]) == 2
    assert words in line(capsys) and not (tmp_path / "f.npz").exists()


def test_a_folder_without_images_is_one_line(network, tmp_path, capsys):
    flags = ["--checkpoint", str(network), "--images", str(tmp_path), "--out", str(tmp_path / "f.npz")]
    assert main(["extract", *flags]) == 2
    assert "found none" in line(capsys)


def test_adabn_needs_two_images(network, photos, tmp_path, capsys):
    one = tmp_path / "one"
    one.mkdir()
    Image.new("RGB", (16, 32)).save(one / "a.png")
    out = tmp_path / "f.npz"
    flags = ["--checkpoint", str(network), "--size", "32x16", "--images", str(photos), "--out", str(out)]
    assert main(["extract", *flags, "--adabn", str(one)]) == 2
    assert "at least 2" in line(capsys)
    assert main(["extract", *flags]) == 0
    plain = load_features(out)
    assert main(["extract", *flags, "--adabn", str(photos)]) == 0
    adapted = load_features(out)
    assert " adabn " in adapted.model and not np.allclose(adapted.features, plain.features)
    with pytest.raises(InputError, match="AdaBN: expected at least 2 training images .* found 1"):
        sample = Sample(one / "a.png", 1, 0)
        adabn_on(thin_resnet(), [sample], EvalTransform(32, 16), torch.device("cpu"))


@pytest.mark.parametrize(
    "words, answer",
    [
        (["extract", "--chekpoint", "m.pt", "--images", "d", "--out", "f.npz"], "did you mean --checkpoint?"),
        (["extract", "--images", "d", "--out", "f.npz"], "required: --checkpoint"),
        (["score", "a.npz", "b.npz", "--trackets", "mean"], "did you mean --tracklets?"),
        (["score", "a.npz", "b.npz", "c.npz"], "unrecognized arguments: c.npz"),
        (["score", "a.npz", "b.npz", "--metric", "manhattan"], "invalid choice: 'manhattan'"),
        (["score", "a.npz", "b.npz", "--cut", "x"], "invalid int value: 'x'"),
        (["--out", "f.npz"], "invalid choice: 'f.npz'"),
        ([], "required: COMMAND"),
    ],
)
def test_wrong_words_are_one_line(words, answer, capsys):
    assert main(words) == 2
    printed = capsys.readouterr()
    assert answer in printed.err and printed.err.count("\n") == 1 and not printed.out


# ---------------------------------------------------------------- rank


@pytest.mark.parametrize("suffix", ["png", "csv", "html"])
def test_rank_an_image_in_a_folder(features, photos, tmp_path, suffix):
    path, flags = features
    query = photos / "0007" / "0007_c1s1_000001.png"
    command = ["rank", "--query", str(query), "--gallery", str(photos), "--top", "4", *flags]
    assert main([*command, "--out", str(tmp_path / f"r.{suffix}")]) == 0
    if suffix == "png":
        with Image.open(tmp_path / "r.png") as picture:
            assert picture.width > 5 * 64
    elif suffix == "html":
        page = (tmp_path / "r.html").read_text(encoding="utf-8")
        assert page.count("<figure") == 5 and "data:image/jpeg;base64," in page
    else:
        rows = list(csv.DictReader((tmp_path / "r.csv").open(encoding="utf-8")))
        assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
        assert query.name not in {row["image"].rsplit("/")[-1] for row in rows}
        distances = [float(row["distance"]) for row in rows]
        assert distances == sorted(distances)
        found = {(row["pid"], row["camid"]): row["verdict"] for row in rows}
        assert found[("7", "1")] == "right" and found[("7", "0")] == "junk"


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_nearest_are_those_of_a_full_sort(features, metric):
    content = load_features(features[0])
    rankings = rank(content, content, top=5, metric=metric)
    x = content.features.astype(np.float64)
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)
    if metric == "cosine":
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        distances = 1 - unit @ unit.T
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_allclose(rankings.distances, np.sort(distances, axis=1)[:, :5], atol=2e-3)


def test_rank_refuses_features_of_another_network(features, network, photos, tmp_path, capsys):
    path, flags = features
    command = ["rank", "--gallery", str(path), "--out", str(tmp_path / "r.png"), "--query"]
    assert main([*command, str(photos)]) == 2
    assert "need --checkpoint MODEL" in line(capsys)
    other = ["--checkpoint", str(network), "--size", "64x32"]
    assert main([*command, str(photos), *other]) == 2
    assert "expected features of one model" in line(capsys)
    assert main([*command, str(photos), *flags, "--top", "0"]) == 2
    assert "--top 0" in line(capsys)


def test_pictures_need_the_folder_of_the_images(features, photos, tmp_path, capsys):
    content = load_features(features[0])
    save_features(
        tmp_path / "bare.npz",
        content.features,
        content.pids,
        content.camids,
        content.names,
        normalised=content.normalised,
        model=content.model,
    )
    command = ["rank", "--query", str(features[0]), "--gallery", str(tmp_path / "bare.npz")]
    assert main([*command, "--out", str(tmp_path / "r.png")]) == 2
    assert "give --images DIR" in line(capsys)
    assert main([*command, "--out", str(tmp_path / "r.png"), "--images", str(photos)]) == 0


def test_tracklets_pool_each_person_and_camera(features, tmp_path):
    content = load_features(features[0])
    rows, pids, camids, firsts = pool_tracklets(content.features, content.pids, content.camids)
    assert pids.tolist() == [2, 2, 7, 7, 11, 11] and camids.tolist() == [0, 1] * 3
    assert firsts.tolist() == [0, 2, 4, 6, 8, 10]
    expected = content.features[:2].mean(axis=0)
    np.testing.assert_allclose(rows[0], expected / np.linalg.norm(expected), rtol=1e-5)
    command = ["rank", "--query", str(features[0]), "--gallery", str(features[0])]
    assert main([*command, "--tracklets", "max", "--out", str(tmp_path / "r.csv")]) == 0
    assert len((tmp_path / "r.csv").read_text(encoding="utf-8").splitlines()) == 1 + 6 * 5


def test_junk_distractors_and_unknown_people_are_no_tracklet():
    pids = np.array([-1, -1, 0, 0, 5, 5, -2, -2])
    rows, pooled, _, _ = pool_tracklets(np.eye(8), pids, np.zeros(8, int), pooling="max", normalise=False)
    assert pooled.tolist() == [-1, -1, 0, 0, 5, -2, -2]
    assert rows[4].tolist() == [0, 0, 0, 0, 1, 1, 0, 0]


# ---------------------------------------------------------------- score


def test_scores_of_both_rules_of_the_camera(features, capsys, tmp_path):
    path = str(features[0])
    content = load_features(path)
    arrays = content.features, content.pids, content.camids
    for flag, same_camera in (([], "remove"), (["--keep-same-camera"], "keep")):
        assert main(["score", path, path, *flag, "--out", str(tmp_path / "s.json")]) == 0
        expected = evaluate(*arrays, *arrays, same_camera=same_camera).scores()
        assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8")) == expected


def test_the_querys_own_camera_counts_on_request():
    query, gallery = (np.eye(3)[:1], [1], [4]), (np.eye(3), [1, 2, 1], [4, 4, 9])
    removed, kept = (evaluate(*query, *gallery, same_camera=rule) for rule in ("remove", "keep"))
    assert (removed.first_rank.tolist(), kept.first_rank.tolist()) == ([2], [1])
    with pytest.raises(InputError, match="expected 'remove' or 'keep'"):
        evaluate(*query, *gallery, same_camera="both")


def test_one_camera_needs_the_flag(tmp_path, capsys):
    arguments = dict(normalised=True, model="m")
    save_features(tmp_path / "f.npz", np.eye(4), [1, 1, 2, 2], [0] * 4, list("abcd"), **arguments)
    path = str(tmp_path / "f.npz")
    assert main([path, path]) == 2
    assert "--keep-same-camera" in line(capsys)
    assert main([path, path, "--keep-same-camera"]) == 0
    assert "R-1      100.00" in capsys.readouterr().out


def test_layumis_file_is_read_as_it_is(evaluator_inputs, tmp_path, capsys):
    queries, query_pids, query_camids, gallery, gallery_pids, gallery_camids = evaluator_inputs
    savemat(
        tmp_path / "pytorch_result.mat",
        {
            "gallery_f": gallery.astype(np.float32),
            "gallery_label": gallery_pids,
            "gallery_cam": gallery_camids + 1,
            "query_f": queries.astype(np.float32),
            "query_label": query_pids,
            "query_cam": query_camids + 1,
        },
    )
    assert main(["score", str(tmp_path / "pytorch_result.mat")]) == 0
    inputs = [x.astype(np.float32) if x.dtype == np.float64 else x for x in evaluator_inputs]
    assert f"mAP      {100 * evaluate(*inputs).mAP:6.2f}" in capsys.readouterr().out
    save_features(tmp_path / "f.npz", np.eye(2), [1, 1], [0, 1], ["a", "b"], normalised=True, model="m")
    assert main(["score", str(tmp_path / "f.npz")]) == 2
    assert "expected a second file" in line(capsys)


@pytest.mark.parametrize("columns", [True, False])
def test_files_of_the_market_code_are_read_as_they_are(evaluator_inputs, tmp_path, capsys, columns):
    queries, query_pids, query_camids, gallery, gallery_pids, gallery_camids = evaluator_inputs
    (tmp_path / "data").mkdir()
    (tmp_path / "feat").mkdir()
    for name, features in (("query", queries), ("test", gallery)):
        matrix = features.astype(np.float32)
        savemat(tmp_path / "feat" / f"IDE_{name}.mat", {"feat": matrix.T if columns else matrix})
    labels = {
        "queryID": query_pids,
        "queryCam": query_camids + 1,
        "testID": gallery_pids,
        "testCAM": gallery_camids + 1,
    }
    for name, numbers in labels.items():
        savemat(tmp_path / "data" / f"{name}.mat", {name: numbers.astype(float)[:, None]})
    files = [str(tmp_path / "feat" / f"IDE_{name}.mat") for name in ("query", "test")]
    inputs = [x.astype(np.float32) if x.dtype == np.float64 else x for x in evaluator_inputs]
    for flags in ([], ["--labels", str(tmp_path / "data")]):
        assert main(["score", *files, *flags]) == 0
        assert f"mAP      {100 * evaluate(*inputs).mAP:6.2f}" in capsys.readouterr().out
    assert main(["score", *files, "--labels", str(tmp_path / "feat")]) == 2
    assert "expected queryID.mat" in line(capsys)


def test_matlab_7_3_is_read(evaluator_inputs, tmp_path):
    h5py = pytest.importorskip("h5py")
    _, _, _, gallery, pids, camids = evaluator_inputs
    with h5py.File(tmp_path / "result.mat", "w", userblock_size=512) as file:
        file["gallery_f"], file["gallery_label"], file["gallery_cam"] = (
            gallery.T,
            pids[:, None],
            camids[:, None],
        )
    content = bytearray((tmp_path / "result.mat").read_bytes())
    content[:19] = b"MATLAB 7.3 MAT-file"
    (tmp_path / "result.mat").write_bytes(content)
    read = read_features(tmp_path / "result.mat", "gallery")
    np.testing.assert_allclose(read.features, gallery, rtol=1e-6)
    assert read.pids.tolist() == pids.tolist() and read.normalised


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("f.mat", b"MATLAB 5.0 MAT-file" + bytes(200), "no MATLAB file|expected query_f"),
        ("f.mat", b"\x89HDF\r\n\x1a\n" + bytes(100), "no MATLAB file"),
        ("f.mat", b"", "no MATLAB file"),
        ("f.csv", b"a,b\n1,2\n", "expected a table of name, pid, camid"),
        ("f.csv", b"name,pid,camid,f0\na.jpg,1,0\n", "line 2 has 3 of 4 columns"),
        ("f.csv", b"name,pid,camid,f0\na.jpg,x,0,1\n", "invalid literal"),
        ("f.csv", b"name,pid,camid,f0\n", "no line holds an image"),
        ("f.csv", b"name,pid,camid,f0\n\xff\xfe,1,0,1\n", "expected a table"),
        ("f.txt", b"", "expected a file of features"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        read_features(tmp_path / name, "query")
    assert name in str(error.value) and "\n" not in str(error.value)


def test_matlab_files_without_ids_or_with_other_lengths(tmp_path):
    savemat(tmp_path / "f.mat", {"query_f": np.eye(3), "query_label": [1, 2, 3]})
    with pytest.raises(InputError, match="no query_cam"):
        read_features(tmp_path / "f.mat", "query")
    savemat(tmp_path / "f.mat", {"query_f": np.eye(3), "query_label": [1, 2], "query_cam": [1, 2]})
    with pytest.raises(InputError, match="2 ids"):
        read_features(tmp_path / "f.mat", "query")
    savemat(tmp_path / "f.mat", {"query_f": np.eye(2), "query_label": [1, 2.5], "query_cam": [1, 2]})
    with pytest.raises(InputError, match="whole numbers"):
        read_features(tmp_path / "f.mat", "query")


@pytest.mark.parametrize("compressed", [True, False])
def test_the_reader_of_matlab_files_agrees_with_scipys(tmp_path, compressed):
    names = np.empty(2, dtype=object)
    names[:] = ["a.jpg", "öß 人.png"]
    saved = {
        "double": np.arange(6.0).reshape(2, 3),
        "single": np.ones((2, 2), np.float32),
        "whole": np.arange(-2, 3),
        "flags": np.array([True, False]),
        "names": names,
        "model": "thin 人",
        "struct": {"passed": "over"},
        "empty": np.zeros((0, 3)),
    }
    savemat(tmp_path / "a.mat", saved, do_compression=compressed)
    read, expected = read_matlab((tmp_path / "a.mat").read_bytes(), 1 << 20), loadmat(tmp_path / "a.mat")
    assert set(read) == set(saved) - {"struct"}
    for name in ("double", "single", "whole", "flags", "empty"):
        np.testing.assert_array_equal(read[name], expected[name])
    assert [str(name) for name in read["names"].ravel()] == names.tolist() and str(read["model"]) == "thin 人"


@pytest.mark.parametrize("compressed", [True, False])
def test_damage_in_a_matlab_file_never_ends_the_process(tmp_path, compressed):
    """SciPy's reader does: it takes lengths from the file unchecked."""
    saved = {"query_f": np.eye(4, dtype=np.float32), "query_label": [1, 2, 3, 4], "query_cam": [1] * 4}
    savemat(tmp_path / "a.mat", saved, do_compression=compressed)
    whole, damaged = (tmp_path / "a.mat").read_bytes(), tmp_path / "damaged.mat"
    for place in range(124, len(whole), 2):
        for value in (0, 255):
            damaged.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            with contextlib.suppress(InputError):
                read_features(damaged, "query")
        damaged.write_bytes(whole[:place])
        with contextlib.suppress(InputError):
            read_features(damaged, "query")


def test_a_matlab_file_that_unpacks_to_too_much_is_refused(tmp_path):
    savemat(tmp_path / "a.mat", {"query_f": np.zeros((1000, 1000))}, do_compression=True)
    with pytest.raises(ValueError, match="unpack to more than 1,000,000"):
        read_matlab((tmp_path / "a.mat").read_bytes(), 1_000_000)


# ---------------------------------------------------------------- export


def test_export_as_a_plain_state_dict(network, tmp_path, capsys):
    out = str(tmp_path / "plain.pt")
    assert main(["export", "--checkpoint", str(network), "--out", out]) == 0
    written, original = (torch.load(path, weights_only=True) for path in (out, network))
    assert written.keys() == original.keys()
    assert all(torch.equal(written[name], original[name]) for name in original)
    assert main(["export", "--checkpoint", str(network), "--out", "plain.zip"]) == 2


def test_torchvision_loads_what_was_exported(tmp_path, capsys):
    resnet = torchvision.models.resnet18(weights=None)
    state = {f"base.{name}": value for name, value in resnet.state_dict().items() if "fc." not in name}
    state |= {"feat.weight": torch.zeros(8, 512), "feat_bn.weight": torch.zeros(8)}
    torch.save({"state_dict": state}, tmp_path / "hhl.pt")
    out = tmp_path / "plain.pth"
    assert main(["export", "--checkpoint", str(tmp_path / "hhl.pt"), "--out", str(out)]) == 0
    fresh = torchvision.models.resnet18(weights=None)
    result = fresh.load_state_dict(torch.load(out, weights_only=True), strict=False)
    assert result.missing_keys == ["fc.weight", "fc.bias"] and not result.unexpected_keys
    assert torch.equal(fresh.layer4[1].conv2.weight, resnet.layer4[1].conv2.weight)


def test_export_as_onnx_computes_the_same(network, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    out = str(tmp_path / "thin.onnx")
    assert main(["export", "--checkpoint", str(network), "--out", out, "--size", "32x16", "--flip"]) == 0
    assert "differ from PyTorch's by at most" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(out)
    (features,) = session.run(None, {"images": np.zeros((5, 3, 32, 16), np.float32)})
    assert features.shape == (5, 128)


def test_an_onnx_file_that_differs_is_not_written(network, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("common.evaluation.exporting._difference", lambda *arguments: 2e-4)
    command = ["export", "--checkpoint", str(network), "--out", str(tmp_path / "m.onnx"), "--size", "32x16"]
    assert main(command) == 1
    assert "nothing was written" in line(capsys) and not (tmp_path / "m.onnx").exists()


def test_without_the_extra_the_command_names_it(network, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", "--checkpoint", str(network), "--out", str(tmp_path / "m.onnx")]) == 2
    assert "pip install -e '.[export]'" in line(capsys)


def test_score_and_rank_of_files_do_without_pytorch():
    code = (
        "import sys, common.evaluation.__main__, common.evaluation.formats, common.evaluation.retrieval;"
        "sys.exit(int('torch' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
