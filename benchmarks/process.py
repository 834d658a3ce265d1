"""A measurement in a process of its own, so that its memory is its own. Used by every benchmark here."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import resource
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """Return function(*args), run in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), quiet) as pool:
        return pool.submit(function, *args).result()


def quiet() -> None:
    """Disable progress bars and warnings for the rest of this process."""
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore")


def peak_mib() -> float:
    """Return the most memory that this process has held so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mib() -> float:
    """Return the memory that this process holds now, MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def forget_peak() -> None:
    """Free what nothing holds any longer on the GPU, and measure its peak anew; a process's peak stays."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
