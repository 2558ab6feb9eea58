"""Random arguments of operators by name, as their schemas have them."""

import torch

from segcore.ops import ClusterNeighborhood, knn


def ms_deform_attn_inputs(
    *,
    batch=2,
    heads=3,
    channels=8,
    queries=7,
    spatial_shapes=((6, 5), (3, 4), (1, 2)),
    points=4,
    spread=1.6,
    dtype=torch.float64,
    device="cpu",
):
    """Locations in a square of side ``spread`` around the center of the map."""
    generator = torch.Generator().manual_seed(0)
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    tokens = sum(height * width for height, width in spatial_shapes)
    samples = (batch, queries, heads, len(spatial_shapes), points)
    value = torch.randn(batch, tokens, heads, channels, generator=generator, dtype=torch.float64)
    locations = torch.rand(*samples, 2, generator=generator, dtype=torch.float64)
    locations = (locations - 0.5) * spread + 0.5
    weights = torch.randn(*samples, generator=generator, dtype=torch.float64)
    return {
        "value": value.to(device, dtype),
        "spatial_shapes": list(spatial_shapes),
        "sampling_locations": locations.to(device, precision),
        "attention_weights": weights.to(device, precision),
    }


def ms_deform_attn_with_logits_inputs(*, boxes=False, spread=1.6, **options):
    """References in a square of side ``spread`` around the center of the map, offsets of a few
    cells; boxes have a width and a height."""
    arguments = ms_deform_attn_inputs(spread=spread, **options)
    value, logits = arguments["value"], arguments["attention_weights"]
    generator = torch.Generator().manual_seed(1)
    batch, queries, _, levels, _ = logits.shape
    references = torch.rand(batch, queries, levels, 4 if boxes else 2, generator=generator)
    references[..., :2] = (references[..., :2] - 0.5) * spread + 0.5
    offsets = 2 * torch.randn(*logits.shape, 2, generator=generator, dtype=torch.float64)
    return {
        "value": value,
        "spatial_shapes": arguments["spatial_shapes"],
        "reference_points": references.to(value.device, logits.dtype),
        "sampling_offsets": offsets.to(value),
        "attention_logits": logits.to(value),
    }


def point_gather_inputs(
    *, batch=2, tokens=11, channels=8, queries=17, k=4, dtype=torch.float64, device="cpu"
):
    """The first query lists one token k times."""
    generator = torch.Generator().manual_seed(0)
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    indices = torch.randint(tokens, (batch, queries, k), generator=generator)
    indices[:, :1] = indices[:, :1, :1]
    features = torch.randn(batch, tokens, channels, generator=generator, dtype=torch.float64)
    weights = torch.randn(batch, queries, k, generator=generator, dtype=torch.float64)
    return {
        "features": features.to(device, dtype),
        "indices": indices.to(device),
        "weights": weights.to(device, precision),
    }


def neighborhood_merge_inputs(
    *,
    batch=2,
    tokens=30,
    channels=8,
    queries=7,
    size=13,
    mask=True,
    importance=True,
    dtype=torch.float64,
    device="cpu",
):
    """The centers are tokens, so that some offsets are 0."""
    generator = torch.Generator().manual_seed(0)
    precision = torch.float64 if dtype == torch.float64 else torch.float32

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    positions = torch.randint(9, (batch, tokens, 2), generator=generator)
    members = torch.randint(tokens, (batch, queries, size), generator=generator)
    centers = positions[:, torch.arange(queries) % tokens]
    if size and queries:
        members[:, :, -1] = torch.arange(queries) % tokens
    keep = torch.rand(batch, queries, size, generator=generator) > 0.3
    factors = torch.rand(batch, tokens, generator=generator, dtype=torch.float64)
    return {
        "features": randn(batch, tokens, channels).to(device, dtype),
        "positions": positions.to(device, precision),
        "centers": centers.to(device, precision),
        "members": members.to(device),
        "mask": keep.to(device) if mask else None,
        "importance": factors.to(device, precision) if importance else None,
        "linear_weight": (0.3 * randn(4, 5)).to(device, precision),
        "linear_bias": randn(4).to(device, precision),
        "norm_weight": randn(4).to(device, precision),
        "norm_bias": randn(4).to(device, precision),
    }


def point_deform_attn_inputs(
    *,
    batch=2,
    level_sizes=(3, 20, 40),
    heads=3,
    channels=8,
    queries=7,
    points=4,
    k=4,
    canvas=(9, 11),
    power=2.3,
    spread=4.0,
    dtype=torch.float64,
    device="cpu",
):
    """Tokens on cells of the canvas, with their true neighbors; a level with fewer than k tokens
    has -1 in its table."""
    generator = torch.Generator().manual_seed(0)
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    height, width = canvas
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells = torch.stack([x, y], -1).view(1, -1, 2).expand(batch, -1, -1).float()
    tables, tokens = [], []
    for size in level_sizes:
        chosen = torch.rand(batch, height * width, generator=generator).argsort(-1)[:, :size]
        tokens.append(cells.gather(1, chosen[..., None].expand(-1, -1, 2)))
        near = knn(cells, tokens[-1], min(k, size)) + sum(level_sizes[: len(tables)])
        tables.append(torch.nn.functional.pad(near, (0, k - near.shape[-1]), value=-1))
    num_tokens, levels = sum(level_sizes), len(level_sizes)
    positions = torch.cat(tokens, 1) if tokens else torch.zeros(batch, 0, 2)
    neighbors = torch.zeros(batch, 0, height * width, k, dtype=torch.int64)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    samples = (batch, queries, heads, levels, points)
    middle = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    locations = middle + spread * randn(*samples, 2)
    return {
        "values": randn(batch, num_tokens, heads, channels).to(device, dtype),
        "positions": positions.to(device, precision),
        "neighbors": (torch.stack(tables, 1) if tables else neighbors).to(device),
        "canvas": canvas,
        "locations": locations.to(device, precision),
        "attention": randn(*samples).to(device, precision),
        "power": torch.tensor([power], dtype=precision, device=device),
    }


