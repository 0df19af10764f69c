"""What the set criterion promises beyond the published cases."""

from dataclasses import replace

import pytest
import torch

from lgrnet.draws import KeyedDraws
from lgrnet.losses import set_criterion
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.structures import SegOutput, Targets

POINTS = 48


def make_output(clips=2, queries=5, frames=3, classes=1, aux=1, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)

    def layer():
        masks = torch.randn(clips, queries, frames, 6, 8, generator=g, dtype=dtype) * 3
        return SegOutput(masks, torch.randn(clips, queries, classes + 1, generator=g, dtype=dtype))

    earlier = tuple(layer() for _ in range(aux))
    return replace(layer(), aux=earlier)


def make_targets(objects=(1, 2), frames=3, classes=1, seed=1):
    g = torch.Generator().manual_seed(seed)
    return [
        Targets(
            labels=torch.randint(0, classes, (n,), generator=g),
            masks=(torch.rand(n, frames, 24, 32, generator=g) > 0.6).float(),
            valid=torch.ones(frames, 24, 32, dtype=torch.bool),
            annotated=torch.ones(frames, dtype=torch.bool),
        )
        for n in objects
    ]


def permuted(output, change):
    """The output with `change` applied to the tensors of every layer."""
    layers = [SegOutput(change(x.mask_logits), change(x.class_logits)) for x in output.layers]
    return replace(layers[-1], aux=tuple(layers[:-1]))


def leaves(output):
    tensors = [t for x in output.layers for t in (x.mask_logits, x.class_logits)]
    for tensor in tensors:
        tensor.requires_grad_()
    return tensors


def run(output, targets, positions=(10, 11), **settings):
    settings = {"num_points": POINTS, **settings}
    return SetCriterion(**settings)(output, targets, KeyedDraws(2024, positions))


def weighted(terms):
    weights = SetCriterion().weights
    return sum(weights[name] * value for name, value in terms.items())


class SameDraws:
    """One set of points for every map, so that the order of rows cannot matter."""

    def sample(self, purpose, clip, shape, device):
        return torch.rand(shape, generator=torch.Generator().manual_seed(len(purpose)))

    def rows(self, purpose, counts, tail, device):
        return self.sample(purpose, 0, (1, *tail), device).expand(sum(counts), *tail)


def close(ours, expected, rtol=1e-5):
    assert set(ours) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=rtol, atol=1e-6)


def test_the_order_of_queries_does_not_matter():
    output, targets = make_output(), make_targets()
    order = torch.tensor([3, 1, 4, 0, 2])
    criterion = SetCriterion(num_points=POINTS)
    turned = criterion(permuted(output, lambda x: x[:, order]), targets, SameDraws())
    close(turned, criterion(output, targets, SameDraws()))


def test_the_order_of_objects_does_not_matter():
    # Draws belong to rows, and rows follow the queries: a permutation of the objects leaves them alone.
    output, targets = make_output(classes=3), make_targets(objects=(3, 2), classes=3)
    turned = [replace(t, labels=t.labels.flip(0), masks=t.masks.flip(0)) for t in targets]
    close(run(output, turned), run(output, targets))


def test_two_ranks_with_half_the_batch_each_give_the_loss_of_one(monkeypatch):
    output, targets = make_output(clips=4), make_targets(objects=(1, 2, 0, 3))
    whole = run(output, targets, positions=(1, 2, 3, 4))
    halves = [(permuted(output, lambda x, s=s: x[s]), targets[s], (1, 2, 3, 4)[s]) for s in (slice(2), slice(2, 4))]
    shares = []
    monkeypatch.setattr(set_criterion, "reduce_mean", lambda share: shares.append(share) or share)
    for half in halves:
        run(*half)
    mean = torch.stack(shares).mean(0)
    assert shares[0][0] == 3 and shares[1][0] == 3
    monkeypatch.setattr(set_criterion, "reduce_mean", lambda share: mean)
    parts = [run(*half) for half in halves]
    close({name: (parts[0][name] + parts[1][name]) / 2 for name in whole}, whole)


