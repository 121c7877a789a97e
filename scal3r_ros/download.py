"""Weights from the model hub, only when asked for: continued where it broke off, and checked."""

import hashlib
from pathlib import Path

from tqdm import tqdm

SHA256_LETTERS = 64
BLOCK = 1 << 20


def download(repository: str, file: str, folder: Path) -> Path:
    """Path of the complete file, whose checksum is the hub's.

    Raises ValueError where the hub cannot be reached or the file is not what the hub announced.
    """
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    except ImportError as error:
        raise ValueError("pip install huggingface_hub, which the download needs") from error
    try:
        announced = get_hf_file_metadata(hf_hub_url(repository, file))
        path = Path(hf_hub_download(repository, file, local_dir=folder))
    except Exception as error:  # the hub's client lets those of its transport through
        if not isinstance(error, (OSError, RuntimeError)) and "http" not in _kinds(error):
            raise
        raise ValueError(f"could not download {repository}/{file}: {error}") from error
    if announced.size is not None and path.stat().st_size != announced.size:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes, the hub announced {announced.size}"
        )
    expected = announced.etag or ""
    if len(expected) == SHA256_LETTERS and (found := sha256(path)) != expected:
        path.unlink()
        raise ValueError(
            f"{path} was damaged and is removed: sha256 {found}, the hub announced {expected}"
        )
    return path


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with (
        path.open("rb") as file,
        tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc="checking") as bar,
    ):
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _kinds(error: Exception) -> str:
    """Modules of an exception's classes."""
    return " ".join(kind.__module__ for kind in type(error).__mro__)
