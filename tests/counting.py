"""Embedders that write down what their segmenting network sees, in whatever process."""

import os
import signal
from pathlib import Path
from unittest import mock

from sam_bloodcell import SAMLoRAEmbedder, ViTEmbedder
from sam_bloodcell.embedding import encoder

_run, _embed_chunk = encoder.run_network, encoder._embed_chunk


def _written_down(sam, recipe, pixels):
    with Path(os.environ["FORWARD_LOG"]).open("a") as log:
        log.write(f"{len(pixels)}\n")  # short appends are whole
    return _run(sam, recipe, pixels)


class _Counting:
    def transform(self, X):
        encoder.run_network = _written_down
        try:
            return super().transform(X)
        finally:
            encoder.run_network = _run


class CountingEmbedder(_Counting, SAMLoRAEmbedder):
    pass


class CountingViTEmbedder(_Counting, ViTEmbedder):
    pass


def _fatal(chunk_encoder, chunk, skip_unreadable):
    marker = Path(os.environ["KILL_ONCE"])
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return _embed_chunk(chunk_encoder, chunk, skip_unreadable)


class _Fatal:
    """The first worker that embeds a chunk of its images dies."""

    def transform(self, X):
        with mock.patch.object(encoder, "_embed_chunk", _fatal):
            return super().transform(X)


class FatalEmbedder(_Fatal, SAMLoRAEmbedder):
    pass


class FatalViTEmbedder(_Fatal, ViTEmbedder):
    pass


def passes():
    """Images seen, pass by pass."""
    log = Path(os.environ["FORWARD_LOG"])
    return [int(line) for line in log.read_text().split()] if log.exists() else []
