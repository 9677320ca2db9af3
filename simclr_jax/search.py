"""Search in a table of embeddings: nearest images, near-duplicates, clusters. As a page of pictures or as CSV.

    python -m simclr_jax.search --embeddings=x.parquet --nearest=cats/17.jpg --output=near.html
    python -m simclr_jax.search --embeddings=x.parquet --duplicates=0.99 --output=duplicates.csv
    python -m simclr_jax.search --embeddings=x.parquet --clusters=50 --output=clusters.html

`simclr_jax.embed` makes the table. Similarity is the cosine of two embeddings seen from the mean of the table (from zero, if it
has fewer than 20 images): 1 for the same image, about 0 for two images that have nothing in common. CSV has a line for each
image of each group: group, rank, similarity, path, label. HTML is one file with small pictures. Install faiss for this:
`pip install 'simclr_jax[search]'`.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("search")  # answers --help and mistakes before the imports below; does not return

import csv
import io
import logging

from absl import flags
from etils import epath

from simclr_jax.errors import UserError
from simclr_jax.reporting import gallery
from simclr_jax.retrieval import groups as groups_lib
from simclr_jax.retrieval import tables
from simclr_jax.retrieval.groups import Group
from simclr_jax.retrieval.index import Index
from simclr_jax.retrieval.index import import_faiss
from simclr_jax.retrieval.tables import Embeddings
from simclr_jax.runtime import earlier_output
from simclr_jax.runtime import files

log = logging.getLogger("simclr_jax")

# Groups that a page shows; CSV has all of them.
SHOWN_GROUPS = 500


def run(values: flags.FlagValues) -> list[Group]:
    """Searches as a command line says, writes --output and returns the groups.

    Raises:
      UserError: for a wrong flag, an unreadable table, or an image that is not in it.
    """
    output = epath.Path(values.output)
    if output.suffix not in (".html", ".csv"):
        raise UserError(f"--output={values.output}: the file must end in .html or .csv.")
    if output.exists() and not values.overwrite:
        raise UserError(f"--output={values.output} exists: give another name, or --overwrite.")
    if not output.parent.is_dir():
        raise UserError(f"--output={values.output}: there is no folder {output.parent}.")
    earlier_output.check_file(output, "search")
    files.check_writable(output, "--output")
    import_faiss()
    table = tables.read(values.embeddings)
    groups = _search(table, values)
    if output.suffix == ".csv":
        content = _csv(table, groups)
    else:
        pictures = epath.Path(values.images) if values.images else None
        title = f"{values.embeddings}: {len(table.paths):,} images"
        content = gallery.render(table.paths, table.labels, groups[:SHOWN_GROUPS], len(groups), title, pictures)
    files.write_atomically(output, content.encode())
    if values.duplicates is not None and groups and groups[0].size > max(10, len(table.paths) / 5):
        log.warning(
            "The largest group has %d of the %d images, because pairs connect in chains. A value above --duplicates=%s keeps "
            "to closer copies.",
            groups[0].size,
            len(table.paths),
            values.duplicates,
        )
    images = sum(group.size for group in groups)
    log.info("%s: %d group%s, %d image%s.", output, len(groups), "s" * (len(groups) != 1), images, "s" * (images != 1))
    return groups


def _search(table: Embeddings, values: flags.FlagValues) -> list[Group]:
    if values.clusters is not None:
        return groups_lib.clusters(table, values.clusters, values.count)
    rows = [table.row(path) for path in values.nearest]
    index = Index(table.vectors, exact=True if rows else None)  # for a few images no index is worth building
    if values.duplicates is not None:
        return groups_lib.duplicates(table, index, values.duplicates)
    titles = [table.paths[row] for row in rows]
    return groups_lib.nearest(table, index, table.vectors[rows], titles, values.count + 1)


def _csv(table: Embeddings, groups: list[Group]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["group", "rank", "similarity", "path", *(["label"] if table.labels else [])])
    for number, group in enumerate(groups):
        for rank, (row, similarity) in enumerate(zip(group.rows, group.similarities, strict=True)):
            label = [table.labels[row]] if table.labels else []
            writer.writerow([number, rank, f"{similarity:.6f}", table.paths[row], *label])
    return text.getvalue()
