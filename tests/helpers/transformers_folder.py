"""A tiny vision transformer as transformers itself writes it to a folder."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

SIZES = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def write_vit(folder: Path, classes: int = 5, weights: bool = True, **settings: Any) -> nn.Module:
    """Write `config.json`, `preprocessor_config.json` and the weights; returns the net in evaluation mode."""
    settings = {"image_size": 8, "patch_size": 4, "num_channels": 3, **SIZES, **settings}
    config = transformers.ViTConfig(num_labels=classes, **settings)
    torch.manual_seed(2)
    net = transformers.ViTForImageClassification(config)
    nn.init.normal_(net.classifier.weight)  # transformers begins with logits close to zero
    net.save_pretrained(folder) if weights else config.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2] * 3})
    )
    return net.eval()  # type: ignore[no-any-return]
