"""A script that is killed at any moment and run again gives the tree of an unbroken run."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from data_prep import miccai_vps, polyp_images, sunseg, ufuv
from tests.data_prep import test_miccai_vps, test_polyp_images, test_sunseg, test_ufuv
from tests.data_prep.downloads import content, write_zip


def sunseg_downloads(folder: Path) -> list[str]:
    return test_sunseg.downloads(folder, "zip")


SCRIPTS = {
    "sunseg": (sunseg.main, sunseg_downloads, []),
    "miccai_vps": (miccai_vps.main, test_miccai_vps.archive, []),
    "ufuv": (ufuv.main, test_ufuv.archive, []),
    "polyp_images": (polyp_images.main, test_polyp_images.gen, ["--set", "polypgen"]),
}


def killed_after(calls: int, main, arguments: list[str]) -> bool:
    """Runs a script in a process that kills itself just before its n-th change of the disk; whether it came so far."""
    child = os.fork()
    if child == 0:
        left = [calls]

        def counted(function):
            def call(*args, **options):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **options)

            return call

        os.replace, os.link, os.unlink = map(counted, (os.replace, os.link, os.unlink))
        Path.mkdir = counted(Path.mkdir)
        main(arguments)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("name", SCRIPTS)
def test_killed_and_run_again(name, tmp_path, capfd):
    main, make, more = SCRIPTS[name]
    (tmp_path / "src").mkdir()
    src = make(tmp_path / "src") if name == "sunseg" else [str(write_zip(tmp_path / "src/x.zip", make()))]
    before = content(tmp_path / "src")
    arguments = ["--src", *src, *more, "--dst"]
    main([*arguments, str(tmp_path / "unbroken")])
    whole = content(tmp_path / "unbroken")
    draws = random.Random(name)
    for attempt in range(6):
        dst = tmp_path / f"broken{attempt}"
        deaths = sum(killed_after(draws.randrange(1, len(whole)), main, [*arguments, str(dst)]) for _ in range(2))
        main([*arguments, str(dst)])
        assert deaths and content(dst) == whole
    assert content(tmp_path / "src") == before
