"""SimCLR in JAX and Flax: contrastive pretraining, linear probes and fine-tuning, from a laptop to a TPU pod."""

__version__ = "0.1.0"
