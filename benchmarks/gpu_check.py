"""Tell whether this machine has what `gpu.sh` needs, and which machine it is, as Markdown. Nothing is installed.

python benchmarks/gpu_check.py [--device cpu]
"""

import argparse
import os
import sys
from importlib.util import find_spec

# Modules that the four parts import, and the packages that bring them. xgboost and skops are not among them.
NEEDED = {
    "torch": "torch", "numpy": "numpy", "pandas": "pandas", "scipy": "scipy", "sklearn": "scikit-learn",
    "PIL": "pillow", "segment_anything": "segment-anything", "peft": "peft", "safetensors": "safetensors",
    "filelock": "filelock", "huggingface_hub": "huggingface-hub", "joblib": "joblib", "psutil": "psutil",
    "pyarrow": "pyarrow", "threadpoolctl": "threadpoolctl", "tqdm": "tqdm", "pytest": "pytest",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    missing = sorted(package for module, package in NEEDED.items() if find_spec(module) is None)
    if missing:
        sys.exit(f"{sys.executable} lacks {', '.join(missing)}. Fix: install them, or carry their wheels (see gpu.sh).")

    import torch

    if device == "cuda" and not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs alone"
        sys.exit(
            f"torch {torch.__version__} sees no CUDA device; it is built for {built}. Fix: install a torch that is "
            "built for this machine's driver (nvidia-smi tells which), or try the parts with --device cpu --tiny."
        )
    print(f"- torch {torch.__version__} in Python {sys.version.split()[0]}, {os.cpu_count()} CPU cores")
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        print(f"- {card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")


if __name__ == "__main__":
    main()
