"""Runs on disk: their configuration, folder and results, and how they are read again."""
