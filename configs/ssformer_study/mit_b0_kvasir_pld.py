"""The reproduction study of SSFormer: the head that it calls PLD on MiT-B0, Kvasir-SEG.

    python main.py --config_file configs/ssformer_study/mit_b0_kvasir_pld.py --trainer_mode train data.root=/data

One cell of configs/grids/ssformer_study.py, which has the settings, says what they need and trains all of them; other
backbones: its option --only. Expected mIoU / mDice (the study's table, protocol study): 84.02 / 91.31, means over
background and polyp. Without a GPU: train.precision=fp32.
"""

from pathlib import Path

from lgrnet.config import SECTIONS, run_file

study = run_file(Path(__file__).parents[1] / "grids" / "ssformer_study.py")

sections = study["cell"]("Kvasir-SEG", "study's PLD", "MiT-B0").sections
model, criterion, data, optimizer, schedule, train = (sections[name] for name in SECTIONS)
