"""The tool on published sets: the VPS toolbox's, with and without the ends of clips, SvANet's and SSFormer's."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.tools.map_files import STEM, run, save
from tools import score_masks


def _published_set(golden, folder):
    """Writes the maps and masks of four clips; what the toolbox says of them."""
    expected = json.loads((golden / "metrics/vps_expected.json").read_text())["sequence"]
    with np.load(golden / "metrics/pairs.npz") as pairs:
        for video, names in expected["frames"].items():
            for index, name in enumerate(names, start=7):
                save(folder / f"pred/Unseen/{video}/{STEM.format(index)}.png", pairs[f"pred/{name}"])
                save(folder / f"gt/Unseen/GT/{video}/{STEM.format(index)}.png", pairs[f"gt/{name}"])
    return expected


def test_published_set_prints_the_published_text(golden, tmp_path, capsys):
    expected = _published_set(golden, tmp_path)
    names = ["--set", "TestEasyDataset-Unseen", "--method", "2022-MIR-PNSPlus"]
    assert run(tmp_path, "--protocol", "vps", *names, "--json", tmp_path / "new/out.json") == 0
    assert expected["printed"].strip() in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "new/out.json").read_text())["sets"]
    for name, value in expected["mean"].items():
        assert found["scores"]["vps"][name] == pytest.approx(value, abs=1e-6)


def test_methods_of_optical_flow_lack_the_ends_of_clips(golden, tmp_path, capsys):
    """The numbers of `vps` are of the other frames, with maps of the ends and without."""
    expected = _published_set(golden, tmp_path)
    assert run(tmp_path, "--protocol", "vps", "--json", tmp_path / "whole.json") == 0
    for video, names in expected["frames"].items():
        for index in (7, 6 + len(names)):
            (tmp_path / f"pred/Unseen/{video}/{STEM.format(index)}.png").unlink()
    assert run(tmp_path, "--protocol", "vps", "--json", tmp_path / "flow.json", "--out", tmp_path / "out") == 0
    assert "8 frames (" in (error := capsys.readouterr().err) and "at the ends of their clips" in error
    whole, flow = (json.loads((tmp_path / f"{name}.json").read_text())["sets"][0] for name in ("whole", "flow"))
    for name, value in expected["mean"].items():
        assert flow["scores"]["vps"][name] == pytest.approx(value, abs=1e-6)
    assert flow == whole
    for more in ("--protocol", "vps,lgrnet"), ("--protocol", "vps", "--instances", "frame"):
        assert run(tmp_path, *more) == 2
        assert "without a prediction" in capsys.readouterr().err
    told = ["--protocol", "vps,lgrnet", "--allow_missing", "--json", tmp_path / "two.json"]
    assert run(tmp_path, *told) == 0
    two = json.loads((tmp_path / "two.json").read_text())["sets"][0]
    assert two["scores"]["vps"] == whole["scores"]["vps"] and two["frames"] == 16
    assert two["split_hash"] != whole["split_hash"]
    (tmp_path / f"pred/Unseen/case1_1/{STEM.format(10)}.png").unlink()
    assert run(tmp_path, "--protocol", "vps") == 2
    assert f"1 frame (case1_1/{STEM.format(10)})" in capsys.readouterr().err


@pytest.mark.parametrize("count", [2, 5])
def test_published_set_of_class_indices(golden, tmp_path, count, capsys):
    """SvANet's masks and predictions hold class indices, and 255 is ignored."""
    with np.load(golden / "svanet/metrics_masks.npz") as stored:
        for i, (true, found) in enumerate(zip(stored[f"c{count}_target"], stored[f"c{count}_pred"], strict=True)):
            save(tmp_path / f"gt/{i:02d}.png", true.astype(np.uint8))
            save(tmp_path / f"pred/{i:02d}.png", found.astype(np.uint8))
            save(tmp_path / f"grey/{i:02d}.png", (found == 1).astype(np.uint8) * 255)
    published = json.loads((golden / "svanet/metrics.json").read_text())[f"c{count}_tiny_protocol"][-1]
    classes = ",".join(map(str, range(1, count)))
    told = ["--protocol", "svanet-size,lgrnet", "--ignore", "255", "--json", tmp_path / "o.json"]
    assert run(tmp_path, *told, "--classes", classes, "--out", tmp_path / "out") == 0
    result = (tmp_path / "o.json").read_text()
    scores = json.loads(result)["sets"][0]["scores"]["svanet-size"]
    percent = {"mDice": "dice", "mIoU": "iou", "mEM": "e_measure", "AvgRecall": "sensitivity", "AvgF2": "f2"}
    for theirs, ours in percent.items():
        assert 100 * scores[f"published_{ours}"] == pytest.approx(published[theirs], abs=1e-4), theirs
    assert scores["published_mae"] == pytest.approx(published["mAE"], rel=1e-5)
    if count == 2:
        assert scores["published_dice"] == pytest.approx(0.87063, abs=1e-5)
        grey = ["--pred", str(tmp_path / "grey"), "--gt", str(tmp_path / "gt"), *map(str, told), "--foreground", "1"]
        assert score_masks.main(grey) == 0
        assert json.loads((tmp_path / "o.json").read_text())["sets"][0]["scores"]["svanet-size"] == scores
        assert score_masks.main([*grey[:-2], "--classes", "1"]) == 2, "a predicted value is never ignored"
        assert "holds the values [255], unknown" in capsys.readouterr().err
    capsys.readouterr()
    for more, message in (
        (("--ignore", "255"), "--ignore goes with --foreground or --classes"),
        (("--classes", "1", "--foreground", "1"), "give --foreground or --classes"),
        (("--classes", "1,255", "--ignore", "255"), "255 twice"),
        (("--classes", "1", "--ignore", "255", "--instances", "frame"), "--instances is for grey maps"),
        (("--classes", "7", "--ignore", "255"), "unknown to the label map"),
    ):
        assert run(tmp_path, "--protocol", "svanet-size", *more) == 2
        assert message in capsys.readouterr().err


