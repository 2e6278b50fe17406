"""Weights in and out: packaged, local, from the Hugging Face Hub, and back to it."""
