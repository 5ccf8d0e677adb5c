"""What lies around the code: version, changelog, make targets, and the files that others' tools read."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import quickstudy
from tools import release_check

ROOT = Path(release_check.__file__).resolve().parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_version_is_that_of_the_package() -> None:
    assert quickstudy.__version__ == VERSION, "installed from another checkout? make setup"


def test_the_changelog_has_a_section_for_the_version() -> None:
    headings = re.findall(r"^## .*$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert VERSION in headings[0], "the newest section is of another version"


def test_the_program_says_its_version_without_torch() -> None:
    code = (
        "import sys; from quickstudy.__main__ import main\n"
        "try: main()\n"
        "finally: print(*{'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"quickstudy {VERSION}\n\n"


def test_what_keeps_a_version_from_being_released() -> None:
    changelog = "# Changelog\n\n## [1.2.0] - 2030-01-31\n\n## [1.1.0] - 2029-01-31\n"
    assert release_check.faults("1.2.0", changelog) == []
    assert release_check.faults("1.2.0", changelog, "v1.2.0") == []
    (fault,) = release_check.faults("1.2.0", changelog, "v1.2")
    assert "tag v1.2.0" in fault
    for other in ("1.3.0", "1.2", "1x2.0"):
        (fault,) = release_check.faults(other, changelog)
        assert f"'## [{other}] - YYYY-MM-DD'" in fault
    assert release_check.faults("1.2.0", "## [Unreleased]: 1.2.0\n")


def test_make_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    targets = set(phony.replace("\\\n", " ").split()) - {"docs-setup"}
    assert targets == set(re.findall(r"^# make (\S+) ", text, re.MULTILINE))


@pytest.mark.parametrize(
    "path",
    [*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"],
    ids=lambda path: path.name,
)
def test_files_for_other_tools_are_yaml(path: Path) -> None:
    if not path.exists():
        pytest.skip("an sdist has no hidden files")
    read = yaml.safe_load(path.read_text())
    assert isinstance(read, dict)
    if path.parent.name == "ISSUE_TEMPLATE" and path.name != "config.yml":
        assert {"name", "description", "body"} <= set(read)
        ids = [field["id"] for field in read["body"] if field["type"] != "markdown"]
        assert len(ids) == len(set(ids))
    if path.parent.name == "workflows":
        assert {"name", "permissions", "jobs"} <= set(read)
        assert all("timeout-minutes" in job for job in read["jobs"].values())


def test_what_ships_is_small() -> None:
    """15 MB come with every installation, at most."""
    shipped = [*Path(quickstudy.__file__).parent.glob("*/shipped/*.safetensors")]
    assert shipped
    assert sum(path.stat().st_size for path in shipped) <= 15_000_000
    assert max(path.stat().st_size for path in shipped) <= 5_500_000, "with its manifest"


def test_the_citation_has_what_its_format_asks_for() -> None:
    read = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert read["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(read)
