"""Images to tensors: sources, splits, augmentation and resolution."""
