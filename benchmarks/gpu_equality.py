"""Whether a GPU computes what plain operations do, and the same from paged rows; parts of `gpu_check.py`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any


def check_kernels(facts: list[str], device: str = "cuda") -> bool:
    """Compare what kernels decode and add with plain operations, bit for bit; return whether all are equal."""
    import torch  # noqa: PLC0415

    from models.decode_attention import _fused as fused_attention  # noqa: PLC0415
    from models.decode_attention import attend_blocks  # noqa: PLC0415
    from paging import LayerEncoding, TableGeometry, encode_rows  # noqa: PLC0415
    from paging.layers import LayerReader, PickedRows, add_values, pick  # noqa: PLC0415

    is_equal = True
    for name in ("bf16", "fp16", "fp32", "int8", "int4/32", "int4/128"):
        encoding = LayerEncoding.parse(name)
        geometry = TableGeometry.uniform(hidden_size=2048, num_layers=4, vocab_size=64, encoding=encoding)
        payload = encode_rows(torch.randn(64, 4, 2048), geometry)
        slab = torch.zeros(64, geometry.row_stride, dtype=torch.uint8)[:, : geometry.row_bytes]
        slab.copy_(payload)
        reader = LayerReader(geometry, slab.to(device))
        index_N = torch.randint(64, (37,), device=device)
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            hidden_ND = torch.randn(37, 2048, device=device).to(dtype)
            alpha_N = torch.rand(37, device=device).to(dtype)
            part = next(iter(reader._parts.values()))  # noqa: SLF001 the reference reads the same bytes
            values_ND = pick(part.stored, part.kind, index_N, dtype)
            layer = geometry.layers[0]
            for given in (None, alpha_N):
                expected = add_values(hidden_ND, values_ND, given)
                added = PickedRows(reader, index_N).add_to(hidden_ND.clone(), layer, given)
                same = torch.equal(expected, added) and torch.equal(values_ND, reader.gather(index_N, layer, dtype))
                is_equal &= same
                if not same:
                    facts.append(
                        f"kernels: {name} to {dtype}, alpha {given is not None}: DIFFERS from plain operations"
                    )
    facts.append(f"kernels: rows decoded and added {'equal' if is_equal else 'are NOT equal to'} plain ones, all bits")
    q_SHD = torch.randn(8, 32, 64, device=device, dtype=torch.bfloat16)
    keys, values = torch.randn(2, 32, 257, 16, 64, device=device, dtype=torch.bfloat16)
    blocks_SB = torch.randperm(256, device=device).view(8, 32)
    lengths_S = torch.tensor([1, 16, 17, 100, 255, 256, 400, 512], device=device)
    arguments = (q_SHD, keys, values, blocks_SB, lengths_S)
    error = (fused_attention()(*arguments).float() - attend_blocks(*arguments).float()).abs().max().item()
    facts.append(f"kernels: attention differs from plain operations by {error:.1e} at most, in bf16")
    return is_equal & check_chunks(facts, device) and error < 0.03


def check_chunks(facts: list[str], device: str) -> bool:
    """Compare prompts that attend in one call with plain operations; return whether they agree, where there are two."""
    import torch  # noqa: PLC0415

    from models.config import Kind, ModelConfig  # noqa: PLC0415
    from models.kv_cache import BlockTable, KVCache  # noqa: PLC0415
    from models.varlen_attention import attend_chunks, attend_packed, kernel_for, pack_chunks  # noqa: PLC0415

    config = ModelConfig(
        model_type=Kind.DENSE,
        vocab_size=8,
        hidden_size=2048,
        num_hidden_layers=1,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=8,
    )
    cache = KVCache(config, num_blocks=64, dtype=torch.bfloat16, device=device)
    for store in (cache.keys, cache.values):
        store.normal_()
    tables = [BlockTable(16, range(first, first + 16)) for first in (48, 0, 32)]
    q_NHD = torch.randn(160 + 3 + 40, 32, 64, device=device, dtype=torch.bfloat16)
    kernel = kernel_for(q_NHD, cache)
    if kernel is None:
        facts.append("kernels: PyTorch's attention for packed sequences is not to be had; prompts attend one by one")
        return True
    packed = pack_chunks([160, 3, 40], [160, 250, 40], tables, device=q_NHD.device)
    actual, expected = (attend_chunks(cache, 0, q_NHD, packed, each) for each in (kernel, attend_packed))
    error = (actual.float() - expected.float()).abs().max().item()
    facts.append(
        f"kernels: prompts that attend in one call differ from plain operations by {error:.1e} at most, in bf16"
    )
    return error < 0.03


def check_equality(
    scratch: Path, facts: list[str], *, preset: str = "250m-memoryllm", options: dict[str, Any] | None = None
) -> bool:
    """Run each step of paged engines again with the whole table at hand; return whether all bits are the same."""
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from measured import VOCAB_SIZE as SMALL  # noqa: PLC0415
    from measured import open_engine, random_model  # noqa: PLC0415

    from models.table_rows import ResidentRows  # noqa: PLC0415
    from paging import Table  # noqa: PLC0415
    from server.engine.decode_graphs import decode_graphs  # noqa: PLC0415
    from server.engine.messages import Request  # noqa: PLC0415
    from server.engine.params import SamplingParams  # noqa: PLC0415
    from server.engine.runner import Runner  # noqa: PLC0415

    model = random_model(scratch, preset, with_table=True)
    generator = np.random.default_rng(7)
    prompts = [generator.zipf(1.2, int(n)).clip(max=SMALL) - 1 for n in generator.integers(1, 100, 24)]
    common = {"dtype": "bf16", "device": "cuda", "tol_device_fraction": 0.1, **(options or {})}
    arms: dict[str, dict[str, Any]] = {
        "10%, host tier": {"tol_host_bytes": 3 * 2**30},
        "10%, storage only": {},
        "10%, storage only, nothing captured": {"enforce_eager": True},
    }
    is_equal = True
    for name, its in arms.items():
        with ExitStack() as stack:
            engine = open_engine(stack, model, 8, {**common, **its})
            runner = engine.runner
            table = stack.enter_context(Table.open(model / "table"))
            resident = ResidentRows(table, dtype=runner.model.head_weight.dtype, device=runner.device)
            graphs = None if runner.graphs is None else decode_graphs(runner.model, runner.cache, 8)
            again = Runner(runner.model, runner.cache, graphs)
            found: list[bool] = []
            original = runner.run

            def compared(
                chunks: Any,
                rows: Any,
                *others: Any,
                original: Any = original,
                again: Any = again,
                resident: Any = resident,
                found: Any = found,
            ) -> torch.Tensor:
                hidden_Nd: torch.Tensor = original(chunks, rows, *others).clone()
                keys = np.concatenate([chunk.sequence.pending(chunk.length) for chunk in chunks])
                other_Nd = again.run(chunks, resident.fetch(torch.from_numpy(keys)), *others)
                found.append(torch.equal(hidden_Nd, other_Nd))
                return hidden_Nd

            runner.run = compared
            for number, prompt in enumerate(prompts):
                params = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
                engine.add(Request(request_id=str(number), prompt_ids=prompt.tolist(), params=params))
            while engine.scheduler.has_work:
                for output in engine.step():
                    if output.error:
                        raise RuntimeError(output.error)
            captured = 0 if runner.graphs is None else runner.graphs.num_captured
            runner.run = original
        is_equal &= bool(found) and all(found)
        facts.append(
            f"{name}: {sum(found)} of {len(found)} steps equal to those with the whole table at hand, all bits; "
            f"steps of {captured} sizes were captured"
        )
    return is_equal
