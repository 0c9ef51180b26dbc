"""Small files that change a checkpoint: read, understood, put on and taken off."""
