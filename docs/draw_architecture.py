"""Draws docs/architecture.svg: the rooms of the code, what they import, and the path of a batch through them.

    python docs/draw_architecture.py

Rooms, modules and arrows come from the files and their import statements. `PATH` is the only part that is written by hand.
"""

import ast
import html
import pathlib
import re

REPOSITORY = pathlib.Path(__file__).parents[1]
ROOT = "simclr_jax"
PICTURE = REPOSITORY / "docs" / "architecture.svg"

COMMANDS = "commands"
# Every room may import these, so they are not drawn.
OMITTED = ("simclr_jax", "simclr_jax.errors")

# The path of a batch: the module, and what it does. A test checks that the modules exist.
PATH = (
    ("data.sources.open", "opens TFDS, a folder of images or the digits"),
    ("data.order", "says which example comes at which position"),
    ("augment.tf_crops", "decodes and crops: two views of each image"),
    ("augment.tf_ops", "flips, distorts colours, blurs"),
    ("data.pipeline", "makes uint8 batches [batch, 2, size, size, 3]"),
    ("runtime.sharding", "splits them over the devices of all hosts"),
    ("training.inputs", "normalises on the device"),
    ("models.networks", "encoder h = f(x), head z = g(h)"),
    ("objectives.nt_xent", "the loss over the global batch"),
    ("training.steps", "gradient and update, one jitted function"),
    ("training.loop", "calls the step, over and over"),
    ("training.checkpoint", "saves the state"),
    ("workdir.writers", "writes the metrics"),
)

# Pixels.
LINE = 17
HEADER = 30
COLUMN = 118
MARGIN = 24
GAP = 30  # between rooms of a row
ARROWS = 54  # between rows
LEGEND = 310


def modules(root: pathlib.Path = REPOSITORY / ROOT) -> dict[str, pathlib.Path]:
    """Files by the name of their module, packages included."""
    named = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def imports(path: pathlib.Path, known: dict[str, pathlib.Path]) -> set[str]:
    """The modules among `known` that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in known else node.module for name in inside}
    return names & set(known)


def room_of(module: str, known: dict[str, pathlib.Path]) -> str:
    """The package right under simclr_jax, or `COMMANDS`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and known[".".join(parts[:2])].name == "__init__.py" else COMMANDS


def structure() -> tuple[dict[str, list[str]], set[tuple[str, str]]]:
    """The modules of each room, and the arrows (importing room, imported room)."""
    known = modules()
    rooms: dict[str, list[str]] = {}
    edges = set()
    for name, path in known.items():
        if name in OMITTED:
            continue
        room = room_of(name, known)
        rooms.setdefault(room, [])
        if path.name != "__init__.py":
            rooms[room].append(name.removeprefix(f"{ROOT}.").removeprefix(f"{room}."))
        edges |= {(room, room_of(other, known)) for other in imports(path, known) if other not in OMITTED}
    return rooms, {(a, b) for a, b in edges if a != b}


def levels(rooms: dict[str, list[str]], edges: set[tuple[str, str]]) -> list[list[str]]:
    """Rows from top to bottom: each room right below the lowest of those that import it, and near them.

    Raises:
      ValueError: for rooms that import each other in a circle.
    """
    rows: list[list[str]] = []
    left = set(rooms)
    places: dict[str, float] = {}

    def mean_place(room: str) -> float:
        importers = [places[a] for a, b in drawn_edges(edges) if b == room]
        return sum(importers) / max(len(importers), 1)

    while left:
        top = {room for room in left if not any(b == room and a in left for a, b in edges)}
        if not top:
            raise ValueError(f"a circle of imports between the rooms {', '.join(sorted(left))}.")
        rows.append(sorted(top, key=lambda room: (mean_place(room), room)))
        places |= {room: index - (len(top) - 1) / 2 for index, room in enumerate(rows[-1])}
        left -= top
    return rows


