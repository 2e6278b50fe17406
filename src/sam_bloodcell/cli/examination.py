"""Examine this machine: what works on it, and how to fix the rest."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.utils import CacheNotFound, get_session
from threadpoolctl import threadpool_info

from ..models import devices
from ..weights.backbones import HUB_BACKBONES, Backbone, load_backbone

# Each extra that users have, and one module that it installs.
EXTRAS = {
    "anndata": "anndata", "dask": "distributed", "fetch": "pooch", "huggingface": "datasets", "masks": "skimage",
    "umap": "umap",
}  # fmt: skip


class Finding(NamedTuple):
    """A finding about one part of the machine; `fix` says what to do, and is empty if nothing is wrong."""

    what: str
    found: str
    fix: str = ""


def examine() -> Iterator[Finding]:
    """Yield the findings, one at a time; nothing is changed or downloaded."""
    yield Finding("python, torch", f"{sys.version.split()[0]}, {torch.__version__}")
    yield _device()
    yield from _threads()
    yield _packaged_weights()
    yield _hub_cache()
    yield _hub_reachable()
    for extra, module in EXTRAS.items():
        yield _extra(extra, module)


def _device() -> Finding:
    device = devices.choose("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    if devices.half_dtype(device):
        return Finding("device", f"{name}, computes in bfloat16")
    return Finding("device", f"{name}, without native bfloat16", "embedding takes about twice as long, in float32")


def _threads() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    fix = ""
    if threads > cores:
        fix = f"more threads than cores slow every step down: set OMP_NUM_THREADS={cores}"
    elif threads < cores:
        fix = f"some cores stay idle: unset OMP_NUM_THREADS, or set it to {cores}"
    yield Finding("threads", f"torch uses {threads} on {cores} cores", fix)
    runtimes = sorted({pool["prefix"] for pool in threadpool_info() if pool["user_api"] == "openmp"})
    fix = "" if len(runtimes) < 2 else "two in one process can hang or crash: install torch and numpy from one source"
    yield Finding("OpenMP", ", ".join(runtimes) or "none seen", fix)


def _packaged_weights() -> Finding:
    try:
        load_backbone(Backbone("vit_tiny"))
    except (OSError, ValueError) as exc:
        return Finding("vit_tiny", f"damaged ({exc})", "install sam-bloodcell again")
    return Finding("vit_tiny", "packaged, intact")


def _hub_cache() -> Finding:
    try:
        repos = {repo.repo_id: repo for repo in scan_cache_dir().repos}
    except CacheNotFound:
        repos = {}
    cached = [
        f"{name} at {revision.commit_hash[:8]}{' (the pinned one)' if revision.commit_hash == pinned else ''}"
        for name, (repo, pinned) in HUB_BACKBONES.items()
        if repo in repos
        for revision in sorted(repos[repo].revisions, key=lambda revision: revision.last_modified)
    ]
    if cached:
        return Finding("weights in the cache", ", ".join(cached))
    return Finding("weights in the cache", "none of Segment Anything", "if you need them: sam-bloodcell download vit_b")


def _hub_reachable() -> Finding:
    if constants.HF_HUB_OFFLINE:
        return Finding("Hugging Face Hub", "offline by HF_HUB_OFFLINE")
    try:
        get_session().head(constants.ENDPOINT, timeout=5.0)  # seconds
    except Exception as exc:
        return Finding("Hugging Face Hub", f"out of reach ({type(exc).__name__})",
                       "packaged and cached weights work; otherwise check network, proxy, HF_ENDPOINT")  # fmt: skip
    return Finding("Hugging Face Hub", "reachable")


def _extra(extra: str, module: str) -> Finding:
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.origin is not None:  # a folder without a package in it has no origin
        return Finding(f"extra {extra}", "installed")
    return Finding(f"extra {extra}", "not installed", f'if you need it: pip install "sam-bloodcell[{extra}]"')