def test_an_object_on_one_of_two_ranks_weighs_as_in_one_process(monkeypatch):
    output, targets = make_output(), make_targets(objects=(1, 0))
    whole = run(output, targets)
    monkeypatch.setattr(set_criterion, "world_size", lambda: 2)
    monkeypatch.setattr(set_criterion, "reduce_mean", lambda share: torch.tensor([0.5, (1 + 0.1 * 9) / 2]))
    parts = [run(permuted(output, lambda x, i=i: x[i : i + 1]), targets[i : i + 1], (10 + i,)) for i in (0, 1)]
    close({name: (parts[0][name] + parts[1][name]) / 2 for name in whole}, whole)


@pytest.mark.parametrize("objects", [(1, 1), (2, 2)])
def test_ranks_with_equal_numbers_of_objects_give_the_published_loss(objects):
    """Published: each rank divides by its own sum of class weights, and by at least one object."""
    output, targets = make_output(), make_targets(objects=objects)
    whole = run(output, targets)
    # A single process divides as a published rank does.
    ranks = [run(permuted(output, lambda x, i=i: x[i : i + 1]), targets[i : i + 1], (10 + i,)) for i in (0, 1)]
    close({name: (ranks[0][name] + ranks[1][name]) / 2 for name in whole}, whole)


def test_unequal_numbers_of_annotated_frames():
    output, targets = make_output(), make_targets()
    annotated = torch.tensor([True, False, True])
    targets[1] = replace(targets[1], annotated=annotated)
    before = run(output, targets)
    # Nothing on the frame without annotation is read: neither its prediction nor its mask.
    for layer in output.layers:
        layer.mask_logits[1, :, 1] = torch.nan
    targets[1].masks[:, 1] = torch.nan
    close(run(output, targets), before)
    assert all(value.isfinite() for value in before.values())


@pytest.mark.parametrize("divide_by", ["objects", "maps"])
def test_the_divisor_is_objects_as_published_or_maps(divide_by):
    output, targets = make_output(aux=0), make_targets()
    ratio = run(output, targets)["mask_bce"] / run(output, targets, divide_by=divide_by)["mask_bce"]
    assert ratio.item() == pytest.approx(1 if divide_by == "objects" else 3)


def test_objects_without_a_pixel_are_matched_but_not_counted():
    output, targets = make_output(aux=0), make_targets(objects=(2, 1))
    targets[0].masks[1] = 0
    divisor = SetCriterion(num_points=POINTS)._divisors(output, set_criterion._annotated_parts(output, targets))[0]
    assert divisor.item() == 2


def test_objects_on_ignored_pixels_only_are_not_counted():
    output, targets = make_output(aux=0), make_targets(objects=(2, 1))
    valid = targets[0].valid.clone()
    valid[:, :12] = False
    targets[0].masks[1, :, 12:] = 0
    targets[0] = replace(targets[0], valid=valid)
    divisor = SetCriterion(num_points=POINTS)._divisors(output, set_criterion._annotated_parts(output, targets))[0]
    assert divisor.item() == 2


def test_points_are_not_spent_on_ignored_pixels():
    # What is ignored stays uncertain for ever; it must not draw all the points that seek uncertainty.
    output, targets = make_output(clips=1, aux=0), make_targets(objects=(1,))
    valid = targets[0].valid.clone()
    valid[:, :, 16:] = False
    output.mask_logits[..., 4:] = 0
    terms = run(output, [replace(targets[0], valid=valid)], positions=(1,), importance=1.0)
    assert terms["mask_bce"] > 0.5


def test_clips_without_objects_teach_no_object():
    output = make_output(aux=0)
    terms = run(output, make_targets(objects=(0, 0)))
    assert terms["mask_bce"].item() == terms["mask_dice"].item() == 0
    expected = -output.class_logits.log_softmax(-1)[..., -1].mean()
    torch.testing.assert_close(terms["class_ce"], expected)


