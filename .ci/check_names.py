"""Import every module of the installed package, and every public name; run it where no source lies about.

python -P check_names.py
"""

import importlib
import pkgutil
from importlib.metadata import version
from pathlib import Path

import sam_bloodcell

if "site-packages" not in Path(sam_bloodcell.__file__).parts:
    raise SystemExit(f"Got the package from {sam_bloodcell.__file__} but expected the installed one.")
if sam_bloodcell.__version__ != version("sam-bloodcell"):
    raise SystemExit(f"Got {version('sam-bloodcell')} as metadata of version {sam_bloodcell.__version__}.")

modules = [sam_bloodcell] + [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(sam_bloodcell.__path__, prefix="sam_bloodcell.")
]
names = [f"{module.__name__}.{name}" for module in modules for name in getattr(module, "__all__", ())]
for name in names:
    pkgutil.resolve_name(name)
print(f"{len(modules)} modules and {len(names)} public names of sam-bloodcell {sam_bloodcell.__version__} import")
