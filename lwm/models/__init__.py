"""Encoders, masking, decoders, routers and the mixture of experts."""
