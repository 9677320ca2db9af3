"""Fine-tuning on 10 to 10,000 labels. Not a setting of the paper; that is configs/imagenet_finetune.py.

    python -m simclr_jax.finetune --pretrained=DIR --workdir=DIR2 --config=configs/finetune.py:0.01
    python -m simclr_jax.finetune --pretrained=DIR --workdir=DIR3 --config=configs/finetune.py:0.01 --config.init=random

The first argument is the share of the labels to use. What few labels need, and the paper's setting for ImageNet lacks:
- 300 steps or 30 epochs, whichever is more, with batches of 64 images, or of as many as there are labels.
- The classifier starts as the linear probe's.
- Below 200 labels BatchNorm keeps its statistics of pretraining, so that with a small learning rate the network is never far
  from the frozen probe. With more labels that would keep it below what it can reach (docs/results.md).
- AdamW, because the gradients of a network with frozen statistics have any size: SGD diverged on the digits.
- Below 5,000 labels the learning rate is the best of four, on a fifth of the labels; then all labels are used. With frozen
  statistics it is one of 1e-5, 1e-4, 1e-3, 1e-2, otherwise one of 1e-4, 1e-3, 3e-3, 1e-2 (`config.learning_rates` gives other
  ones). With 5,000 labels and more it is 3e-3. With too few to hold some out, fewer than about five of each class, it is
  1e-4, or from 200 labels on 1e-3, which stays near the probe.
- `--config.init=random` trains the same network from scratch, with a random classifier and the statistics of each batch.
Costs five trainings for each subset of the labels, where the learning rate is chosen.
"""

from simclr_jax import config as config_lib


def get_config(arg=None):
    args = config_lib.parse_arg(arg, fraction=1.0, batch=64, epochs=30, steps=300)
    config = config_lib.finetune()
    config.label_fraction = args.fraction
    config.batch_size = args.batch
    config.epochs = float(args.epochs)
    config.min_steps = args.steps
    config.init_classifier = "probe"
    config.freeze_below = 200
    config.rates_by_labels = True
    config.optimizer.update(name="adamw", learning_rate=1e-3, scaling="none")
    config.lbfgs.update(l2_min=1e-2, l2_max=1e4, l2_values=7)
    return config
