"""Weights: loading of packaged files, local files and files of the Hugging Face Hub, and saving."""
