"""Bytes on disk to uint8 batches of views. Knows TensorFlow, knows no Flax."""

import os

# TensorFlow reads data here and nothing else; its start-up messages tell a user of this project nothing.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
