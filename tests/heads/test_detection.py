"""Boxes, their matching to queries and their average precision, each against a second way of computing it."""

from itertools import permutations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_convert, box_iou, generalized_box_iou

from heads.average_precision import BoxAveragePrecision
from heads.detection import DetectionHead
from lwm.errors import ConfigError
from lwm.models.boxes import ABSENT, Boxes, corners, overlaps, pad_boxes, physical_boxes, unit_boxes
from lwm.models.head import TokenShape
from lwm.seeding import rng_for


def random_boxes(count: int, name: str) -> Tensor:
    rng = rng_for(0, "boxes", name)
    return torch.from_numpy(rng.uniform([0.2, 0.2, 0.05, 0.05], [0.8, 0.8, 0.4, 0.4], (count, 4))).float()


def test_overlaps_of_a_hand_example() -> None:
    # Unit squares shifted by a half: 1/2 shared, 3/2 in all; two apart: nothing shared, a hull of 3 for an area of 2.
    square = torch.tensor([0.5, 0.5, 1, 1])
    shifted, apart = torch.tensor([1.0, 0.5, 1, 1]), torch.tensor([2.5, 0.5, 1, 1])
    iou, giou = overlaps(square, torch.stack([square, shifted, apart]))
    torch.testing.assert_close(iou, torch.tensor([1, 1 / 3, 0]))
    torch.testing.assert_close(giou, torch.tensor([1, 1 / 3, -1 / 3]))
    line = torch.tensor([0.5, 0.5, 0.0, 1.0])
    assert torch.stack(overlaps(line, line)).isfinite().all()


def test_overlaps_agree_with_torchvision() -> None:
    first, second = random_boxes(40, "first"), random_boxes(30, "second")
    a, b = (box_convert(part, "cxcywh", "xyxy") for part in (first, second))
    torch.testing.assert_close(corners(first), a)
    iou, giou = overlaps(first[:, None], second)
    torch.testing.assert_close(iou, box_iou(a, b), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(giou, generalized_box_iou(a, b), atol=1e-6, rtol=1e-5)


def test_gradient_of_the_generalised_iou() -> None:
    """Boxes far apart still pull: in float32, so with a coarse step."""
    first, second = (random_boxes(6, name).requires_grad_(name == "a") for name in ("a", "b"))
    assert torch.autograd.gradcheck(
        lambda x: overlaps(x, second)[1], first.double(), eps=1e-3, atol=2e-2, rtol=2e-2, nondet_tol=0
    )


def test_unit_boxes_are_shares_of_the_picture() -> None:
    places = torch.tensor([[0.0, 0.01, -1e6, 1e6], [0.004, 0.006, 0.0, 0.5e6], [-1.0, 9.0, 2e6, 9e6]])
    found = unit_boxes(places, 0.01, -4e6, 4e6)
    expected = torch.tensor([[0.5, 0.5, 1, 0.25], [0.5, 0.53125, 0.2, 0.0625], [0.5, 0.875, 1, 0.25]])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(physical_boxes(found, 0.01, -4e6, 4e6)[:2], places[:2])
    tone = unit_boxes(torch.tensor([0.0, 0.01, 1e6, 1e6]), 0.01, -4e6, 4e6, (64, 32))
    assert tone[3] == 1 / 64
    with pytest.raises(ConfigError, match="above 0"):
        unit_boxes(places, 0.01, 4e6, -4e6)


def test_padding() -> None:
    rows = random_boxes(3, "rows")
    found = pad_boxes([rows[:1], rows[:0], rows[1:]], [torch.tensor([2]), torch.tensor([]), torch.tensor([0, 1])])
    assert found.labels.tolist() == [[2, ABSENT], [ABSENT, ABSENT], [0, 1]]
    assert torch.equal(found.places[2], rows[1:])
    with pytest.raises(ConfigError, match="a label for each"):
        pad_boxes([rows], [torch.tensor([1])])


def head(queries: int = 5) -> DetectionHead:
    torch.manual_seed(0)
    return DetectionHead(TokenShape(8, (2, 2), (4, 4)), ("nr", "lte", "wlan"), queries=queries, attention_heads=2)


def test_matching_is_the_cheapest_of_all_assignments() -> None:
    detector = head()
    scores = torch.randn(4, 5, 4, generator=torch.Generator().manual_seed(2))
    places, wanted = random_boxes(20, "places").reshape(4, 5, 4), random_boxes(12, "wanted").reshape(4, 3, 4)
    labels = torch.tensor([[0, 1, 2], [1, ABSENT, 1], [ABSENT, 2, 0], [ABSENT] * 3])
    pairs = torch.stack(detector.match(scores, places, wanted, labels), dim=1).tolist()
    chance = scores.softmax(-1)
    for sample in range(4):
        boxes = [b for b in range(3) if labels[sample, b] != ABSENT]

        def cost(query: int, box: int, sample: int = sample) -> float:
            near = (places[sample, query] - wanted[sample, box]).abs().sum()
            ours, theirs = (
                box_convert(x[None], "cxcywh", "xyxy") for x in (places[sample, query], wanted[sample, box])
            )
            sure = chance[sample, query, labels[sample, box]]
            return float(5 * near - sure - 2 * generalized_box_iou(ours, theirs)[0, 0])

        ways = [list(zip(way, boxes, strict=True)) for way in permutations(range(5), len(boxes))]
        best = min(ways, key=lambda way: sum(cost(q, b) for q, b in way))
        assert sorted((q, b) for s, q, b in pairs if s == sample) == sorted(best)


def test_loss_of_right_boxes_is_small_and_does_not_depend_on_their_order() -> None:
    detector = head()
    target = Boxes(random_boxes(4, "t").reshape(2, 2, 4), torch.tensor([[0, 1], [2, ABSENT]]))
    output = detector(torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(3)))
    turned = Boxes(target.places.flip(1), target.labels.flip(1))
    torch.testing.assert_close(detector.loss(output, target), detector.loss(output, turned))
    sure = torch.full((2, 2, 5, 4), -20.0)
    sure[..., 3] = 20
    sure[:, 0, 0, [0, 3]], sure[:, 0, 1, [1, 3]] = torch.tensor([20.0, -20]), torch.tensor([20.0, -20])
    sure[:, 1, 0, [2, 3]] = torch.tensor([20.0, -20])
    places = output.places.detach().clone()
    places[:, 0, :2], places[:, 1, 0] = target.places[0], target.places[1, 0]
    assert detector.loss(output._replace(scores=sure, places=places), target) < 1e-4
    assert detector.loss(output, target) > 1


