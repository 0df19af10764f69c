"""The ops by other packages: equal to the reference where those are installed, one clear sentence where not.

Stand-ins with the signatures of mamba-ssm and natten take their place in `sys.modules`, so that what is done to
arguments and results is checked everywhere.
"""

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest
import torch

from lgrnet.models.lgr_encoder import LGREncoder
from lgrnet.ops import neighborhood_attention, selective_scan
from lgrnet.ops.backends import Backend, BackendError, choose
from tests.ops.test_neighborhood import draw, near
from tests.ops.test_scan import inputs

INTERFACE = "mamba_ssm.ops.selective_scan_interface"
SCANS = ({}, {"length": 1}, {"directions": 1, "dim": 5}, {"batch": 1, "directions": 4, "length": 33, "states": 16})
WINDOWS = (
    (((2, 3), (4, 6), (7, 5)), 5, 1, 3, 1),  # levels smaller than the window
    (((3, 3), (11, 4)), 3, 2, 2, 1),
    (((4, 4), (1, 9)), 3, 1, 4, 3),
    (((5, 5),), 5, 1, 1, 1),  # the window is the map, one frame
    (((6, 11),), 5, 2, 2, 5),
    (((4, 5),), 3, 1, 2, 0),
)
DEVICES = (
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
    ),
)


def scan_stand_in(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    """What mamba-ssm documents of selective_scan_ref, token by token and channel by channel."""
    if any(t.dtype != torch.float32 for t in (u, delta, A, B, C, D, delta_bias)) or z is not None:
        raise TypeError("expected float32 and no gate")
    batch, channels, length = u.shape
    share = channels // B.shape[1]
    step = delta + delta_bias[:, None]
    step = torch.nn.functional.softplus(step) if delta_softplus else step
    state, outputs = u.new_zeros(batch, channels, A.shape[1]), []
    group = torch.arange(channels) // share
    for i in range(length):
        enters = (step[:, :, i] * u[:, :, i])[..., None] * B[:, group, :, i]
        state = torch.exp(step[:, :, i, None] * A) * state + enters
        outputs.append((state * C[:, group, :, i]).sum(-1) + D * u[:, :, i])
    out = torch.stack(outputs, dim=2)
    return (out, state) if return_last_state else out


def attention_stand_in(query, key, value, kernel_size, stride=1, dilation=1, is_causal=False, scale=None):
    """What NATTEN documents of na2d, query by query: heads last, windows inside the map."""
    _, height, width, _, channels = query.shape
    if kernel_size < 2 or kernel_size * dilation > min(height, width):
        raise ValueError(f"kernel_size={kernel_size} does not fit\nmore lines")
    out, scale = torch.zeros_like(query), channels**-0.5 if scale is None else scale
    for y in range(height):
        for x in range(width):
            rows = torch.tensor(near(y, height, kernel_size, dilation))[:, None]
            columns = torch.tensor(near(x, width, kernel_size, dilation))
            keys, values = (t[:, rows, columns].flatten(1, 2) for t in (key, value))  # [batch, keys, heads, d]
            weights = (torch.einsum("bhd,bkhd->bkh", query[:, y, x], keys) * scale).softmax(1)
            out[:, y, x] = torch.einsum("bkh,bkhd->bhd", weights, values)
    return out


@pytest.fixture
def stand_ins(monkeypatch):
    """Both packages are stand-ins; what was called is noted."""
    called = []

    def noted(name, function):
        def call(*args, **kwargs):
            called.append(name)
            return function(*args, **kwargs)

        return call

    for name in ("mamba_ssm", "mamba_ssm.ops", INTERFACE, "natten"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[INTERFACE].selective_scan_ref = noted("scan", scan_stand_in)
    sys.modules[INTERFACE].selective_scan_fn = None  # for CUDA tensors only
    sys.modules["natten"].na2d = noted("attention", attention_stand_in)
    return called


@pytest.fixture(scope="module")
def mamba_ssm():
    """mamba-ssm itself. Without its CUDA extension an empty one lets it import, and its reference runs."""
    if importlib.util.find_spec("mamba_ssm") is None:
        pytest.skip("mamba-ssm is not installed")
    if "selective_scan_cuda" not in sys.modules and importlib.util.find_spec("selective_scan_cuda") is None:
        sys.modules["selective_scan_cuda"] = ModuleType("selective_scan_cuda")
    try:
        importlib.import_module(INTERFACE)
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"mamba-ssm is installed but does not import: {error}")


@pytest.fixture(scope="module")
def natten():
    """NATTEN itself."""
    if importlib.util.find_spec("natten") is None:
        pytest.skip("natten is not installed")
    try:
        importlib.import_module("natten")
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"natten is installed but does not import: {error}")


