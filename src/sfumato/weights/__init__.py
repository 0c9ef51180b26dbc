"""Files of weights: the only place that knows file formats and other people's tensor names."""
