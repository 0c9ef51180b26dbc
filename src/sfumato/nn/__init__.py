"""Networks: one frozen configuration and one class a file. Torch only; no file formats, no sampling."""
