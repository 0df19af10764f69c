"""Files that are there whole or not at all, for processes and threads side by side."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DRAFT = re.compile(r"\.\d+(\.[A-Za-z0-9]+)?")
"""How drafts are called, those that a killed program left among them."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a disk, a quota or a limit on the size of files."""


@contextmanager
def drafted(path: Path, suffix: str = "") -> Iterator[Path]:
    """A name to write a file under, in the folder of `path`, which it then gets: as it was before where that failed.

    suffix  how the name ends, for writers that go by it

    The name is short, so that it is legal beside the longest names, and drawn, so that no other file has it: a link
    under it would be written through, and two threads may write one file.
    """
    draft = path.with_name(f".{secrets.randbits(60)}{suffix}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
