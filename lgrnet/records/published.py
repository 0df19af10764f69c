"""The published splits of the video benchmarks: where they lie and how many videos they have."""

SUNSEG_SPLITS = {
    "train": (("TrainDataset",), 112),
    "easy_seen": (("TestEasyDataset/Seen",), 33),
    "easy_unseen": (("TestEasyDataset/Unseen",), 86),
    "hard_seen": (("TestHardDataset/Seen",), 17),
    "hard_unseen": (("TestHardDataset/Unseen",), 37),
    "easy": (("TestEasyDataset/Seen", "TestEasyDataset/Unseen"), 119),
    "hard": (("TestHardDataset/Seen", "TestHardDataset/Unseen"), 54),
}
"""Split -> its folders, and how many clips the published split has."""

SUNSEG_FRAMES = {
    "TrainDataset": 19_544,
    "TestEasyDataset/Seen": 4_719,
    "TestEasyDataset/Unseen": 12_351,
    "TestHardDataset/Seen": 3_882,
    "TestHardDataset/Unseen": 8_640,
}
"""Folder of a split -> its published frames, 49,136 in all."""

MICCAI_VPS_SPLITS = {
    "kvasir_train": ("Kvasir-SEG", 1),
    "mayo_train": ("VPS-TrainSet/ASU-Mayo_Clinic/Train", 10),
    "cvc300_train": ("VPS-TrainSet/CVC-ColonDB-300/Train", 6),
    "cvc612_train": ("VPS-TrainSet/CVC-ClinicDB-612/Train", 18),
    "cvc300_tv": ("VPS-TestSet/CVC-ColonDB-300", 6),
    "cvc612_test": ("VPS-TestSet/CVC-ClinicDB-612-Test", 5),
    "cvc612_val": ("VPS-TestSet/CVC-ClinicDB-612-Valid", 5),
}
"""Split -> its folder, and how many videos the published split has."""


def sun_case(clip: str) -> str:
    """The case of the SUN database that a clip of SUN-SEG comes from: case12_3 -> case12."""
    return clip.partition("_")[0]
