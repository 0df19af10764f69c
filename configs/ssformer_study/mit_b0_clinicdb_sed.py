"""The reproduction study of SSFormer: SegFormer's head, "SeD", on MiT-B0, CVC-ClinicDB.

    python main.py --config_file configs/ssformer_study/mit_b0_clinicdb_sed.py --trainer_mode train data.root=/data

One cell of configs/grids/ssformer_study.py, which has the settings, says what they need and trains all of them; other
backbones: its option --only. Expected mIoU / mDice (the study's table, protocol study): 90.01 / 94.74, means over
background and polyp. Without a GPU: train.precision=fp32.
"""

from pathlib import Path

from lgrnet.config import SECTIONS, run_file

study = run_file(Path(__file__).parents[1] / "grids" / "ssformer_study.py")

sections = study["cell"]("CVC-ClinicDB", "SeD", "MiT-B0").sections
model, criterion, data, optimizer, schedule, train = (sections[name] for name in SECTIONS)
