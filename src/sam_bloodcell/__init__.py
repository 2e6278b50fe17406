"""Classify single blood cell images across laboratories.

`SAMLoRAEmbedder` and `CrossDomainAutoencoder` are scikit-learn transformers that chain in front of any classifier.
"""

from .alignment.autoencoder import CrossDomainAutoencoder
from .classification.cell_classifier import CellClassifier
from .embedding.embedder import SAMLoRAEmbedder
from .embedding.embeddings import CellEmbeddings
from .exceptions import ImageReadError, WeightsUnavailableError
from .segmentation.lora_training import LoRATraining
from .weights.pipelines import from_pretrained, push_to_hub, save_pretrained

__version__ = "0.1.0"

__all__ = [
    "CellClassifier",
    "CellEmbeddings",
    "CrossDomainAutoencoder",
    "ImageReadError",
    "LoRATraining",
    "SAMLoRAEmbedder",
    "WeightsUnavailableError",
    "__version__",
    "from_pretrained",
    "push_to_hub",
    "save_pretrained",
]
