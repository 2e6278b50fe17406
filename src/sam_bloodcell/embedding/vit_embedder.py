"""`ViTEmbedder`: tokens of a plain Vision Transformer, such as DinoBloom or DINOv2, pooled over the cell."""

import json
import os
from collections.abc import Collection
from dataclasses import asdict
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

from sklearn.utils._param_validation import Interval, StrOptions

from ..exceptions import WeightsUnavailableError
from ..files import make_folder, replacing_files, write_text
from ..models.sam import PixelStats
from ..models.sam_tokens import SAMTokens
from ..models.vit import ViTLayout
from ..weights import adapters, hub
from ..weights.backbones import CELLPOSE_LICENCE, Backbone, check_digest
from ..weights.tensors import read_json
from ..weights.vits import identify_vit, locate_vit
from .base import checked_pixel_stats
from .embedder import SAMLoRAEmbedder
from .features import ViTFeatures
from .network import ViTSpec, load_vit_network
from .saving import BLANK
from .segmented import SegmentedEmbedder

_SETTINGS = "vit_embedder.json"
_Embedder = TypeVar("_Embedder", bound="ViTEmbedder")


class ViTEmbedder(SegmentedEmbedder):
    """Embed single cell images with a plain Vision Transformer, such as DinoBloom, RedDino, DINOv2 or DINOv3.

    A segmenter finds the cell in each image, and the patch tokens are averaged over the cell. Masks, their quality,
    crops, the cache and all later steps are the same as for `SAMLoRAEmbedder`.

    Parameters
    ----------
    backbone : str or path, default="MarrLab/DinoBloom/pytorch_model_s.bin"
        Weights of the ViT: a Hub repo id ("facebook/dinov2-small", "1aurent/vit_small_patch14_224.dinobloom",
        "mouseland/cellpose-sam"), a file in a Hub repo ("MarrLab/DinoBloom/pytorch_model_b.bin"), or a local file or
        folder with the parameter names of DINOv2, transformers, timm or cellpose-SAM.
    segmenter : str, path or SAMLoRAEmbedder, default="vit_tiny"
        Network that finds the cells: the backbone of a `SAMLoRAEmbedder`, the folder of a saved one, or an estimator. A
        fitted estimator is not fitted again, neither by this embedder nor by its copies in a search.
    revision : str, optional
        Commit, tag or branch of the backbone on the Hub. The default is the newest commit.
    pooling : {"mask", "cls", "both"}, default="mask"
        Features of a cell. "mask" is the mean of the patch tokens over the cell. "cls" is the CLS token, which also
        depends on the background. "both" is the CLS token followed by the mean.
    image_size : int, optional
        Side in pixels to which the ViT resizes an image, a multiple of its patch. The default is the size of the
        weights, 224 for DINOv2 and DinoBloom.
    pixel_stats : "auto" or ((float, float, float), (float, float, float)), default="auto"
        Channel means and standard deviations (R, G, B) in 0-255 units. "auto" uses those of the weights.
    keep : collection of {"tokens", "crops", "published_crops"}, default=()
        Data to keep in addition to the pooled embeddings, as in `SAMLoRAEmbedder`. The token maps are those of the ViT,
        without CLS and register tokens.
    device : str, default="auto"
        "auto", "cpu", "cuda" or a torch device name.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Data type of the networks in `transform`. "auto" is bfloat16 if the device supports it natively, or float32.
    batch_size : int or "auto", default="auto"
        Number of images per forward pass. "auto" fits the widest activation into a CPU's cache or 160 MB of a GPU.
    n_jobs : int, optional
        Number of processes of `transform`, as in `SAMLoRAEmbedder`.
    on_error : {"raise", "nan"}, default="raise"
        Behaviour of `transform` for an unreadable image: raise an error, or return a row of NaN and warn.
    cache_dir : str or path, optional
        Folder that caches embeddings, as in `SAMLoRAEmbedder`.
    cache_limit : int or str, optional
        Size in bytes, or as "20GB", beyond which the least recently used embeddings in `cache_dir` are deleted.
    verbose : int, default=0
        If above 0, show progress bars.

    Attributes
    ----------
    backbone_ : Backbone
        The source of the weights.
    segmenter_ : SAMLoRAEmbedder
        The fitted estimator that finds the cells.
    encoder_ : Encoder
        The forward passes that `transform` runs.
    image_size_ : int
        The side in pixels that is used.
    pixel_stats_ : tuple
        The pixel statistics that are used.
    pooling_ : {"mask", "cls", "both"}
        The pooling that is used, which is the `pooling` of the last `fit`.
    n_features_out_ : int
        Number of features: 384, 768, 1024 and 1536 for DINOv2 and DinoBloom S, B, L and G; twice as many for "both".

    See Also
    --------
    SAMLoRAEmbedder : Embeds cells with Segment Anything, which also finds them and can be fine-tuned.
    FunctionEmbedder : Embeds cells with any other encoder.

    References
    ----------
    Oquab et al., "DINOv2", TMLR 2024. Koch et al., "DinoBloom", MICCAI 2024. Dosovitskiy et al., ICLR 2021.

    Examples
    --------
    >>> from sam_bloodcell import ViTEmbedder
    >>> embedder = ViTEmbedder("facebook/dinov2-small")
    >>> embeddings = embedder.fit_transform(["cell.png"])  # doctest: +SKIP
    """

    backbone_: Backbone
    image_size_: int
    pixel_stats_: PixelStats
    pooling_: str

    _parameter_constraints = {
        **SegmentedEmbedder._parameter_constraints,
        "backbone": [str, os.PathLike],
        "revision": [str, None],
        "pooling": [StrOptions({"mask", "cls", "both"})],
        "image_size": [Interval(Integral, 1, None, closed="left"), None],
        "pixel_stats": [StrOptions({"auto"}), "array-like"],
    }

    _packing = {"backbone_": (asdict, lambda values: Backbone(**values))}

    def __init__(
        self,
        backbone: str | os.PathLike = "MarrLab/DinoBloom/pytorch_model_s.bin",
        segmenter: str | os.PathLike | SAMLoRAEmbedder = "vit_tiny",
        *,
        revision: str | None = None,
        pooling: str = "mask",
        image_size: int | None = None,
        pixel_stats: str | PixelStats = "auto",
        keep: Collection[str] = (),
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | str = "auto",
        n_jobs: int | None = None,
        on_error: str = "raise",
        cache_dir: str | os.PathLike | None = None,
        cache_limit: int | str | None = None,
        verbose: int = 0,
    ) -> None:
        self.backbone = backbone
        self.segmenter = segmenter
        self.revision = revision
        self.pooling = pooling
        self.image_size = image_size
        self.pixel_stats = pixel_stats
        self.keep = keep
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.cache_dir = cache_dir
        self.cache_limit = cache_limit
        self.verbose = verbose

    def _load_features(self) -> None:
        self.backbone_ = identify_vit(Backbone(self._backbone_name(), self.revision))
        layout = load_vit_network(self._spec()).layout
        if self.pooling != "mask" and not layout.has_cls:
            raise ValueError(f"Got pooling={self.pooling!r} but this network has no CLS token. Fix: pooling='mask'.")
        self.pooling_ = str(self.pooling)
        self.image_size_ = self._choose_image_size(layout)
        given = self.pixel_stats
        self.pixel_stats_ = layout.pixel_stats if isinstance(given, str) else checked_pixel_stats(given)

    def _choose_image_size(self, layout: ViTLayout) -> int:
        size, patch = int(self.image_size or layout.image_size), layout.patch
        if size % patch:
            raise ValueError(
                f"Got image_size={size} but expected a positive multiple of {patch}, the side of the patches of this "
                f"network. Fix: use {max(patch, round(size / patch) * patch)}."
            )
        if not layout.any_size and size != layout.image_size:
            raise ValueError(
                f"Got image_size={size} but this network accepts only images of {layout.image_size} px. Fix: "
                f"image_size={layout.image_size}."
            )
        return size

    def _spec(self) -> ViTSpec:
        return ViTSpec(self.backbone_, self._dtype_name(), str(self.device))

    def _features(self) -> ViTFeatures:
        return ViTFeatures(self._spec(), self.image_size_, self.pixel_stats_, self.pooling_)

    @classmethod
    def from_pretrained(
        cls: type[_Embedder], folder_or_repo: str | os.PathLike, revision: str | None = None, *,
        token: str | None = None, local_files_only: bool = False, **params: Any,
    ) -> _Embedder:  # fmt: skip
        """Return a fitted embedder from a folder or Hub repo that `save_pretrained` or `push_to_hub` wrote.

        Parameters
        ----------
        folder_or_repo : str or path
            Folder or Hub repo id of the embedder.
        revision : str, optional
            Commit, tag or branch on the Hub.
        token : str, optional
            Access token of the Hub.
        local_files_only : bool, default=False
            Whether to use only files that were downloaded before.
        **params
            Parameters that override the saved ones.

        Returns
        -------
        ViTEmbedder
            The fitted embedder.

        Raises
        ------
        TypeError
            If there is no such parameter.
        WeightsUnavailableError
            If weights can neither be found nor fetched, or are not those that were saved.
        """
        unknown = sorted(set(params) - set(cls._get_param_names()))
        if unknown:
            raise TypeError(
                f"Got the parameter {unknown[0]!r}, which {cls.__name__} does not have. Fix: use one of "
                f"{', '.join(cls._get_param_names())}."
            )
        access: dict[str, Any] = {"token": token, "local_files_only": local_files_only}
        folder = hub.locate_folder(folder_or_repo, "ViTEmbedder", [_SETTINGS], revision, **access)
        settings, dtype = read_json(folder / _SETTINGS), params.get("dtype", "auto")
        try:
            saved, digest, segmenter = settings["params"], settings["digest"], settings["segmenter"]
            if segmenter is None:
                commit = hub.commit_of(folder / _SETTINGS) or revision
                saved["segmenter"] = SAMLoRAEmbedder.from_pretrained(folder_or_repo, commit, dtype=dtype, **access)
            else:
                saved["segmenter"] = SAMLoRAEmbedder(**segmenter, dtype=dtype)
            embedder = cls(**saved | params)
        except (KeyError, TypeError) as exc:
            raise WeightsUnavailableError(
                f"'{folder / _SETTINGS}' holds no settings of a ViTEmbedder of this version: {exc}. Fix: fetch or save "
                "it again."
            ) from exc
        backbone = Backbone(os.fspath(embedder.backbone), embedder.revision, digest)
        path = locate_vit(backbone, **access)
        if "backbone" not in params and "revision" not in params:
            check_digest(backbone, path)
        return embedder.fit(BLANK)

    def _write_files(self, folder: str | os.PathLike) -> Path:
        folder, segmenter = make_folder(folder), self.segmenter_
        packaged = adapters.packaged_adapter(segmenter.backbone_.name)
        adapter = segmenter.adapter_
        has_own_adapter = adapter is not None and (packaged is None or packaged.digest() != adapter.digest())
        if has_own_adapter:
            segmenter._write_files(folder)
        params = {
            "backbone": self.backbone_.name,
            "revision": self.backbone_.revision,
            "pooling": self.pooling_,
            "image_size": self.image_size_,
            "pixel_stats": self.pixel_stats_,
        }
        plain = {
            "backbone": segmenter.backbone_.name,
            "revision": segmenter.backbone_.revision,
            "image_size": segmenter.image_size_,
            "prompt": segmenter.prompt_,
            "pixel_stats": segmenter.pixel_stats_,
        }
        settings = {
            "kind": "vit_embedder",
            "params": params,
            "digest": self.backbone_.digest,
            "segmenter": None if has_own_adapter else plain,
        }
        with replacing_files(folder) as draft:
            write_text(draft / _SETTINGS, json.dumps(settings, indent=2) + "\n")
        return folder

    def _card(self) -> dict[str, Any]:
        base, revision = self.backbone_.resolved()
        return {
            "title": "Embedder for blood cell images",
            "summary": f"A plain Vision Transformer at {self.image_size_} px, pooling={self.pooling_!r}, over the "
            f"cells that SAM ({self.segmenter_.backbone_.name}) finds."
            + (f" {CELLPOSE_LICENCE}" if isinstance(load_vit_network(self._spec()), SAMTokens) else ""),
            "code": "from sam_bloodcell import ViTEmbedder\n\n"
            'embedder = ViTEmbedder.from_pretrained("this folder or repo")\n'
            'embeddings = embedder.transform(["cell.png"])',
            "base": base,
            "base_revision": revision,
            "tags": ("vision-transformer", "image-feature-extraction"),
        }
