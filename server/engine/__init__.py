"""The engine: sampling and generation. Runs without FastAPI, pydantic, typer or rich being installed."""
