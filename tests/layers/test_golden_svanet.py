"""SvANet's layers against golden inputs and outputs, in evaluation and with the golden draws of training."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from lgrnet.layers.assemble_former import (
    AssembleFormer,
    LinearAttention,
    LinearAttentionBlock,
    from_patches,
    to_patches,
)
from lgrnet.layers.atrous_pyramid import AtrousPyramid
from lgrnet.layers.conv_unit import ConvPair, ConvUnit
from lgrnet.layers.monte_carlo import MonteCarloAttention, PoolDraw, channel_attention
from lgrnet.layers.scale_variant import GuidancePath
from lgrnet.models.link_decoder import LinkDecoder, UpLink
from lgrnet.models.svanet import Branch, attention_grid
from tests.models.svanet_golden import force_scales, load_module

ATOL = 2e-6
UNIT = "net.branches.0.bottleneck.expand.", "SegHead.ConvB1.Bottleneck.0."
GATE = "net.branches.0.bottleneck.attention.", "SegHead.ConvB1.Bottleneck.2."
BRANCH = "net.branches.0.", "SegHead.ConvB1."
FORMER = "net.branches.0.former.", "SegHead.ConvB1.ViTLayer."
BLOCK = "net.branches.0.former.transformer.0.", "SegHead.ConvB1.ViTLayer.GlobalRep.0."
ATTENTION = BLOCK[0] + "attention.", BLOCK[1] + "PreNormAttn.1."
PATH = "net.guidance.paths.0_to_1.", "SegHead.Convr12."
DECODER = "net.decoder.", "SegHead.LinkHead."
UP = DECODER[0] + "links.0.up.", DECODER[1] + "UpLink1."
PAIR = DECODER[0] + "links.0.join.", DECODER[1] + "CatLinkConv1."
PYRAMID = "net.context.", "SegHead.Aspp.aspp_layer."
MODES = {"1": "scale_variant", "0": "none", "n1": "source", "n2": "average", "n3": "max"}
monte_carlo, squeeze, none = (channel_attention(kind) for kind in ("monte_carlo", "squeeze", "none"))

HERE = {
    "linattn": (ATTENTION, lambda: LinearAttention(24)),
    "linffn": (BLOCK, lambda: LinearAttentionBlock(24)),
    "assem32odd": (FORMER, lambda: AssembleFormer(32)),
    "mcbottle16_vit": (BRANCH, lambda: Branch(16, monte_carlo)),
    "uplink": (UP, lambda: UpLink(32, 16)),
    "basicblock": (PAIR, lambda: ConvPair(16, 8)),
    "aspp": (PYRAMID, lambda: AtrousPyramid(24, 16)),
}
LARGER = {
    "baseconv_bn_relu": (UNIT, lambda: ConvUnit(8, 12, 3, stride=2)),
    "baseconv_dil": (UNIT, lambda: ConvUnit(8, 8, 3, dilation=3, activation="none")),
    "se64": (GATE, lambda: SqueezeExcitation(64, 32)),
    "mcattn32": (GATE, lambda: MonteCarloAttention(32)),
    "mcattn128": (GATE, lambda: MonteCarloAttention(128)),
    "mcattn256": (GATE, lambda: MonteCarloAttention(256)),
    "assem32": (FORMER, lambda: AssembleFormer(32)),
    "assem64n3": (FORMER, lambda: AssembleFormer(64, depth=3)),
    "assem32moc": (FORMER, lambda: AssembleFormer(32, attention=MonteCarloAttention(32))),
    "assem40": (FORMER, lambda: AssembleFormer(40)),
    "mcbottle16_novit": (BRANCH, lambda: Branch(16, monte_carlo, depth=None)),
    "bottle16_nose": (BRANCH, lambda: Branch(16, none, depth=None)),
    "bottle16_se": (BRANCH, lambda: Branch(16, squeeze, depth=None)),
}


@pytest.fixture(scope="module")
def few(golden):
    """The small cases, which travel with the project."""
    return np.load(golden / "svanet/modules.npz")


@pytest.fixture(scope="module")
def cases(shared):
    """All cases."""
    return np.load(shared / "golden/svanet/modules.npz")


def tensor(cases, name: str) -> Tensor:
    return torch.from_numpy(cases[name])


def same(ours: Tensor, cases, name: str) -> None:
    torch.testing.assert_close(ours, tensor(cases, name), atol=ATOL, rtol=0)


@torch.no_grad()
def check(cases, name: str, place: tuple[str, str], make) -> None:
    """The output, and what is stored from inside, of one case."""
    seen: dict[str, Tensor] = {}
    module = load_module(make(), *place, name)
    for part in ("bottleneck", "reduce", "transformer"):
        for path, inner in module.named_modules():
            if path == part:
                inner.register_forward_hook(lambda _m, x, y, part=part: seen.update({part: y, f"{part} in": x[0]}))
    same(module(tensor(cases, f"{name}/in0")), cases, f"{name}/out")
    inside = {"residual_sum": "bottleneck", "local": "reduce", "patches_in": "transformer in"}
    for stored, part in {**inside, "patches_out": "transformer"}.items():
        if f"{name}/{stored}" in cases:
            same(seen[part], cases, f"{name}/{stored}")


@pytest.mark.parametrize("name", HERE)
def test_small_cases(few, name):
    check(few, name, *HERE[name])


@pytest.mark.parametrize("name", LARGER)
def test_larger_cases(cases, name):
    check(cases, name, *LARGER[name])


@torch.no_grad()
def monte_carlo_case(cases, size: int, out: str, cell: int, order=None) -> None:
    module = load_module(MonteCarloAttention(128), *GATE, "mcattn128t").train()
    module.draw = lambda positions: PoolDraw(size, max(cell, 0), order)
    same(module(tensor(cases, "mcattn128t/in0")), cases, f"mcattn128t/{out}")


def test_monte_carlo_attention_in_training(few):
    cell, order = int(few["mcattn128t/seed3_cell"]), tensor(few, "mcattn128t/seed3_perm")
    assert cell == 8 and int(few["mcattn128t/seed3_k"]) == 3
    monte_carlo_case(few, 3, "seed3_out", cell, order)


@pytest.mark.parametrize("seed", range(6))
def test_monte_carlo_attention_with_every_draw(cases, seed):
    case = f"mcattn128t/seed{seed}"
    order = tensor(cases, f"{case}_perm")
    monte_carlo_case(cases, int(cases[f"{case}_k"]), f"seed{seed}_out", int(cases[f"{case}_cell"]), order)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_monte_carlo_attention_without_shuffle(cases, size):
    monte_carlo_case(cases, size, f"noshuffle_k{size}_out", int(cases[f"mcattn128t/noshuffle_k{size}_cell"]))


def guidance_path(cases, mode: str, halvings: int) -> tuple[str, nn.Module]:
    name = f"cslayer_m{mode}_b{halvings}"
    make = partial(GuidancePath, 12, 20, halvings, MODES[mode], attention_grid(128, 1 + halvings))
    return name, load_module(make(), *PATH, name)


@pytest.mark.parametrize("halvings", [1, 2, 3])
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_guidance(cases, mode, halvings):
    name, path = guidance_path(cases, mode, halvings)
    gates = []
    if path.gate is not None:
        path.gate.register_forward_hook(lambda _module, _inputs, gate: gates.append(gate))
    same(path(tensor(cases, f"{name}/in0")), cases, f"{name}/out")
    if gates:
        same(gates[0], cases, f"{name}/gate")
    if mode == "1":
        assert path.gate.grid == int(cases[f"{name}/pool_size"])


@pytest.mark.parametrize("halvings", [1, 2, 3])
@torch.no_grad()
def test_guidance_in_training(cases, halvings):
    name, path = guidance_path(cases, "1", halvings)
    path.gate.train()  # batch norms stay in evaluation, as in the golden cases
    count, cells = halvings + 1, path.gate.grid**2
    fixed = torch.from_numpy(np.random.RandomState(cells).permutation(cells))
    draws = {"fixedmask": (fixed, range(count)), "fixedmask_reversed": (fixed, range(count)[::-1])}
    for seed in range(3):
        case = f"{name}/train_seed{seed}"
        draws[f"seed{seed}"] = tensor(cases, f"{case}_perm"), cases[f"{case}_order"].tolist()
    for draw, (order, scales) in draws.items():
        force_scales(path.gate, order, scales)
        same(path(tensor(cases, f"{name}/in0")), cases, f"{name}/train_{draw}_bneval")


@pytest.mark.parametrize(("number", "link"), [(1, "add"), (2, "concatenate")])
@torch.no_grad()
def test_link_decoder(cases, number, link):
    name = f"fglink{number}"
    decoder = load_module(LinkDecoder((8, 16, 32, 64, 128), link), *DECODER, name)
    *branches, deepest = (tensor(cases, f"{name}/in{i}") for i in range(5))
    for i, ours in enumerate(reversed(decoder(branches, deepest))):
        torch.testing.assert_close(ours, tensor(cases, f"{name}/out{i}"), atol=5e-6, rtol=0)


def test_patches_of_the_case_and_back(few):
    local = tensor(few, "assem32odd/local")
    patches = to_patches(local)
    assert torch.equal(patches, tensor(few, "assem32odd/patches_in"))
    covered = local.clone()
    covered[..., -1, :] = 0
    covered[..., -1] = 0
    assert torch.equal(from_patches(patches, *local.shape[-2:]), covered)
