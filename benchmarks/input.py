"""Compare the input pipeline with lightly's: augmented views per second, without training.

    python -m benchmarks.input
    python -m benchmarks.input --images_32=CIFAR/train --images_224=IMAGENET/train        # your own JPEG files
    python -m benchmarks.input --sizes=32 --seconds=2 --rounds=1 --docs=/tmp/docs         # a quick try

Without folders, the benchmark makes synthetic images. They have the sizes of CIFAR-10 (32x32) and ImageNet (500x375), with
shapes and texture, so that their files have about the usual size. All files are read once before, so they come from the
page cache. Each contender produces batches as fast as it can. The warm-up lasts `--warmup` seconds and at least two
batches. Then views are counted for at least `--seconds` and four batches. Nothing else uses the batches, so buffers are
empty when counting begins.

At 32 px the batch is 256 and the augmentation is the paper's for CIFAR-10: crop, flip, jitter of strength 0.5, greyscale,
no blur. At 224 px the batch is 64, so that a window of some seconds has many batches, and the augmentation is all of
ImageNet's. The contenders:

- `ours`: `simclr_jax.data.pipeline.train_batches` on the folder, with the augmentation of configs/folder.py; uint8.
- `ours_memory`: the same on decoded images in memory, a `RandomAccess` source. For 32 px only.
- `ours_device`: as `ours`, with `config.augment.where = 'device'`. This measures the work that is left for the host when
  the device does colour and blur. The device's work is part of the training step.
- `lightly`: `SimCLRTransform` with torchvision's ImageFolder and PyTorch's DataLoader, with one worker for each core and
  the default collation, as lightly's documentation shows; float32, normalised. It shuffles one long epoch, so that
  starting epochs costs no time.
- `plain`: the paper's augmentation as TensorFlow offers it, on one image at a time: what the reference implementation does on
  the host, written again in `benchmarks.plain_input`.
- `ceiling`: the rate that tf.data alone reaches on this machine: read, `decode_and_crop_jpeg` of two random boxes, bicubic
  resize, uint8, batch. It has no reproducible order, no check for broken files, and no augmentation but the crop.

The cases with fewer cores measure only ours. They show how the rate grows with the cores.
"""

from collections.abc import Iterable
import itertools
import os
import pathlib
import sys
import tempfile
import time

from benchmarks import harness

BATCH = {32: 256, 224: 64}
MADE_UP = {32: (5000, (32, 32), 75), 224: (256, (500, 375), 90)}  # number of images, width and height, JPEG quality


# --- Contenders ----------------------------------------------------------------------------------------------------


def views_per_second(batches: Iterable, options: dict) -> dict:  # type: ignore[return]
    """Take batches as fast as they come, and count their views."""
    batches = iter(batches)
    began = time.perf_counter()
    for drawn in itertools.count(1):
        next(batches)
        if drawn >= 2 and time.perf_counter() - began >= options["warmup"]:
            break
    began = time.perf_counter()
    for drawn in itertools.count(1):
        next(batches)
        passed = time.perf_counter() - began
        if drawn >= 4 and passed >= options["seconds"]:
            return {"views_per_s": 2 * BATCH[options["size"]] * drawn / passed, "batches": drawn}


def our_config(options: dict):
    from configs import folder

    config = folder.get_config(f"size={options['size']}")
    config.data.root = options["folder"]
    return config


def our_batches(config, source, options: dict) -> Iterable:
    from simclr_jax.augment.image_files import Decoding
    from simclr_jax.data import pipeline
    from simclr_jax.data.order import HostShard

    return pipeline.train_batches(
        source,
        config.augment,
        num_views=2,
        size=options["size"],
        shard=HostShard(BATCH[options["size"]]),
        seed=0,
        bad_images=pipeline.BadImages(source, config.data.max_bad_fraction),
        decoding=Decoding.of(config.data),
    )