def test_pictures_without_emissions_and_with_too_many() -> None:
    detector = head(queries=2)
    output = detector(torch.randn(2, 4, 8))
    empty = Boxes(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.long))
    loss = detector.loss(output, empty)
    loss.backward()
    assert torch.isfinite(loss)
    metrics = detector.metrics()
    metrics.update(detector.predict(output), empty)
    assert metrics.compute()["map_50"].isnan()
    with pytest.raises(ConfigError, match="as many as queries"):
        detector.loss(output, Boxes(torch.rand(2, 3, 4), torch.zeros(2, 3, dtype=torch.long)))


def naive_average_precision(found: list[Boxes], true: list[Boxes], name: int, iou: float) -> float:
    """The definition, one box at a time."""
    rows: list[tuple[float, bool]] = []
    truths = 0
    for ours, theirs in zip(found, true, strict=True):
        assert ours.scores is not None
        free = [b for b in range(theirs.labels.shape[1]) if theirs.labels[0, b] == name]
        truths += len(free)
        mine = [q for q in range(ours.labels.shape[1]) if ours.labels[0, q] == name]
        for q in sorted(mine, key=lambda q: -float(ours.scores[0, q])):  # type: ignore[index]
            a = box_convert(ours.places[0, q][None], "cxcywh", "xyxy")
            shared = [float(box_iou(a, box_convert(theirs.places[0, b][None], "cxcywh", "xyxy"))) for b in free]
            hit = bool(shared) and max(shared) >= iou
            if hit:
                free.pop(int(np.argmax(shared)))
            rows.append((float(ours.scores[0, q]), hit))
    rows.sort(key=lambda row: -row[0])
    right = 0
    points: list[tuple[float, float]] = []
    for number, (_, hit) in enumerate(rows, start=1):
        right += hit
        points.append((right / truths, right / number))
    area, before = 0.0, 0.0
    for recall, _ in points:
        if recall > before:
            area += (recall - before) * max(p for r, p in points if r >= recall)
            before = recall
    return area


def test_average_precision_agrees_with_the_definition() -> None:
    rng = rng_for(0, "ap")
    true, found = [], []
    for _ in range(30):
        count = int(rng.integers(0, 5))
        places = torch.from_numpy(rng.uniform(0.2, 0.8, (count, 4))).float() * torch.tensor([1, 1, 0.4, 0.4])
        labels = torch.from_numpy(rng.integers(0, 3, count))
        true.append(pad_boxes([places], [labels]))
        shaken = places + torch.from_numpy(rng.normal(scale=0.02, size=(count, 4))).float()
        extra = torch.from_numpy(rng.uniform(0.2, 0.8, (3, 4))).float() * 0.5
        names: NDArray[np.int64] = np.where(rng.random(count + 3) < 0.8, [*labels.tolist(), 0, 1, 2], 1)
        scores = torch.from_numpy(rng.random(count + 3)).float()
        found.append(Boxes(torch.cat([shaken, extra])[None], torch.from_numpy(names)[None], scores[None]))
    metric = BoxAveragePrecision(3, 0.5)
    for ours, theirs in zip(found, true, strict=True):
        metric.update(ours, theirs)
    expected = [naive_average_precision(found, true, name, 0.5) for name in range(3)]
    assert 0.1 < min(expected) < 0.9
    np.testing.assert_allclose(metric.by_class().numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(float(metric.compute()), np.mean(expected), rtol=1e-5)
    # All pictures in one update, padded, give the same.
    at_once = BoxAveragePrecision(3, 0.5)
    ours = pad_boxes([part.places[0] for part in found], [part.labels[0] for part in found])
    assert all(part.scores is not None for part in found)
    scores = torch.nn.utils.rnn.pad_sequence([part.scores[0] for part in found], batch_first=True)  # type: ignore[index]
    at_once.update(ours._replace(scores=scores), pad_boxes([t.places[0] for t in true], [t.labels[0] for t in true]))
    torch.testing.assert_close(at_once.compute(), metric.compute())
