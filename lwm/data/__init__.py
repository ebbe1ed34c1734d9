"""Shards, manifests, generation, ingestion and data modules."""
