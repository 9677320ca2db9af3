"""What the verdict says for numbers that leave no doubt, and its table of correlations."""

import json

from helpers import REPOSITORY
import numpy as np
import pytest

from benchmarks import pages
from benchmarks import verdict_runs
from benchmarks import verdict_table
from simclr_jax.diagnosis import statements
from simclr_jax.diagnosis.augmentations import IN_THE_RUN
from simclr_jax.diagnosis.augmentations import Row

QUESTIONS = ("crop", "colour", "crop_and_colour", "own")


def right(share, count=1000):
    """Answers to every question, right for the same share of the images."""
    return {name: np.arange(count) < share * count for name in QUESTIONS}


@pytest.mark.parametrize(
    ("pretrained", "untrained", "answer", "words"),
    [
        (0.6, 0.1, "yes", "for sure"),
        (0.11, 0.1, "yes", "probably"),
        (0.1, 0.1, "unclear", "not better"),
        (0.02, 0.1, "no", "worse"),
    ],
)
def test_learned(pretrained, untrained, answer, words):
    found = statements.learned(right(pretrained), right(untrained))
    assert (found.answer, words in found.text) == (answer, True)
    assert f"{pretrained:.0%}" in found.text
    assert f"{untrained:.0%}" in found.text


def test_learned_by_the_question_that_shows_it_best():
    without_colour = right(0.0) | {"crop": right(0.5)["crop"]}
    found = statements.learned(without_colour, right(0.1))
    assert found.answer == "yes"
    assert "50% of the images through a crop, the untrained network 10%" in found.text


def test_learned_without_any_difference_between_images_divides_by_no_zero():
    everything, nothing = right(1, 100), right(0, 100)
    assert statements.learned(everything, nothing).answer == "yes"
    assert statements.learned(nothing, nothing).answer == "unclear"


def test_collapsed():
    before = {"dimensions_h": 10.0}
    answers = [
        statements.collapsed({"dimensions_h": rank, "deviation_h": deviation}, before).answer
        for rank, deviation in ((12.0, 0.5), (2.0, 0.5), (12.0, 0.001), (0.0, 0.0))
    ]
    assert answers == ["no", "partly", "yes", "yes"]


def test_colour_shortcut():
    answers = [
        statements.colour_shortcut(
            {"colour_neighbours_h": now, "recognised_colour_h": 0.5}, {"colour_neighbours_h": before}, chance=0.01
        ).answer
        for now, before in ((0.05, 0.05), (0.5, 0.1), (0.3, 0.3))
    ]
    assert answers == ["no", "yes", "partly"]


def test_a_run_of_few_steps_is_told_to_train_longer():
    doubling = {"half": 5.0, "end": 4.0, "share": 0.04}
    found = statements.improving(doubling, [{"step": 126, "score": 0.2}])
    assert found.answer == "unclear"
    assert "too short to say: fewer than 200 steps" in found.text
    assert statements.improving(doubling, [{"step": 200, "score": 0.2}]).answer != "unclear"


def test_improving():
    def of(share):
        return statements.improving({"half": 5.0, "end": 4.0, "share": share}, [])

    assert [of(share).answer for share in (0.5, 0.05, 0.0)] == ["yes", "partly", "no"]
    checkpoints = [{"step": 10, "score": 0.25}, {"step": 20, "score": 0.5}]
    assert "contributed 100% of what" in of(3.63).text, "the first half was spent above guessing"
    found = statements.improving(None, checkpoints)
    assert found.answer == "unclear"
    assert "0.25 at step 10 and is 0.50 at step 20" in found.text


def test_augmentations_are_judged_as_in_the_run_and_by_a_trained_network_only():
    rows = [
        Row("crop", IN_THE_RUN, {"pretrained": 0.06, "untrained": 0.05}),
        Row("jitter", IN_THE_RUN, {"pretrained": 0.9, "untrained": 0.4}),
        Row("flip", IN_THE_RUN, {"pretrained": 1.0, "untrained": 0.99}),
        Row("cutout", "side 0.75", {"pretrained": 0.0, "untrained": 0.0}),
    ]
    found = {one.about: one.answer for one in statements.augmentations(rows, has_learned=True)}
    assert found == {"crop": "too strong", "flip": "too weak"}
    assert statements.augmentations(rows, has_learned=False) == []


def test_rank_correlations_by_hand():
    first, second = np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 30.0, 20.0, 40.0])
    assert verdict_table.spearman(first, second) == pytest.approx(1 - 6 * 2 / (4 * 15))  # two ranks differ by one
    assert verdict_table.ranks(np.array([5.0, 1.0, 5.0])).tolist() == [2.5, 1.0, 2.5]


def test_pooled_correlations_do_not_mistake_a_better_data_set_for_a_better_run():
    def rows(dataset, shift, signs):
        return [{"dataset": dataset, "probe": shift + place, "m": 5 * shift + signs * place} for place in range(4)]

    assert verdict_table.pooled(rows("a", 0, 1) + rows("b", 100, 1), "m") == pytest.approx(1)
    assert verdict_table.pooled(rows("a", 0, -1) + rows("b", 100, -1), "m") == pytest.approx(-1)


def test_the_results_replace_the_earlier_ones_in_the_documentation():
    page = (REPOSITORY / "docs" / "verdict.md").read_text()
    once = pages.filled(page, "| new |", "verdict")
    assert pages.filled(once, "| new |", "verdict") == once
    assert "| new |" in once
    assert once.startswith(page.partition(pages.BEGIN.format("verdict"))[0])
    with pytest.raises(ValueError, match="has no"):
        pages.filled("nothing", "| new |", "verdict")


def test_tables_of_runs(tmp_path):
    runs = verdict_runs.digits()[:6]
    for place, run in enumerate(runs):
        verdict = {"score": place / 10, "score_untrained": 0.05, "parts": {"questions": float(place != 3)}}
        verdict |= {"measures": {"pretrained": {"rankme_h": 9.0 - place}}}
        verdict["statements"] = [{"about": "learned", "answer": "yes" if place > 2 else "no", "text": ""}]
        for name, content in (("probe/results.json", {"top1": place / 8}), ("verdict/verdict.json", verdict)):
            path = tmp_path / run.place / name
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(content))
    baseline = tmp_path / "digits" / verdict_table.UNTRAINED / "probe" / "results.json"
    baseline.parent.mkdir(parents=True)
    baseline.write_text(json.dumps({"top1": 0.2}))
    text = verdict_table.write(tmp_path, runs)
    assert "| score | +1.00 | +1.00 |" in text
    assert "| rankme_h | -1.00 | -1.00 |" in text
    # The probe is above 0.2 from the third run on, the sentence says so from the fourth on.
    assert "agrees with the probe in 5 of 6 runs: 0 wrongly yes, 1 wrongly not" in text
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 7
