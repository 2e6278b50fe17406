"""From images to embeddings: the estimator, its network, and the store that has each image embedded once."""
