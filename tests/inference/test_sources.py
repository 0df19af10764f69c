"""Folders, images and video files, whole and damaged."""

import struct
from fractions import Fraction
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from lgrnet.inference.sources import ImageSource, open_source
from lgrnet.inference.timeline import _are_fields, _cut_off, read_timeline
from lgrnet.records import DataError, write_frame

FRAMES, HEIGHT, WIDTH = 24, 64, 96


def _picture(index):
    frame = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    frame[:, 4 * index : 4 * index + 4] = (200, 40, 40)
    return frame


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """An mp4 in which every frame is a key frame, and where each packet lies in the file."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"g": "1"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 4_000_000
        for index in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_picture(index), format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    return path, places


def test_video_file_frame_by_frame(clip):
    source = open_source(clip[0])
    frames = list(source)
    assert source.name == "clip" and source.damage == []
    assert [name for name, _ in frames] == [f"{i:06d}" for i in range(FRAMES)]
    for index, (_, frame) in enumerate(frames):
        assert frame.shape == (HEIGHT, WIDTH, 3) and frame.dtype == np.uint8
        assert np.abs(frame.astype(int) - _picture(index)).mean() < 12
        assert int(frame[..., 0].astype(int).sum(0).argmax()) // 4 == index, "red, in its place, in RGB order"


@pytest.mark.parametrize(
    "angle, shape, corner",
    [(90, (96, 64), (-1, 0)), (-90, (96, 64), (0, -1)), (180, (64, 96), (-1, -1)), (45, (64, 96), (0, 0))],
)
def test_turned_video_stands_upright(tmp_path, angle, shape, corner):
    """The red patch of the top left corner is where OpenCV shows it too; 45 degrees stay as they are."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:32, :32] = (255, 0, 0)
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 4_000_000
        stream.set_display_rotation(angle)
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    (_, first), (_, second) = open_source(path)
    assert first.shape == second.shape == (*shape, 3)
    corners = {place: first[place][0] > 200 for place in ((0, 0), (0, -1), (-1, 0), (-1, -1))}
    assert [place for place, red in corners.items() if red] == [corner]
    read, shown = cv2.VideoCapture(str(path)).read()
    assert read and np.abs(shown[..., ::-1].astype(int) - first).mean() < 2


def test_second_pass_gives_the_same(clip):
    source = open_source(clip[0])
    for (name, frame), (again, other) in zip(source, source, strict=True):
        assert name == again and np.array_equal(frame, other)


def test_damaged_packet_costs_its_own_frame_only(clip, tmp_path):
    path, places = clip
    data = bytearray(path.read_bytes())
    start, size = places[10]
    data[start : start + size] = bytes(size)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    source = open_source(broken)
    names = [name for name, _ in source]
    assert names == [f"{i:06d}" for i in range(FRAMES) if i != 10]
    assert source.damage[0].startswith("packet 10 at 0.40 s") and source.damage[1:] == ["missing frames (1 in all): 10"]
    list(source)
    assert len(source.damage) == 2, "each pass reports anew"


def test_last_frame_lost_is_reported_too(clip, tmp_path):
    path, places = clip
    data = bytearray(path.read_bytes())
    start, size = places[-1]
    data[start : start + size] = bytes(size)
    (tmp_path / "broken.mp4").write_bytes(data)
    source = open_source(tmp_path / "broken.mp4")
    assert len(list(source)) == FRAMES - 1
    assert source.damage[-1] == f"missing frames (1 in all): {FRAMES - 1}"


