"""Each library's names become DINOv2's own, and tell the layout."""

import json
import re

import pytest
import torch
import transformers
from tests.weights.timm_tokens import CHANNELS, MODELS, PATH, SIZE, noise, weights

from sam_bloodcell.models.vit import HALF_PIXEL_STATS, IMAGENET_PIXEL_STATS, ViT
from sam_bloodcell.weights.vit_names import dinov2_names

CLOSE = {"rtol": 0, "atol": 1e-4}
FIXTURE = json.loads(PATH.read_text("utf-8"))


def network(state):
    state, layout = dinov2_names(state)
    vit = ViT(layout)
    vit.load_state_dict(state)
    return vit.eval()


def shapes_of(width=64, depth=2, *, grid=16, patch=14, hidden=256, registers=0, layer_scale=True, mask_token=True):
    """Names and shapes of DINOv2's own files."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + grid**2, width)}
    shapes |= {"register_tokens": (1, registers, width)} if registers else {}
    shapes |= {"mask_token": (1, width)} if mask_token else {}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for i in range(depth):
        block = {
            "norm1.weight": (width,), "norm1.bias": (width,), "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,), "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
            "norm2.weight": (width,), "norm2.bias": (width,), "mlp.fc1.weight": (hidden, width),
            "mlp.fc1.bias": (hidden,), "mlp.fc2.weight": (width, hidden), "mlp.fc2.bias": (width,),
        }  # fmt: skip
        block |= {"ls1.gamma": (width,), "ls2.gamma": (width,)} if layer_scale else {}
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


OWN = weights(shapes_of())
OTHER = {key: value + 1 for key, value in OWN.items()}
HEAD = {"mlp.0.weight": torch.ones(3, 3)}
WRAPPED = {
    "DinoBloom on the Hub": OWN,
    "on several GPUs": prefixed(OWN, "module."),
    "a backbone": prefixed(OWN, "backbone."),
    "a teacher with its head": prefixed(OWN, "backbone.") | prefixed(HEAD, "dino_head."),
    "a teacher and its student": prefixed(OTHER, "student.backbone.") | prefixed(OWN, "teacher.backbone."),
    "Lightning": prefixed(OWN, "model.backbone.") | prefixed(HEAD, "head."),
    "a large network in chunks": {re.sub(r"blocks\.(\d)", r"blocks.\1.\1", key): value for key, value in OWN.items()},
}


@pytest.mark.parametrize("form", WRAPPED)
def test_dinov2s_own_names_are_found_behind_whatever_a_training_put_before_them(form):
    found, layout = dinov2_names(WRAPPED[form])
    assert found.keys() == OWN.keys() - {"mask_token"}
    assert all(torch.equal(value, OWN[key]) for key, value in found.items())
    assert (layout.width, layout.depth, layout.heads, layout.hidden) == (64, 2, 1, 256)
    assert (layout.patch, layout.grid, layout.registers) == (14, 16, 0)
    assert (layout.swiglu, layout.layer_scale, layout.eps) == (False, True, 1e-6)
    assert (layout.image_size, layout.pixel_stats) == (224, IMAGENET_PIXEL_STATS)


def test_each_library_resizes_positions_in_its_own_way():
    def habits(state):
        layout = dinov2_names(state)[1]
        return layout.antialias, layout.offset

    assert habits(weights(shapes_of())) == (False, 0.1)
    assert habits(weights(shapes_of(registers=4))) == (True, 0)
    assert habits(weights(shapes_of(mask_token=False))) == (True, 0)
    assert habits(transformers_model().state_dict()) == (False, 0)


def transformers_model(kind="Dinov2", **more):
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=56, patch_size=14, **more
    )
    model = getattr(transformers, f"{kind}Model")(config).eval()
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.copy_(noise(parameter.shape, seed) / (8 if parameter.ndim > 1 else 1))
    return model


# transformers 5 renames the files of transformers 4, which are most of those on the Hub, as it reads them.
OLD_NAMES = [
    (r"attention\.q_proj", "attention.attention.query"),
    (r"attention\.k_proj", "attention.attention.key"),
    (r"attention\.v_proj", "attention.attention.value"),
    (r"attention\.o_proj", "attention.output.dense"),
]
OLD_VIT_NAMES = [
    *OLD_NAMES,
    (r"^layers\.", "encoder.layer."),
    (r"mlp\.fc1", "intermediate.dense"),
    (r"mlp\.fc2", "output.dense"),
]


def renamed(state, names):
    for pattern, replacement in names:
        state = {re.sub(pattern, replacement, key): value for key, value in state.items()}
    return state


@pytest.mark.newest
@pytest.mark.parametrize("names", [[], OLD_NAMES], ids=["new names", "old names"])
@pytest.mark.parametrize("swiglu", [False, True])
@torch.no_grad()
def test_dinov2_in_transformers_loads_by_its_names_of_each_release(names, swiglu):
    model = transformers_model(use_swiglu_ffn=swiglu)
    state = renamed(model.state_dict(), names)
    if swiglu and names:
        for i in range(2):
            mlp = f"encoder.layer.{i}.mlp"
            for part in ("weight", "bias"):
                gate, up = (state.pop(f"{mlp}.{name}_proj.{part}") for name in ("gate", "up"))
                state[f"{mlp}.weights_in.{part}"] = torch.cat([gate, up])
                state[f"{mlp}.weights_out.{part}"] = state.pop(f"{mlp}.down_proj.{part}")
    pixels = noise((1, 3, 56, 42), 0)
    vit = network(prefixed(state, "dinov2.") | {"classifier.weight": torch.ones(2, 128)})
    assert vit.layout.swiglu == swiglu
    torch.testing.assert_close(vit(pixels).cls, model(pixels).last_hidden_state[:, 0], **CLOSE)


@pytest.mark.parametrize("names", [[], OLD_VIT_NAMES], ids=["new names", "old names"])
@torch.no_grad()
def test_a_plain_vit_in_transformers_loads_by_its_names_of_each_release(names):
    model = transformers_model("ViT", intermediate_size=128)
    vit = network(renamed(model.state_dict(), names))
    assert (vit.layout.hidden, vit.layout.eps, vit.layout.layer_scale) == (128, 1e-12, False)
    assert (vit.layout.image_size, vit.layout.pixel_stats) == (56, HALF_PIXEL_STATS)
    pixels = noise((1, 3, 56, 56), 0)
    torch.testing.assert_close(vit(pixels).cls, model(pixels).last_hidden_state[:, 0], **CLOSE)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_timms_networks_give_the_tokens_that_timm_computed(name):
    vit = network(weights(FIXTURE[name]["shapes"]))
    assert vit.layout.swiglu == ("giant" in name)
    assert vit.layout.registers == (4 if "reg4" in name else 0)
    cls, registers, patches = vit(noise((1, 3, *(side * vit.layout.patch for side in SIZE)), seed=99))
    tokens = torch.cat([cls[:, None], registers, patches.flatten(2).mT], dim=1)[0, :, :CHANNELS]
    torch.testing.assert_close(tokens, torch.tensor(FIXTURE[name]["tokens"]), **CLOSE)


PUBLISHED = [(192, 14, 3), (384, 14, 6), (768, 14, 12), (1024, 14, 16), (1536, 14, 24), (1280, 14, 16), (1408, 14, 16)]


@pytest.mark.parametrize(("width", "patch", "heads"), PUBLISHED)
def test_published_networks_have_their_number_of_heads(width, patch, heads):
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in shapes_of(width, 1, patch=patch).items()}
    assert dinov2_names(state)[1].heads == heads


def test_another_width_is_refused():
    with pytest.raises(ValueError, match=r"Got a ViT of 100 channels but expected a multiple of 64.*Fix: pass another"):
        dinov2_names(weights(shapes_of(width=100)))


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (
            {"conv1.weight": torch.ones(1), "fc.bias": torch.ones(1)},
            r"'patch_embed.proj.weight'.*\['conv1.weight', 'fc",
        ),
        (
            {key: value for key, value in OWN.items() if key != "pos_embed"},
            r"it has no 'pos_embed'\. Its first keys",
        ),
        (OWN | {"patch_embed.proj.weight": torch.ones(2, 2)}, r"not a ViT in the layout of DINOv2.*Its first keys are"),
    ],
    ids=["a ResNet", "no positions", "a linear patch embedding"],
)
def test_a_file_of_another_kind_is_refused_by_its_first_keys(state, told):
    with pytest.raises(ValueError, match=told):
        dinov2_names(state)
