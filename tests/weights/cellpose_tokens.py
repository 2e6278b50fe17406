"""Write ``cellpose_tokens.json``: the names in Cellpose-SAM's files, and the tokens that Cellpose computes of an image.

Run ``python tests/weights/cellpose_tokens.py`` with Cellpose installed (``pip install --no-deps cellpose``). The tests
do not need it. Its own network and preprocessing compute, with an encoder of two narrow blocks instead of ViT-L's. They
import torchvision and OpenCV, of which nothing is used here, so empty stand-ins take their places.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from tests.weights.timm_tokens import StandIn, noise, weights

PATH = Path(__file__).with_suffix(".json")
SIZE = (32, 2, 2, (1,))  # width, blocks, heads and global blocks, which Cellpose makes all global
IMAGE_SIZE = 256  # the only one that Cellpose-SAM takes
EVERY = 7  # of 32 rows and columns of tokens, which all depend on the whole image


def image():
    """Pixels (256, 256, 3), uint8, in which the channels differ in brightness and contrast."""
    values = noise((IMAGE_SIZE, IMAGE_SIZE, 3), seed=99) * torch.tensor([100, 60, 20]) + torch.tensor([120, 150, 200])
    return values.to(torch.uint8)


@torch.no_grad()
def main():
    sys.meta_path.insert(0, StandIn("torchvision", "cv2"))
    from cellpose import transforms, vit
    from segment_anything.build_sam import _build_sam

    vit.sam_model_registry = {"vit_l": lambda _: _build_sam(*SIZE)}
    model = vit.CPSAM().eval()
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict(weights(shapes))
    seen = []
    model.encoder.neck.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = transforms.normalize_img(image().numpy())
    model(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    tokens = [[[round(float(x), 5) for x in column] for column in row] for row in seen[0][0, :, ::EVERY, ::EVERY]]
    PATH.write_text(json.dumps({"cellpose": version("cellpose"), "shapes": shapes, "tokens": tokens}) + "\n", "utf-8")


if __name__ == "__main__":
    main()
