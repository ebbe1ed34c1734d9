"""Shipped YAML files, every one parsed and run by a test."""
