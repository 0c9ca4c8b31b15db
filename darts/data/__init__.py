"""Image data for search and evaluation: sets in memory, the search split, batches on the device.

>>> from darts.data import SearchBatches, load
>>> images = load("digits")
>>> batches = SearchBatches(images, batch_size=64, seed=0)
>>> for weight_batch, arch_batch in batches.epoch():
...     pass  # .images [64, 3, 16, 16] float32, channels_last; .labels [64] int64
"""

from darts.data.batches import (
    Batch,
    Batches,
    SearchBatches,
    Unaugmented,
    evaluation_batches,
)
from darts.data.folders import Data, Folders, held_out_batches, load_data, training_batches
from darts.data.images import ImageSet, from_datasets
from darts.data.sources import SOURCES, load
from darts.data.split import search_split

__all__ = [
    "SOURCES",
    "Batch",
    "Batches",
    "Data",
    "Folders",
    "ImageSet",
    "SearchBatches",
    "Unaugmented",
    "evaluation_batches",
    "from_datasets",
    "held_out_batches",
    "load",
    "load_data",
    "search_split",
    "training_batches",
]
