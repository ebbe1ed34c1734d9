"""Model folders on the Hugging Face Hub."""

import re
from pathlib import Path

from lwm.errors import ModelError
from lwm.hub_files import file_in, read_json

_WANTED = ["*.json", "*.safetensors", "golden.npz", "README.md", "*.onnx", "*.pt2"]
"""What is downloaded of a repository: nothing that a model folder does not have."""


def locate(folder_or_hub_id: str | Path, revision: str | None) -> Path:
    """The folder itself, or where the hub's client put a download of ``owner/name``.

    Raises:
        ModelError: neither a folder nor something that the hub gives.
    """
    folder = Path(folder_or_hub_id)
    if folder.is_dir():
        return folder
    name = str(folder_or_hub_id)
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ModelError(f"no model folder {name}", "a folder with config.json, or owner/name on the hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"no model folder {name}, and the hub does not give it ({[*str(error).splitlines(), ''][0]})",
            "a folder with config.json, or owner/name on the hub",
        ) from error


def upload(folder: Path, repo_id: str, private: bool) -> str:
    """Send the listed files, ``provenance.json`` and the card of a checked folder; returns the repository's address.

    Raises:
        ModelError: the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    listed = [*read_json(folder, "provenance.json", finite=False)["files"], "provenance.json", "README.md"]
    sent = [name for name in listed if file_in(folder, name)]
    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=str(folder), allow_patterns=sent)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(f"the hub refused {repo_id}: {error}", remedy="log in with `hf auth login`") from error
    return str(url)
