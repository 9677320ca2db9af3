"""The values of fields that are names. The modules that act on them take them from here."""

SOURCES = ("tfds", "folder", "records", "digits")
DEPTHS = (10, 18, 34, 50, 101, 152, 200)
STEMS = ("imagenet", "cifar", "cifar_wide")
PADDINGS = ("same", "torch")
TORCH_FORMATS = ("safetensors", "pytorch", "timm")
FILE_FORMATS = ("onnx", "stablehlo")  # one file; the others are folders
EXPORT_FORMATS = (*TORCH_FORMATS, *FILE_FORMATS, "savedmodel")
WEIGHT_FORMATS = (
    *("torchvision", "timm", "vissl", "lightly", "lightly-train", "solo-learn", "spijkervet", "sthalles", "bolts"),
)
HEADS = ("none", "linear", "nonlinear")
LOSSES = ("nt_xent", "nt_logistic", "margin_triplet")
LOSS_METHODS = ("auto", "blocks", "dense")
OPTIMIZERS = ("lars", "sgd", "adamw")
SCALINGS = ("linear", "sqrt", "none")
PLACES = ("host", "device")
PLACES_OR_AUTO = (*PLACES, "auto")
TRUNCATED = ("skip", "read")
DTYPES = ("float32", "bfloat16", "float64")
REMAT = ("none", "block", "stage")
INITS = ("pretrained", "random")
INIT_CLASSIFIERS = ("random", "probe")
PROBE_PROTOCOLS = ("lbfgs", "sgd", "stored")
TRANSFER_PROTOCOLS = ("lbfgs", "finetune")
TRANSFER_METRICS = ("top1", "mean_per_class", "map11")
TRANSFORMS = ("grayscale", "rotate", "noise", "sobel")
TRANSFORM_CLASSIFIERS = ("mlp", "linear")
