"""Imports TensorFlow without its start-up notices, which ignore the log level; import this module first."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_stderr, _null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
os.dup2(_null, 2)
try:
    import keras
    import tensorflow as tf
finally:
    os.dup2(_stderr, 2)
    os.close(_stderr)
    os.close(_null)

__all__ = ["keras", "tf"]
