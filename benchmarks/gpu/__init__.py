"""The paper's study on a GPU that is at hand for minutes: `python -m benchmarks.gpu`; see docs/gpu.md."""
