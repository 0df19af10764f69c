"""Single layers against the golden numbers of the published ones."""

import re

import numpy as np
import pytest
import torch

from lgrnet.layers.attention import free_rows
from lgrnet.layers.deformable import DeformableAttention
from lgrnet.layers.hilbert import hilbert_order, zigzag_order
from lgrnet.layers.neighborhood import CyclicPropagation
from lgrnet.layers.position import sine_space, sine_space_time, sine_time
from lgrnet.layers.scan import GridScan
from tests.models.golden import relative_error, seed_weights

TOLERANCE = 2e-5
PROPAGATION = {
    "self_attn.q_linear": "attention.query",
    "self_attn.kv_linear": "attention.key_value",
    "self_attn.proj": "attention.output",
}
SCAN = {
    "x_proj_weight": "input_weight",
    "dt_projs_weight": "dt_weight",
    "dt_projs_bias": "dt_bias",
    "A_logs": "log_decay",
    "Ds": "skip",
    "conv2d": "conv",
}


@pytest.fixture(scope="module")
def micro(golden):
    return torch.load(golden / "lgrnet" / "micro.pt", weights_only=True)


def seeded(module, names):
    """Fills a module with golden weights, which are made from the published names."""
    array = seed_weights().seeded_array
    state = {}
    for name, tensor in module.state_dict().items():
        published = name
        for theirs, ours in names.items():
            published = re.sub(rf"^{re.escape(ours)}(?=\.|$)", theirs, published)
        state[name] = torch.from_numpy(array(published, tensor.shape))
    module.load_state_dict(state)
    return module.eval()


def test_every_hilbert_order(golden):
    orders = np.load(golden / "lgrnet" / "hilbert_orders.npz")
    assert len(orders.files) == 548
    for name in orders.files:
        frames, queries = map(int, re.fullmatch(r"T(\d+)_N(\d+)", name).groups())
        assert np.array_equal(hilbert_order(frames, queries), orders[name]), name


def test_orders_are_permutations_and_errors_are_clear():
    assert sorted(hilbert_order(37, 7)) == list(range(37 * 7))
    assert list(zigzag_order(2, 3)) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="at least one of each"):
        hilbert_order(0, 20)
    with pytest.raises(ValueError, match="read-only"):
        hilbert_order(4, 4)[0] = 1


@pytest.mark.parametrize("case", ["cnp_layer_dil2_steps2"])
def test_propagation(micro, case):
    check_propagation(micro[case])


@pytest.mark.parametrize("case", ["dil1_steps1", "dil1_steps2", "dil2_steps1", "dil2_steps2"])
def test_propagation_every_case(shared, case):
    check_propagation(torch.load(shared / "golden" / "lgrnet" / "micro.pt", weights_only=True)[f"cnp_layer_{case}"])


def check_propagation(case):
    settings = case["cfg"]
    layer = CyclicPropagation(
        settings["d_model"], settings["num_heads"], settings["kernel_size"], settings["dilation"], settings["num_steps"]
    )
    seeded(layer, PROPAGATION)
    shapes = [tuple(shape) for shape in case["shapes"].tolist()]
    with torch.no_grad():
        ours = layer(case["in"].unflatten(0, (case["B"], case["T"])), shapes).flatten(0, 1)
    assert relative_error(ours, case["out"]) < TOLERANCE


@pytest.mark.parametrize("order", ["hilbert", "zigzag"])
def test_scan(micro, order):
    check_scan(micro[f"scan_{order}_T4"], order)


@pytest.mark.parametrize("order", ["hilbert", "zigzag"])
def test_scan_with_more_frames_than_queries(shared, order):
    check_scan(torch.load(shared / "golden" / "lgrnet" / "micro.pt", weights_only=True)[f"scan_{order}_T24"], order)


def check_scan(case, order):
    layer = seeded(GridScan(64, order=order), SCAN)
    with torch.no_grad():
        assert relative_error(layer(case["in"]), case["out"]) < TOLERANCE


def test_deformable_attention(micro):
    case = micro["deform"]
    layer = seeded(DeformableAttention(64), {})
    with torch.no_grad():
        ours = layer(case["query"], case["src"], [tuple(shape) for shape in case["shapes"].tolist()])
    assert relative_error(ours, case["out"]) < TOLERANCE


def test_positions(micro):
    assert relative_error(sine_time(6, 64).T[None], micro["pos1d_T6_c64"]) < TOLERANCE
    assert relative_error(sine_time(6, 128).T[None], micro["pos1d_T6_c128"]) < TOLERANCE
    assert relative_error(sine_space(5, 7, 64).permute(2, 0, 1)[None], micro["pos2d_5x7_c64"]) < TOLERANCE
    clip = sine_space_time(3, 5, 7, 64).permute(0, 3, 1, 2)[None]
    assert relative_error(clip, micro["pos3d_T3_5x7_c64"]) < TOLERANCE


def test_rows_blocked_everywhere_are_freed():
    blocked = torch.tensor([[True, True], [True, False], [False, False]])
    assert free_rows(blocked).tolist() == [[False, False], [True, False], [False, False]]
