"""What is computed in one pretraining step: one pass through the encoder serves every term of the loss."""

from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from lwm.models.encoder import SpectrogramEncoder, init_linear
from lwm.models.mae import MaskedAutoencoder, MaskedConfig, at_places
from lwm.models.masking import weighted_mse
from lwm.models.sizes import size_named
from lwm.signal.recipe import Recipe
from lwm.tasks.contrast import mean_over_ranks
from lwm.tasks.options import Shape


class Step(NamedTuple):
    """Result of :class:`PretrainingModel`.

    ``prediction``: float32 ``[B, N, K]``, of the patches ``places`` int64 ``[B, N]`` (None: of all); None where not
    asked for. ``embedding``: float32 ``[B, projection]``, None without a contrastive term.
    """

    prediction: Tensor | None
    places: Tensor | None
    embedding: Tensor | None


class PretrainingModel(nn.Module):
    """Masked autoencoder with what the other terms need.

    Args:
        mae: encoder and decoder.
        latent: the decoder predicts features of the encoder's width instead of cells.
        projection: width of the contrasted embedding; 0: no contrastive term.
        reconstruct: whether any stage predicts patches; otherwise the decoder is not trained.
    """

    def __init__(self, mae: MaskedAutoencoder, latent: bool, projection: int, reconstruct: bool = True) -> None:
        super().__init__()
        self.mae = mae
        width = mae.encoder.num_features
        if latent:
            mae.decoder.head = nn.Linear(mae.decoder.config.width, width)
        self.projector: nn.Module | None = None
        if projection:
            self.projector = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, projection))
            self.projector.apply(init_linear)
        init_linear(mae.decoder.head)
        # What no loss reaches must not wait for a gradient: distributed training would.
        mae.decoder.requires_grad_(reconstruct)
        if mae.config.mode == "replace":
            mae.decoder.mask_token.requires_grad_(False)

    def forward(self, x: Tensor, mask: Tensor, predicted: int | None = None) -> Step:
        """Predictions and embeddings of one batch.

        Args:
            x: dB pictures ``[B, C, F, T]``.
            mask: bool ``[B, L]``, True where hidden.
            predicted: of how many pictures, from the first, patches are predicted; all by default.
        """
        mae, encoder = self.mae, self.mae.encoder
        tokens, visible = mae.encode(x, mask)
        embedding = None
        if self.projector is not None:
            # The embedding sees no more than the decoder does: what it learns cannot come from a look at the target.
            embedding = self.projector(tokens[:, encoder.num_prefix_tokens :].mean(1)).float()
        count = len(x) if predicted is None else predicted
        if not count:
            return Step(None, None, embedding)
        visible = None if visible is None else visible[:count]
        return Step(*mae.decode(tokens[:count], visible, mask[:count], encoder.grid_of(x)), embedding)


def masked_loss(step: Step, wanted: Tensor, weight: Tensor) -> Tensor:
    """Squared error of a step's predictions averaged over the cells that count, of all processes.

    Args:
        step: with a prediction.
        wanted: ``[B, L, K]`` of all patches.
        weight: ``[B, L, K]`` or ``[B, L, 1]``, what counts.
    """
    assert step.prediction is not None
    wanted, weight = at_places(step.places, wanted, weight.expand_as(wanted))
    # Processes may have padded cells in different number: one divisor for all makes the mean of gradients right.
    return weighted_mse(step.prediction, wanted, weight, mean_over_ranks(weight.sum()))


def build_model(
    size: str, name: str, shape: Shape, config: MaskedConfig, recipe: Recipe, mean: float, std: float
) -> MaskedAutoencoder:
    """A masked autoencoder of a named size with changes.

    Raises:
        ConfigError: no such size, or a mask ratio, shape or decoder that does not go with the rest.
        ModelError: the patch does not divide the recipe's picture.
    """
    named = size_named(size)
    changes: dict[str, Any] = {"name": name, "cls_token": shape.cls_token, "registers": shape.registers}
    given = {key: value for key in ("patch", "position", "stem") if (value := getattr(shape, key)) is not None}
    encoder = SpectrogramEncoder(replace(named.encoder, **(changes | given)), recipe, mean, std)
    return MaskedAutoencoder(encoder, replace(named.decoder, attention=shape.decoder), config)
