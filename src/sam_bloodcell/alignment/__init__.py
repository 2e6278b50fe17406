"""Stage 2: features of cells that survive a change of laboratory."""

from .autoencoder import CrossDomainAutoencoder

__all__ = ["CrossDomainAutoencoder"]
