"""Whole trainings on detectron2: by a yaml, by its own script for lazy configs, and step by step against ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lgrnet.data import phantom
from lgrnet.data.datasets import ClipDataset, video_folder
from lgrnet.data.loader import ClipLoader
from lgrnet.data.samplers import Window
from lgrnet.data.transforms import Resize
from lgrnet.engine.optim import adamw, constant
from lgrnet.engine.settings import TrainSettings
from lgrnet.engine.trainer import Hook, Trainer

pytestmark = pytest.mark.peer
ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "lgrnet" / "detectron2_bridge" / "configs"
# As many steps of warm-up in both: the lazy config counts them in parts of max_iter.
YAML = "SOLVER.IMS_PER_BATCH 2 SOLVER.CHECKPOINT_PERIOD 25 TEST.EVAL_PERIOD 25 INPUT.CLIP.SIZE (64,64)".split()
LAZY = "dataloader.train.batch_size=2 train.checkpointer.period=25 train.eval_period=25 dataloader.size=[64,64]".split()
LAZY.append("lr_multiplier.warmup_length=0.4")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder with phantom clips in data/phantom; runs go there."""
    root = tmp_path_factory.mktemp("bridge")
    phantom.write(root / "data" / "phantom", num_clips=4, num_frames=3, size=64)
    return root


def detectron2_folder() -> Path:
    import detectron2

    return Path(detectron2.__file__).resolve().parents[1]


def run(folder: Path, *words: str | Path) -> str:
    """What a command says; it must end well."""
    paths = [str(ROOT), str(detectron2_folder()), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, words)], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    return done.stdout + done.stderr


def by_yaml(folder: Path, *words: str) -> str:
    command = ("-m", "lgrnet.detectron2_bridge.train_net", "--config-file", CONFIGS / "phantom.yaml")
    return run(folder, *command, *[w for w in words if w.startswith("--")], *YAML, *[w for w in words if w[0] != "-"])


def by_lazy(folder: Path, *words: str) -> str:
    script = detectron2_folder() / "tools" / "lazyconfig_train_net.py"
    if not script.is_file():
        pytest.skip(f"needs {script}: detectron2 from its source")
    return run(folder, script, "--config-file", CONFIGS / "phantom_lazy.py", *words, *LAZY)


def curve(folder: Path) -> dict[int, dict]:
    """Iteration -> what detectron2 wrote about it."""
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return {line["iteration"]: line for line in lines}


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["model"]


@pytest.fixture(scope="module")
def trained(data) -> Path:
    """The folder of 50 steps by the yaml."""
    by_yaml(data, "SOLVER.MAX_ITER", "50", "OUTPUT_DIR", "yaml")
    return data / "yaml"


def test_a_yaml_trains_saves_and_evaluates(data, trained):
    lines = curve(trained)
    assert lines[49]["total_loss"] < 0.8 * lines[19]["total_loss"]
    assert {f"loss_{name}" for name in ("mask_bce", "mask_dice", "class_ce")} <= set(lines[49])
    assert (trained / "model_0000024.pth").is_file() and (trained / "model_final.pth").is_file()
    report = json.loads((trained / "inference" / "phantom_test" / "report.json").read_text())
    dice = report["sets"][0]["scores"]["lgrnet"]["dice"]
    assert lines[50]["lgrnet/dice"] == pytest.approx(100 * dice)
    said = by_yaml(data, "--eval-only", "MODEL.WEIGHTS", "yaml/model_final.pth", "OUTPUT_DIR", "evaluated")
    assert f"{100 * dice:.4f}," in said


def test_a_resumed_training_is_the_uninterrupted_one(data, trained):
    folder = data / "stopped"
    folder.mkdir()
    shutil.copy(trained / "model_0000024.pth", folder)
    (folder / "last_checkpoint").write_text("model_0000024.pth")
    said = by_yaml(data, "--resume", "SOLVER.MAX_ITER", "50", "OUTPUT_DIR", "stopped")
    assert "Starting training from iteration 25" in said
    whole, resumed = weights(trained / "model_final.pth"), weights(folder / "model_final.pth")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_lazy_script_trains_the_same_and_goes_on(data, trained):
    by_lazy(data, "train.max_iter=50", "train.output_dir=lazy")
    ours, theirs = curve(trained), curve(data / "lazy")
    for step in (19, 39, 49):
        for name in ("total_loss", "loss_mask_dice", "lr"):
            assert theirs[step][name] == pytest.approx(ours[step][name], rel=1e-6), (step, name)
    said = by_lazy(data, "--resume", "train.max_iter=60", "train.output_dir=lazy")
    assert "Starting training from iteration 50" in said and 59 in curve(data / "lazy")
    said = by_lazy(data, "--eval-only", "train.init_checkpoint=lazy/model_final.pth", "train.output_dir=lazy")
    assert f"'dice': {curve(data / 'lazy')[60]['lgrnet/dice']}" in said