def test_a_clip_without_annotation_takes_part_in_no_term():
    output, targets = make_output(), make_targets()
    unknown = replace(targets[1], annotated=torch.zeros(3, dtype=torch.bool))
    alone = run(permuted(output, lambda x: x[:1]), targets[:1], positions=(10,))
    close(run(output, [targets[0], unknown]), alone)
    tensors = leaves(output)
    terms = run(output, [unknown, unknown])
    assert [value.item() for value in terms.values()] == [0, 0, 0]
    # Every output stays in the graph: distributed training waits for the gradient of every parameter.
    for gradient in torch.autograd.grad(sum(terms.values()), tensors):
        assert gradient.abs().max() == 0


def test_ignored_pixels_do_not_matter():
    output, targets = make_output(), make_targets()
    valid = targets[0].valid.clone()
    valid[1, :12] = False
    valid[2] = False
    targets[0] = replace(targets[0], valid=valid)
    before = run(output, targets)
    changed = torch.where(valid, targets[0].masks, 1 - targets[0].masks)
    close(run(output, [replace(targets[0], masks=changed), targets[1]]), before, rtol=0)


def test_a_frame_of_ignored_pixels_is_a_frame_without_annotation():
    output, targets = make_output(), make_targets()
    shown = torch.tensor([True, False, True])
    ignored = replace(targets[0], valid=targets[0].valid & shown[:, None, None])
    unknown = replace(targets[0], annotated=shown)
    for criterion in (SetCriterion(num_points=POINTS), SetCriterion(num_points=POINTS, divide_by="maps")):
        expected = criterion(output, [unknown, targets[1]], SameDraws())
        close(criterion(output, [ignored, targets[1]], SameDraws()), expected)


def test_a_clip_of_ignored_pixels_teaches_nothing():
    output, targets = make_output(), make_targets()
    ignored = replace(targets[0], valid=torch.zeros_like(targets[0].valid))
    unknown = replace(targets[0], annotated=torch.zeros_like(targets[0].annotated))
    criterion = SetCriterion(num_points=POINTS)
    assert all(value == 0 for value in criterion(make_output(clips=1), [ignored], SameDraws()).values())
    expected = criterion(output, [unknown, targets[1]], SameDraws())
    close(criterion(output, [ignored, targets[1]], SameDraws()), expected)


def test_parts_of_a_step_in_float64():
    """Thirds, too, are those of the whole to the last digits."""
    output, targets = make_output(clips=3, aux=0, dtype=torch.float64), make_targets(objects=(1, 2, 1))
    for divide_by in ("objects", "maps"):
        criterion = SetCriterion(num_points=POINTS, divide_by=divide_by)
        whole = criterion(output, targets, KeyedDraws(0, (0, 1, 2)))
        parts = [
            criterion(
                SegOutput(output.mask_logits[i : i + 1], output.class_logits[i : i + 1]),
                targets[i : i + 1],
                KeyedDraws(0, (i,)),
                whole=targets,
            )
            for i in range(3)
        ]
        for name, value in whole.items():
            mean = sum(part[name] for part in parts) / 3
            assert value.dtype == torch.float64 and abs(mean - value) <= 1e-12 * abs(value)


def test_ignored_pixels_get_no_gradient():
    output, targets = make_output(clips=1, aux=0), make_targets(objects=(1,))
    valid = torch.ones(3, 24, 32, dtype=torch.bool)
    valid[:, :, 16:] = False
    masks = leaves(output)[0]
    terms = run(output, [replace(targets[0], valid=valid)], positions=(1,))
    (gradient,) = torch.autograd.grad(terms["mask_bce"] + terms["mask_dice"], masks)
    assert gradient[..., 5:].abs().max() == 0 and gradient[..., :4].abs().max() > 0


def test_soft_masks():
    output, targets = make_output(aux=0), make_targets(objects=(1, 1))
    soft = [replace(t, masks=t.masks * 0.5) for t in targets]
    empty = [replace(t, masks=torch.zeros_like(t.masks)) for t in targets]
    # The cross-entropy is linear in the mask, once query, points and divisor are held.
    output = permuted(output, lambda x: x[:, :1])
    values = [run(output, t, divide_by="maps")["mask_bce"].item() for t in (targets, soft, empty)]
    assert values[1] == pytest.approx((values[0] + values[2]) / 2, rel=1e-5)