def close(ours, theirs, tolerance=2e-6):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def scan_agrees(sizes, device="cpu", tolerance=2e-6):
    """Value, last state and every gradient."""
    arguments = {k: v.to(device) for k, v in inputs(**sizes, dtype=torch.float32).items()}
    order = arguments.pop("order")
    with torch.no_grad():
        for ours, theirs in zip(
            *(selective_scan(**arguments, order=order, return_state=True, backend=b) for b in ("mamba_ssm", "auto")),
            strict=True,
        ):
            close(ours, theirs, tolerance)
    weight = torch.randn(arguments["x"].shape, generator=torch.Generator().manual_seed(1)).to(device)
    gradients = {}
    for backend in ("mamba_ssm", "auto"):
        leaves = {k: v.detach().clone().requires_grad_() for k, v in arguments.items()}
        (selective_scan(**leaves, order=order, backend=backend) * weight).sum().backward()
        gradients[backend] = {k: v.grad for k, v in leaves.items()}
    for name, gradient in gradients["mamba_ssm"].items():
        close(gradient, gradients["auto"][name], 10 * tolerance)


def attention_agrees(case, heads=2, channels=8, device="cpu", tolerance=2e-6, dtype=torch.float32):
    shapes, window, dilation, frames, shift = case
    tokens = sum(h * w for h, w in shapes)
    q, k, v = (draw(2, frames, tokens, heads, channels, seed=i).to(device, dtype) for i in range(3))
    ours, theirs = (
        neighborhood_attention(q, k, v, shapes, window, dilation, shift, backend=b) for b in ("natten", "auto")
    )
    close(ours, theirs, tolerance)


@pytest.mark.parametrize("sizes", SCANS)
def test_a_scan_by_the_stand_in_is_the_reference(sizes, stand_ins):
    scan_agrees(sizes)
    assert set(stand_ins) == {"scan"}


@pytest.mark.parametrize("case", WINDOWS)
def test_attention_by_the_stand_in_is_the_reference(case, stand_ins):
    attention_agrees(case)
    assert set(stand_ins) == {"attention"}


@pytest.mark.peer
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sizes", SCANS)
def test_mamba_ssm_is_the_reference(sizes, device, mamba_ssm):
    scan_agrees(sizes, device, tolerance=2e-6 if device == "cpu" else 1e-5)


@pytest.mark.peer
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", WINDOWS)
def test_natten_is_the_reference(case, device, natten):
    # Tensor cores multiply float32 with 10 bits.
    attention_agrees(case, device=device, tolerance=2e-6 if device == "cpu" else 5e-3)


def encoded(**backends):
    """What a small encoder of fixed weights makes of fixed features, and the encoder."""
    torch.manual_seed(0)
    channels = {"res2": 3, "res3": 4, "res4": 5, "res5": 6}
    sizes = {"depth": 1, "heads": 4, "hidden": 8, "num_frame_queries": 3, "scan_hidden": 8, "scan_depth": 2}
    encoder = LGREncoder(channels, dim=32, **sizes, **backends).eval()
    features = {k: draw(1, 2, c, 16 >> i, 24 >> i, seed=i).float() for i, (k, c) in enumerate(channels.items())}
    with torch.no_grad():
        return encoder(features)


def model_agrees():
    by_name, ours = encoded(scan_backend="mamba_ssm", neighborhood_backend="natten"), encoded()
    for level, value in ours.items():
        close(by_name[level], value, 1e-5)


def test_a_model_takes_its_backends_by_name(stand_ins):
    encoded()
    assert stand_ins == []
    model_agrees()
    assert stand_ins == ["attention"] * 3 + ["scan"] * 2


@pytest.mark.peer
def test_a_model_by_both_peers_is_the_same(mamba_ssm, natten):
    model_agrees()


def test_a_model_takes_our_own_backends_by_name():
    names = {f"{op}_backend": "reference" for op in ("scan", "neighborhood", "deform")}
    for level, value in encoded(**names).items():
        close(value, encoded()[level], 1e-5)
    for name in names:
        with pytest.raises(BackendError, match="backend is 'abacus'"):
            encoded(**{name: "abacus"})