def test_sets_of_still_images_weigh_the_same(shared, tmp_path, capsys):
    """SSFormer's score is the plain mean over five sets, however many images each has."""
    source = shared / "golden/ssformer"
    expected = json.loads((source / "e2e_test_py.json").read_text())
    with np.load(source / "e2e_test_py.npz") as stored:
        for name in expected["order"]:
            paths = sorted((source / f"e2e/TestDataset/{name}/masks").iterdir())
            for i, path in enumerate(paths):
                save(tmp_path / f"pred/{name}/{path.stem}.png", (stored[f"{name}/{i}/prob"] > 0.5) * np.uint8(255))
                save(tmp_path / f"gt/TestDataset/{name}/masks/{path.name}", np.array(Image.open(path)))
    told = ["--protocol", "ssformer-test,pranet,plain", "--allow_missing", "--json", tmp_path / "o.json"]
    assert run(tmp_path, *told) == 0
    means = json.loads((tmp_path / "o.json").read_text())["mean_over_folders"]
    assert means["ssformer-test"]["mean_dice"] == pytest.approx(expected["average"], abs=1e-9)
    (tmp_path / f"pred/{name}/{path.stem}.png").unlink()
    assert run(tmp_path, *told, "--out", tmp_path / "out") == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "o.json").read_text())
    scores = {(n["video"], n["protocol"], n["metric"]): n["value"] for n in found["sets"][0]["numbers"]}
    for i, name in enumerate(expected["order"][:-1]):
        assert scores[name, "ssformer-test", "mean_dice"] == pytest.approx(expected["dice"][i], abs=1e-9)
    for protocol, metric in (("ssformer-test", "mean_dice"), ("pranet", "mDice")):
        mean = np.mean([scores[name, protocol, metric] for name in expected["order"]])
        assert found["mean_over_folders"][protocol][metric] == pytest.approx(mean, abs=1e-12)
        assert abs(scores[None, protocol, metric] - mean) > 1e-4, "images together"
    assert set(found["mean_over_folders"]) == {"ssformer-test", "pranet"}
    assert capsys.readouterr().out.count("mean over the 5 folders, each of the same weight: ") == 2 * 2


def test_seen_and_unseen_clips_weigh_the_same(golden, tmp_path, capsys):
    """Papers print the plain mean of the numbers of SUN-SEG's two folders, each scored alone."""
    expected = _published_set(golden, tmp_path / "all")
    for number, video in enumerate(expected["frames"]):
        part = "Seen" if number == 0 else "Unseen"
        for path in (tmp_path / "all/gt/Unseen/GT" / video).iterdir():
            save(tmp_path / f"gt/Easy/{part}/GT/{video}/{path.name}", np.array(Image.open(path)))
    shutil.copytree(tmp_path / "all/pred", tmp_path / "pred")
    told = ["--protocol", "vps,lgrnet", "--json", tmp_path / "o.json"]
    alone = []
    for part in ("Seen", "Unseen"):
        gt = ["--pred", tmp_path / "pred", "--gt", tmp_path / "gt/Easy" / part, *told]
        assert score_masks.main(list(map(str, gt))) == 0
        found = json.loads((tmp_path / "o.json").read_text())
        assert found["mean_over_sets"] == {} and "mean over 2" not in capsys.readouterr().out
        alone.append(found["sets"][0]["scores"])
    assert run(tmp_path, *told, "--set", "easy", "--out", tmp_path / "out") == 0
    label = "easy: mean over 2 sets (Easy/Seen, Easy/Unseen)"
    ((name, means),) = json.loads((tmp_path / "o.json").read_text())["mean_over_sets"].items()
    assert name == label and set(means) == {"vps", "lgrnet"}
    for protocol, metric in (("vps", "maxDice"), ("vps", "Smeasure"), ("lgrnet", "dice")):
        mean = (alone[0][protocol][metric] + alone[1][protocol][metric]) / 2
        assert means[protocol][metric] == pytest.approx(mean, abs=1e-12)
        pooled = json.loads((tmp_path / "o.json").read_text())["sets"][0]["scores"][protocol][metric]
        assert abs(pooled - mean) > 1e-4
    printed = capsys.readouterr().out
    assert printed.count(f"{label}, each of the same weight: ") == 2
    assert f"maxDice {means['vps']['maxDice']:.4f}" in printed
    line = f"| {label} |  |  |  | {means['lgrnet']['dice']:.4f} |"
    assert line in (tmp_path / "out/report.md").read_text()
    assert label in (tmp_path / "out/report.html").read_text()
