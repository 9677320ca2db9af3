"""Pictures of a run: augmented views, training curves, a map of embeddings (PNG)."""

from collections.abc import Mapping
from collections.abc import Sequence
import io
import os
from typing import Any

from etils import epath
import numpy as np

from simclr_jax.reporting import names as names_lib
from simclr_jax.runtime import files

# Images that a map without labels shows.
THUMBNAILS = 400
# A map has a legend up to this many classes; with more, the names of some are written among the points.
LEGEND_CLASSES, NAMED_CLASSES = 20, 40


def new_figure(width: float, height: float):
    """A figure that needs no display and touches no global state of matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure, path: epath.Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    files.write_atomically(path, picture.getvalue())


def contact_sheet(views: np.ndarray, path: epath.Path, *, columns: int = 8, rows: int = 4) -> None:
    """The two views of each image side by side. `views` uint8 `[n, 2, size, size, 3]`; the first rows * columns."""
    views = views[: rows * columns]
    columns = min(columns, len(views))
    rows = -(-len(views) // columns)
    size = views.shape[2]
    gap = max(size // 16, 1)
    cell_w, cell_h = 2 * size + 2 * gap, size + gap
    sheet = np.full((rows * cell_h + gap, columns * cell_w + gap, 3), 255, np.uint8)
    for place, pair in enumerate(views):
        top, left = gap + place // columns * cell_h, gap + place % columns * cell_w
        sheet[top : top + size, left : left + size] = pair[0]
        sheet[top : top + size, left + size : left + 2 * size] = pair[1]
    figure = new_figure(12, 12 * sheet.shape[0] / sheet.shape[1] + 0.4)
    axes = figure.add_subplot()
    axes.imshow(sheet, interpolation="nearest")
    axes.set_title(f"{len(views)} images, two augmented views of each", fontsize=10)
    axes.axis("off")
    save(figure, path)


def labelled_sheet(images: np.ndarray, titles: Sequence[str], heading: str, path: epath.Path) -> None:
    """A table of pictures, uint8 `[rows, columns, size, size, 3]`, with a title above each column."""
    rows, columns = images.shape[:2]
    figure = new_figure(1.5 * columns, 1.4 * rows + 0.6)
    figure.suptitle(heading, fontsize=10)
    for number, image in enumerate(images.reshape(-1, *images.shape[2:])):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(image, interpolation="nearest")
        axes.axis("off")
        if number < columns:
            axes.set_title(titles[number], fontsize=9)
    save(figure, path)


def neighbours(
    images: np.ndarray,
    names: Sequence[str],
    nearest: np.ndarray,
    names_of_nearest: Sequence[Sequence[str]],
    path: epath.Path,
) -> None:
    """Images and the ones nearest to them, with their classes: a row for each.

    Args:
      images: uint8 `[rows, size, size, 3]`.
      names: their classes.
      nearest: uint8 `[rows, columns, size, size, 3]`, nearest first.
      names_of_nearest: their classes; those that are another than the row's are red.
      path: of the PNG file.
    """
    rows, columns = nearest.shape[:2]
    figure = new_figure(1.2 * (columns + 1), 1.35 * rows + 0.5)
    figure.suptitle("Test images, and the training images nearest to them in the representation", fontsize=10)
    for row in range(rows):
        for column, image in enumerate([images[row], *nearest[row]]):
            axes = figure.add_subplot(rows, columns + 1, row * (columns + 1) + column + 1)
            axes.imshow(image, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            name = names[row] if column == 0 else names_of_nearest[row][column - 1]
            title = axes.set_title("", fontsize=7, color="black" if name == names[row] else "tab:red")
            names_lib.show(title, name[:14])
            for side in axes.spines.values():
                side.set(linewidth=2 if column == 0 else 0)
    save(figure, path)


def groups(rows: Sequence[tuple[str, np.ndarray]], heading: str, path: epath.Path) -> None:
    """Groups of images: a row for each, with its title on the left.

    Args:
      rows: titles, and uint8 `[m, size, size, 3]`; m may differ.
      heading: of the picture.
      path: of the PNG file.
    """
    columns = max(len(images) for _, images in rows)
    figure = new_figure(max(1.1 * columns + 1, 6), 1.15 * len(rows) + 0.5)
    figure.suptitle(heading, fontsize=10)
    for row, (title, images) in enumerate(rows):
        for column in range(columns):
            axes = figure.add_subplot(len(rows), columns, row * columns + column + 1)
            if column < len(images):
                axes.imshow(images[column], interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_frame_on(False)
            if column == 0:
                axes.set_ylabel(title, fontsize=8, rotation=0, ha="right", va="center")
    save(figure, path)


def histograms(plain: np.ndarray, coloured: np.ndarray, path: epath.Path) -> None:
    """Crops of some images and their pixel values over all channels: left without colour distortion, right with it.

    Args:
      plain, coloured: uint8 `[images, crops, size, size, 3]`.
      path: of the PNG file.
    """
    images, crops = plain.shape[:2]
    figure = new_figure(3.2 * crops, 2.9 * images + 0.5)
    figure.suptitle(f"Left {crops} columns: crops alone. Right {crops}: crops with colour distortion.", fontsize=10)
    grid = figure.add_gridspec(2 * images, 2 * crops)
    for image in range(images):
        for column, view in enumerate([*plain[image], *coloured[image]]):
            axes = figure.add_subplot(grid[2 * image, column])
            axes.imshow(view, interpolation="nearest")
            axes.axis("off")
            axes = figure.add_subplot(grid[2 * image + 1, column])
            axes.hist(view.reshape(-1), bins=np.arange(0, 257, 8), color="tab:blue" if column < crops else "tab:orange")
            axes.set_xlim(0, 256)
            axes.set_yticks([])
    save(figure, path)


# What a training writes, and what it is called.
CURVES = {
    "loss": "loss",
    "contrastive_top1": "contrastive top-1",
    "contrastive_entropy": "contrastive entropy (nats)",
    "dimensions_h": "dimensions in which h varies",
    "classifier_top1": "online linear classifier, top-1",
    "test_top1": "online classifier, test top-1",
    "top1": "top-1 of the batch",
    "learning_rate": "learning rate",
}


# Above this many points a curve is smoothed, by the mean over a fiftieth of them.
SMOOTH_POINTS, SMOOTH_SHARE = 200, 50


def _curves(
    runs: dict[str, list[dict[str, Any]]], columns: int = len(CURVES), chance: Mapping[str, float] | None = None
):
    """A panel for each of `CURVES` that is there, a line for each run: its name and the lines of its `metrics.jsonl`."""
    panels = [key for key in CURVES if any(key in line for metrics in runs.values() for line in metrics)]
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.2 * columns, 2.8 * rows + 0.25 * (len(runs) > 1))
    lines: dict[str, Any] = {}
    for place, key in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        for name, metrics in runs.items():
            lines[name] = _plot(axes, [(line["step"], line[key]) for line in metrics if key in line])
        if chance and key in chance:
            axes.axhline(chance[key], color="gray", linewidth=1, linestyle="--", label="chance")
            axes.legend(fontsize=7, frameon=False)
        axes.set_title(CURVES[key], fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    if len(runs) > 1:
        options = {"loc": "outside lower left", "ncols": 3, "fontsize": 8, "frameon": False}
        names_lib.legend(figure, [lines[name] for name in runs], list(runs), **options)
    return figure


def _plot(axes: Any, points: list[tuple[int, float]]) -> Any:
    """Draws a curve, smoothed where it has many points. Returns its line."""
    steps, values = (np.array(column) for column in (zip(*points, strict=True) if points else ((), ())))
    if len(points) <= SMOOTH_POINTS:
        return axes.plot(steps, values, linewidth=1.2)[0]
    (raw,) = axes.plot(steps, values, linewidth=0.6, alpha=0.25)
    window = len(points) // SMOOTH_SHARE
    smooth = np.convolve(values, np.full(window, 1 / window), mode="valid")
    return axes.plot(steps[window - 1 :], smooth, linewidth=1.2, color=raw.get_color())[0]


def curves(metrics: list[dict[str, Any]], path: epath.Path, chance: Mapping[str, float] | None = None) -> None:
    """Training curves from the lines of a `metrics.jsonl`; nothing where there are none.

    Args:
      metrics: the lines.
      path: of the PNG file.
      chance: by metric, its value for a network that has learned nothing: a dashed line.
    """
    if metrics:
        save(_curves({"_": metrics}, chance=chance), path)


def curves_svg(runs: dict[str, list[dict[str, Any]]], chance: Mapping[str, float] | None = None) -> str:
    """The training curves of several runs in one SVG element: names, and the lines of their `metrics.jsonl`.

    `chance` is as for `curves`.
    """
    picture = io.StringIO()
    _curves(runs, columns=3, chance=chance).savefig(picture, format="svg", metadata={"Date": None})
    text = picture.getvalue()
    return text[text.index("<svg") :]


def embedding_map(features: np.ndarray, labels: np.ndarray, class_names, path: epath.Path, *, seed: int = 0) -> None:
    """A 2-D map (t-SNE, cosine distance) of `[n, dim]` features, coloured by class."""
    from matplotlib import colormaps

    places = _places(features, seed)
    colours = colormaps["tab10" if len(class_names) <= 10 else "nipy_spectral"]
    figure = new_figure(6.5, 5)
    axes = figure.add_subplot()
    drawn = []
    for number in range(len(class_names)):
        mine = labels == number
        colour = colours(number) if len(class_names) <= 10 else colours(number / len(class_names))
        drawn.append(axes.scatter(*places[mine].T, s=9, color=colour))
    if len(class_names) <= LEGEND_CLASSES:
        options = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False, "markerscale": 2}
        names_lib.legend(axes, drawn, class_names, **options)
    else:
        _name_classes(axes, places, labels, class_names)
    axes.set_title(f"{len(features)} test images, t-SNE of the representations", fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    save(figure, path)


def _name_classes(axes: Any, places: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Writes the names of the classes with the most images amid their points: a legend of all would be too long."""
    counts = np.bincount(labels, minlength=len(class_names))
    for number in np.argsort(-counts, kind="stable")[:NAMED_CLASSES]:
        if counts[number]:
            x, y = np.median(places[labels == number], axis=0)
            text = axes.text(x, y, "", fontsize=6, ha="center", va="center")
            names_lib.show(text, class_names[number], instead=f"class {number}")