class Losses(Hook):
    def __init__(self):
        self.totals = []

    def after_step(self, trainer, record):
        self.totals.append(record.total)


def test_steps_are_those_of_our_own_trainer(data, cfg, tmp_path):
    from lgrnet.detectron2_bridge.catalog import register_layouts
    from lgrnet.detectron2_bridge.train_net import ClipTrainer

    register_layouts(data / "data")
    cfg.INPUT.CLIP.SIZE, cfg.INPUT.CLIP.SIZES, cfg.INPUT.CLIP.NUM_FRAMES = [64, 64], [64, 96], 3
    cfg.INPUT.CLIP.SAMPLER, cfg.INPUT.CLIP.AUGMENTATION, cfg.INPUT.CLIP.ANCHOR_STEP = "Window", ["Resize"], 1
    cfg.DATASETS.TRAIN, cfg.DATALOADER.NUM_WORKERS, cfg.OUTPUT_DIR = ("phantom_train",), 0, str(tmp_path)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SEED = 2, 5, (), 7
    cfg.MODEL.PVTV2.DROP_PATH = 0.2
    theirs = ClipTrainer(cfg)

    model, criterion = ClipTrainer.build_model(cfg).model, theirs.model.criterion
    model.load_state_dict(theirs.model.state_dict())
    dataset = ClipDataset(video_folder(data / "data" / "phantom" / "train"), Window(3), [Resize(64)])
    optimizer = adamw(model, 1e-3, 0.1, 1e-4)
    settings = TrainSettings(steps=5, batch_size=2, save_every=5, seed=7, sizes=(64, 96), clip_norm=0.01)
    ours = Trainer(model, criterion, optimizer, constant(optimizer), ClipLoader(dataset, 2, 7), settings)
    losses = Losses()
    ours.run([losses])

    theirs.train()
    found = [value for value, _ in theirs.storage.history("total_loss").values()]
    assert found == pytest.approx(losses.totals, rel=1e-6)
    assert len(set(found)) == 5


def test_the_published_settings_are_the_same_three_times():
    from detectron2.config import LazyConfig, instantiate

    from lgrnet.config import build, load_config
    from lgrnet.detectron2_bridge.train_net import ClipTrainer, setup

    cfg = setup(str(CONFIGS / "sunseg_lgrnet_pvtv2_b2.yaml"), ["MODEL.DEVICE", "cpu"])
    lazy, own = (
        LazyConfig.load(str(CONFIGS / "sunseg_lazy.py")),
        load_config(ROOT / "configs/sunseg/lgrnet_pvtv2_b2.py"),
    )
    models = [ClipTrainer.build_model(cfg), instantiate(lazy.model), build(own.model)]
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in models]
    assert shapes[0] == shapes[1] == shapes[2]
    losses = [models[0].criterion, models[1].criterion, build(own.criterion)]
    settings = [{k: v for k, v in vars(loss).items() if k != "matcher"} for loss in losses]
    assert settings[0] == settings[1] == settings[2]
    assert vars(losses[0].matcher) == vars(losses[1].matcher) == vars(losses[2].matcher)

    lazy.optimizer.params.model = models[1]
    optimizers = [
        ClipTrainer.build_optimizer(cfg, models[0]),
        instantiate(lazy.optimizer),
        build(own.optimizer)(models[2]),
    ]
    groups = [[(g["lr"], g["weight_decay"], len(g["params"])) for g in made.param_groups] for made in optimizers]
    assert groups[0] == groups[1] == groups[2]
    assert cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE == lazy.optimizer.max_norm == own.train.clip_norm
    assert list(cfg.SOLVER.STEPS) == list(lazy.lr_multiplier.milestones) == list(own.schedule.milestones)
    assert cfg.SOLVER.MAX_ITER == lazy.train.max_iter == own.train.steps
    assert models[0].sizes == models[1].sizes == tuple(own.train.sizes)
    steps = cfg.INPUT.CLIP.ANCHOR_STEP, lazy.dataloader.train.anchor_step, own.data.train.anchor_step
    assert set(steps) == {6} and cfg.SOLVER.IMS_PER_BATCH == lazy.dataloader.train.batch_size == own.train.batch_size


