"""One call of `transform`: read each image once, embed the images that the store lacks, and collect the rows."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from ..exceptions import ImageReadError, warn_caller
from ..extras import tqdm
from ..images.reading import ImageContent, read_content
from ..segmentation.cell import CROP_SIZE, GREY, QUALITY
from .columns import Column, UnpackedMasks, as_items, pack_mask
from .embeddings import CellEmbeddings
from .encoder import Chunk, Embedded, Encoder
from .session import EmbeddingSession, Key, Record
from .store import EmbeddingStore

# Replaces the digest of an image that cannot be read. No known image has this digest.
_UNREADABLE = bytes(32)
_NOT_READ = b""
# Seconds between checks whether another process has stored its embeddings.
_POLL = 0.05
# How often a pool of processes is started again after a process in it died.
_RESTARTS = 3


def embed_once(
    encoder: Encoder, images: Sequence[Any], store: EmbeddingStore, *, bar: tqdm,
    unreadable: dict[int, str] | None = None, first_row: int = 0,
) -> CellEmbeddings:  # fmt: skip
    """Embed images in their order, each distinct image once; read from the store those that were embedded before.

    The call waits for images that other processes are embedding, and takes over those of a process that died. If an
    image cannot be read, its embedding is NaN and its row in `unreadable` gets the reason; if `unreadable` is None, an
    error is raised. Errors count rows from `first_row`.
    """
    recipe = encoder.recipe
    with store.session(recipe.digest, recipe.describe(), encoder.keep) as session:
        run = _Run(encoder, images, session, unreadable, first_row)
        for _ in range(_RESTARTS):
            run.finish(bar)
            if not session.forget_lost():
                break
        return run.embeddings()


class _Run:
    """The rows of one call: the digests of their images, and whether they are done."""

    def __init__(
        self, encoder: Encoder, images: Sequence[Any], session: EmbeddingSession, unreadable: dict[int, str] | None,
        first_row: int,
    ) -> None:  # fmt: skip
        self.encoder, self.images, self.session = encoder, images, session
        self.first_row, self.skip_unreadable = first_row, unreadable is not None
        self.unreadable = {} if unreadable is None else unreadable
        self.keys: list[Key] = [_NOT_READ] * len(images)
        self.refused: set[Key] = set()  # digests of images that cannot be decoded

    def finish(self, bar: tqdm) -> None:
        """Repeat passes over the rows until all are done; after a pass, other processes may still embed some images."""
        died = 0
        rows = [row for row in range(len(self.images)) if not self.is_done(row)]
        shown = len(self.images) - len(rows)
        while rows:
            idle = True
            try:
                for done in self.encoder.stream(self.chunks(rows), skip_unreadable=self.skip_unreadable):
                    self.note(done)
                    idle = idle and not done.rows
                    shown += len(done.rows)
                    bar.update(len(done.rows))
            except BrokenProcessPool as exc:
                died += 1
                if died > _RESTARTS:
                    raise
                self.session.release()
                warn_caller(f"A worker process died ({exc}); its images are embedded again.")
            left = [row for row in rows if not self.is_done(row)]
            if idle and len(left) == len(rows):
                time.sleep(_POLL)
            rows = left
            bar.update(len(self.images) - len(rows) - shown)
            shown = len(self.images) - len(rows)

    def is_done(self, row: int) -> bool:
        """Return whether a row has a record, or is known to be unreadable."""
        return self.keys[row] in self.session.found or row in self.unreadable

    def chunks(self, rows: Sequence[int]) -> Iterator[Chunk]:
        """Read images, a batch of rows at a time, and yield the images that this process must embed.

        Batches depend only on the rows. If a call is interrupted, the next call therefore computes the same batches,
        which makes the results equal to the last digit.
        """
        size = self.encoder.images_per_pass()
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            self.session.missing([self.keys[row] for row in part if self.keys[row] != _NOT_READ])
            distinct: dict[Key, tuple[int, ImageContent]] = {}
            for row in part:
                if not self.is_done(row) and (content := self.read(row)) is not None:
                    key = self.keys[row] = content.digest()
                    if key in self.refused:  # the error of a duplicate image names the row of the duplicate
                        self.unreadable.update(self.encoder.decode([(row, content)], skip_unreadable=True).errors)
                    else:
                        distinct.setdefault(key, (row, content))
            mine = self.session.claim(self.session.missing(list(distinct)))
            if mine:
                yield [distinct[key] for key in mine]

    def read(self, row: int) -> ImageContent | None:
        """Return the content of an image, or None if it cannot be read; `unreadable` then gets the reason."""
        try:
            return read_content(self.images[row], self.first_row + row)
        except ImageReadError as exc:
            if not self.skip_unreadable:
                raise
            self.unreadable[row] = str(exc)
            return None

    def note(self, done: Embedded) -> None:
        """Store embedded images, and note the errors of the others."""
        if done.rows:
            self.session.put({self.keys[row]: record for row, record in zip(done.rows, done.records, strict=True)})
        for row, reason in done.errors:
            self.unreadable[row] = reason
            self.refused.add(self.keys[row])

    def embeddings(self) -> CellEmbeddings:
        """Return the embeddings of all rows."""
        keys = self.keys
        if self.unreadable:
            if self.session.keep and self.session.missing([_UNREADABLE]):
                self.session.put({_UNREADABLE: self.blank()})
            self.session.found[_UNREADABLE] = self.blank()
            keys = [_UNREADABLE if row in self.unreadable else key for row, key in enumerate(keys)]
        records = [self.session.found[key] for key in keys]
        recipe = self.encoder.recipe
        shares = {"token_share": recipe.token_share, "n_measures": recipe.n_measures}
        kept = {part: self.session.column(keys, part, **shares) for part in self.session.keep}
        masks = Column(
            as_items([record.mask for record in records]), UnpackedMasks(self.encoder.recipe.network.image_size)
        )
        return CellEmbeddings(
            np.stack([record.pooled for record in records]),
            masks=masks,
            quality=np.array([record.quality for record in records], QUALITY),
            images=self.images,
            **kept,
        )

    def blank(self) -> Record:
        """Return the record of an image that cannot be read: NaN, an empty mask and a grey crop."""
        encoder = self.encoder
        side, (width, tokens) = encoder.recipe.network.image_size, encoder.shapes()
        return Record(
            pooled=np.full(width, np.nan, np.float32),
            quality=np.array([(np.nan, 0, np.nan, np.nan, False, False)], QUALITY)[0],
            mask=pack_mask(np.zeros((side, side), bool)),
            tokens=np.full(tokens, np.nan, np.float16),
            crops=np.full((CROP_SIZE, CROP_SIZE, 3), GREY, np.uint8),
        )
