"""Images to tensors: sources, splits, augmentation and resolution."""

from nat2.data.dataset import Dataset, Split, read_dataset
from nat2.data.transform import Pipeline

__all__ = ["Dataset", "Pipeline", "Split", "read_dataset"]