def test_a_lazy_config_knows_its_keys():
    from detectron2.config import LazyConfig

    for name in ("phantom_lazy.py", "sunseg_lazy.py"):
        cfg = LazyConfig.load(str(CONFIGS / name))
        LazyConfig.apply_overrides(cfg, ["train.max_iter=3", "model.sizes=[64]"])
        for wrong in ("train.max_iters", "model.criterion.num_point", "dataloader.train.mapper.sise"):
            with pytest.raises(AttributeError, match=wrong.rpartition(".")[2]):
                LazyConfig.apply_overrides(cfg, [f"{wrong}=3"])


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["DATASETS.TRAIN", "('phantom_trian',)"],
            "'phantom_trian' is not registered; the nearest names are phantom",
        ),
        (["SOLVER.MAX_ITERS", "3"], "no key 'SOLVER.MAX_ITERS'; the nearest are SOLVER.MAX_ITER"),
        (["INPUT.CLIP.SAMPLER", "Windows"], "INPUT.CLIP.SAMPLER names 'Windows'; expected one of LocalGlobal"),
        (["MODEL.META_ARCHITECTURE", "LGRnet"], "'LGRnet', which is not registered; the nearest are LGRNet"),
        (["MODEL.BACKBONE.NAME", "PVT"], "'PVT', which is not registered; the nearest are PVTv2"),
        (["MODEL.PVTV2.NAME", "pvt_v2_b9"], "see MODEL: there is no PVTv2 'pvt_v2_b9'"),
        (["MODEL.WEIGHTS", "nothere.pth"], "MODEL.WEIGHTS is nothere.pth, but there is no such file"),
        (["DATASETS.ROOT", "nowhere"], "nowhere/phantom/train does not exist; folders that have one"),
        (["SOLVER.IMS_PER_BATCH", "0"], "batch_size 0 (over all processes)"),
        (["SOLVER.WEIGHT_DECAY_NORM", "0.5"], "SOLVER.WEIGHT_DECAY_NORM is 0.5, which LGRNet's AdamW has no use for"),
        (["SOLVER.AMP.ENABLED", "True"], "SOLVER.AMP.ENABLED with MODEL.DEVICE cpu"),
        (["MODEL.NUM_CLASSES", "3"], "MODEL.NUM_CLASSES is 3, but data set 'phantom_train' has 1 (lesion)"),
        (["INPUT.CLIP.SIZES", "[64,100]"], "sizes has 100; expected whole multiples of 32"),
    ],
)
def test_mistakes_end_in_one_line(words, said, data, tmp_path, monkeypatch, capsys):
    from lgrnet.detectron2_bridge import train_net

    monkeypatch.chdir(data)
    output = ["OUTPUT_DIR", str(tmp_path), "INPUT.CLIP.SIZE", "(64,64)"]
    assert train_net.run(["--config-file", str(CONFIGS / "phantom.yaml"), *output, *words]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and said in last


def test_weights_for_detectron2s_heuristics_are_found(data, tmp_path, monkeypatch):
    from lgrnet.detectron2_bridge.train_net import setup

    monkeypatch.chdir(data)
    (tmp_path / "zoo.pth").touch()
    weights = f"{tmp_path}/zoo.pth?matching_heuristics=True"
    assert setup(str(CONFIGS / "phantom.yaml"), ["MODEL.WEIGHTS", weights]).MODEL.WEIGHTS == weights


def test_files_and_processes_that_are_not_there(capsys):
    from lgrnet.detectron2_bridge import train_net

    assert train_net.run([]) == 2 and "add --config-file" in capsys.readouterr().err
    assert train_net.run(["--config-file", str(CONFIGS / "phantom.yml")]) == 2
    assert "phantom.yaml" in capsys.readouterr().err
    assert train_net.run(["--config-file", str(CONFIGS / "phantom.yaml"), "--num-gpus", "2"]) == 2
    assert "--num-gpus 2 with MODEL.DEVICE cpu" in capsys.readouterr().err