def test_file_cut_short_gives_what_it_holds(clip, tmp_path):
    """The index stands behind the frames in an mp4, so this one has it moved to the front."""
    with av.open(str(clip[0])) as source, av.open(str(tmp_path / "a.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "b.mkv").write_bytes(data[: len(data) * 2 // 3])
    frames = list(open_source(tmp_path / "b.mkv"))
    assert FRAMES // 2 < len(frames) < FRAMES


@pytest.mark.parametrize("content", [b"", b"this is no video", b"\0" * 5000])
def test_file_that_is_no_video(tmp_path, content):
    path = tmp_path / "notes.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match="notes.mp4 cannot be opened"):
        list(open_source(path))


def test_sound_without_pictures(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(DataError, match="holds no video stream"):
        list(open_source(path))


def test_folder_in_natural_order(tmp_path):
    for number in (10, 9, 1):
        write_frame(tmp_path / "case 1" / f"frame{number}.png", _picture(number))
    (tmp_path / "case 1" / "notes.txt").write_text("x")
    source = open_source(tmp_path / "case 1")
    assert source.name == "case 1"
    assert [name for name, _ in source] == ["frame1", "frame9", "frame10"]
    assert all(np.array_equal(frame, _picture(n)) for (_, frame), n in zip(source, (1, 9, 10), strict=True))


def test_one_image(tmp_path):
    write_frame(tmp_path / "polyp.png", _picture(3))
    source = open_source(tmp_path / "polyp.png")
    assert isinstance(source, ImageSource)
    assert [(name, frame.shape) for name, frame in source] == [("polyp", (HEIGHT, WIDTH, 3))]


def test_folders_that_hold_no_frames(tmp_path):
    (tmp_path / "Frame" / "case1").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no frames.*it holds the folders case1"):
        open_source(tmp_path / "Frame")
    with pytest.raises(DataError, match="does not exist"):
        open_source(tmp_path / "nothing")


def test_same_frame_in_two_formats(tmp_path):
    for suffix in ("png", "jpg"):
        write_frame(tmp_path / f"a.{suffix}", _picture(0))
    with pytest.raises(DataError, match="twice, in two formats: a"):
        open_source(tmp_path)


def test_damaged_image_is_named(tmp_path):
    write_frame(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="a.png cannot be read"):
        list(open_source(tmp_path))


def copied(source, target, without=()):
    """The packets of a video file in a container of another kind, but for some."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for index, packet in enumerate(given.demux(video=0)):
            if packet.dts is not None and index not in without:
                packet.stream = stream
                made.mux(packet)
    return target


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 1.0])
def test_a_file_that_was_cut_says_so(clip, tmp_path, keep):
    """Matroska does not say how many frames a file has, but how long it is."""
    data = copied(clip[0], tmp_path / "a.mkv").read_bytes()
    (tmp_path / "b.mkv").write_bytes(data[: int(len(data) * keep)])
    source = open_source(tmp_path / "b.mkv")
    frames = len(list(source))
    if keep == 1.0:
        assert frames == FRAMES and not source.damage
    else:
        assert 0 < frames < FRAMES
        end = f"the file says that it lasts {FRAMES / 25:.2f} s, but its last frame ends at {frames / 25:.2f} s"
        assert source.damage[-1] == end


def written(path, times=range(FRAMES), tick=Fraction(1, 25), **options):
    """A file of pictures at these times, by mpeg4; and where each packet lies in it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"g": "1", **options})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 4_000_000
        stream.codec_context.time_base = tick
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(_picture(index), format="rgb24")
            frame.pts, frame.time_base = time, tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def numbers_and_pictures(path):
    """Of each frame its number, and which picture it shows; and what was noticed, damage and notes."""
    source = open_source(path)
    pairs = [(int(name), int(frame[..., 0].astype(int).sum(0).argmax()) // 4) for name, frame in source]
    return pairs, source.damage + source.notes


@pytest.mark.parametrize("suffix", ["avi", "mp4", "mkv"])
def test_frames_that_are_coded_out_of_order_have_their_numbers(tmp_path, suffix):
    """An AVI holds no times; those that FFmpeg guesses begin at 1."""
    written(tmp_path / f"b.{suffix}", g="8", bf="2")
    assert numbers_and_pictures(tmp_path / f"b.{suffix}") == ([(i, i) for i in range(FRAMES)], [])


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_of_no_steady_rate_are_counted(tmp_path, suffix):
    times = [*range(0, 30, 3), *range(30, 30 + FRAMES - 10)]
    written(tmp_path / f"v.{suffix}", times)
    assert numbers_and_pictures(tmp_path / f"v.{suffix}") == ([(i, i) for i in range(FRAMES)], [])


def test_packets_that_are_gone_leave_their_numbers(clip, tmp_path):
    """As where a recorder has lost some: nothing that is left is damaged."""
    pairs, damage = numbers_and_pictures(copied(clip[0], tmp_path / "a.mkv", without=(10, 11, 12)))
    assert pairs == [(i, i) for i in range(FRAMES) if i not in (10, 11, 12)]
    assert damage == ["missing frames (3 in all): 10-12"]


def test_a_clock_that_jumps_is_no_loss(tmp_path):
    written(tmp_path / "j.mkv", [i + 25 * 3600 * (i > 11) for i in range(FRAMES)])
    pairs, damage = numbers_and_pictures(tmp_path / "j.mkv")
    assert pairs == [(i, i) for i in range(FRAMES)]
    assert damage == ["the clock jumps by +3600 s after frame 11; frames are numbered on"]


def test_a_clock_that_goes_back_is_no_loss(tmp_path):
    """As where two recordings are joined, of which the second was the first to be made."""
    written(tmp_path / "a.mkv", [250 + i for i in range(FRAMES)], g="12", bf="0")
    with av.open(str(tmp_path / "a.mkv")) as given, av.open(str(tmp_path / "b.nut"), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(video=0) if packet.dts is not None]
    late, early = packets[: FRAMES // 2], packets[FRAMES // 2 :]
    timeline = read_timeline(Joined([*late, *early]), Joined.stream)
    assert not timeline.breaks and timeline.last == FRAMES - 1 and stream is not None
    timeline = read_timeline(Joined([*early, *late]), Joined.stream)
    assert timeline.numbers == {} and [after for after, _ in timeline.breaks] == [FRAMES // 2 - 1]


class Joined:
    """A file of packets in an order that no container would write."""

    stream = SimpleNamespace(frames=0, time_base=Fraction(1, 1000))
    format = SimpleNamespace(name="mpegts")

    def __init__(self, packets):
        self.packets = packets

    def demux(self, stream):
        return self.packets


@pytest.mark.parametrize(
    ("times", "shown", "fields"),
    [
        (range(0, 160, 10), range(0, 160, 20), True),
        (range(0, 160, 10), range(40, 160, 20), True),  # the first could not be decoded
        (range(0, 160, 10), range(0, 160, 10), False),
        (range(0, 160, 10), [t for t in range(0, 160, 10) if t != 70], False),  # one is lost
        (range(0, 160, 10), [0, 20, 40], False),
        (range(0, 160, 10), [None] * 8, False),
    ],
)
def test_halves_of_interlaced_frames_are_told_from_losses(times, shown, fields):
    assert _are_fields(list(times), list(shown)) is fields


@pytest.mark.parametrize(
    ("places", "last", "found", "promised"),
    [(60, 59, 60, 0), (60, 39, 40, 60), (60, 58, 59, 60), (6000, 5950, 150, 0), (6000, 2990, 75, 149), (9, None, 0, 9)],
)
def test_what_an_avi_has_lost_at_its_end(places, last, found, promised):
    assert _cut_off(places, last, found) == promised


def test_an_avi_that_was_cut_says_so(tmp_path):
    places = written(tmp_path / "a.avi")
    data = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "b.avi").write_bytes(data[: places[15][0] - 8])
    pairs, damage = numbers_and_pictures(tmp_path / "b.avi")
    assert pairs == [(i, i) for i in range(15)] and damage == [f"missing frames (9 in all): 15-{FRAMES - 1}"]


def test_a_lost_frame_of_an_avi_keeps_its_number(tmp_path):
    places = written(tmp_path / "a.avi")
    data = bytearray((tmp_path / "a.avi").read_bytes())
    start, size = places[10][0], places[10][1]
    begin = data.index(b"00dc", start - 8) + 8 if data[start - 8 : start - 4] == b"00dc" else start + 8
    data[begin : begin + size] = bytes(size)
    (tmp_path / "a.avi").write_bytes(data)
    pairs, damage = numbers_and_pictures(tmp_path / "a.avi")
    assert pairs == [(i, i) for i in range(FRAMES) if i != 10]
    assert damage[-1] == "missing frames (1 in all): 10"


def test_one_of_several_films_is_taken_in_words(tmp_path):
    with av.open(str(tmp_path / "stereo.mkv"), "w") as container:
        for _ in range(2):
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(4):
            for stream in container.streams.video:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(_picture(index), format="rgb24")))
        for stream in container.streams.video:
            container.mux(stream.encode())
    pairs, damage = numbers_and_pictures(tmp_path / "stereo.mkv")
    assert len(pairs) == 4 and damage == ["the file holds 2 video streams; stream 0 was taken"]


@pytest.mark.parametrize("across, down", [(-1, 1), (1, -1), (-1, -1)])
def test_mirrored_video_is_shown_as_players_do(tmp_path, across, down):
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:32, :32] = (255, 0, 0)
    with av.open(str(tmp_path / "m.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 4_000_000
        stream.set_display_rotation(180)
        container.mux([*stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")), *stream.encode()])
    turned = struct.pack(">5i", -65536, 0, 0, 0, -65536)
    data = (tmp_path / "m.mp4").read_bytes()
    assert data.count(turned) == 1, "the matrix of the track"
    (tmp_path / "m.mp4").write_bytes(data.replace(turned, struct.pack(">5i", across * 65536, 0, 0, 0, down * 65536)))
    ((_, frame),) = open_source(tmp_path / "m.mp4")
    assert frame[0 if down > 0 else -1, 0 if across > 0 else -1, 0] > 200 and frame.shape == picture.shape


def test_a_lost_frame_of_no_steady_rate_has_its_place(tmp_path):
    path = tmp_path / "phone.mp4"
    start, size = written(path, [3 * i + 60 * (i > 4) for i in range(FRAMES)], Fraction(1, 75))[10]
    source = open_source(path)
    assert len(list(source)) == FRAMES and not source.damage
    data = bytearray(path.read_bytes())
    data[start : start + size] = bytes(size)
    path.write_bytes(data)
    assert [int(name) for name, _ in source] == [i for i in range(FRAMES) if i != 10]
    assert source.damage[-1] == "missing frames (1 in all): 10"


def test_a_name_with_a_colon(clip, tmp_path, monkeypatch):
    (tmp_path / "2024-01-02T12:30.mp4").write_bytes(clip[0].read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(list(open_source("2024-01-02T12:30.mp4"))) == FRAMES


@pytest.mark.parametrize("name", ["notes.txt", "list.mp4"])
def test_texts_and_lists_of_files_are_no_video(clip, tmp_path, name):
    (tmp_path / "other.mp4").write_bytes(clip[0].read_bytes())
    text = "patient 7\n" * 40 if name == "notes.txt" else "ffconcat version 1.0\nfile other.mp4\n"
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"{name} (holds no video stream|cannot be opened)"):
        list(open_source(tmp_path / name))


def test_an_unknown_coding(clip, tmp_path):
    data = clip[0].read_bytes()
    assert data.count(b"mp4v") == 1
    (tmp_path / "odd.mp4").write_bytes(data.replace(b"mp4v", b"zzzz").replace(b"esds", b"free"))
    with pytest.raises(DataError, match="odd.mp4 has a video stream in a coding that is not known"):
        list(open_source(tmp_path / "odd.mp4"))
