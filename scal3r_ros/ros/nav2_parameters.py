"""Nav2's parameters: ours laid over those of the robot."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def laid_over(under: Any, over: Any) -> Any:
    """Mappings are joined, name by name; of all else, lists too, only `over` is left."""
    if not (isinstance(under, Mapping) and isinstance(over, Mapping)):
        return over
    both = {name: laid_over(under[name], over[name]) for name in under if name in over}
    return {**under, **over, **both}


def laid_over_file(under: Path, over: Path) -> Path:
    """A temporary file with both. Raises ValueError for a file that is no mapping."""
    contents = []
    for file in (under, over):
        contents.append(yaml.safe_load(file.read_text()) or {})
        if not isinstance(contents[-1], dict):
            raise ValueError(f"{file} must name nodes and their ros__parameters")
    with tempfile.NamedTemporaryFile(
        "w", prefix="nav2_scal3r_", suffix=".yaml", delete=False
    ) as file:
        yaml.safe_dump(laid_over(*contents), file, sort_keys=False)
    return Path(file.name)
