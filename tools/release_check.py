"""Whether what is here can be released: `python -m tools.release_check [TAG]`."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def faults(version: str, changelog: str, tag: str | None = None) -> list[str]:
    """What keeps a version from being released, a line each; none if nothing does."""
    found: list[str] = []
    if tag is not None and tag != f"v{version}":
        found.append(f"the tag is {tag} and pyproject.toml has version {version}: tag v{version}")
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        found.append(f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD': date the newest one")
    return found


def main() -> None:
    """Command line."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    tag = sys.argv[1] if len(sys.argv) > 1 else None
    if found := faults(version, (ROOT / "CHANGELOG.md").read_text(), tag):
        sys.exit("\n".join(f"error: {fault}" for fault in found))
    print(f"version {version} has its section in the changelog")


if __name__ == "__main__":
    main()
