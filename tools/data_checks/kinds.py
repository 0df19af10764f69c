"""Every kind of defect, in one place: its code, how bad it is, what it means, what to do. Codes never change."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, WARNING, NOTE = "error", "warning", "note"

_TABLE = """
D001 error   a file without a byte | copy or download it again
D002 error   a file that may not be read | give yourself the right to read it
D003 error   a link to something that is not there | mend or remove the link
D004 error   a link that leads back to a folder above it | remove the link
D005 error   a pipe, socket or device in place of a file | remove it
D006 warning a "._" file of macOS; published loaders take it for a picture | delete it
D007 note    a file of a file manager (.DS_Store, Thumbs.db, desktop.ini, __MACOSX) | delete it
D008 note    a hidden file or folder, which is not read | delete it, or rename it if it is data
D009 warning an empty folder | fill or remove it
D010 warning a half-written or backup file | finish the download, or delete it
D011 note    an archive among the data | unpack it elsewhere, or move it away
D012 warning a file that is no picture in a folder of pictures | move it away
D013 warning a folder inside the folder of one video, which is not read | make it a video of its own, or move it away
D014 warning the ending names another picture format than the file has | rename it to the right ending
D015 error   a picture in a format that is not read | convert it to JPEG (frames) or PNG (masks)
D016 error   not a picture, though it is named as one | copy or download it again
D017 error   text in place of a picture: a web page, or the pointer of Git LFS | fetch the real file (git lfs pull)
D018 error   a picture that is cut short | copy or download it again
D019 error   a damaged picture | copy or download it again
D020 error   a picture of too many pixels or bytes to be decoded | scale it down; check where it comes from
D030 note    a name with spaces | fine here; scripts of others may break on it
D031 note    a name with quotes or signs of the shell | fine here; scripts of others may break on it
D032 warning a name with a line break or control sign | rename it
D033 warning a name of 250 bytes or more: another ending or prefix will not fit | shorten it
D034 error   two names that look the same but are coded differently (NFC and NFD of Unicode) | keep one coding
D035 warning a name that ends in a dot or space, which Windows cuts off | rename it
D036 warning a name that Windows reserves (con, nul, com1, ...) | rename it
D037 warning a name that begins with a dash, which programs take for an option | rename it
D038 warning two names that differ by upper and lower case only: one file on Windows and macOS | rename one
D039 warning a name that is no UTF-8 | rename it
D040 warning a name with signs that Windows does not allow | rename it
D050 error   a frame without a mask | add the mask, or read the set with require_masks=False
D051 error   a mask without a frame | add the frame, or remove the mask
D052 error   a folder of masks without a folder of frames | add the frames, or remove the masks
D053 error   a folder of frames without a folder of masks | add the masks, or read the set with masks=None
D054 error   a video without frames | fill or remove its folder
D055 error   frame and mask differ by upper and lower case in their names | rename one of them
D056 error   the same frame twice, in two formats | keep one
D057 error   the same mask twice, in two formats | keep one
D058 error   the name of the mask has something added to that of the frame | rename the masks as their frames
D059 error   frame and mask have the same number, padded with zeros differently | rename one of them
D060 error   mask and frame differ in size by a few pixels | make the mask anew at the size of the frame
D061 error   the mask has height and width swapped | turn the mask as its frame
D062 error   mask and frame have different sizes | make the mask anew at the size of the frame
D063 error   the size changes within a video | cut the video there, or scale its frames
D064 error   the frame says that it is to be turned (EXIF), its mask does not | turn the pixels and remove the mark
D065 error   the masks of a video are numbered some frames later than its frames | renumber them
D070 warning a frame in CMYK, whose colours shift when read as RGB | convert it to RGB
D071 warning a grey frame among coloured ones, or the other way round | check that it belongs here
D072 error   a frame with more than 8 bits per channel | convert it to 8 bits
D073 warning a frame with transparency, which is lost | save it as RGB
D074 note    a frame with a palette of at most 256 colours | take the original picture
D075 warning a frame of one colour | remove it with its mask
D076 warning a black frame | remove it with its mask
D077 warning a frame whose lines come from two moments (interlaced) | deinterlace the video and cut it anew
D078 warning a frame more than four times as long as wide | check that it is no strip or sheet
D079 warning a frame smaller than 32 pixels | check that it is no preview picture
D080 error   a file of several pictures, which is not read | save each that is meant as a file of its own
D083 warning a frame that looks like a mask | check that frames and masks are not swapped
D100 note    a mask stored with loss (JPEG, WebP): noisy edges | read it with label_map="half", or save it as PNG
D101 note    a mask with grey edges | read it with label_map="half"; by "binary" every grey pixel is foreground
D102 warning a soft mask: most of its foreground is grey | read it with label_map="soft", or binarise it
D103 error   mask values of 0/1 beside 0/255 in one set | bring all masks to 0 and 255
D104 note    a grey mask stored in three channels | save it as 8-bit grey PNG
D105 error   a mask in colours | write class values instead, 8-bit grey or palette
D106 warning a palette mask among grey ones: index 1 is not grey value 255 | save all masks alike
D107 error   a mask whose grey palette runs from light to dark | save it as 8-bit grey PNG, or give a label map
D108 note    a mask with 16 bits, whose values fit 8 | save it as 8-bit grey PNG
D109 error   a mask with 16 or more bits, whose values do not fit 8 | save it as 8-bit grey PNG
D110 error   a mask that is partly transparent | save it as 8-bit grey PNG
D111 note    a mask with an opaque alpha channel | save it as 8-bit grey PNG
D112 warning a mask that is probably inverted: the border is foreground, the object is not | invert it
D113 note    an empty mask, and no other frame of its video shows an object | check that nothing is there
D114 warning a mask that is foreground everywhere | check it
D115 error   a mask value that the label map does not know | correct the mask, or add the value to the label map
D116 error   a mask with values that are no numbers (NaN) or infinite | make it anew
D117 error   a mask in floating point, or as .npy | save it as 8-bit grey PNG
D118 warning an object of at most four pixels | remove the specks, or leave the frame out
D119 note    an object along all four borders of the picture | check it
D120 warning a mask in fifty pieces or more | remove the specks
D121 error   the mask is the frame itself | put the real mask there
D122 error   class values where 0 and 255 are expected | give a label map, such as 1:1,2:2
D123 error   a mask of ignored pixels only, as most of the set: all foreground would vanish | use label_map="binary"
D124 warning every mask of a split is empty | check how the masks were made
D125 warning the same mask in eight or more frames that differ | check that the masks are those of these frames
D130 warning frames sort differently by name and by number (frame10 before frame2) | pad the numbers with zeros
D131 error   the same frame number twice in a video | keep one
D132 warning a gap in the frame numbers | add the frames, or cut the video there
D133 error   frames of two videos in one folder | sort them into their own folders
D135 warning a video of the same name in two splits | check that it is not the same video
D140 error   the same picture in training and evaluation | remove it from one of them
D141 warning the same picture in two videos | remove one
D142 warning the same picture at places of one video that are not neighbours | remove the copies
D143 error   nearly the same picture in training and evaluation | remove it from one of them
D144 note    nearly the same picture in two videos | remove one
D145 error   the same patient in training and evaluation | split by patients
D147 error   the same video twice | remove one
D150 error   null bytes in a text | get the text again; read it as what it was before
D151 note    line ends of Windows in a text | convert it if a program stumbles over it
D152 note    a byte order mark at the start of a text | save it as plain UTF-8
D153 warning a text that is no UTF-8 | save it as UTF-8
D154 error   a line that is not "picture TAB class" | correct the line
D155 error   a class that the data set does not have | correct the class
D156 error   a text that names a picture that is not there | add the picture, or remove the line
D157 error   a picture named twice in a text | keep one line
D158 error   not valid JSON | get it again, or correct it where the message says
D159 warning NaN or Infinity in JSON, which the standard does not have | correct the value
D160 warning pictures that the text of their split does not name | add their lines
D170 error   the same image id twice | give each image its own id
D171 error   the same annotation id twice | give each annotation its own id
D172 error   an image of the JSON that is not there | add it, or remove it from the JSON
D173 error   an annotation of an image that the JSON does not have | remove it, or correct its image_id
D174 error   an annotation of a category that the JSON does not have | add the category, or correct it
D175 error   a polygon of fewer than three points, or of an odd number of values | draw it again
D176 warning a polygon that leaves its image | cut it at the border
D177 error   a run-length mask of another size than its image | make it anew
D178 error   a run-length mask that does not add up to its size | make it anew
D179 error   a box that is not four finite numbers | correct or remove it
D180 error   a box without area | correct or remove it
D181 warning a box that leaves its image | cut it at the border; check that it is x, y, width, height
D182 error   width and height in the JSON are not those of the picture | correct them
D183 error   a JSON of annotations that lacks a part, or has one of another type | export it again
D184 error   an annotation of a video with more or fewer entries than the video has frames | export it again
D185 error   the same category id twice | give each category its own id
D186 error   a video of the JSON without frames | remove it, or add its frames
D187 error   the same image under two ids | keep one
D188 error   a path that leaves the data set | make it relative to the data set
D189 warning a box that does not fit the polygons of its annotation | compute the boxes anew
D200 error   a video file that cannot be opened | copy or download it again
D201 error   a file without a picture stream: sound only | take the right file
D202 warning a video that says no frame rate, or 0 | write it anew with its rate (ffmpeg -r)
D203 error   a video that is damaged or cut short | copy or download it again
D204 error   a video of which no frame can be decoded | copy or download it again
D206 warning the frame size changes within a video file | cut the file there
D207 note    a video with a mark to be turned when shown | cut it with a program that turns it
D220 error   both combine and Combine hold clips | merge them, or remove one
D221 warning Seen or Unseen is empty: its clips are in combine | read the split "easy" or "hard" instead
D222 warning a Frame folder beside no GT: a stray of the archive | remove it
D223 warning a rejected label among the masks (<frame>_<n>.png) | keep only <frame>.png
D224 note    another number of videos than the published split has | scores do not compare with published ones
D225 warning a clip in Seen, though its case gives no training clip | move it to Unseen
D231 warning frames, but no folder of masks beside them | add GT or masks, or read the set with masks=None
D232 error   videos both as Frame/<video> and as <video>/Frame in one folder | keep one nesting
D233 warning a split without videos | fill or remove its folder
"""


@dataclass(frozen=True)
class Kind:
    """A kind of defect: its code, "error", "warning" or "note", what it means, what to do."""

    code: str
    level: str
    meaning: str
    todo: str


def _kinds() -> dict[str, Kind]:
    rows = (line.split(None, 2) for line in _TABLE.strip().splitlines())
    return {code: Kind(code, level, *(part.strip() for part in text.split(" | "))) for code, level, text in rows}


KINDS = _kinds()
"""Code -> kind. `python tools/check_data.py --codes` prints it."""


@dataclass(frozen=True)
class Finding:
    """One defect.

    path    the file or folder, from the root of the set
    detail  what was seen there
    others  further files that belong to it
    """

    code: str
    path: str
    detail: str = ""
    others: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """What this code means."""
        return KINDS[self.code]
