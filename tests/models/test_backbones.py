"""Backbones from timm: which names and which kinds of models are refused, and with what words."""

from __future__ import annotations

import pytest
import timm
from torch import nn

from lgrnet.models.backbones import TimmBackbone


@pytest.mark.parametrize(
    ("name", "near"),
    [("pvtv2_b2", "pvt_v2_b2"), ("res2net50", "res2net50d"), ("hf-hub:someone/model", "the nearest names")],
)
def test_an_unknown_name_gets_the_nearest_ones(name, near, monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: pytest.fail("must not be asked"))
    with pytest.raises(ValueError, match=f"has no model '{name}'; the nearest names are .*{near}|{near} are"):
        TimmBackbone(name)


def test_a_model_without_intermediate_maps_is_told_from_one_without_the_strides(monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match="'pvt_v2_b0' does not give its intermediate feature maps"):
        TimmBackbone("pvt_v2_b0")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"no feature maps at strides \[4, 8, 32\]"):
        TimmBackbone("vit_tiny_patch16_224", drop_path=0.0)
