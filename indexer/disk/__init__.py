"""Folders on disk: whole or absent, with a manifest, held by one process at a time."""
