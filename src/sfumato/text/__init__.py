"""Strings in, numbers out: CLIP's tokenizer and the prompt language. No torch."""
