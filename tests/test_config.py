"""Configs as Python files: loading, overrides and their errors, and building from a weights file's description."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lgrnet.config import ConfigError, build, build_json, load_config, read_config, to_json, to_yaml
from lgrnet.data.samplers import Dense, LocalGlobal

DEMO = Path(__file__).resolve().parents[1] / "configs" / "demo" / "phantom.py"
FILE = """
from lgrnet.config import builds
from lgrnet.data.samplers import Dense, LocalGlobal, Window
from lgrnet.engine.settings import TrainSettings

model = builds(LocalGlobal, num_frames=5)
criterion = builds(Window, size=3)
data = dict(
    root="data/x",
    size=[64, 96],
    train=builds(Dense, num_frames="${data.frames}"),
    frames=7,
    shuffle=True,
    eval=dict(test=builds(Dense)),
)
optimizer = builds(Dense, stride=2, zen_partial=True)
schedule = builds(Window)
train = builds(TrainSettings, steps=10, batch_size=2, save_every=5)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(FILE)
    return path


def test_sections_build_into_the_real_classes(file):
    config = load_config(file)
    assert build(config.model) == LocalGlobal(num_frames=5)
    assert build(config.data.train) == Dense(num_frames=7)
    assert build(config.optimizer)(num_frames=4) == Dense(num_frames=4, stride=2)
    assert tuple(build(config.train).sizes) == (256, 288, 320, 352, 384, 416, 448)


def test_overrides(file):
    given = ["model.num_frames=9", "data.frames=8", "train.device=cpu", "train.clip_norm=1", "data.root=/a b/c"]
    config = load_config(file, [*given, "train.sizes=[32,64]", "data.size=[32,32]", "data.eval.test.stride=3"])
    assert build(config.model).num_frames == 9
    assert build(config.data.train).num_frames == 8
    settings = build(config.train)
    assert (settings.device, settings.clip_norm, tuple(settings.sizes)) == ("cpu", 1.0, (32, 64))
    assert (config.data.root, list(config.data.size)) == ("/a b/c", [32, 32])
    assert build(config.data.eval.test).stride == 3
    assert load_config(file, ["train.device=null"]).train.device is None
    assert load_config(file).model.num_frames == 5


@pytest.mark.parametrize(
    "override, says",
    [
        ("model.num_frame=9", r"no key 'model.num_frame'; did you mean model.num_frames"),
        ("modle.num_frames=9", r"no key 'modle.num_frames'; did you mean model.num_frames"),
        ("train.stepps=9", r"did you mean train.steps"),
        ("data.eval.tset.stride=2", r"did you mean data.eval.test.stride"),
        ("model._target_=os.system", r"no key 'model._target_'"),
        ("model.num_frames=many", r"'model.num_frames=many' cannot be applied.*[Ii]nteger"),
        ("train.steps=1.5", r"'train.steps=1.5' cannot be applied.*[Ii]nteger"),
        ("train.compile=perhaps", r"'train.compile=perhaps' cannot be applied.*bool"),
        ("train.steps=null", r"'train.steps=null' cannot be applied"),
        ("train.steps", r"'train.steps' is not of the form key=value"),
        ("train.sizes=[32,64", r"'train.sizes=\[32,64' cannot be applied"),
        ("data.root=a: b: c", r"'data.root=a: b: c' cannot be applied"),
        ("data.root=[1,2]", r"'data.root=\[1,2\]' cannot be applied: expected text"),
        ("data.size=352", r"'data.size=352' cannot be applied: expected a list"),
        ("data.frames=many", r"'data.frames=many' cannot be applied: expected a whole number"),
        ("data.frames=true", r"expected a whole number"),
        ("data.shuffle=1", r"expected true or false"),
        ("data.eval=none", r"'data.eval=none' cannot be applied: expected a section"),
    ],
)
def test_a_wrong_override_says_what_is_wrong(file, override, says):
    with pytest.raises(ConfigError, match=says):
        load_config(file, [override])


@pytest.mark.parametrize(
    "change, says",
    [
        (("num_frames=5", "num_frame=5"), r"(?s)small.py does not build.*num_frame"),
        (("steps=10", "steps='ten'"), r"(?s)small.py does not build.*ten.*steps"),
        (("schedule =", "scheduler ="), r"small.py does not define schedule; it must define model, criterion"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(file, change, says):
    file.write_text(FILE.replace(*change))
    with pytest.raises(ConfigError, match=says):
        load_config(file)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("num_frames=5)", "num_frames=5"), r"small.py does not build: .*small.py, line 6: '\(' was never closed"),
        (("import Dense,", "import Dance,"), r"line 3: ImportError: cannot import name 'Dance'"),
        (("criterion = builds", "criterion = build"), r"line 7: NameError: name 'build' is not defined"),
        (("builds(Window)", "builds(Window.span)"), r"line 17: AttributeError: .*Window.* has no attribute 'span'"),
        (("size=[64, 96]", "size={}['x']"), r"line 10: KeyError: 'x'"),
        (("num_frames=5", "num_frame=5"), r"(?s)line 6: .*num_frame"),
        (("\nmodel", "\nimport lgrnet.nothing\nmodel"), r"line 6: ModuleNotFoundError: .*lgrnet.nothing"),
    ],
)
def test_a_file_that_does_not_run_names_the_line(file, change, says):
    assert change[0] in FILE
    file.write_text(FILE.replace(*change))
    with pytest.raises(ConfigError, match=says):
        load_config(file)


