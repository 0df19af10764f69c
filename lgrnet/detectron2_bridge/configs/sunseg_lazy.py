"""LGRNet with PVTv2-B2 on SUN-SEG, the published settings, for detectron2's lazy training script.

    python <detectron2>/tools/lazyconfig_train_net.py --config-file lgrnet/detectron2_bridge/configs/sunseg_lazy.py \
        dataloader.root=data

Needs SUN-SEG in data/SUN-SEG (DATA.md) and weights/pvt_v2_b2.pth (INSTALL.md). As configs/sunseg/lgrnet_pvtv2_b2.py.
"""

from .base_lazy import dataloader, lock, lr_multiplier, model, optimizer, train

train.update(output_dir="runs/detectron2/sunseg_lazy", init_checkpoint="lgrnet://weights/pvt_v2_b2.pth")
lock(train, model, dataloader, optimizer, lr_multiplier)
