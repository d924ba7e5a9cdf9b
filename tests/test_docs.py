"""What the pages say is what the code does."""

import re
import subprocess
from pathlib import Path

import pytest

from index.settings import StoreSettings
from server.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
README_LINES_MAX = 150


def settings_table() -> str:
    """A row a setting, as docs/operations.md has them."""
    rows = [
        f"| `{name.replace('_', '-')}` | {shown(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| setting | default | what it does |", "|---|---|---|", *rows])


def shown(default: object) -> str:
    return "" if default in (None, "") else f"`{default}`"


def test_operations_lists_every_setting_with_its_default_and_help():
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    missing = [row for row in settings_table().splitlines() if row not in page]
    assert not missing, "put these into docs/operations.md:\n" + "\n".join(missing)


def test_operations_names_every_limit_of_the_store():
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    names = [name for name in StoreSettings.__dataclass_fields__ if f"`{name}`" not in page]
    assert not names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    files = [target for target in targets if "://" not in target]
    assert [target for target in files if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_that_pages_name_exist(page):
    named = set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", page.read_text(), re.MULTILINE))
    for target in {first or second for first, second in named}:
        dry = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=False)
        assert dry.returncode == 0, f"`make {target}`: {dry.stderr.decode()}"


def test_the_readme_fits_a_newcomer():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < README_LINES_MAX


@pytest.mark.parametrize("file", ["Dockerfile", "docker-compose.yml"])
def test_the_image_and_the_compose_file_set_settings_that_exist(file):
    named = set(re.findall(r"\bPOLYSEME_([A-Z_]+)\b", (ROOT / file).read_text()))
    assert named
    assert {name.lower() for name in named} <= set(Settings.model_fields)
