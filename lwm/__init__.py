"""LWM: an open foundation model of the radio spectrum, from IQ to an answer.

Importing this package is light; models are loaded through :func:`from_pretrained`.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "from_pretrained"]


def from_pretrained(folder_or_hub_id: str, **options: Any) -> Any:
    """Load a model folder (expert, MoE, head or RF-GPT); see :func:`lwm.hub.from_pretrained`."""
    from lwm.hub import from_pretrained as load

    return load(folder_or_hub_id, **options)
