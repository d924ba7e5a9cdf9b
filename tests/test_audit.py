from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

spec = spec_from_file_location("audit", Path(__file__).with_name("audit.py"))
audit = module_from_spec(spec)
spec.loader.exec_module(audit)

FINE = {"name": "numpy", "version": "2.0", "vulns": []}
UNKNOWN = {"name": "polyseme", "skip_reason": "not published"}
HOLE = {
    "name": "old",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["1.1"]}],
}


def test_a_hole_is_named_with_its_mend():
    assert audit.verdict([FINE, HOLE]) == ("old 1.0: PYSEC-2026-1, mended in 1.1", 1)


def test_packages_that_nobody_knows_are_no_reason_to_fail():
    assert audit.verdict([FINE, UNKNOWN]) == (
        "no known holes in 1 packages; 1 are not published",
        0,
    )


def test_when_nobody_could_be_asked_it_does_not_say_that_all_is_well():
    said, status = audit.verdict([UNKNOWN, UNKNOWN])

    assert "skipped" in said
    assert status == 0
