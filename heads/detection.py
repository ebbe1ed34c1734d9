"""Emissions as boxes in time and frequency: learned queries, each of which finds one emission or none."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, l1_loss
from torchmetrics import MetricCollection

from heads.average_precision import BoxAveragePrecision
from heads.pooled import require_heads
from lwm.errors import ConfigError
from lwm.models.boxes import ABSENT, Boxes, overlaps
from lwm.models.encoder import init_linear
from lwm.models.head import Head, TaskKind, TokenShape
from lwm.models.positions import sinusoidal_positions

# Weights of class, L1 and GIoU in the matching and in the loss, and of "no object" in the class term: those of DETR.
_CLASS, _L1, _GIOU = 1.0, 5.0, 2.0
_NO_OBJECT = 0.1


class Detections(NamedTuple):
    """What the queries say after each of N decoder layers, the last being the answer.

    ``scores``: ``[N, B, queries, K + 1]`` class scores, the last for "no object".
    ``places``: ``[N, B, queries, 4]`` centre in time and frequency, duration and bandwidth, shares of the picture.
    """

    scores: Tensor
    places: Tensor


class DetectionHead(Head):
    """DETR (Carion et al. 2020) on an encoder's tokens: set prediction without anchors or suppression of doubles.

    Queries attend to each other and to the tokens in decoder layers. Each has a learned box of its own to start from,
    spread over the picture, and every layer is told the box so far, corrects it and is trained on its own answer
    (Zhu et al. 2021): a pure DETR takes hundreds of epochs to find places.
    A loss is that of the cheapest one-to-one assignment of queries to emissions (Hungarian method, scipy's).

    Args:
        shape: tokens that it is built for.
        targets: classes of emissions; one is enough.
        queries: most emissions that can be found in a picture.
        width: of the decoder, a multiple of 4 and of ``attention_heads``; the tokens' own where None.
        depth: decoder layers.
        attention_heads: of each.
    """

    kind: ClassVar[TaskKind] = "detection"
    head_type: ClassVar[str] = "detection"
    weights: Tensor

    def __init__(
        self,
        shape: TokenShape,
        targets: Sequence[str],
        queries: int = 20,
        width: int | None = None,
        depth: int = 2,
        attention_heads: int = 4,
    ) -> None:
        super().__init__(shape, targets)
        self.queries, self.width, self.depth, self.attention_heads = (
            queries,
            width or shape.width,
            depth,
            attention_heads,
        )
        require_heads(self.width, attention_heads)
        if self.width % 4 or depth < 1 or queries < 1:
            raise ConfigError(
                f"{queries} queries in {depth} layers of width {self.width}", "one or more, of a multiple of 4"
            )
        self.embed = nn.Sequential(nn.LayerNorm(shape.width, eps=1e-6), nn.Linear(shape.width, self.width))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                self.width, attention_heads, 4 * self.width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(self.width, eps=1e-6)
        self.classify = nn.Linear(self.width, len(targets) + 1)
        self.locate = Mlp(self.width, self.width, 4)
        self.place = Mlp(4, self.width, self.width)
        self.apply(init_linear)
        # Boxes start where the queries' own places are.
        nn.init.zeros_(self.locate.fc2.weight)
        self.query = nn.Parameter(torch.randn(queries, self.width))
        self.start = nn.Parameter(_spread_starts(queries))
        weights = torch.ones(len(targets) + 1)
        weights[-1] = _NO_OBJECT
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, tokens: Tensor | Sequence[Tensor], grid_size: tuple[int, int] | None = None) -> Detections:
        """Every layer's answer; see :meth:`lwm.models.head.Head.forward`."""
        memory = self.embed(self.patch_tokens(tokens, grid_size))
        memory = memory + sinusoidal_positions(self.grid_of(grid_size), self.width).to(memory)
        x = self.query.expand(memory.shape[0], -1, -1)
        # Boxes in float32: bfloat16 has eight bits, a cell in 256.
        place = self.start.float().expand(memory.shape[0], -1, -1)
        scores, places = [], []
        for layer in self.layers:
            x = layer(x + self.place(place.sigmoid().to(x.dtype)), memory)
            seen = self.norm(x)
            place = place + self.locate(seen).float()
            scores.append(self.classify(seen))
            places.append(place.sigmoid())
            # Each layer is trained to correct the one before it, not through it (Deformable DETR).
            place = place.detach()
        return Detections(torch.stack(scores), torch.stack(places))

    def loss(self, output: Detections, target: Boxes) -> Tensor:
        """Class, L1 and GIoU terms of the matched queries, mean over the layers.

        Raises:
            ConfigError: a picture with more emissions than queries.
        """
        scores, places = output.scores.float().flatten(0, 1), output.places.float().flatten(0, 1)
        repeats = output.scores.shape[0]
        wanted, labels = target.places.float().repeat(repeats, 1, 1), target.labels.repeat(repeats, 1)
        sample, query, box = self.match(scores, places, wanted, labels)
        classes = torch.full(scores.shape[:2], len(self.targets), device=scores.device)
        classes[sample, query] = labels[sample, box]
        loss = _CLASS * cross_entropy(scores.transpose(1, 2), classes, weight=self.weights.float())
        count = max(len(sample), 1)
        ours, theirs = places[sample, query], wanted[sample, box]
        loss = loss + _L1 * l1_loss(ours, theirs, reduction="sum") / count
        return loss + _GIOU * (1 - overlaps(ours, theirs)[1]).sum() / count

    @torch.no_grad()
    def match(self, scores: Tensor, places: Tensor, wanted: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The cheapest one-to-one assignment of queries to emissions in each sample.

        Args:
            scores: ``[S, queries, K + 1]``.
            places: ``[S, queries, 4]``.
            wanted: ``[S, M, 4]``.
            labels: int64 ``[S, M]``, padded with ``ABSENT``.

        Returns:
            int64 sample, query and box of every pair.
        """
        from scipy.optimize import linear_sum_assignment

        there = labels != ABSENT
        most = int(there.sum(1).max()) if there.numel() else 0
        if most > self.queries:
            raise ConfigError(f"a picture with {most} emissions", f"at most as many as queries ({self.queries})")
        chance = scores.softmax(-1).gather(2, labels.clamp(min=0)[:, None].expand(-1, scores.shape[1], -1))
        giou = overlaps(places[:, :, None], wanted[:, None])[1]
        cost = (_L1 * torch.cdist(places, wanted, p=1) - _CLASS * chance - _GIOU * giou).cpu().numpy()
        pairs = [
            (number, *assigned)
            for number, boxes in enumerate(there.cpu().numpy())
            for assigned in zip(*linear_sum_assignment(cost[number][:, boxes]), strict=True)
        ]
        sample, query, column = torch.tensor(pairs, dtype=torch.long, device=labels.device).reshape(-1, 3).unbind(1)
        # Columns count the boxes that are there; argsort puts those first and keeps their order.
        order = (~there).int().argsort(dim=1, stable=True)
        return sample, query, order[sample, column]

    def predict(self, output: Detections) -> Boxes:
        """One box a query ``[B, queries]`` of the last layer with its likeliest class and that class's probability."""
        chance = output.scores[-1].float().softmax(-1)[..., :-1]
        best, labels = chance.max(-1)
        return Boxes(output.places[-1].float(), labels, best)

    def metrics(self) -> MetricCollection:
        """Mean average precision over classes at IoU 0.5 and 0.75."""
        at = {f"map_{round(100 * iou)}": BoxAveragePrecision(len(self.targets), iou) for iou in (0.5, 0.75)}
        # No groups: the two may look alike in the first batch, and would be one metric ever after.
        return MetricCollection(dict(at), compute_groups=False)

    def as_tensor(self, output: Detections) -> Tensor:
        """The last layer's scores beside its places ``[B, queries, K + 5]``."""
        return torch.cat([output.scores[-1].float(), output.places[-1]], dim=-1)


def _spread_starts(queries: int) -> Tensor:
    """Logits ``[queries, 4]`` of boxes a quarter wide and high, centred on points of low discrepancy.

    Multiples of (1/g, 1/g^2) modulo 1 with g^3 = g + 1, the golden ratio of the plane (Roberts 2018).
    """
    g = 1.32471795724474602596
    number = torch.arange(1, queries + 1)
    points = torch.stack([number / g % 1, number / g**2 % 1], dim=1).clamp(0.05, 0.95)
    return torch.cat([points, torch.full((queries, 2), 0.25)], dim=1).logit()
