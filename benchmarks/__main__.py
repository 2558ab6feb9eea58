"""``python -m benchmarks``: every operator beside its PyTorch twin."""

from benchmarks import ms_deform_attn

if __name__ == "__main__":  # the benchmarks start processes
    ms_deform_attn.main()