def ours(options: dict) -> dict:
    from simclr_jax.data import sources

    config = our_config(options)
    return views_per_second(our_batches(config, sources.open_source(config.data, "train"), options), options)


def ours_device(options: dict) -> dict:
    from simclr_jax.data import sources

    config = our_config(options)
    if "where" not in config.augment:
        raise harness.Absent("config.augment has no field 'where'")
    config.augment.where = "device"
    return views_per_second(our_batches(config, sources.open_source(config.data, "train"), options), options)


def ours_memory(options: dict) -> dict:
    from simclr_jax.data.sources.base import RandomAccess
    from simclr_jax.runtime.tensorflow import tf

    files = sorted(str(path) for path in pathlib.Path(options["folder"]).rglob("*.jpg"))
    images = tf.stack([tf.io.decode_jpeg(tf.io.read_file(path), channels=3) for path in files])
    source = RandomAccess("images in memory", len(files), fetch=lambda index: tf.gather(images, index))
    return views_per_second(our_batches(our_config(options), source, options), options)


def lightly(options: dict) -> dict:
    from lightly.transforms import SimCLRTransform
    import torch
    from torchvision.datasets import ImageFolder

    small = {"cj_strength": 0.5, "gaussian_blur": 0.0} if options["size"] <= 32 else {}
    dataset = ImageFolder(options["folder"], transform=SimCLRTransform(input_size=options["size"], **small))
    batch = BATCH[options["size"]]
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=batch,
        sampler=torch.utils.data.RandomSampler(dataset, num_samples=batch * 100_000),
        drop_last=True,
        num_workers=options["cores"],
        persistent_workers=True,
    )
    return views_per_second(loader, options)


def plain(options: dict) -> dict:
    from benchmarks import plain_input

    size = options["size"]
    small = size <= 32
    found = plain_input.batches(options["folder"], size, BATCH[size], strength=0.5 if small else 1.0, blur=not small)
    return views_per_second(found.as_numpy_iterator(), options)


def ceiling(options: dict) -> dict:
    from benchmarks import plain_input
    from simclr_jax.runtime.tensorflow import tf

    size = options["size"]

    def crop(content):
        return tf.saturate_cast(plain_input.crop(tf, content, size), tf.uint8)

    def views(path):
        content = tf.io.read_file(path)
        return tf.stack([crop(content), crop(content)])

    files = sorted(str(path) for path in pathlib.Path(options["folder"]).rglob("*.jpg"))
    paths = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).repeat()
    batches = paths.map(views, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH[size], drop_remainder=True).prefetch(2)
    return views_per_second(batches.as_numpy_iterator(), options)


BENCHMARK = harness.Benchmark(
    name="input",
    contenders={
        "ours": harness.Contender(ours),
        "ours_memory": harness.Contender(ours_memory),
        "ours_device": harness.Contender(ours_device),
        "lightly": harness.Contender(lightly, peer=True),
        "plain": harness.Contender(plain),
        "ceiling": harness.Contender(ceiling),
    },
    value="views_per_s",
    more_is_better=True,
    baselines=("lightly", "plain", "ceiling"),
    columns={
        "views/s": harness.shown("{:,.0f}", "views_per_s"),
        "times as fast as lightly": harness.times_as_fast_as("lightly"),
        "as plain TensorFlow": harness.times_as_fast_as("plain"),
        "as the ceiling": harness.times_as_fast_as("ceiling"),
        "images": lambda entry: entry["images"],
    },
)


# --- Images --------------------------------------------------------------------------------------------------------


