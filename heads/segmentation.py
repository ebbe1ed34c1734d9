"""A class for every cell of the picture, from patch tokens (arXiv 2411.09996, section III-D)."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

from heads.pooled import require_classes, require_heads
from lwm.errors import ConfigError
from lwm.models.encoder import init_linear, transformer_block
from lwm.models.head import VOID, Head, TaskKind, TokenShape
from lwm.models.positions import sinusoidal_positions


class SegmentationHead(Head):
    """Two transformer blocks on the tokens, then one linear layer to the class scores of each token's cells.

    The blocks see sines of the tokens' own grid, so that one head takes pictures of every size; the output has as many
    cells as there are under the tokens.

    Args:
        shape: tokens that it is built for.
        targets: classes, in the order of the mask's codes, for example noise, NR, LTE.
        width: of the blocks, a multiple of 4 and of ``attention_heads``; the tokens' own where None.
        depth: number of blocks.
        attention_heads: of each.
        smoothing: label smoothing of the cross-entropy.
    """

    kind: ClassVar[TaskKind] = "segmentation"
    head_type: ClassVar[str] = "segmentation"

    def __init__(
        self,
        shape: TokenShape,
        targets: Sequence[str],
        width: int | None = None,
        depth: int = 2,
        attention_heads: int = 4,
        smoothing: float = 0.1,
    ) -> None:
        super().__init__(shape, targets)
        require_classes(targets, smoothing)
        self.width, self.depth, self.attention_heads = width or shape.width, depth, attention_heads
        self.smoothing = smoothing
        require_heads(self.width, attention_heads)
        if self.width % 4 or depth < 1:
            raise ConfigError(f"{depth} blocks of width {self.width}", "one or more, of a multiple of 4")
        rows, columns = shape.cell
        self.embed = nn.Sequential(nn.LayerNorm(shape.width, eps=1e-6), nn.Linear(shape.width, self.width))
        self.blocks = nn.Sequential(*(transformer_block(self.width, attention_heads, 4.0) for _ in range(depth)))
        self.norm = nn.LayerNorm(self.width, eps=1e-6)
        self.linear = nn.Linear(self.width, len(targets) * rows * columns)
        self.apply(init_linear)

    def forward(self, tokens: Tensor | Sequence[Tensor], grid_size: tuple[int, int] | None = None) -> Tensor:
        """Scores ``[B, classes, F, T]`` of tokens; see :meth:`lwm.models.head.Head.forward`."""
        grid = self.grid_of(grid_size)
        x = self.embed(self.patch_tokens(tokens, grid_size))
        x = self.blocks(x + sinusoidal_positions(grid, self.width).to(x))
        x = self.linear(self.norm(x)).unflatten(2, (len(self.targets), *self.shape.cell)).unflatten(1, grid)
        # [B, rows, columns, class, f, t] to [B, class, rows, f, columns, t]
        return x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy over the pixels of a mask ``[B, F, T]`` that are not ``VOID``."""
        return cross_entropy(output.float(), target.long(), ignore_index=VOID, label_smoothing=self.smoothing)

    def predict(self, output: Tensor) -> Tensor:
        """Probabilities float32 ``[B, classes, F, T]``."""
        return output.float().softmax(1)

    def metrics(self) -> MetricCollection:
        """Share of right pixels, its mean over classes (the paper's), macro-F1 and mean IoU; VOID does not count."""
        count: dict[str, Any] = {"num_classes": len(self.targets), "ignore_index": VOID}
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(average="micro", **count),
                "class_accuracy": MulticlassAccuracy(average="macro", **count),
                "macro_f1": MulticlassF1Score(average="macro", **count),
                "mean_iou": MulticlassJaccardIndex(average="macro", **count),
            }
        )