def unlabelled_map(features: np.ndarray, images: np.ndarray, path: epath.Path, *, seed: int = 0) -> None:
    """The same map without labels. Images, uint8 `[m, size, size, 3]`, are drawn for the first m points, dots for the rest."""
    from matplotlib.offsetbox import AnnotationBbox
    from matplotlib.offsetbox import OffsetImage

    places = _places(features, seed)
    figure = new_figure(11, 11)
    axes = figure.add_subplot()
    axes.scatter(*places.T, s=4, color="0.7")
    for image, place in zip(images, places, strict=False):
        # Small, so that they overlap little: 24 points each.
        picture = OffsetImage(image, zoom=24 / len(image))
        axes.add_artist(AnnotationBbox(picture, place, frameon=False, pad=0))
    axes.set_title(f"{len(features)} images, t-SNE of the representations", fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    save(figure, path)


def _places(features: np.ndarray, seed: int) -> np.ndarray:
    """Places in two dimensions, float `[n, 2]`, of `[n, dim]` features."""
    # joblib, below scikit-learn, asks for the number of physical cores by a command that small machines lack.
    os.environ.setdefault("LOKY_MAX_CPU_COUNT", str(os.cpu_count()))
    from sklearn.manifold import TSNE

    perplexity = min(30.0, max((len(features) - 1) / 3, 1.0))
    return TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed).fit_transform(features)
