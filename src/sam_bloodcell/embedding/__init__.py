"""From images to embeddings, each image once."""
