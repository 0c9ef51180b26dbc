"""Sfumato: a complete, local Stable Diffusion system."""

__version__ = "0.1.0"