def test_auto_never_takes_a_peer():
    ours, like = {"reference": Backend(min)}, torch.zeros(1)
    assert choose(ours, "auto", like, {"peer": max}) is min
    assert choose(ours, "peer", like, {"peer": max}) is max
    with pytest.raises(BackendError, match="backend is 'abacus', expected auto or one of .*reference, mamba_ssm"):
        selective_scan(**inputs(), backend="abacus")


def scan_by_name(**changes):
    return selective_scan(**{**inputs(dtype=torch.float32), **changes}, backend="mamba_ssm")


def attention_by_name(q, window=3, shapes=((4, 4),)):
    return neighborhood_attention(q, q, q, shapes, window, backend="natten")


@pytest.mark.parametrize(
    ("missing", "call", "tried"),
    [
        (INTERFACE, scan_by_name, f"{INTERFACE} failed .ModuleNotFoundError: .*pip install .*mamba-ssm, where nvcc"),
        ("natten", lambda: attention_by_name(torch.zeros(1, 1, 16, 2, 8)), r"natten\.na2d failed .*pip install natten"),
    ],
)
def test_a_package_that_is_not_there_is_one_sentence(missing, call, tried, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(BackendError, match=f"cannot be used: the import of {tried}") as caught:
        call()
    assert "see INSTALL.md), or choose auto or reference" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [OSError("libcudart.so: no\nsuch file"), RuntimeError("0 active drivers"), ImportError()]
)
def test_a_package_that_breaks_at_import_says_why_in_one_line(error, monkeypatch):
    class Broken(ModuleType):
        def __getattr__(self, name):
            raise error

    monkeypatch.setitem(sys.modules, "natten", Broken("natten"))
    reason = (str(error) or "no reason given").splitlines()[0]
    with pytest.raises(BackendError, match=f"{type(error).__name__}: {reason}.; install it with"):
        attention_by_name(torch.zeros(1, 1, 16, 2, 8))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"initial_state": torch.zeros(2, 2, 3, 4)}, "start from an initial_state"),
        (inputs(), "compute in float64"),
        ({"A": inputs(dtype=torch.float32)["A"].requires_grad_(), "return_state": True}, "through the last state"),
    ],
)
def test_what_mamba_ssm_cannot_do(changes, says, stand_ins):
    with pytest.raises(BackendError, match=f"backend 'mamba_ssm' cannot .*{says}.*; choose auto or reference"):
        scan_by_name(**changes)
    assert stand_ins == []


def test_the_scan_keeps_half_precision_outside_only(stand_ins):
    arguments = inputs(length=12, dtype=torch.float32)
    half = {k: v.bfloat16() if k in ("x", "dt", "B", "C") else v for k, v in arguments.items()}
    ours, theirs = (selective_scan(**half, backend=b) for b in ("mamba_ssm", "auto"))
    close(ours, theirs, 1e-2)
    assert ours.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close(scan_by_name(), selective_scan(**inputs(dtype=torch.float32)))


def test_what_natten_cannot_do(stand_ins):
    with pytest.raises(BackendError, match="'natten' has no gradients on a CPU; call it under torch.no_grad"):
        attention_by_name(torch.zeros(1, 1, 16, 2, 8, requires_grad=True))
    assert stand_ins == []
    with torch.no_grad():
        attention_by_name(torch.zeros(1, 1, 16, 2, 8, requires_grad=True))
    with pytest.raises(
        BackendError, match=r"cannot do window 1, .*\[1, 1, 16, 2, 8\] .*float32 on cpu .*kernel_size=1 d"
    ):
        attention_by_name(torch.zeros(1, 1, 16, 2, 8), window=1)


@pytest.mark.peer
@pytest.mark.parametrize(("window", "dtype"), [(1, torch.float32), (3, torch.float64)])
def test_what_natten_itself_refuses(window, dtype, natten):
    with pytest.raises(BackendError, match=f"cannot do window {window}.*{dtype}.*choose auto or reference"):
        attention_by_name(torch.zeros(1, 1, 16, 2, 8, dtype=dtype), window)


@pytest.mark.peer
def test_natten_still_has_no_gradients_on_a_cpu(natten):
    """When this fails, the refusal in ops/neighborhood/peers.py can go."""
    from natten import na2d

    q = torch.zeros(1, 6, 6, 2, 8, requires_grad=True)
    with pytest.raises(NotImplementedError):
        na2d(q, q, q, kernel_size=3).sum().backward()
