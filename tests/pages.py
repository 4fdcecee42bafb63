"""The pages that people read: READMEs, guides, what is decided and what was tried."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
PATTERNS = ("*.md", "[!.]*/*.md", ".github/*.md", "tests/bench/*.md", "jobs/training/*.md")
PAGES = sorted(str(path.relative_to(ROOT)) for pattern in PATTERNS for path in ROOT.glob(pattern))
