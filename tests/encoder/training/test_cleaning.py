import pytest

from encoder.training.cleaning import clean
from encoder.training.corpus import CorpusInvalid, find_sources
from encoder.training.recipe import Recipe, Text


def text_of(lines):
    return "".join(f"Line {i} of this little text.\n" for i in range(lines))


def run(tmp_path, recipe=None):
    recipe = find_sources(tmp_path / "text", recipe or Recipe())
    return clean(tmp_path / "text", recipe, tmp_path / "cache")


@pytest.fixture(autouse=True)
def text_folder(tmp_path):
    (tmp_path / "text").mkdir()


def test_what_is_held_out_is_not_trained_on_and_nothing_is_lost(tmp_path):
    (tmp_path / "text" / "a.txt").write_text(text_of(500))

    folder, [file] = run(tmp_path)

    kept = (folder / file.name).read_text().split("\n")
    aside = (folder / file.held_out_name).read_text().split("\n")
    assert not {line for line in kept if line} & set(aside)
    assert {line for line in kept + aside if line} == set(text_of(500).split("\n")[:-1])
    assert file.held_out > 0
    assert file.kept + file.held_out == 500


def test_many_small_files_hold_out_passages_as_one_large_file_does(tmp_path):
    for index in range(100):
        (tmp_path / "text" / f"{index:03d}.txt").write_text(
            f"The whole text of file {index}.\n" * 2
        )

    _, files = run(tmp_path)

    assert sum(file.held_out for file in files) == 50  # a small text: every fourth passage


def test_a_second_run_finds_the_clean_text_and_a_changed_text_is_cleaned_anew(tmp_path):
    (tmp_path / "text" / "a.txt").write_text(text_of(500))
    first, _ = run(tmp_path)
    stamp = (first / "manifest.json").stat().st_mtime_ns
    again, _ = run(tmp_path)
    (tmp_path / "text" / "a.txt").write_text(text_of(501))
    changed, _ = run(tmp_path)
    rule, _ = run(tmp_path, Recipe(text=Text(held_out_every=7)))

    assert again == first
    assert (again / "manifest.json").stat().st_mtime_ns == stamp
    assert len({first, changed, rule}) == 3


def test_clean_text_that_a_kill_left_unfinished_is_made_anew(tmp_path):
    (tmp_path / "text" / "a.txt").write_text(text_of(500))
    folder, _ = run(tmp_path)
    (folder / "manifest.json").unlink()
    (folder / "00.txt").write_text("half a li")

    again, [file] = run(tmp_path)

    assert again == folder
    assert "half a li" not in (folder / file.name).read_text()


@pytest.mark.parametrize("lines", [1, 99])
def test_a_text_of_a_few_lines_is_refused_with_the_count_that_is_needed(tmp_path, lines):
    (tmp_path / "text" / "a.txt").write_text(text_of(lines))

    with pytest.raises(CorpusInvalid, match="at least 100"):
        run(tmp_path)
    assert not list((tmp_path / "cache").iterdir())
