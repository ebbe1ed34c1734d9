"""Few-shot episodes, baselines and metrics."""