def make_up(folder: pathlib.Path, size: int) -> None:
    """Write synthetic images with colours, shapes and texture as JPEG files, in ten classes."""
    import numpy as np
    from PIL import Image

    count, shape, quality = MADE_UP[size]
    random = np.random.default_rng(0)

    def octave(scale: int) -> np.ndarray:
        """Return noise with grains of `scale` pixels."""
        grains = random.integers(0, 256, (-(-shape[1] // scale), -(-shape[0] // scale), 3), np.uint8)
        return np.asarray(Image.fromarray(grains).resize(shape, Image.Resampling.BICUBIC), np.float32)

    scales = [scale for scale in (1, 2, 4, 16, 64, 256) if scale < max(shape)]
    for number in range(count):
        weights = random.dirichlet([0.5] + [1.0] * (len(scales) - 1))
        image = sum(weight * octave(scale) for weight, scale in zip(weights, scales, strict=True))
        for _ in range(3):
            left, top = random.integers(0, shape[0]), random.integers(0, shape[1])
            image[top : top + shape[1] // 3, left : left + shape[0] // 3] += random.normal(0, 40, 3)
        path = folder / f"class{number % 10}" / f"{number:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(path, quality=quality)


def link(images: pathlib.Path, folder: pathlib.Path, limit: int) -> None:
    """Link to at most `limit` evenly chosen JPEG files of a folder, as CLASS/FILE."""
    files = sorted(path for path in images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        sys.exit(f"{images} has no JPEG files.")
    for number in range(min(limit, len(files))):
        path = files[number * len(files) // min(limit, len(files))]
        link_path = folder / path.parent.name / f"{number:05}.jpg"
        link_path.parent.mkdir(exist_ok=True)
        os.symlink(path.resolve(), link_path)


def prepare(folder: pathlib.Path, size: int, images: pathlib.Path | None) -> str:
    """Fill a folder with images and read them once. Return a description of them."""
    folder.mkdir()
    if images:
        link(images, folder, limit=5000)
    else:
        make_up(folder, size)
    sizes = [len(path.read_bytes()) for path in folder.rglob("*.jpg")]
    kind = (
        f"from {images.resolve().parent.name}/{images.name}" if images else "{}x{}, made up".format(*MADE_UP[size][1])
    )
    return f"{len(sizes):,} of {sum(sizes) / len(sizes) / 1000:.1f} kB, {kind}"


# --- Cases ---------------------------------------------------------------------------------------------------------


def fewer_cores(cores: int) -> list[int]:
    """Return 1, 2, 4, ... below the number of cores."""
    return [count for count in (2**power for power in range(12)) if count < cores]


def cases(size: int, folder: pathlib.Path, images: str, args) -> list[harness.Case]:
    options = {"size": size, "folder": str(folder), "seconds": args.seconds, "warmup": args.warmup}
    everyone = [name for name in BENCHMARK.contenders if size <= 32 or name != "ours_memory"]
    mine = [name for name in everyone if name.startswith("ours")]
    found = [harness.Case(f"{size} px", options, everyone, args.rounds, {"images": images})]
    for count in fewer_cores(len(harness.available_cores())):
        name = f"{size} px, {count} core{'s' * (count > 1)}"
        found.append(harness.Case(name, options | {"cores": count}, mine, args.rounds, {"images": images}))
    return found


def main() -> None:
    parser = harness.make_parser(__doc__, rounds=5)
    parser.add_argument("--sizes", type=harness.numbers, default=[32, 224])
    parser.add_argument("--images_32", type=pathlib.Path, help="a folder CLASS/FILE with small JPEG files")
    parser.add_argument("--images_224", type=pathlib.Path, help="a folder CLASS/FILE with JPEG files as in ImageNet")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to count views")
    parser.add_argument("--warmup", type=float, default=5.0, help="seconds before counting begins")
    args = parser.parse_args()
    if args.tables:
        return harness.compete(BENCHMARK, [], args)
    with tempfile.TemporaryDirectory() as root:
        chosen = []
        for size in args.sizes:
            folder = pathlib.Path(root) / str(size)
            images = prepare(folder, size, {32: args.images_32, 224: args.images_224}[size])
            chosen += cases(size, folder, images, args)
        harness.compete(BENCHMARK, chosen, args)


if __name__ == "__main__" and not harness.is_contender(BENCHMARK):
    main()
