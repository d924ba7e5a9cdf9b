from xml.etree import ElementTree

from encoder.training.curves import Curves, draw, read_curves

LINES = [{"step": step, "tokens": step * 1000, "loss": 9 - step / 10} for step in range(1, 31)] + [
    {"step": 30, "tokens": 30_000, "held_out": {"en": 6.5, "mean": 6.6}}
]


def test_after_a_resume_no_step_is_there_twice_and_a_torn_line_is_gone(tmp_path):
    path = tmp_path / "curves.jsonl"
    curves = Curves(path, steps_done=0)
    for line in LINES[:20]:
        curves.add(line)
    with path.open("a") as file:
        file.write('{"step": 21, "tok')  # a kill in the middle of a write

    resumed = Curves(path, steps_done=12)
    for line in LINES[12:]:
        resumed.add(line)

    assert read_curves(path) == LINES


def test_the_picture_is_an_image_with_a_line_for_each_curve():
    picture = ElementTree.fromstring(draw(LINES, "a <model>"))

    lines = picture.findall("{*}polyline")
    assert len(lines) == 3
    assert len(lines[0].get("points").split()) == 30
    assert picture.findtext("{*}text") == "a <model>"


def test_a_run_without_a_line_yet_has_an_empty_picture():
    assert ElementTree.fromstring(draw([], "new")).findall("{*}polyline") == []
