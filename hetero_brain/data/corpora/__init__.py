"""Readers of public corpora: folders as they are released → rows of manifests."""
