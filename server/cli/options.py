"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from server.engine.choices import Device, Dtype, Memory

ModelArgument = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="A checkpoint directory or a bundled model.", show_default="demo"),
]
MemoryOption = Annotated[
    Memory | None,
    typer.Option(help="Where the rows of a model with a memory come from.", show_default="mapped"),
]
DeviceRowsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Rows that a paged memory holds at once.", show_default="10% of the table"),
]
TableOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Another ToL table than the model's own.", show_default=False)
]
DeviceOption = Annotated[Device, typer.Option(help="Where to run.")]
DtypeOption = Annotated[Dtype | None, typer.Option(help="Number format.", show_default="fp32 on the CPU, bf16 on CUDA")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
