"""Compiles every kernel for a GPU that need not be there: python tests/compile_kernels.py

The interpreter takes Python that the compiler does not. Run by `tests/test_kernels.py` in a process of its own, because
where Triton was loaded for its interpreter it compiles nothing.
"""

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models import fused_attention
from paging import fused

TARGETS = [GPUTarget("cuda", capability, 32) for capability in (80, 90)]
ADDED = {"index": "*i64", "slot_stride": "i64", **dict.fromkeys(["layer_stride", "out_stride", "alpha_stride"], "i32")}
ADDED |= {"num_layers": "i32", "size": "i32"}
READ = {"blocks": "*i64", "lengths": "*i64", "scale": "fp32", "group_stride": "i64", "slot_stride": "i32"}
READ |= {"table_stride": "i32"}


def main() -> None:
    """Compile, and see that sums stay apart from products where bits count."""
    for target in TARGETS:
        for dtype in ("*bf16", "*fp32"):
            for flags in (
                {"ADDS": False, "SCALES": False},
                {"ADDS": True, "SCALES": False},
                {"ADDS": True, "SCALES": True},
            ):
                types = {**ADDED, "out": dtype, "alpha": dtype}
                for kernel, stored, more in (
                    (fused._float_kernel, "*bf16", {}),
                    (fused._int8_kernel, "*u8", {}),
                    (fused._int4_kernel, "*u8", {"GROUP": 32}),
                ):
                    text = compiled(kernel, {**types, "stored": stored}, {**flags, **more, "BLOCK": 1024}, target)
                    # (In bf16 a GPU of 80 adds and multiplies by instructions of this name.)
                    assert "fma.rn.f32" not in text, "a product would not be rounded before it is added"
            sizes = {"HEAD_DIM": 60, "WIDTH": 64}
            for parts in (1, 8):
                types = {**READ, **dict.fromkeys(["q", "keys", "values", "out", "tops", "totals"], dtype)}
                if parts > 1:
                    types |= dict.fromkeys(["out", "tops", "totals"], "*fp32")
                constants = {"SHARE": 4, "BLOCK_SIZE": 16, "TILE": 64, "PARTS": parts, **sizes}
                compiled(fused_attention._attend_kernel, types, constants, target)
            types = {**dict.fromkeys(["parts", "tops", "totals"], "*fp32"), "out": dtype}
            compiled(fused_attention._merge_kernel, types, {"PARTS": 8, **sizes}, target)


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], target: GPUTarget) -> str:
    """Return a kernel's assembler text; pointers are aligned as those of tensors are."""
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constants else types[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in names if types.get(name, "")[:1] == "*"},
    )
    options = {"enable_fp_fusion": False} if "ADDS" in constants else {}
    text: str = triton.compile(source, target=target, options=options).asm["ptx"]
    return text


if __name__ == "__main__":
    main()
