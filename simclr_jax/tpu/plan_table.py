"""Renders plans as a Markdown table."""

COLUMNS = (
    ("topology", "topology", "{}"),
    ("chips", "chips", "{}"),
    ("batch_per_chip", "images/chip", "{}"),
    ("hbm_gib", "HBM GiB", "{:.2f}"),
    ("hbm_limit_gib", "of", "{:.2f}"),
    ("fits", "fits", "{}"),
    ("flops", "TFLOP/chip", "{:.2f}"),
    ("step_ms", "step ms", "{:.1f}"),
    ("collective_ms", "collective ms", "{:.1f}"),
    ("utilisation", "utilisation", "{:.0%}"),
    ("images_per_s", "images/s", "{:,.0f}"),
    ("hours", "hours", "{:.1f}"),
    ("collectives", "collectives (count, MiB)", "{}"),
)


def row(entry: dict) -> list[str]:
    """The cells of an entry, for a table."""
    shown = entry | {"flops": entry["flops"] / 1e12, "fits": "yes" if entry["fits"] else "NO"}
    if entry["collectives"] is not None:
        shown["collectives"] = ", ".join(
            f"{kind} {found['count']}, {found['bytes'] / 2**20:.1f}"
            for kind, found in sorted(entry["collectives"].items())
        )
    return ["-" if shown[key] is None else form.format(shown[key]) for key, _, form in COLUMNS]


def table(entries: list[dict]) -> str:
    """A table of Markdown, with its columns aligned."""
    rows = [[head for _, head, _ in COLUMNS], *(row(entry) for entry in entries)]
    widths = [max(len(cells[number]) for cells in rows) for number in range(len(COLUMNS))]
    # Names to the left, numbers to the right.
    lines = [
        "| "
        + " | ".join(
            cell.ljust(width) if number in (0, len(COLUMNS) - 1) else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        + " |"
        for cells in rows
    ]
    rule = [
        "-" * (width + 1) + ("-" if number in (0, len(COLUMNS) - 1) else ":") for number, width in enumerate(widths)
    ]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])
