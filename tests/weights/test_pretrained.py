from huggingface_hub import ModelCard

from sam_bloodcell.weights.pretrained import write_model_card


def test_a_card_tells_all_that_it_is_told(tmp_path):
    path = write_model_card(
        tmp_path,
        title="Adapter",
        summary="What it is.",
        code="load()",
        base="facebook/sam-vit-base",
        base_revision="70c1a07",
        metrics={"Dice": 0.97123},
        data="400 cells of two laboratories",
        licence="cc-by-4.0",
        tags=("lora",),
    )
    card = ModelCard.load(path)
    assert card.data.base_model == "facebook/sam-vit-base"
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "sam-bloodcell"
    assert {"lora", "blood-cells"} <= set(card.data.tags)
    for said in (
        "# Adapter",
        "What it is.",
        "load()",
        "facebook/sam-vit-base at 70c1a07",
        "| Dice | 0.9712 |",
        "- Trained on: 400 cells of two laboratories",
        "For research only, not for diagnosis",
    ):
        assert said in card.text


def test_what_is_not_known_is_said_to_be_so(tmp_path):
    text = write_model_card(tmp_path, title="A", summary="B", code="c", base="/somewhere/sam.pth").read_text()
    assert "base_model" not in text
    assert "- Licence: not stated" in text
    assert "None were stated." in text