def knn_inputs(kind, batch=2, queries=40, points=90, seed=0):
    """Queries and points of different character."""
    generator = torch.Generator().manual_seed(seed)

    def rand(count):
        return torch.rand(batch, count, 2, generator=generator)

    if kind == "grid":  # many ties
        return (rand(queries) * 14 - 2).round(), (rand(points) * 9).round()
    if kind == "flat":  # all points on a line
        return rand(queries) * 9, rand(points) * torch.tensor([9.0, 0.0]) + 1.5
    if kind == "one point":
        return rand(queries), torch.full((batch, points, 2), 3.0)
    if kind == "dense corner":
        return rand(queries) * 100, rand(points) ** 6 * 100
    if kind == "far away":  # queries outside of all points
        return rand(queries) * 1e6 + 1e5, rand(points)
    if kind == "small offsets":  # beside large coordinates, so that many are rounded to one
        return rand(queries) + 2e6, rand(points) + 2e6
    return rand(queries) * 50, rand(points) * 50


def canvas_grid(height, width, batch=1):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1).float().expand(batch, -1, -1).contiguous()


def tokens_on_canvas(height, width, count, batch=2, seed=0):
    """Tokens on different cells of the canvas in each image, in ascending order."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(batch, height * width, generator=generator).argsort(-1)[:, :count]
    index = chosen.sort(-1).values[..., None].expand(-1, -1, 2)
    return canvas_grid(height, width, batch).gather(1, index)


def random_neighborhood(batch, tokens, cluster_size, clusters_per_token, generator):
    """Clusters in random order; of a part-filled last cluster about as often as of any other."""
    clusters = -(-tokens // cluster_size)
    order = torch.rand(batch, tokens, clusters, generator=generator).argsort(-1)
    return ClusterNeighborhood(order[..., :clusters_per_token], cluster_size)


def cluster_attention_inputs(
    *,
    batch=2,
    tokens=37,
    heads=3,
    channels=8,
    cluster_size=8,
    clusters_per_token=3,
    dtype=torch.float64,
    device="cpu",
    neighborhood=None,
    positions=None,
):
    """Positions on a grid where some tokens coincide."""
    generator = torch.Generator().manual_seed(0)
    precision = torch.float64 if dtype == torch.float64 else torch.float32

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    if positions is None:
        positions = torch.randint(9, (batch, tokens, 2), generator=generator)
    if neighborhood is None:
        neighborhood = random_neighborhood(
            batch, tokens, cluster_size, clusters_per_token, generator
        )
    neighborhood = ClusterNeighborhood(neighborhood.clusters.to(device), neighborhood.cluster_size)
    k, v = randn(batch, tokens, heads, 2, channels).to(device, dtype).unbind(3)
    return {
        "q": randn(batch, tokens, heads, channels).to(device, dtype),
        "k": k,
        "v": v,
        "positions": positions.to(device, precision),
        "neighborhood": neighborhood,
        "pos_weight": (0.3 * randn(heads, 5)).to(device, precision),
        "pos_bias": randn(heads).to(device, precision),
        "blank_k": randn(heads * channels).to(device, precision),
        "blank_v": randn(heads * channels).to(device, precision),
    }


def attention_inputs(
    *, batch=2, queries=7, keys=300, heads=3, channels=8, masked=True, dtype=torch.float64
):
    """A query in three sees a third of the keys; the first one sees none."""
    generator = torch.Generator().manual_seed(0)

    def rows(count):
        numbers = torch.randn(batch, count, heads * channels, generator=generator)
        return (2 * numbers).to(dtype)

    mask = torch.rand(batch, queries, keys, generator=generator) < 1 / 3
    mask[:, 1::3] = True
    mask[:, :1] = False
    return {
        "query": rows(queries),
        "key": rows(keys),
        "value": rows(keys),
        "heads": heads,
        "mask": mask if masked else None,
    }


def window_attention_inputs(
    *,
    batch=2,
    size=(9, 6),
    heads=3,
    channels=8,
    window=4,
    shift=(2, 1),
    dtype=torch.float64,
    device="cpu",
):
    """Maps whose sides are no multiples of the window."""
    generator = torch.Generator().manual_seed(0)
    precision = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*shape, dtype=dtype):
        numbers = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return numbers.to(device, dtype)

    dim = 3 * heads * channels
    return {
        "qkv": normal(batch, *size, dim),
        "padding": normal(dim),
        "bias": normal(heads, window**2, window**2, dtype=precision),
        "window": window,
        "shift": shift,
    }


def mask_inference_inputs(
    *,
    masks=7,
    classes=9,
    candidates=5,
    measured=4,
    size=(20, 34),
    steps=(((20, 34), (80, 136)),),
    dtype=torch.float64,
    device="cpu",
):
    """Logits, some of them above 1; candidates and measured masks in any order."""
    generator = torch.Generator().manual_seed(0)

    def chosen(count):
        return torch.randperm(masks, generator=generator)[:count].to(device)

    def rand(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(device, dtype)

    return {
        "masks": 5 * rand(masks, *size) - 3,
        "steps": steps,
        "class_weights": rand(classes, masks),
        "candidates": chosen(candidates),
        "candidate_scores": rand(candidates),
        "measured": chosen(measured),
    }