def test_several_classes():
    output, targets = make_output(classes=3, aux=0), make_targets(objects=(3, 2), classes=3)
    logits = torch.full_like(output.class_logits, -30.0)
    logits[..., 3] = 30
    parts = set_criterion._annotated_parts(output, targets)
    criterion = SetCriterion(num_points=POINTS)
    points = criterion._draw(output, parts, KeyedDraws(2024, (10, 11)), 0)
    matches = criterion.matcher.assign_all(criterion._costs(output, parts, points))
    for row, target, (queries, objects) in zip(logits, targets, matches, strict=True):
        row[queries] = -30
        row[queries, target.labels[objects]] = 30
    value = SetCriterion()._class_term(logits, parts, matches)
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert run(output, targets)["class_ce"] > 0.5


@pytest.mark.parametrize("size", [50.0, -50.0, 1e4])
def test_extreme_logits_have_finite_gradients(size):
    output, targets = make_output(), make_targets()
    output = permuted(output, lambda x: x.sign() * size)
    tensors = leaves(output)
    total = weighted(run(output, targets))
    assert total.isfinite()
    for gradient in torch.autograd.grad(total, tensors):
        assert gradient.isfinite().all()


def test_gradients_are_those_of_finite_differences():
    output, targets = make_output(clips=1, queries=2, frames=1, aux=0, dtype=torch.float64), make_targets((1,), 1)
    criterion = SetCriterion(num_points=8, importance=0.0)

    def total(masks, classes):
        return weighted(criterion(SegOutput(masks, classes), targets, KeyedDraws(0, (0,))))

    assert torch.autograd.gradcheck(total, leaves(output), atol=1e-6)


def test_logits_that_are_not_a_number_reach_the_loss():
    output, targets = make_output(aux=0), make_targets()
    output.mask_logits.fill_(torch.nan)
    assert run(output, targets)["mask_bce"].isnan()


def test_half_precision_outputs_under_autocast_are_compared_in_single_precision():
    output, targets = make_output(), make_targets()
    half = permuted(output, lambda x: x.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = run(half, targets)
    assert all(value.dtype == torch.float32 for value in terms.values())
    close(terms, run(permuted(half, lambda x: x.float()), targets))


def test_layers_are_summed_and_earlier_ones_can_be_left_out():
    output, targets = make_output(aux=3), make_targets()
    last = run(replace(output, aux=()), targets, importance=0.0, oversample=1.0)
    assert set(last) == {"mask_bce", "mask_dice", "class_ce"}
    without = run(output, targets, aux_weight=0.0)
    half, full = run(output, targets, aux_weight=0.5), run(output, targets)
    close({name: 2 * half[name] - without[name] for name in full}, full)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o, t: (replace(o, class_logits=None), t), "needs class logits"),
        (lambda o, t: (o, t[:1]), "2 clips, but there are 1 targets"),
        (lambda o, t: (o, [t[0], replace(t[1], masks=t[1].masks[:, :2])]), "output of 3 frames"),
        (lambda o, t: (o, [t[0], replace(t[1], annotated=t[1].annotated[:2])]), "output of 3 frames"),
        (lambda o, t: (o, [t[0], replace(t[1], labels=t[1].labels + 1)]), r"labels \[1, 1\].*classes 0 to 0"),
    ],
)
def test_targets_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        run(*change(make_output(), make_targets()))


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="divide_by is 'frames'"):
        SetCriterion(divide_by="frames")
    with pytest.raises(ValueError, match="oversample 0.5"):
        SetCriterion(oversample=0.5)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float32])
@pytest.mark.parametrize("field", ["valid", "annotated"])
def test_numbers_in_place_of_true_and_false_are_refused(field, kind):
    """~1 of whole numbers is not 0: every pixel would be ignored."""
    (first, *others) = make_targets()
    wrong = replace(first, **{field: getattr(first, field).to(kind)})
    with pytest.raises(ValueError, match="expected torch.bool"):
        SetCriterion()(make_output(), [wrong, *others], KeyedDraws(0, (0, 1)))