def test_parts_of_ones_own_stand_in_a_module_beside_the_file(file):
    part = "class Own{name}:\n    def __init__(self, size: int = 3):\n        self.size = size\n"
    file.with_name("my_own_parts.py").write_text(part.format(name="Loss"))
    text = FILE.replace("\nmodel", "\nfrom my_own_parts import OwnLoss\nmodel", 1)
    file.write_text(text + "\ncriterion = builds(OwnLoss, size=5)\n")
    assert build(load_config(file, ["criterion.size=7"]).criterion).size == 7
    for node in ("builds(OwnNet)", "builds(OwnNet, zen_partial=True)", "dict(inner=[builds(OwnNet)])"):
        file.write_text(f"{FILE}\n{part.format(name='Net')}\nmodel = {node}\n")
        with pytest.raises(
            ConfigError, match="small.py: OwnNet is defined in a config file.*put it into a module besid"
        ):
            load_config(file)


def test_an_error_in_a_file_that_another_one_reads_names_that_file(file):
    file.write_text(FILE.replace("criterion = builds", "criterion = build"))
    outer = file.with_name("outer.py")
    outer.write_text(f"from lgrnet.config import read_config\nsmall = read_config({str(file)!r})\n")
    with pytest.raises(ConfigError, match=r"small.py does not build: line 7: NameError") as caught:
        read_config(outer)
    assert "outer" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.root=/a b #1", "/a b #1"),
        ("data.root=#1", "#1"),
        ("data.root= /a#b ", "/a#b"),
        ("data.root='/a b' # a comment", "/a b"),
        ("data.root=a: b #c", "a: b #c"),
        ("train.metric=dice #2", "dice #2"),
        ("train.out_dir=runs/try #3", "runs/try #3"),
    ],
)
def test_a_number_sign_in_text_stays(file, override, value):
    section, name = override.partition("=")[0].split(".")
    assert load_config(file, [override])[section][name] == value


def test_a_number_sign_elsewhere_begins_a_comment(file):
    config = load_config(file, ["data.frames=3 # frames", "train.sizes=[32] # one"])
    assert config.data.frames == 3 and list(config.train.sizes) == [32]


def test_plain_values_take_what_they_are_like(file):
    config = load_config(
        file, ["data.root=2024", "data.eval=null", "data.eval={more: {stride: 2}}", "data.shuffle=false"]
    )
    assert config.data.root == "2024"
    assert config.data.shuffle is False
    assert config.data.eval.more.stride == 2


def test_an_error_in_what_is_built_comes_out_as_itself(file):
    with pytest.raises(ValueError, match="num_frames is 2; LocalGlobal needs at least 3") as caught:
        build(load_config(file, ["model.num_frames=2"]).model)
    assert type(caught.value) is ValueError
    with pytest.raises(ValueError, match="stride is 0"):
        build(load_config(file, ["data.train.stride=0"]).data)


def test_a_missing_file_names_its_neighbours(file):
    with pytest.raises(ConfigError, match=r"smal.py does not exist; that folder holds .*small.py"):
        read_config(file.with_name("smal.py"))
    with pytest.raises(ConfigError, match=r"does not exist$"):
        read_config("no/such/folder/x.py")


def test_the_resolved_config_as_text(file):
    text = to_yaml(load_config(file, ["data.frames=3"]))
    assert "${" not in text
    assert "num_frames: 3" in text


def test_a_model_travels_as_json(file):
    text = to_json(load_config(file, ["model.reach=2"]).model)
    assert build_json(text, ["lgrnet.data.samplers.LocalGlobal"]) == LocalGlobal(num_frames=5, reach=2)


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "os.mkdir", "path": "TRAP"},
        {"_target_": "lgrnet.data.samplers.LocalGlobal", "num_frames": {"_target_": "os.mkdir", "path": "TRAP"}},
        {"_target_": "lgrnet.data.samplers.LocalGlobal", "num_frames": [{"_target_": "os.mkdir", "_args_": ["TRAP"]}]},
        {"_target_": "hydra_zen.funcs.zen_processing", "_zen_target": "os.mkdir", "path": "TRAP"},
        {"_target_": "lgrnet.data.samplers.LocalGlobal", "_zen_target": "os.mkdir"},
        {"_target_": "hydra.utils.get_method", "path": "os.mkdir"},
        {"_target_": ["os.mkdir"], "path": "TRAP"},
    ],
)
def test_a_foreign_target_is_refused_and_not_run(node, tmp_path):
    trap = tmp_path / "trap"
    text = json.dumps(node).replace("TRAP", str(trap))
    with pytest.raises(ConfigError, match="may only build the package's models"):
        build_json(text, ["lgrnet.data.samplers.LocalGlobal"])
    assert not trap.exists()


def test_an_interpolation_in_a_weights_file_reads_nothing(monkeypatch):
    monkeypatch.setenv("SECRET", "12")
    node = {"_target_": "lgrnet.data.samplers.LocalGlobal", "num_frames": "${oc.env:SECRET}"}
    with pytest.raises(ConfigError, match=r"the interpolation .*oc.env"):
        build_json(json.dumps(node), ["lgrnet.data.samplers.LocalGlobal"])


@pytest.mark.parametrize("value", ["2026_11_29", "007", "1e3", "12:30:45", "on", "0x10"])
def test_text_that_may_be_null_stays_text(value):
    config = load_config(DEMO, [f"train.out_dir={value}", f"train.init_weights={value}", f"train.metric={value}"])
    assert config.train.out_dir == config.train.init_weights == config.train.metric == value


def test_a_whole_number_that_may_be_null_is_one():
    assert load_config(DEMO, ["train.eval_chunk=3"]).train.eval_chunk == 3
    assert load_config(DEMO, ["train.eval_chunk=null"]).train.eval_chunk is None
    with pytest.raises(ConfigError, match="train.eval_chunk is 2.5, expected a whole number"):
        load_config(DEMO, ["train.eval_chunk=2.5"])
