"""A model with a table, a copy of it whose memory was trained further, and packs over it."""

from types import SimpleNamespace

import numpy as np
import torch

from models.checkpoint import save_checkpoint
from models.config import ModelConfig
from models.export import export_table
from models.pack_making import Edit, PackMaker
from models.packs import PackBase, write_pack
from paging import Encoding, Table, TableGeometry, encode_rows
from tests.models.tiny_models import MEMORY, random_model


def make_base(directory, config=MEMORY, *, encoding=Encoding.FP32):
    """Write a model, its table, and a copy with other memory FFNs."""
    model, tuned = random_model(config), random_model(config)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if ".memory." in name:
                parameter.mul_(1.1)
    save_checkpoint(model, directory / "model")
    save_checkpoint(tuned, directory / "tuned")
    export_table(directory / "model", directory / "table", encoding=encoding)
    return SimpleNamespace(
        config=config, model=directory / "model", tuned=directory / "tuned", table=directory / "table"
    )


def base_of(where):
    with Table.open(where.table) as table:
        return PackBase.of(where.model, ModelConfig.load(where.model), table)


def random_payload(geometry: TableGeometry, num_rows, *, seed=0):
    shape = (num_rows, len(geometry.segments), geometry.hidden_size)
    return encode_rows(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), geometry)


def make_pack(where, out, ids, *, name="sample", seed=0, **options):
    """Write a pack of random rows, and return their payload."""
    base = base_of(where)
    payload = random_payload(base.geometry, len(ids), seed=seed)
    write_pack(out, name=name, base=base, ids=np.array(ids, dtype=np.int64), payloads=[payload], **options)
    return payload


def edit_pack(where, out, *, name="sample", table=None, **edit):
    with Table.open(table or where.table) as opened:
        maker = PackMaker(where.model, ModelConfig.load(where.model), opened)
        return maker.edited(out, Edit(**edit), name=name)