def drawn_edges(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows without those that a chain of other arrows implies."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        open_rooms = [start]
        while open_rooms:
            room = open_rooms.pop()
            new = {b for a, b in edges if a == room} - seen
            seen |= new
            open_rooms += new
        return seen

    below = {a: reachable(a) for a in {room for edge in edges for room in edge}}
    return {(a, b) for a, b in edges if not any((a, c) in edges and b in below[c] for c in below if c != b)}


def place(rooms: dict[str, list[str]], rows: list[list[str]]) -> tuple[dict[str, tuple[int, int, int, int]], int, int]:
    """Left, top, width and height of each room; width and height of all."""

    def size(room: str) -> tuple[int, int]:
        columns = 1 if len(rooms[room]) <= 4 else 2
        return columns * COLUMN + 20, HEADER + LINE * -(-len(rooms[room]) // columns) + 8

    widths = [sum(size(room)[0] for room in row) + GAP * (len(row) - 1) for row in rows]
    boxes = {}
    top = MARGIN
    for row, width in zip(rows, widths, strict=True):
        left = MARGIN + (max(widths) - width) // 2
        for room in row:
            boxes[room] = (left, top, *size(room))
            left += size(room)[0] + GAP
        top += max(size(room)[1] for room in row) + ARROWS
    return boxes, max(widths) + 2 * MARGIN, top - ARROWS + MARGIN


def badge(x: int, y: int, number: int) -> str:
    """The number of a step of the path, in a circle."""
    return f'<circle cx="{x}" cy="{y}" r="8"/><text class="number" x="{x}" y="{y + 3.5}">{number}</text>'


def draw_room(room: str, names: list[str], box: tuple[int, int, int, int], numbers: dict[str, int]) -> str:
    """A box with the names of the room's modules, and the numbers of those on the path."""
    left, top, width, height = box
    parts = [
        f'<g data-room="{room}" data-modules="{" ".join(names)}">',
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="6"/>',
        f'<text class="room" x="{left + 10}" y="{top + 20}">{room}</text>',
    ]
    columns = (width - 20) // COLUMN
    rows = -(-len(names) // columns)
    for index, name in enumerate(names):
        x, y = left + 24 + COLUMN * (index // rows), top + HEADER + LINE * (index % rows) + 12
        parts.append(f'<text x="{x}" y="{y}">{name.replace(".", "/")}</text>')
        if f"{room}.{name}" in numbers:
            parts.append(badge(x - 11, y - 4, numbers[f"{room}.{name}"]))
    return "\n".join([*parts, "</g>"])


def draw_arrow(a: tuple[int, int, int, int], b: tuple[int, int, int, int], edge: tuple[str, str]) -> str:
    """From the bottom of the importing room to the top of the imported one."""
    x0, y0 = a[0] + a[2] // 2, a[1] + a[3]
    x1, y1 = b[0] + b[2] // 2, b[1] - 4
    bend = (y1 - y0) // 2
    curve = f"M{x0} {y0} C{x0} {y0 + bend} {x1} {y1 - bend} {x1} {y1}"
    return f'<path data-drawn="{edge[0]} {edge[1]}" d="{curve}" marker-end="url(#head)"/>'


STYLE = """
text { font: 12px sans-serif; fill: #222 }
.room { font-weight: bold; font-size: 14px }
.number { font-size: 10px; fill: #fff; text-anchor: middle }
rect { fill: #f4f6fa; stroke: #8899b0 }
circle { fill: #c2410c }
path { fill: none; stroke: #8899b0; stroke-width: 1.4 }
marker path { fill: #8899b0; stroke: none }
.page { fill: #fff; stroke: none }
"""


def draw() -> str:
    """The picture as SVG. All arrows are in its metadata; those that a chain of arrows implies are not drawn."""
    rooms, edges = structure()
    boxes, width, height = place(rooms, levels(rooms, edges))
    numbers = {module: number for number, (module, _) in enumerate(PATH, 1)}
    legend = [f'<text class="room" x="{width}" y="{MARGIN + 14}">The path of a batch</text>']
    for number, (module, text) in enumerate(PATH, 1):
        y = MARGIN + 24 + 38 * number - 18
        legend.append(badge(width + 8, y, number))
        legend.append(f'<text class="room" x="{width + 26}" y="{y + 4}">{module.replace(".", "/")}</text>')
        legend.append(f'<text x="{width + 26}" y="{y + 20}">{html.escape(text)}</text>')
    height = max(height, MARGIN * 2 + 24 + 38 * len(PATH))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + LEGEND} {height}" role="img">',
        "<title>The packages of simclr_jax, what they import, and the path of a batch through them</title>",
        f"<metadata>{' '.join(f'{a}:{b}' for a, b in sorted(edges))}</metadata>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z"/></marker></defs>',
        f'<rect class="page" width="{width + LEGEND}" height="{height}"/>',
        *(draw_arrow(boxes[a], boxes[b], (a, b)) for a, b in sorted(drawn_edges(edges))),
        *(draw_room(room, names, boxes[room], numbers) for room, names in rooms.items()),
        *legend,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def read_structure(picture: str) -> tuple[dict[str, list[str]], set[tuple[str, str]]]:
    """What `structure` returned when a picture was drawn."""
    rooms = re.findall(r'data-room="([^"]*)" data-modules="([^"]*)"', picture)
    edges = re.search(r"<metadata>(.*)</metadata>", picture)
    return {room: names.split() for room, names in rooms}, {
        (a, b) for a, _, b in (edge.partition(":") for edge in (edges.group(1).split() if edges else []))
    }


if __name__ == "__main__":
    PICTURE.write_text(draw())
