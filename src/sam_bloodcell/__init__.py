"""Classify single blood cell images across laboratories.

`SAMLoRAEmbedder` and `CrossDomainAutoencoder` are scikit-learn transformers that chain in front of any classifier.
"""

from .autoencoder import CrossDomainAutoencoder
from .embedder import SAMLoRAEmbedder
from .embeddings import CellEmbeddings
from .hub import WeightsUnavailableError
from .images import ImageReadError
from .pretrained import from_pretrained, push_to_hub, save_pretrained

__version__ = "0.1.0"

__all__ = [
    "CellEmbeddings",
    "CrossDomainAutoencoder",
    "ImageReadError",
    "SAMLoRAEmbedder",
    "WeightsUnavailableError",
    "__version__",
    "from_pretrained",
    "push_to_hub",
    "save_pretrained",
]
