"""Import of the networks of the `segment-anything` package.

The package's top-level ``__init__`` imports torchvision, which the networks never use. Therefore the ``modeling``
sub-package is loaded by file, under a private name. It works if torchvision is missing or broken, and it does not
affect a later ``import segment_anything`` by the user.
"""

import sys
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

_PRIVATE_NAME = "sam_bloodcell.models._segment_anything_modeling"


@cache
def modeling() -> ModuleType:
    """Return `segment_anything.modeling`, loaded without its parent package."""
    package = find_spec("segment_anything")
    if package is None or not package.submodule_search_locations:
        raise ImportError('segment-anything is not installed. Fix: pip install "segment-anything>=1.0"')
    folder = Path(package.submodule_search_locations[0]) / "modeling"
    spec = spec_from_file_location(_PRIVATE_NAME, folder / "__init__.py", submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None:
        raise ImportError(f"segment-anything has no modeling package at {folder}. Fix: reinstall it.")
    module = module_from_spec(spec)
    sys.modules[_PRIVATE_NAME] = module
    spec.loader.exec_module(module)
    return module
