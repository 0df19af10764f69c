"""Keys of the bridge, and files merged into a config."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.config import get_cfg

import lgrnet.detectron2_bridge as bridge
from lgrnet.checkpoint import ALLOWED
from lgrnet.config import ConfigError, build, build_json, load_config
from lgrnet.detectron2_bridge.config import add_lgrnet_config, merge_config
from lgrnet.detectron2_bridge.meta_arch import LGRNet, construct, describe_model
from lgrnet.detectron2_bridge.weights import description

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "lgrnet/detectron2_bridge/configs").glob("*.yaml"))


@pytest.fixture
def fresh():
    return add_lgrnet_config(get_cfg())


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_defaults_are_the_published_model_and_loss(fresh):
    """Those of configs/sunseg, where they stand as plain arguments."""
    ours = load_config(ROOT / "configs/sunseg/lgrnet_pvtv2_b2.py")
    assert _plain(build(ours.model)) == _plain(describe_model(fresh, construct))
    criterion, published = LGRNet.from_config(fresh)["criterion"], build(ours.criterion)
    assert _facts(criterion) == _facts(published)
    assert _facts(criterion.matcher) == _facts(published.matcher)


def test_defaults_are_the_published_schedule(fresh):
    ours = load_config(ROOT / "configs/sunseg/lgrnet_pvtv2_b2.py")
    solver, train = fresh.SOLVER, ours.train
    assert list(solver.STEPS) == list(ours.schedule.milestones) and solver.GAMMA == ours.schedule.gamma
    assert (solver.MAX_ITER, solver.IMS_PER_BATCH, solver.CHECKPOINT_PERIOD) == (
        train.steps,
        train.batch_size,
        train.save_every,
    )
    assert (solver.BASE_LR, solver.BACKBONE_MULTIPLIER, solver.WEIGHT_DECAY) == (
        ours.optimizer.lr,
        ours.optimizer.backbone_lr_scale,
        ours.optimizer.weight_decay,
    )
    assert solver.CLIP_GRADIENTS.CLIP_VALUE == train.clip_norm and solver.CLIP_GRADIENTS.CLIP_TYPE == "full_model"
    assert list(fresh.INPUT.CLIP.SIZES) == list(train.sizes) and fresh.SEED == train.seed
    assert list(fresh.INPUT.CLIP.SIZE) == list(ours.data.size)
    assert fresh.INPUT.CLIP.NUM_FRAMES == ours.data.train.sampler.num_frames
    assert fresh.INPUT.CLIP.ANCHOR_STEP == ours.data.train.anchor_step


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_merge_and_describe_a_model(fresh, file):
    merge_config(fresh, file)
    described = build_json(description(fresh), ALLOWED)
    assert _plain(described) == _plain(describe_model(fresh, construct))


def test_a_base_and_options(fresh, tmp_path):
    write(tmp_path, "base.yaml", "SOLVER:\n  MAX_ITER: 7\nSEED: 3\n")
    file = write(tmp_path, "run.yaml", "_BASE_: base.yaml\nSEED: 4\nMODEL:\n  PVTV2:\n    NAME: pvt_v2_b0\n")
    merge_config(fresh, file, ["SOLVER.BASE_LR", "0.5", "DATASETS.TRAIN", "('a', 'b')"])
    assert (fresh.SOLVER.MAX_ITER, fresh.SEED, fresh.MODEL.PVTV2.NAME) == (7, 4, "pvt_v2_b0")
    assert fresh.SOLVER.BASE_LR == 0.5 and tuple(fresh.DATASETS.TRAIN) == ("a", "b")


@pytest.mark.parametrize(
    "text, words",
    [
        ("MODEL:\n  LGRNET:\n    DECODER:\n      NUM_QUERYS: 3\n", ["MODEL.LGRNET.DECODER.NUM_QUERIES"]),
        ("SOLVR:\n  MAX_ITER: 3\n", ["SOLVR.MAX_ITER", "SOLVER.MAX_ITER"]),
        ("SOLVER:\n  BASE_LR: fast\n", ["SOLVER.BASE_LR", "'fast'", "a number with a point", "0.001"]),
        ("SOLVER:\n  MAX_ITER: 1.5\n", ["SOLVER.MAX_ITER", "a whole number"]),
        ("MODEL: LGRNet\n", ["MODEL is 'LGRNet'", "a section"]),
        ("INPUT:\n  CLIP:\n    SIZE: 352\n", ["INPUT.CLIP.SIZE", "a list"]),
        ("SEED: !!python/object/apply:os.getcwd []\n", ["no plain yaml"]),
        ("SEED: [1\n", ["no plain yaml"]),
        ("- SEED\n", ["sections such as MODEL"]),
        ("_BASE_: nowhere.yaml\n", ["_BASE_", "nowhere.yaml"]),
    ],
)
def test_mistakes_in_a_file(fresh, tmp_path, text, words):
    before = fresh.clone()
    with pytest.raises(ConfigError) as caught:
        merge_config(fresh, write(tmp_path, "run.yaml", text))
    assert all(word in str(caught.value) for word in [*words, "run.yaml"])
    assert fresh == before


def test_mistakes_in_options_and_paths(fresh, tmp_path):
    write(tmp_path, "there.yaml", "SEED: 1\n")
    with pytest.raises(ConfigError, match="not exist.*there.yaml"):
        merge_config(fresh, tmp_path / "here.yaml")
    with pytest.raises(ConfigError, match="KEY VALUE pairs"):
        merge_config(fresh, None, ["SEED=1"])
    with pytest.raises(ConfigError, match="MODEL.WEIGHTS"):
        merge_config(fresh, None, ["MODEL.WEIGHT", "x.pth"])
    with pytest.raises(ConfigError, match="a whole number"):
        merge_config(fresh, None, ["SEED", "one"])


def test_missing_detectron2_is_one_clear_error():
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'detectron2':\n"
        "            raise ModuleNotFoundError(name, name='detectron2')\n"
        "sys.meta_path.insert(0, Block())\n"
        "try:\n"
        "    import lgrnet.detectron2_bridge\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "detectron2 is not installed" in done.stdout and "INSTALL.md" in done.stdout, done.stderr


def test_other_versions_warn_and_unusable_ones_are_errors(monkeypatch):
    detectron2 = importlib.import_module("detectron2")
    monkeypatch.setattr(detectron2, "__version__", "0.7")
    with pytest.warns(UserWarning, match=r"detectron2 is 0\.7.*0\.6"):
        bridge._check_detectron2()
    monkeypatch.setitem(sys.modules, "detectron2.structures", None)
    with pytest.raises(ImportError, match=r"0\.7.*cannot be used"):
        bridge._check_detectron2()


def _plain(model):
    """Everything that tells two modules apart but their random weights."""
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name, module in model.named_modules():
        found[f"{name}:"] = (type(module).__name__, _facts(module))
    return found


def _facts(thing):
    plain = (bool, int, float, str, tuple, list, dict)
    return {k: v for k, v in vars(thing).items() if isinstance(v, plain) and not k.startswith("_")}
