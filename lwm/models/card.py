"""The card of a model folder: what it is, how to load it, where it comes from."""

from typing import Any

from lwm.signal.recipe import Recipe

_USE = """```python
import lwm

model = lwm.from_pretrained("{name}")
spectrogram = model.recipe.of_capture(capture)   # an lwm.signal.capture.Capture
```"""


def model_card(name: str, config: dict[str, Any], recipe: Recipe, provenance: dict[str, Any], parameters: int) -> str:
    """Markdown card with the metadata block of the Hugging Face Hub.

    Args:
        name: the folder's name.
        config: what ``config.json`` holds.
        recipe: the model's recipe.
        provenance: what ``provenance.json`` holds.
        parameters: number of weights.
    """
    kind = config["type"]
    header = ["---", "license: apache-2.0", "library_name: lwm", f"tags: [radio, spectrogram, {kind}]", "---"]
    lines = [*header, "", f"# {name}", "", f"LWM model of type `{kind}`, {parameters:,} weights.", ""]
    lines += [_USE.format(name=name), "", "## Input", ""]
    lines += _table(("field", "value"), recipe.to_dict())
    metrics = provenance.get("metrics")
    if isinstance(metrics, dict) and metrics:
        lines += ["", "## Metrics", "", *_table(("metric", "value"), metrics)]
    origin = {key: value for key, value in provenance.items() if key not in ("metrics", "files")}
    lines += ["", "## Provenance", "", *_table(("what", "value"), origin)]
    lines += ["", "`provenance.json` holds each file's SHA-256; `lwm doctor` checks them and replays `golden.npz`.", ""]
    return "\n".join(lines)


def _table(head: tuple[str, str], rows: dict[str, Any]) -> list[str]:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    for key, value in rows.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        cell = " ".join(shown.split()).replace("|", "\\|")
        lines.append(f"| {key} | {cell} |")
    return lines
