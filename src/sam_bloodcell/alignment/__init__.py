"""Alignment: features of cells that are comparable across laboratories."""

from .autoencoder import CrossDomainAutoencoder

__all__ = ["CrossDomainAutoencoder"]
