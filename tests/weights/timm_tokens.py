"""Write ``timm_tokens.json``: the names of timm's ViTs and the tokens that timm computes with known weights.

Run ``python tests/weights/timm_tokens.py`` with timm installed (``pip install --no-deps timm``). The tests do not need
timm. It imports torchvision, of which these networks use nothing, so an empty stand-in takes its place here.
"""

import json
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from unittest.mock import MagicMock

import torch

PATH = Path(__file__).with_suffix(".json")
MODELS = {
    "vit_tiny_patch16_224": {"img_size": 64},
    "vit_small_patch14_dinov2": {"img_size": 56},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56},
    "vit_giant_patch14_dinov2": {"img_size": 56, "mlp_ratio": 5},
    "vit_giant_patch14_reg4_dinov2": {"img_size": 56, "mlp_ratio": 5},
}
# In patches; the table of positions has 4 x 4.
SIZE = (5, 3)
CHANNELS = 8  # of 64, which all depend on all weights


def noise(shape, seed):
    """Numbers from -1 to 1 that are the same on every machine."""
    numbers = (torch.arange(torch.Size(shape).numel(), dtype=torch.float64) * 12.9898 + seed).sin() * 43758.5453
    return numbers.frac().float().view(shape)


def weights(shapes):
    """Fill tensors of these names and shapes with numbers of a trained network's size."""
    state = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        values = noise(shape, seed)
        if "norm" in name and name.endswith("weight"):
            values = 1 + values / 5
        elif len(shape) > 1 and "token" not in name and "pos" not in name:
            values = values / torch.Size(shape[1:]).numel() ** 0.5
        state[name] = values
    return state


class StandIn(MetaPathFinder, Loader):
    """Makes packages importable that are not installed."""

    def __init__(self, *packages):
        self.packages = packages

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in self.packages else None

    def create_module(self, spec):
        module = MagicMock(name=spec.name)
        module.__path__ = []
        module.__spec__ = spec
        return module

    def exec_module(self, module):
        pass


@torch.no_grad()
def main():
    sys.meta_path.insert(0, StandIn("torchvision"))
    import timm

    content = {"timm": timm.__version__}
    for name, settings in MODELS.items():
        model = timm.create_model(
            name, embed_dim=64, depth=2, num_heads=1, num_classes=0, dynamic_img_size=True, **settings
        ).eval()
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        model.load_state_dict(weights(shapes))
        patch = shapes["patch_embed.proj.weight"][-1]
        tokens = model.forward_features(noise((1, 3, SIZE[0] * patch, SIZE[1] * patch), seed=99))[0, :, :CHANNELS]
        content[name] = {"shapes": shapes, "tokens": [[round(float(x), 5) for x in token] for token in tokens]}
    PATH.write_text(json.dumps(content) + "\n", "utf-8")


if __name__ == "__main__":
    main()
