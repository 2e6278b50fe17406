"""From images to embeddings: the estimators, their networks, and a cache, so that each image is embedded once."""
