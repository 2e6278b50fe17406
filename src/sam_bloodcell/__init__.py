"""Classify single blood cell images across laboratories.

`SAMLoRAEmbedder` and `CrossDomainAutoencoder` are scikit-learn transformers that work with any classifier.
"""

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .alignment.autoencoder import CrossDomainAutoencoder
    from .classification.cell_classifier import CellClassifier
    from .classification.neighbor_smoothing import NeighborSmoothedClassifier
    from .classification.stain_augmented import StainAugmentedClassifier
    from .embedding.embedder import SAMLoRAEmbedder
    from .embedding.embeddings import CellEmbeddings
    from .embedding.function_embedder import FunctionEmbedder
    from .embedding.vit_embedder import ViTEmbedder
    from .exceptions import ImageReadError, WeightsUnavailableError
    from .segmentation.lora_training import LoRATraining
    from .weights.pipelines import from_pretrained, push_to_hub, save_pretrained

__version__ = "0.1.0"

__all__ = [
    "CellClassifier",
    "CellEmbeddings",
    "CrossDomainAutoencoder",
    "FunctionEmbedder",
    "ImageReadError",
    "LoRATraining",
    "NeighborSmoothedClassifier",
    "SAMLoRAEmbedder",
    "StainAugmentedClassifier",
    "ViTEmbedder",
    "WeightsUnavailableError",
    "__version__",
    "from_pretrained",
    "push_to_hub",
    "save_pretrained",
]

# Public names are imported on first use, because `sam-bloodcell --help` and `datasets` do not need torch.
_MODULES = {
    "CellClassifier": ".classification.cell_classifier",
    "CellEmbeddings": ".embedding.embeddings",
    "CrossDomainAutoencoder": ".alignment.autoencoder",
    "FunctionEmbedder": ".embedding.function_embedder",
    "ImageReadError": ".exceptions",
    "LoRATraining": ".segmentation.lora_training",
    "NeighborSmoothedClassifier": ".classification.neighbor_smoothing",
    "SAMLoRAEmbedder": ".embedding.embedder",
    "StainAugmentedClassifier": ".classification.stain_augmented",
    "ViTEmbedder": ".embedding.vit_embedder",
    "WeightsUnavailableError": ".exceptions",
    "from_pretrained": ".weights.pipelines",
    "push_to_hub": ".weights.pipelines",
    "save_pretrained": ".weights.pipelines",
}

if not TYPE_CHECKING:  # a type checker would also accept every other name

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            value = getattr(import_module(_MODULES[name], __name__), name)
        elif not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
            value = import_module(f".{name}", __name__)
            for part in iter_modules(getattr(value, "__path__", ())):  # for sam_bloodcell.embedding.store
                import_module(f"{value.__name__}.{part.name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
