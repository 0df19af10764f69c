"""Defects of texts, JSON, video files, and the folders of published sets."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from tests.tools.data_sets import COUNTS, SIZE, disc, frame_of, plant, save, write_film

LIST = "TrainDataset/Classification/classification.txt"


def listed(code: str, change: Callable[[bytes], bytes], followers=()) -> None:
    """Registers a list of classes that is changed, in SUN-SEG."""

    def make(root: Path) -> None:
        frames = sorted((root / "TrainDataset/Frame").rglob("*.jpg"))
        lines = [f"{frame.name}\thigh_grade_adenoma\n" for frame in frames]
        (root / LIST).parent.mkdir()
        (root / LIST).write_bytes(change("".join(lines).encode()))

    plant(code, LIST, base="sunseg", followers=[*COUNTS, *followers])(make)


listed("D001", lambda text: b"")
listed("D150", lambda text: bytes(len(text)))
listed("D151", lambda text: text.replace(b"\n", b"\r\n"))
listed("D152", lambda text: b"\xef\xbb\xbf" + text)
listed("D153", lambda text: text + b"\n\xff\xfe", [("D154", LIST)])
listed("D154", lambda text: text + b"no class\n")
listed("D155", lambda text: text.replace(b"high_grade", b"hihg_grade", 1))
listed("D156", lambda text: text + b"nobody.jpg\tinvasive_cancer\n")
listed("D157", lambda text: text + text.splitlines(keepends=True)[0])
listed("D160", lambda text: b"".join(text.splitlines(keepends=True)[1:]))


def changed(code: str, change: Callable[[dict], object], base: str = "coco", followers=()) -> None:
    """Registers a JSON of annotations that is changed."""
    name = "annotations.json" if base == "coco" else "instances.json"

    def make(root: Path) -> None:
        data = json.loads((root / name).read_text())
        text = change(data)
        (root / name).write_text(text if isinstance(text, str) else json.dumps(data))

    plant(code, name, base=base, followers=followers)(make)


JSON = "annotations.json"
changed("D158", lambda data: json.dumps(data).replace(", ", " ", 1))
changed("D159", lambda data: data.update(info=float("nan")))
changed("D170", lambda data: data["images"][1].update(id=2), followers=[("D173", JSON)])
changed("D171", lambda data: data["annotations"][1].update(id=1))
changed("D172", lambda data: data["images"][2].update(file_name="gone.jpg"))
changed("D173", lambda data: data["annotations"][1].update(image_id=77))
changed("D174", lambda data: data["annotations"][1].update(category_id=77))
changed("D175", lambda data: data["annotations"][0].update(segmentation=[[1, 1, 2, 2]]))
changed("D176", lambda data: data["annotations"][0].update(segmentation=[[10, 10, 300, 10, 30, 30]]))
changed("D177", lambda data: data["annotations"][1]["segmentation"].update(size=[5, 5]))
changed("D178", lambda data: data["annotations"][1]["segmentation"].update(counts=[1, 2]))
changed("D179", lambda data: data["annotations"][0].update(bbox=[1, 2, float("nan"), 3]))
changed("D180", lambda data: data["annotations"][1].update(bbox=[1, 2, 0, 3]))
changed("D181", lambda data: data["annotations"][1].update(bbox=[100, 2, 60, 3]))
changed("D182", lambda data: data["images"][2].update(width=777))
changed("D183", lambda data: data.update(categories="none"))
changed("D185", lambda data: data["categories"].append({"id": 1, "name": "other"}))
changed("D187", lambda data: data["images"].append({**data["images"][0], "id": 9}))
changed("D188", lambda data: data["images"][2].update(file_name="../../etc/passwd"))
changed("D189", lambda data: data["annotations"][0].update(bbox=[40, 40, 20, 20]))
changed("D184", lambda data: data["annotations"][0].update(segmentations=[None] * 3), "tracks")
changed("D186", lambda data: data["videos"].append({"id": 2, "file_names": []}), "tracks")


@plant("D200", "film.avi", base="films")
def no_film(root):
    (root / "film.avi").write_bytes(b"RIFF" + bytes(300))


@plant("D201", "sound.wav.mp4", base="films")
def sound_only(root):
    with av.open(str(root / "sound.wav.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)


@plant("D203", "film.avi", base="films")
def film_cut_short(root):
    data = (root / "film.avi").read_bytes()
    (root / "film.avi").write_bytes(data[: len(data) * 9 // 10])


@plant("D203", "film.mkv", base="films")
def film_ends_early(root):
    write_film(root / "film.mkv", (SIZE,) * 40)
    data = (root / "film.mkv").read_bytes()
    (root / "film.mkv").write_bytes(data[: len(data) // 2])


@plant("D202", "film.mp4", base="films")
def film_without_rate(root):
    write_film(root / "film.mp4")
    data = bytearray((root / "film.mp4").read_bytes())
    place = data.index(b"stts") + 16
    data[place : place + 4] = bytes(4)
    (root / "film.mp4").write_bytes(data)


@plant("D207", "film.mp4", base="films")
def film_to_be_turned(root):
    with av.open(str(root / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.set_display_rotation(90)
        for t in range(12):
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame_of(60, t), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@plant("D204", "still.mp4", base="films")
def nothing_decodable(root):
    write_film(root / "still.mp4")
    data = bytearray((root / "still.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    data[start : data.index(b"moov") - 4] = bytes(data.index(b"moov") - 4 - start)
    (root / "still.mp4").write_bytes(data)


@plant("D206", "film.ts", base="films")
def film_changes_size(root):
    for name, size in (("a.ts", SIZE), ("b.ts", (64, 96))):
        write_film(root / name, (size,) * 12, "mpeg2video", 25)
    (root / "film.ts").write_bytes((root / "a.ts").read_bytes() + (root / "b.ts").read_bytes())
    for name in ("a.ts", "b.ts"):
        (root / name).unlink()


EASY = "TestEasyDataset"


@plant(
    "D220",
    EASY,
    base="sunseg",
    followers=[("D038", EASY + "/combine"), ("D221", EASY + "/Seen"), ("D224", "TrainDataset")],
)
def combined_twice(root):
    (root / EASY / "Combine").mkdir()
    for name in ("Frame", "GT"):
        os.rename(root / EASY / "Unseen" / name, root / EASY / "Combine" / name)
        shutil.move(root / EASY / "Seen" / name, root / EASY / "combine" / name)
    (root / EASY / "Unseen").rmdir()


@plant("D221", EASY + "/Seen", base="sunseg", followers=[("D224", "TrainDataset")])
def seen_emptied(root):
    os.rename(root / EASY / "Unseen", root / EASY / "combine")
    for name in ("Frame", "GT"):
        shutil.move(root / EASY / "Seen" / name / "case1_2", root / EASY / "combine" / name / "case1_2")
        (root / EASY / "Seen" / name).rmdir()


@plant("D222", "TestHardDataset/Unseen/Frame", base="sunseg", followers=[*COUNTS, ("D224", "TestHardDataset/Unseen")])
def stray_frame_folder(root):
    (root / "TestHardDataset/Unseen/Frame").mkdir(parents=True)


REJECTED = "TrainDataset/GT/case2/case2case_M_2018_a2_ayy_image0001_1.png"


@plant("D223", REJECTED, base="sunseg", followers=COUNTS)
def rejected_label(root):
    save(root / REJECTED, disc(9))


@plant("D224", *(path for _, path in COUNTS), base="sunseg")
def fewer_clips(root):
    pass


@plant("D225", EASY + "/Seen/Frame/case9", base="sunseg", followers=COUNTS)
def seen_but_untrained(root):
    save(root / EASY / "Seen/Frame/case9/i1.jpg", frame_of(70, 0))
    save(root / EASY / "Seen/GT/case9/i1.png", disc())


@plant("D145", "TrainDataset/Frame/case1_1", base="sunseg", followers=COUNTS)
def unseen_but_trained(root):
    save(root / EASY / "Unseen/Frame/case1_5/i1.jpg", frame_of(71, 0))
    save(root / EASY / "Unseen/GT/case1_5/i1.png", disc())
