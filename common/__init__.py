"""What the five papers share: datasets, evaluation, backbones, the command line and recorded runs."""
