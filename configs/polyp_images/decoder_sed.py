"""SSFormer's decoder ablation: SegFormer's decoder, "SeD", on MiT-B2.

    python main.py --config_file configs/polyp_images/decoder_sed.py --trainer_mode train data.root=/data/polyps

One cell of configs/grids/ssformer_decoders.py, which trains all five decoders; all but the model is ssformer_s.py's,
which says what it needs. Expected: no published number is known to us (RESULTS.md has those of SSFormer-S).
"""

from pathlib import Path

from lgrnet.config import SECTIONS, run_file

ablation = run_file(Path(__file__).parents[1] / "grids" / "ssformer_decoders.py")

sections = ablation["cells"]["SeD"].sections
model, criterion, data, optimizer, schedule, train = (sections[name] for name in SECTIONS)
