"""The verdict as text for a terminal."""

from collections.abc import Mapping
from typing import Any

from simclr_jax.diagnosis.representations import COLOUR
from simclr_jax.diagnosis.representations import PRETRAINED
from simclr_jax.diagnosis.representations import UNTRAINED

# Name in verdict.json, without the layer, and what it says.
ROWS = {
    "recognised_crop": "recognised in a crop",
    "recognised_colour": "recognised in other colours",
    "recognised_crop_and_colour": "recognised in both",
    "consistency": "neighbours that two views share",
    "colour_neighbours": "neighbours by colour too",
    "rankme": "RankMe",
    "dimensions": "effective dimensions, centred",
    "lidar": "LiDAR",
    "alignment": "alignment, lower is closer",
    "uniformity": "uniformity, lower is wider",
    "deviation": "deviation per feature",
    "loss_share": "loss as a share of chance",
}
_PERCENT = ("recognised", "consistency", "colour_neighbours", "loss_share")


def text_of(verdict: Mapping[str, Any]) -> str:
    """The table of measures, the table of operations, and the statements."""
    columns = [(PRETRAINED, "h"), (PRETRAINED, "z"), (UNTRAINED, "h"), (COLOUR, "h")]
    titles = ["h", "z", "untrained h", "colour"]
    lines = [f"{'':33}" + "".join(f"{title:>13}" for title in titles)]
    for row, title in ROWS.items():
        cells = [_cell(row, verdict["measures"][name].get(f"{row}_{layer}")) for name, layer in columns]
        lines.append(f"{title:33}" + "".join(f"{cell:>13}" for cell in cells))
    lines += ["", *_operations(verdict["augmentations"])]
    lines += [f"- {statement['text']}" for statement in verdict["statements"]]
    lines.append(
        f"- Score {verdict['score']:.2f}, of the untrained network {verdict['score_untrained']:.2f} (from 0 to 1)."
    )
    return "\n".join(lines)


def _cell(row: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0%}" if row.startswith(_PERCENT) else f"{value:.3g}"


def _operations(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [f"{'images recognised through':33}{'trained':>13}{'untrained':>13}{'colour':>13}"]
    for row in rows:
        cells = [row["recognised"][name] for name in (PRETRAINED, UNTRAINED, COLOUR)]
        lines.append(
            f"{row['op'] + ', ' * bool(row['strength']) + row['strength']:33}" + "".join(f"{c:13.0%}" for c in cells)
        )
    return [*lines, ""]
