"""Every operation of the family alone, at several strengths: to look at, and to measure what it does to a network."""

from ml_collections import ConfigDict

from simclr_jax.augment import family

OFF = {op.prob_field: 0.0 for op in family.OPS}
# Neither a crop nor anything else: the central square of an image.
NOTHING = OFF | {"crop": False, "one_branch": False, "where": "host"}


def columns(augment: ConfigDict) -> dict[str, list[tuple[str, dict]]]:
    """For every operation, the columns of its sheet: a title, and the fields of `config.augment` that make it.

    The columns of an operation that has a strength are at fractions of the config's strength.
    """
    bounds = {op: augment[op] for op in family.JITTER_OPS}

    def at_strengths(**on: float) -> list[tuple[str, dict]]:
        fields = dict.fromkeys(bounds, 0.0) | on
        return [(f"strength {s:g}", fields | {"strength": s}) for s in (0.125, 0.25, 0.5, 1.0)]

    draws: list[tuple[str, dict]] = [(f"draw {draw}", {}) for draw in range(1, 5)]
    changes = {
        "flip": [("", {})],
        "rotate": draws,
        "jitter": at_strengths(**bounds),
        "grayscale": [("", {})],
        "sobel": [("", {})],
        "blur": [(f"sigma {s:g} px", {"blur_sigma": (s, s)}) for s in (0.5, 1.0, 1.5, 2.0)],
        "noise": [(f"std {std:g}", {"noise_std": std}) for std in (0.05, 0.1, 0.2)],
        "cutout": [(f"side {side:g}", {"cutout_side": side}) for side in (0.25, 0.5, 0.75)],
    }

    def alone(op: str, columns: list[tuple[str, dict]]) -> list[tuple[str, dict]]:
        return [(title, {f"{op}_prob": 1.0} | fields) for title, fields in columns]

    return (
        {"crop": [(title, {"crop": True}) for title, _ in draws]}
        | {op.name: alone(op.name, changes[op.name]) for op in family.OPS}
        | {op: alone("jitter", at_strengths(**{op: bound})) for op, bound in bounds.items()}
    )
