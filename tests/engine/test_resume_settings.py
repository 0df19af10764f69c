"""A resumed run has the settings of the run that was begun, as far as they decide what a step does."""

from __future__ import annotations

import pytest
import torch
import yaml

from lgrnet.config import ConfigError, load_config, to_yaml
from lgrnet.engine.resume import changed_settings, in_words
from lgrnet.engine.run import build_part
from tests.engine.runs import CONFIG, PHANTOM


@pytest.fixture
def begun(tmp_path):
    """Begins a run of a config with overrides, and tells what a resume with others says of its settings."""

    def begun(*overrides, file=CONFIG):
        (tmp_path / "config.yaml").write_text(to_yaml(load_config(file, overrides)))
        return lambda *others: changed_settings(tmp_path, load_config(file, others))

    return begun


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.channels=8", "model.channels was 4, is 8"),
        ("criterion.mask_bce=1", "criterion.mask_bce was 2.0, is 1.0"),
        ("optimizer.lr=0.1", "optimizer.lr was 0.01, is 0.1"),
        ("schedule.every=6", "schedule.every was 5, is 6"),
        ("data.train.length=9", "data.train.length was 8, is 9"),
        ("train.seed=1", "train.seed was 2024, is 1"),
        ("train.batch_size=2", "train.batch_size was 4, is 2"),
        ("train.sizes=[16]", r"train.sizes was \[16, 32\], is \[16\]"),
        ("train.clip_norm=1", "train.clip_norm was 0.01, is 1.0"),
        ("train.precision=bf16", "train.precision was fp32, is bf16"),
        ("train.accumulate=2", "train.accumulate was 1, is 2"),
        ("train.ema=0.9", "train.ema was 0.0, is 0.9"),
    ],
)
def test_a_setting_that_decides_a_step_is_refused_with_both_values(begun, override, says):
    with pytest.raises(ConfigError, match=f"config.yaml says: {says}. Resume with the old values.*train.init_weights"):
        begun()(override, "train.steps=9")


def test_every_refused_key_is_listed_and_only_those(begun):
    with pytest.raises(ConfigError) as caught:
        begun()("optimizer.lr=0.1", "train.seed=1", "train.keep=9")
    words = str(caught.value)
    assert "optimizer.lr was" in words and "train.seed was" in words and "train.keep" not in words


def test_harmless_settings_are_told_and_nothing_else_is(begun):
    given = {"train.steps": 9, "train.save_every": 1, "train.eval_every": 1, "train.keep": 1, "train.workers": 1}
    given |= {"train.device": "cpu", "train.log_every": 1, "train.pictures": 0, "train.eval_chunk": 1}
    given |= {"train.out_dir": "o", "train.init_weights": "w", "train.backbone_weights": "w", "data.root": "/new"}
    changes = begun()(*(f"{key}={value}" for key, value in given.items()))
    assert {key: now for key, (_, now) in changes.items() if not key.startswith("data.eval")} == given
    assert changes["data.root"] == ("data", "/new")
    assert "train.steps was 8, is 9; " in in_words(changes)
    assert begun("data.root=/x")("data.root=/x") == {}


def test_data_may_move_but_not_change(begun):
    resumed = begun("data.root=/old", file=PHANTOM)
    assert resumed("data.root=/new") == {"data.root": ("/old", "/new")}
    with pytest.raises(ConfigError, match="data.train.records.root was /old/train, is /new/train"):
        resumed("data.train.records.root=/new/train")
    with pytest.raises(ConfigError, match=r"data.train.transforms.0.size was \[96, 96\], is \[64, 64\]"):
        resumed("data.size=[64,64]")


def test_a_schedule_that_follows_the_steps_says_how_to_keep_it(begun):
    resumed = begun("train.steps=70", "schedule.warmup_steps=2", file=PHANTOM)
    with pytest.raises(ConfigError, match="follows train.steps: schedule.total_steps=70 lets more steps"):
        resumed("train.steps=90", "schedule.warmup_steps=2")
    changes = resumed("train.steps=90", "schedule.warmup_steps=2", "schedule.total_steps=70")
    assert changes == {"train.steps": (70, 90)}


def test_the_config_of_the_run_must_be_there(begun, tmp_path):
    resumed, file = begun(), tmp_path / "config.yaml"
    file.write_text("model: [")
    with pytest.raises(ConfigError, match="config.yaml.*cannot be read.*restore it, or start a new run"):
        resumed()
    file.unlink()
    with pytest.raises(ConfigError, match="config.yaml.*No such file.*restore it, or start a new run"):
        resumed()


def test_a_key_of_a_newer_version_is_named_and_can_be_accepted(begun, tmp_path):
    resumed, file = begun(), tmp_path / "config.yaml"
    content = yaml.safe_load(file.read_text())
    del content["model"]["norm"]
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="model.norm was absent, is True.*add it to that file"):
        resumed()
    content["model"]["norm"] = True
    file.write_text(yaml.safe_dump(content))
    assert resumed() == {}


def test_who_computes_an_op_may_change_and_be_new(begun, tmp_path):
    """A run of a version that had no such key goes on, and so does one whose backend is another now."""
    resumed, file = begun(file=PHANTOM), tmp_path / "config.yaml"
    content = yaml.safe_load(file.read_text())
    encoder, decoder = content["model"]["encoder"], content["model"]["decoder"]
    del encoder["scan_backend"], encoder["neighborhood_backend"], decoder["mask_backend"]
    file.write_text(yaml.safe_dump(content))
    names = ("encoder.scan", "encoder.neighborhood", "decoder.mask")
    new = {f"model.{name}_backend": ("absent", "auto") for name in names}
    assert resumed() == new
    changed = resumed("model.encoder.scan_backend=mamba_ssm")
    assert changed == {**new, "model.encoder.scan_backend": ("absent", "mamba_ssm")}
    assert "model.encoder.scan_backend was absent, is mamba_ssm" in in_words(changed)


def test_a_schedule_that_cannot_be_is_an_error_of_the_config():
    config = load_config(PHANTOM, ["train.steps=70", "schedule.warmup_steps=70"])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ConfigError, match="section schedule does not build: warmup_steps is 70 of total_steps 70"):
        build_part(config, "schedule", optimizer)
