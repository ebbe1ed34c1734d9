"""What a receiver gives that hears nothing."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lwm.console import progress
from lwm.errors import RecipeMismatch
from lwm.signal.recipe import Recipe

_BATCH = 16


def noise_pictures(
    recipe: Recipe, count: int, rates: Sequence[float] | NDArray[np.float64], rng: np.random.Generator
) -> Tensor:
    """What a receiver gives that hears nothing: dB pictures ``[count, C, F, T]`` of complex white Gaussian noise.

    Args:
        recipe: of IQ.
        count: pictures.
        rates: sample rates in Hz of captures, of which each is drawn; what the recipe makes of them enters.
        rng: draws rates and noise.

    Raises:
        RecipeMismatch: a recipe that takes no IQ.
    """
    if not isinstance(recipe, Recipe):
        raise RecipeMismatch(f"noise for recipe {recipe.name!r}", "a recipe of IQ", "ask for no noise")
    pictures = torch.empty(count, recipe.in_chans, *recipe.size)
    drawn = rng.choice(np.asarray(rates, float), count)
    with progress("noise", count, "captures") as bar:
        for rate in np.unique(drawn):
            sample_rate = recipe.rate_for(float(rate))
            places = np.flatnonzero(drawn == rate)
            for part in np.array_split(places, -(-len(places) // _BATCH)):
                parts = rng.standard_normal((len(part), recipe.window_samples(sample_rate), 2), np.float32)
                iq = torch.view_as_complex(torch.from_numpy(parts * np.float32(np.sqrt(0.5))))
                pictures[torch.from_numpy(part)] = recipe(iq, sample_rate).db
                bar.update(len(part))
    return pictures
