"""`SAMLoRAEmbedder`: Segment Anything's tokens, pooled over the cell, as a scikit-learn transformer."""

import os
from collections.abc import Collection, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from ..exceptions import warn_caller
from ..images.collections import as_image_list
from ..models import devices
from ..models.isolation import own_settings
from ..models.lora import Adapter
from ..models.sam import CELL_MASK_TOKENS, SAM, SAM_PIXEL_STATS, PixelStats
from ..segmentation.lora_training import LoRATraining
from ..segmentation.measures import MEASURES, skimage
from ..weights import adapters
from ..weights.backbones import WEIGHT_SUFFIXES, Backbone, identify
from ..weights.published import read_published_adapter
from .base import CellEmbedder, checked_pixel_stats
from .encoder import Encoder
from .network import load_network
from .recipe import MASK, MEASURED, TEXTURE, NetworkSpec, Recipe
from .saving import BLANK, PretrainedEmbedder
from .session import PUBLISHED_CROPS


class SAMLoRAEmbedder(PretrainedEmbedder, CellEmbedder):
    """Embed single cell images with Segment Anything's encoder, adapted to cells by LoRA.

    The encoder's token map (before its neck) is averaged over the cell that the decoder finds. Without masks, `fit`
    only loads weights. With masks, it also fine-tunes LoRA factors of the encoder's queries and values, and the
    decoder, by segmenting cells.

    Parameters
    ----------
    backbone : str, default="vit_b"
        Weights of the encoder: "vit_tiny" (packaged, works offline), "vit_b", "vit_l" or "vit_h" (from the Hugging Face
        Hub), a Hub repo id, or a local file (``.pth``, ``.pt``, ``.bin``, ``.safetensors``) or folder of weights.
    adapter : str or path, optional
        Adapter folder made by `save_pretrained`, its Hub repo id, or a file that the papers' published code saved. The
        default for "vit_tiny" is the packaged adapter. `fit` with masks trains it further. If the training has another
        rank or other blocks, the LoRA factors are initialised again. A warning appears if the adapter was saved with
        another `pooling`.
    revision, adapter_revision : str, optional
        Commit, tag or branch of the backbone and of the adapter on the Hub. The default is the pinned commit of a
        backbone that has one, or the newest commit.
    image_size : int, default=224
        Side in pixels to which the encoder resizes an image, a multiple of 16.
    prompt : {"auto", "none", "center"}, default="auto"
        Prompt of the decoder. "none" needs a decoder that was trained without prompts, as in the papers. "center" is a
        foreground point in the middle of the image, for centred cells and plain SAM. "auto" is "none" for a decoder
        that was trained without prompts, unless its adapter was saved with "center". Otherwise, it is "center".
    pixel_stats : {"auto", "sam"} or ((float, float, float), (float, float, float)), default="auto"
        Channel means and standard deviations (R, G, B) in 0-255 units. "auto" uses those of the adapter, those of the
        training images in a `fit` with masks, or otherwise those of SAM.
    pooling : {"mask", "mask+texture", "mask+measures"}, default="mask"
        Features of a cell. "mask" is the mean of the last tokens over the cell. "mask+texture" appends the mean and the
        standard deviation, over the cell, of the tokens after a third of the blocks. It has three times as many
        features and takes the same time. "mask+measures" appends 53 numbers measured on the pixels of nucleus and
        cytoplasm: colour, grains and shape (`segmentation.measures.MEASURES` names them). It needs scikit-image and
        takes about 10 ms more for each cell on a CPU core. With vit_tiny and a column domain, both changed the balanced
        accuracy across laboratories by at most 0.01. Without a domain, the texture lowered it by up to 0.07 (see the
        model card of vit_tiny). The packaged autoencoder, and architectures that read token maps, such as the papers'
        presets, need "mask".
    training : LoRATraining, optional
        Settings of the fine-tuning in `fit` with masks, by default ``LoRATraining()``.
    keep : collection of {"tokens", "crops", "published_crops"}, default=()
        Data to keep in addition to the pooled embeddings: the token maps and crops that a `CrossDomainAutoencoder` with
        the architecture "conv" or "masked" reads. They take a hundred times as much space as the embeddings.
        "published_crops", for presets, are cut as in the papers' code, with holes, and with the cell stretched to a
        square.
    device : str, default="auto"
        "auto", "cpu", "cuda" or a torch device name.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Data type of the encoder in `transform`. "auto" is bfloat16 if the device supports it natively, or float32.
    batch_size : int or "auto", default="auto"
        Number of images per forward pass. "auto" fits the widest activation into a CPU's cache or 160 MB of a GPU.
    n_jobs : int, optional
        Number of processes of `transform`, as in `joblib.Parallel`. A backend set by ``joblib.parallel_config`` (Dask,
        Ray) runs it on a cluster. Your own adapter is then shared through `cache_dir`, which all machines of the
        cluster must be able to read.
    on_error : {"raise", "nan"}, default="raise"
        Behaviour of `transform` for an unreadable image: raise an error, or return a row of NaN and warn. With "nan",
        `predict_masks` returns None for the image.
    cache_dir : str or path, optional
        Folder that caches embeddings by image content, weights and settings, for all estimators, processes and
        sessions. By default, the embeddings are kept in the memory of this process, up to a quarter of the free memory.
    cache_limit : int or str, optional
        Size in bytes, or as "20GB", beyond which the least recently used embeddings in `cache_dir` are deleted.
    verbose : int, default=0
        If above 0, show progress bars.

    Attributes
    ----------
    backbone_ : Backbone
        The source of the base weights.
    adapter_ : Adapter or None
        The trained parts: LoRA factors, decoder, prompt encoder, pixel statistics.
    encoder_ : Encoder
        The forward pass that `transform` runs, with a reference to the weights, the pixel statistics and the prompt.
    image_size_ : int
        The side in pixels that is used.
    pixel_stats_ : tuple
        The pixel statistics that are used.
    prompt_ : {"none", "center"}
        The prompt that is used.
    pooling_ : str
        The pooling that is used, which is the `pooling` of the last `fit`.
    n_features_out_ : int
        Number of channels C of the embeddings: 192 for vit_tiny, and 768, 1024 and 1280 for vit_b, vit_l and vit_h.
        ``pooling="mask+texture"`` has three times as many, and ``pooling="mask+measures"`` has 53 more.
    history_ : DataFrame
        One row per epoch, only after `fit` with masks. The columns are epoch, learning_rate, loss, dice_loss and
        cross_entropy of the training, and dice on the validation cells.
    best_epoch_ : int
        The epoch whose weights were kept, counted from 0. It exists only after `fit` with masks.

    See Also
    --------
    CrossDomainAutoencoder : Turns the `CellEmbeddings` into features that survive a change of laboratory.

    References
    ----------
    Li et al., BC-SAM, ISBI 2024. Kirillov et al., "Segment Anything", ICCV 2023. Hu et al., "LoRA", ICLR 2022.

    Examples
    --------
    >>> from sam_bloodcell import SAMLoRAEmbedder
    >>> from sam_bloodcell.datasets import make_blood_cells
    >>> cells = make_blood_cells(1, domains=["lab_a"], random_state=0)
    >>> embeddings = SAMLoRAEmbedder("vit_tiny").fit_transform(cells.images)
    >>> embeddings
    CellEmbeddings(n=5, width=192)
    """

    _parameter_constraints = {
        **CellEmbedder._parameter_constraints,
        "backbone": [str, os.PathLike],
        "adapter": [str, os.PathLike, None],
        "revision": [str, None],
        "adapter_revision": [str, None],
        "image_size": [Interval(Integral, 16, None, closed="left")],
        "prompt": [StrOptions({"auto", "none", "center"})],
        "pixel_stats": [StrOptions({"auto", "sam"}), "array-like"],
        "pooling": [StrOptions({MASK, TEXTURE, MEASURED})],
        "training": [LoRATraining, None],
    }

    def __init__(
        self,
        backbone: str | os.PathLike = "vit_b",
        adapter: str | os.PathLike | None = None,
        *,
        revision: str | None = None,
        adapter_revision: str | None = None,
        image_size: int = 224,
        prompt: str = "auto",
        pixel_stats: str | PixelStats = "auto",
        pooling: str = "mask",
        training: LoRATraining | None = None,
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
        self.adapter = adapter
        self.revision = revision
        self.adapter_revision = adapter_revision
        self.image_size = image_size
        self.prompt = prompt
        self.pixel_stats = pixel_stats
        self.pooling = pooling
        self.training = training
        self.keep = keep
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.cache_dir = cache_dir
        self.cache_limit = cache_limit
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, *, masks: Sequence[Any] | str | None = None) -> "SAMLoRAEmbedder":
        """Load the weights and, with masks, fine-tune them by segmentation.

        Parameters
        ----------
        X : n images
            Paths, PIL images, arrays, an (n, H, W, 3) array, a Series of paths, or a DataFrame with a column path. Its
            column domain, if there is one, is passed with the embeddings to the next step. Other columns are ignored.
            One call consumes an iterator, such as ``folder.glob("*.png")``, so pass a list to several calls.
        y : object, default=None
            Ignored.
        masks : sequence of n masks or "auto", optional
            Paths or (H, W) arrays of the images' sizes, as `images.load_mask` reads them. "auto" makes them from the
            stain (`segmentation.stain_mask`), which is worse than annotated masks and needs scikit-image.

        Returns
        -------
        self : object
            The fitted embedder.

        Raises
        ------
        ValueError
            If a parameter is out of range, X is empty, the masks do not fit the images, or the checkpoint belongs to a
            training with other data or settings.
        ImageReadError
            If an image or a mask cannot be read; it names the row and the file.
        WeightsUnavailableError
            If weights can neither be found nor fetched.
        ImportError
            If scikit-image is not installed and ``pooling="mask+measures"`` or ``masks="auto"`` needs it.
        """
        self._validate_params()
        self._checked_keep()
        if self.pooling == MEASURED:
            skimage()
        images = as_image_list(X)
        with own_settings(devices.choose(str(self.device))):
            self.backbone_ = identify(Backbone(self._backbone_name(), self.revision))
            self.adapter_ = self._read_adapter()
            if masks is not None:
                self._fine_tune(images, masks)
            self._settle()
        self._fitted_weights = self._named_weights()
        return self

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the names of the features.

        Parameters
        ----------
        input_features : object, default=None
            Ignored.

        Returns
        -------
        ndarray of shape (C,), object
            ``samloraembedder0`` and so on for the mean of the last tokens. ``pooling="mask+texture"`` appends
            ``samloraembedder_early_mean0`` and ``samloraembedder_early_std0`` and so on, and
            ``pooling="mask+measures"`` the names in `segmentation.measures.MEASURES`.
        """
        names = super().get_feature_names_out(input_features)
        if self.pooling_ == MEASURED:
            names[-len(MEASURES) :] = MEASURES
        elif self.pooling_ == TEXTURE:
            width = len(names) // 3
            texture = [f"_early_{number}{i}" for number in ("mean", "std") for i in range(width)]
            names[width:] = [type(self).__name__.lower() + name for name in texture]
        return names

    @property
    def encoder_(self) -> Encoder:
        """Return the forward pass that `transform` runs."""
        check_is_fitted(self)
        crops = PUBLISHED_CROPS in self.keep
        recipe = Recipe(self._network_spec(), self.pixel_stats_, self.prompt_, crops, pooling=self.pooling_)
        return Encoder(recipe, self.adapter_, self.batch_size, self.n_jobs, self._cache_folder(), self._checked_keep())

    def _update(self) -> "SAMLoRAEmbedder":
        """Apply parameters that were set since the last fit, and keep the weights that masks trained.

        If the parameters name other weights than in the last fit, a new fit without masks loads them.
        """
        named = self._named_weights()
        if not hasattr(self, "adapter_") or getattr(self, "_fitted_weights", named) != named:
            return self.fit(BLANK)
        self._validate_params()
        self._settle()
        return self

    def _settle(self) -> None:
        """Set the fitted attributes that follow from the parameters and the weights."""
        self.image_size_ = int(self.image_size)  # numpy's number types would change the digest of the network
        self.pixel_stats_ = self._known_pixel_stats() or SAM_PIXEL_STATS
        self.prompt_ = self._choose_prompt(load_network(self._network_spec(), self.adapter_))
        self.pooling_ = str(self.pooling)
        self.n_features_out_ = self.encoder_.shapes()[0]

    def _named_weights(self) -> tuple[str | None, ...]:
        """Return the parameters that name the weights."""
        adapter = None if self.adapter is None else os.fspath(self.adapter)
        return (os.fspath(self.backbone), self.revision, adapter, self.adapter_revision)

    def _read_adapter(self) -> Adapter | None:
        name = self.backbone_.name
        if self.adapter is None:
            return adapters.packaged_adapter(name)
        # Only the papers' code saves an adapter as a file. A name with the suffix of weights also means such a file,
        # even if it does not exist.
        if os.path.isfile(self.adapter) or os.fspath(self.adapter).endswith(WEIGHT_SUFFIXES):  # noqa: PTH113
            return read_published_adapter(self.adapter, backbone=name, image_size=self.image_size)
        adapter = adapters.read_adapter(self.adapter, self.adapter_revision, backbone=self.backbone_)
        if adapter.pooling not in (None, self.pooling):
            warn_caller(
                f"The adapter '{adapter.source}' was saved with pooling={adapter.pooling!r} but is used with "
                f"pooling={self.pooling!r}. Fix: pooling={adapter.pooling!r}, or SAMLoRAEmbedder.from_pretrained, "
                "unless you want other features."
            )
        return adapter

    def _network_spec(self) -> NetworkSpec:
        adapter = None if self.adapter_ is None else self.adapter_.digest()
        return NetworkSpec(self.backbone_, adapter, self.image_size_, self._dtype_name(), str(self.device))

    def _fine_tune(self, images: Sequence[Any], masks: Sequence[Any] | str) -> None:
        training = LoRATraining() if self.training is None else self.training
        trained = training.run(
            images,
            masks,
            backbone=self.backbone_,
            start=self.adapter_,
            image_size=int(self.image_size),
            pixel_stats=self._known_pixel_stats(),
            device=devices.choose(str(self.device)),
            verbose=self.verbose,
        )
        self.adapter_, self.history_, self.best_epoch_ = trained

    def _known_pixel_stats(self) -> PixelStats | None:
        """Return the pixel statistics from the parameter or the adapter, or None if neither has any."""
        if isinstance(self.pixel_stats, str):
            if self.pixel_stats == "sam":
                return SAM_PIXEL_STATS
            return None if self.adapter_ is None else self.adapter_.pixel_stats
        return checked_pixel_stats(self.pixel_stats)

    def _choose_prompt(self, sam: SAM) -> str:
        prompt_free = sam.mask_decoder.num_mask_tokens == CELL_MASK_TOKENS
        if self.prompt == "auto":
            noted = None if self.adapter_ is None else self.adapter_.prompt
            return "none" if prompt_free and noted != "center" else "center"
        if self.prompt == "none" and not prompt_free:
            raise ValueError(
                "Got prompt='none' but plain SAM's decoder needs a prompt. Fix: prompt='center' for centred cells, "
                "an adapter, or fit(X, masks=...)."
            )
        return str(self.prompt)
