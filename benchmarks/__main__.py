"""``python -m benchmarks``: every operator beside its PyTorch twin."""

from benchmarks import cluster_attention, ms_deform_attn, points

if __name__ == "__main__":  # the benchmarks start processes
    ms_deform_attn.main()
    cluster_attention.main()
    points.main()
