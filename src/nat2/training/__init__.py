"""Everything that changes weights: progressive shrinking, adaptation in the search, fine-tuning."""
