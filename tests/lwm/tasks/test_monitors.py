"""Figures of the monitors on features whose answer is known."""

import math

import pytest
import torch

from lwm.tasks.monitors import balanced_accuracy, feature_spread, nearest_classes, ridge_classes


def test_spread_tells_collapsed_from_isotropic() -> None:
    generator = torch.Generator().manual_seed(0)
    isotropic = torch.randn(4000, 64, generator=generator)
    # Standard error of a deviation over 4000 samples, mean of 64: 1 / sqrt(2 * 4000 * 64) < 0.002.
    assert float(feature_spread(isotropic)) == pytest.approx(1.0, abs=0.01)
    assert float(feature_spread(torch.ones(50, 64) * 3)) == pytest.approx(0.0, abs=1e-6)
    # In a single direction, with random sign: one coordinate of 64 has deviation 1.
    line = torch.zeros(4000, 64)
    line[:, 0] = torch.randn(4000, generator=generator)
    assert float(feature_spread(line)) == pytest.approx(1 / math.sqrt(64), rel=0.01)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_probes_find_separate_classes_and_not_noise(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.arange(240) % 3
    centres = 6 * torch.nn.functional.one_hot(codes, 20).float()
    features = scale * (centres + torch.randn(240, 20, generator=generator))
    for find in (lambda *a: nearest_classes(*a, 3, 10), lambda *a: ridge_classes(*a, 3)):
        found = find(features[:120], codes[:120], features[120:])
        assert float(balanced_accuracy(found, codes[120:])) > 0.98
        noise = torch.randn(240, 20, generator=generator)
        chance = float(balanced_accuracy(find(noise[:120], codes[:120], noise[120:]), codes[120:]))
        # 120 answers, chance 1/3: four standard errors are 0.17.
        assert abs(chance - 1 / 3) < 0.17


def test_ridge_is_sklearns() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    from lwm.tasks.monitors import RIDGE

    generator = torch.Generator().manual_seed(2)
    known, asked = torch.randn(40, 60, generator=generator), torch.randn(200, 60, generator=generator)
    codes = torch.arange(40) % 4
    scaler = StandardScaler().fit(known)
    ridge = Ridge(alpha=RIDGE * 40).fit(scaler.transform(known), torch.nn.functional.one_hot(codes, 4))
    expected = ridge.predict(scaler.transform(asked)).argmax(1)
    assert ridge_classes(known, codes, asked, 4).tolist() == expected.tolist()


def test_balanced_accuracy_weighs_classes_alike() -> None:
    truth = torch.tensor([0, 0, 0, 0, 0, 0, 3, 3])
    assert float(balanced_accuracy(torch.zeros(8, dtype=torch.long), truth)) == pytest.approx(0.5)
