"""How a contestant of a few-shot table uses its labels: one module a family of regimes."""
