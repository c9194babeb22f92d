"""`tolbooth presets`."""

from models.presets import PRESETS
from server.cli.options import JsonOption
from server.cli.output import print_json, print_table
from server.units import num_bytes_text


def presets(*, json: JsonOption = False) -> None:
    """List the model sizes known by name, with parameters and bytes of their tables.

    Parameters are counted without embeddings; active ones are those left when the memory is a table; a table's bytes
    are those of 16-bit values.

    Example: tolbooth presets --json
    """
    if json:
        print_json(
            [
                {
                    "name": name,
                    "kind": config.model_type,
                    "hidden_size": config.hidden_size,
                    "num_hidden_layers": config.num_hidden_layers,
                    "num_attention_heads": config.num_attention_heads,
                    "intermediate_size": config.intermediate_size,
                    "vocab_size": config.vocab_size,
                    "total_params": config.total_params,
                    "active_params": config.active_params,
                    "tol_bytes": config.tol_bytes,
                }
                for name, config in PRESETS.items()
            ]
        )
        return
    print_table(
        ("name", "hidden", "layers", "heads", "FFN", "total", "active", "table"),
        [
            (
                name,
                str(config.hidden_size),
                str(config.num_hidden_layers),
                str(config.num_attention_heads),
                str(config.intermediate_size),
                f"{config.total_params / 1e6:.1f}M",
                f"{config.active_params / 1e6:.1f}M",
                num_bytes_text(config.tol_bytes) if config.has_memory else "-",
            )
            for name, config in PRESETS.items()
        ],
    )
