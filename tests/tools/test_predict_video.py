"""The command on a folder, an image and a video file, with a small model that has random weights."""

import importlib.util
import subprocess
import sys
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from lgrnet.checkpoint.weights import save_weights
from lgrnet.config import build, builds, to_json
from lgrnet.inference.predictor import Predictor
from lgrnet.models.backbones import MixTransformer, TimmBackbone
from lgrnet.models.lgr_encoder import LGREncoder
from lgrnet.models.lgrnet import LGRNet
from lgrnet.models.resnet import ResNetBackbone
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.ssformer import SSFormer
from lgrnet.models.still_decoders import ProgressiveLocalityDecoder
from lgrnet.models.svanet import SvANet
from lgrnet.models.video_decoder import VideoDecoder
from lgrnet.records import read_frame, read_mask, write_frame

TOOL = Path(__file__).resolve().parents[2] / "tools" / "predict_video.py"
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("predict_video", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    node = OmegaConf.structured(
        builds(
            LGRNet,
            backbone=builds(TimmBackbone, name="pvt_v2_b0"),
            encoder=builds(LGREncoder, dim=32, depth=1, hidden=32, num_frame_queries=4, zen_partial=True),
            decoder=builds(VideoDecoder, dim=32, num_queries=3),
        )
    )
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    torch.manual_seed(0)
    save_weights(path, build(node).state_dict(), to_json(node), {"input_size": [64, 96]})
    return path


def test_folder_of_frames(tool, weights, tmp_path, capsys):
    for index, frame in enumerate(FRAMES):
        write_frame(tmp_path / "case 1" / f"f{index}.png", frame)
    out = tmp_path / "out"
    assert tool.main([str(tmp_path / "case 1"), "--out", str(out), "--weights", str(weights)]) == 0
    masks = [read_mask(out / "masks" / "case 1" / f"f{i}.png") for i in range(3)]
    assert all(mask.shape == (50, 70) and set(np.unique(mask)) <= {0, 255} for mask in masks)
    assert read_frame(out / "overlays" / "case 1" / "f2.jpg").shape == (50, 70, 3)
    printed = capsys.readouterr().out
    assert "case 1: 3 frames of 50 x 70" in printed and "64 x 96" in printed
    sheet = next(line for line in printed.splitlines() if line.startswith("sheet")).split(maxsplit=1)[1]
    assert Path(sheet).is_file()


def test_in_bfloat16_the_masks_are_nearly_the_same(tool, weights, tmp_path, capsys):
    write_frame(tmp_path / "v" / "a.png", FRAMES[0])
    for precision in ("fp32", "bf16"):
        given = [str(tmp_path / "v"), "--out", str(tmp_path / precision), "--weights", str(weights)]
        assert tool.main([*given, "--precision", precision]) == 0
    exact, half = (read_mask(tmp_path / name / "masks" / "v" / "a.png") for name in ("fp32", "bf16"))
    assert (exact != half).mean() < 0.1


def test_one_image_at_another_size(tool, weights, tmp_path, capsys):
    write_frame(tmp_path / "polyp.png", FRAMES[0])
    arguments = [
        str(tmp_path / "polyp.png"),
        "--out",
        str(tmp_path / "o"),
        "--weights",
        str(weights),
        "--size",
        "40",
        "50",
    ]
    assert tool.main(arguments) == 0
    assert read_mask(tmp_path / "o" / "masks" / "polyp" / "polyp.png").shape == (50, 70)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert f"40 x 50, on {device})" in capsys.readouterr().out


def test_video_file_with_a_damaged_packet(tool, weights, tmp_path, capsys):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, options={"g": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(6):
            frame = np.random.default_rng(1).integers(0, 256, (64, 96, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        start, size = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][2]
    data = bytearray(path.read_bytes())
    data[start : start + size] = bytes(size)
    path.write_bytes(data)
    assert tool.main([str(path), "--out", str(tmp_path / "out"), "--weights", str(weights)]) == 0
    written = sorted(p.name for p in (tmp_path / "out" / "masks" / "clip").iterdir())
    assert written == ["000000.png", "000001.png", "000003.png", "000004.png", "000005.png"]
    assert "damaged   packet 2 at 0.20 s" in capsys.readouterr().out


def small_ssformer():
    decoder = builds(ProgressiveLocalityDecoder, dim=16, zen_partial=True)
    net = builds(SSFormer, backbone=builds(MixTransformer, name="mit_b0"), decoder=decoder)
    return builds(PerFrame, net=net, decision="sigmoid")


def small_svanet(classes):
    statistics = dict(pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1.0, 1.0, 1.0))
    net = builds(SvANet, backbone=builds(ResNetBackbone, name="resnet18"), num_classes=1 + classes, image_size=64)
    return builds(PerFrame, net=net, chunk=1, decision="softmax", **statistics)


@pytest.mark.parametrize(
    "model, resize, values",
    [
        (small_ssformer, "bilinear", {0, 255}),
        (partial(small_svanet, 1), "bicubic", {0, 255}),
        (partial(small_svanet, 2), "bicubic", {0, 1, 2}),
    ],
    ids=["SSFormer", "SvANet", "SvANet, two classes"],
)
def test_still_models_on_a_video(tool, model, resize, values, tmp_path, capsys, monkeypatch):
    """Frames come to the model as its weights file says; frames by themselves give the same masks."""
    node = OmegaConf.structured(model())
    torch.manual_seed(0)
    meta = {"input_size": [64, 64], "input_resize": resize}
    save_weights(tmp_path / "w.safetensors", build(node).state_dict(), to_json(node), meta)
    for index, frame in enumerate(FRAMES):
        write_frame(tmp_path / "case" / f"f{index}.png", frame)
    made = []

    def spied(*arguments, **options):
        made.append(Predictor(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(tool, "Predictor", spied)
    out = tmp_path / "out"
    command = [str(tmp_path / "case"), "--out", str(out), "--weights", str(tmp_path / "w.safetensors"), "--chunk", "2"]
    assert tool.main(command) == 0
    assert (made[0].size, made[0].resize, made[0].model.frame_chunk) == ((64, 64), resize, 2)
    masks = np.stack([read_mask(out / "masks" / "case" / f"f{i}.png") for i in range(3)])
    assert masks.shape == (3, 50, 70) and set(np.unique(masks)) <= values
    alone = made[0].predict_frames(FRAMES[1])
    assert ((masks[1] > 0) == alone.mask[:, 0].any(axis=0)).mean() > 0.999
    assert "case: 3 frames of 50 x 70" in capsys.readouterr().out
    assert tool.main([*command[:-1], "0", "--overwrite"]) == 2
    assert "chunk is 0" in capsys.readouterr().err


@pytest.mark.parametrize("given, message", [("nothing", "does not exist"), ("notes.mp4", "cannot be opened")])
def test_input_that_is_no_video(tool, weights, tmp_path, capsys, given, message):
    (tmp_path / "notes.mp4").write_text("no video")
    assert tool.main([str(tmp_path / given), "--out", str(tmp_path / "out"), "--weights", str(weights)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_exist(tool, tmp_path, capsys):
    write_frame(tmp_path / "polyp.png", FRAMES[0])
    arguments = [
        str(tmp_path / "polyp.png"),
        "--out",
        str(tmp_path / "o"),
        "--weights",
        str(tmp_path / "w.safetensors"),
    ]
    assert tool.main(arguments) == 2
    assert "w.safetensors" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_device_that_is_not_there(tool, weights, tmp_path, capsys):
    write_frame(tmp_path / "polyp.png", FRAMES[0])
    given = [str(tmp_path / "polyp.png"), "--out", str(tmp_path / "o"), "--weights", str(weights), "--device", "cuda"]
    assert tool.main(given) == 2
    assert "PyTorch sees no GPU here; use device cpu" in capsys.readouterr().err


# Starts a script as from a bare clone: neither an installed package nor the folder of the caller may help.
BARE = """
import runpy, sys
root, script = sys.argv[1:]
sys.path[:] = [path for path in sys.path if path != root]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.argv = [script, "--help"]
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    print(sys.modules["lgrnet"].__file__, end.code)
"""


@pytest.mark.parametrize(
    "script",
    ["tools/predict_video.py", "tools/convert_official.py", "data_prep/vocalfolds.py", "tools/pack_weights.py"],
)
def test_scripts_start_in_a_bare_clone(script, tmp_path):
    root = TOOL.parents[1]
    command = [sys.executable, "-I", "-c", BARE, str(root), str(root / script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("usage: "), done.stderr
    assert done.stdout.splitlines()[-1] == f"{root / 'lgrnet' / '__init__.py'} 0"


def test_a_wrong_device_or_place_is_one_line(tool, weights, tmp_path, capsys):
    write_frame(tmp_path / "v" / "a.png", FRAMES[0])
    given = [str(tmp_path / "v"), "--weights", str(weights), "--out"]
    assert tool.main([*given, str(tmp_path / "out"), "--device", "gpu"]) == 2
    assert capsys.readouterr().err == "error: device is 'gpu'; expected cpu or cuda\n"
    (tmp_path / "file").write_text("")
    assert tool.main([*given, str(tmp_path / "file")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: cannot use {tmp_path / 'file'}") and error.endswith("check INPUT and --out\n")


@pytest.mark.parametrize(
    "size, says",
    [(("0", "64"), "(0, 64)"), (("64", "-8"), "(64, -8)"), (("100000", "100000"), "at most 64000000 pixels")],
)
def test_a_size_that_cannot_be_is_one_line(tool, weights, tmp_path, capsys, size, says):
    write_frame(tmp_path / "v" / "a.png", FRAMES[0])
    given = [str(tmp_path / "v"), "--weights", str(weights), "--out", str(tmp_path / "out"), "--size", *size]
    assert tool.main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: size is ") and says in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_earlier_run_is_kept_unless_it_is_to_be_removed(tool, weights, tmp_path, capsys):
    """Masks of two videos of one name do not mix."""
    for index, frame in enumerate(FRAMES):
        write_frame(tmp_path / "a" / "clip" / f"f{index}.png", frame)
    write_frame(tmp_path / "b" / "clip" / "f0.png", FRAMES[2])
    out = tmp_path / "out"
    given = ["--out", str(out), "--weights", str(weights)]
    assert tool.main([str(tmp_path / "a" / "clip"), *given]) == 0
    (out / "masks" / "clip" / "notes.txt").write_text("kept")
    first = (out / "masks" / "clip" / "f0.png").read_bytes()
    assert tool.main([str(tmp_path / "b" / "clip"), *given]) == 2
    assert "masks/clip holds files of an earlier run; give another --out, or --overwrite" in capsys.readouterr().err
    assert (out / "masks" / "clip" / "f0.png").read_bytes() == first
    assert tool.main([str(tmp_path / "b" / "clip"), *given, "--overwrite"]) == 0
    assert {p.name for p in (out / "masks" / "clip").iterdir()} == {"f0.png", "notes.txt"}
    assert [p.name for p in (out / "overlays" / "clip").iterdir()] == ["f0.jpg"]


@pytest.mark.parametrize("folder", ["masks", "overlays"])
def test_frames_are_never_overwritten(tool, weights, tmp_path, capsys, folder):
    source = tmp_path / "study" / folder / "clip"
    write_frame(source / "f0.png", FRAMES[0])
    before = (source / "f0.png").read_bytes()
    given = [str(source), "--out", str(tmp_path / "study"), "--weights", str(weights), "--overwrite"]
    assert tool.main(given) == 2
    assert "would be overwritten; give another --out" in capsys.readouterr().err
    assert [p.name for p in source.iterdir()] == ["f0.png"] and (source / "f0.png").read_bytes() == before


def test_names_that_are_no_utf8_and_names_of_many_bytes(tool, weights, tmp_path, capsys):
    folder = tmp_path / ("\u80a0" * 82)  # 246 bytes
    folder.mkdir()
    write_frame(tmp_path / "a.png", FRAMES[0])
    for name in ("caf\udce9.png", "\u80a0" * 80 + ".png"):
        try:
            (folder / name).hardlink_to(tmp_path / "a.png")
        except OSError:
            pytest.skip("this file system takes no such names")
    assert tool.main([str(folder), "--out", str(tmp_path / "out"), "--weights", str(weights)]) == 0
    assert "2 frames of 50 x 70" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "overlays").glob("*_sheet.png"))) == 1


def test_pictures_that_viewers_turn_are_told_of(tool, weights, tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(FRAMES[0]).save(tmp_path / "x.jpg", exif=exif)
    assert tool.main([str(tmp_path / "x.jpg"), "--out", str(tmp_path / "out"), "--weights", str(weights)]) == 0
    assert "turned    1 picture (x.jpg) by viewers (EXIF); masks fit them as stored" in capsys.readouterr().out
    assert read_mask(tmp_path / "out/masks/x/x.png").shape == FRAMES[0].shape[:2]


def test_pictures_that_are_no_video_may_differ_in_size(tool, weights, tmp_path, capsys):
    for index, size in enumerate(((50, 70), (33, 41), (64, 64))):
        write_frame(tmp_path / "stills" / f"p{index}.png", FRAMES[index, : size[0], : size[1]].repeat(2, 0)[:, :64])
    out = tmp_path / "out"
    given = [str(tmp_path / "stills"), "--out", str(out), "--weights", str(weights)]
    assert tool.main(given) == 2
    assert "the frames of a video have one size. Pictures that are no video" in capsys.readouterr().err
    assert tool.main([*given, "--stills"]) == 0
    assert "stills: 3 pictures, a lesion in" in capsys.readouterr().out
    for index in range(3):
        frame = read_frame(tmp_path / "stills" / f"p{index}.png")
        assert read_mask(out / "masks/stills" / f"p{index}.png").shape == frame.shape[:2]
        assert read_frame(out / "overlays/stills" / f"p{index}.jpg").shape == frame.shape
        alone = ["--out", str(tmp_path / f"alone{index}"), "--weights", str(weights)]
        assert tool.main([str(tmp_path / "stills" / f"p{index}.png"), *alone]) == 0
        same = tmp_path / f"alone{index}/masks/p{index}/p{index}.png"
        assert same.read_bytes() == (out / "masks/stills" / f"p{index}.png").read_bytes()
    assert (out / "overlays/stills_sheet.png").is_file()
    for index in range(2):
        path = tmp_path / "stills" / f"p{index}.png"
        path.write_bytes(path.read_bytes()[:200])
    assert tool.main([*given, "--stills", "--overwrite"]) == 0
    said = capsys.readouterr().out
    assert "stills: 1 pictures" in said and said.count("damaged   ") == 2 and "p1.png" in said
    assert [path.name for path in (out / "masks/stills").iterdir()] == ["p2.png"]
    (tmp_path / "stills/p2.png").write_bytes(b"no picture")
    kept = (out / "masks/stills/p2.png").read_bytes()
    assert tool.main([*given, "--stills", "--overwrite"]) == 2
    assert "none of the pictures in stills can be read; " in capsys.readouterr().err
    assert (out / "masks/stills/p2.png").read_bytes() == kept
    (tmp_path / "clip.mp4").write_text("x")
    assert tool.main([str(tmp_path / "clip.mp4"), "--out", str(out), "--weights", str(weights), "--stills"]) == 2
    assert "--stills is for a folder of pictures" in capsys.readouterr().err
