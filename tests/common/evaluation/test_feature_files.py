"""Feature files survive, refuse damage, and give the same scores as the arrays."""

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.evaluation.__main__ import main
from common.evaluation.features import evaluate_files, load_features, save_features
from common.evaluation.ranking import evaluate


@pytest.fixture
def files(tmp_path, evaluator_inputs):
    queries, query_pids, query_camids, gallery, gallery_pids, gallery_camids = evaluator_inputs
    for name, features, pids, camids in (
        ("query", queries, query_pids, query_camids),
        ("gallery", gallery, gallery_pids, gallery_camids),
    ):
        save_features(
            tmp_path / f"{name}.npz",
            features,
            pids,
            camids,
            [f"{i}.jpg" for i in range(len(pids))],
            normalised=True,
            model="toy pool5",
        )
    return tmp_path / "query.npz", tmp_path / "gallery.npz"


def test_round_trip(tmp_path):
    save_features(
        tmp_path / "deep" / "a.npz",
        torch.ones(2, 3),
        [1, -1],
        [0, 5],
        ["a.jpg", "ä.jpg"],
        normalised=False,
        model="m",
    )
    content = load_features(tmp_path / "deep" / "a.npz")
    assert content.features.dtype == np.float32 and content.features.tolist() == [[1, 1, 1]] * 2
    assert content.pids.tolist() == [1, -1] and content.camids.tolist() == [0, 5]
    assert (content.names, content.normalised, content.model) == (("a.jpg", "ä.jpg"), False, "m")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.npz"]


def test_files_score_as_arrays_do(files, evaluator_inputs):
    inputs = [x.astype(np.float32) if x.dtype == np.float64 else x for x in evaluator_inputs]
    assert evaluate_files(*files, metric="cosine").scores() == evaluate(*inputs, metric="cosine").scores()


def test_damage_is_named(files):
    query, gallery = files
    whole = query.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"text", whole[:300] + bytes(200) + whole[500:]):
        query.write_bytes(damaged)
        with pytest.raises(InputError, match="query.npz"):
            load_features(query)
    np.savez(query, features=np.ones((2, 2)))
    with pytest.raises(InputError, match="expected a feature file with the arrays"):
        load_features(query)


def test_a_refused_write_leaves_the_old_file(files):
    before = files[0].read_bytes()
    with pytest.raises(InputError, match="N ids"):
        save_features(files[0], np.ones((3, 2)), [1, 2], [0, 0], ["a", "b"], normalised=True, model="m")
    assert files[0].read_bytes() == before


def test_files_of_two_models_are_refused(files, tmp_path):
    save_features(tmp_path / "other.npz", np.ones((1, 16)), [1], [0], ["a"], normalised=True, model="other")
    with pytest.raises(InputError, match="one model"):
        evaluate_files(files[0], tmp_path / "other.npz")


def test_command_prints_scores(files, capsys):
    assert main([str(files[0]), str(files[1]), "--rerank", "--metric", "cosine", "--cut", "200"]) == 0
    printed = capsys.readouterr().out
    expected = evaluate_files(*files, rerank=True, metric="cosine", cut=200)
    assert f"mAP      {100 * expected.mAP:6.2f}" in printed and "39 of 40 queries" in printed


def test_command_ends_with_one_line_for_bad_input(files, capsys):
    assert main([str(files[0]), "absent.npz"]) == 2
    error = capsys.readouterr().err
    assert "absent.npz" in error and error.count("\n") == 1
