"""What happens in order: prepare, train, search, fine-tune, export; and the public functions that do it."""
