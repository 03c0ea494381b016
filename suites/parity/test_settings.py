"""Settings together: rows that hold every pair of values, each against diffusers' own class, called directly."""

from __future__ import annotations

import copy
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
import torch

from suites.parity import settings
from suites.parity.bars import SETTINGS, SLABS_OFF_WHOLE
from suites.parity.settings import Row
from twinvae.arrays import DTYPES, dtype_scope
from twinvae.bench import metrics
from twinvae.bench.bars import check_dtypes, check_shapes, hold, ratio
from twinvae.registry import capabilities_of

pytestmark = pytest.mark.needs("weights", "config", "shapes")

ROWS = settings.rows()
# What a backend has to be able to do for a row with this value of a factor.
NEEDED = {"stream": "stream", "one program": "step", "no overlap": "tiling", "blended": "tiling",
          "uneven": "tiling", "adapter": "house"} | dict.fromkeys(settings.SLABS, "step")  # fmt: skip
PLAIN = {name: values[0] for name, values in settings.FACTORS.items()} | {"size": (1, 1), "together": (3, 1)}
KEYS = {"0": 0, "7": 7, "a key": jax.random.key(0), "an old key": jax.random.PRNGKey(0)}
GENERATOR = 3
OURS = ("flax", "torchax")
THREADS, TURNS = 4, 8


def chosen(options):
    """The rows, for every backend that can do what they ask, in the modes and dtypes that the options select.

    Our own two share them, as they share loops, tiles, streams and plans: a row is one's or the other's.
    """
    for number, (row, ours) in enumerate(zip(ROWS, settings.shared(ROWS, OURS), strict=True), 1):
        if row["mode"] in options.modes and row["dtype"] in options.dtypes:
            needed = {NEEDED[value] for value in row.values() if value in NEEDED}
            for backend in options.backends:
                if needed <= capabilities_of(backend) and (backend in ours or backend not in OURS):
                    yield {"number": number, "backend": backend, "mode": row["mode"], "dtype": row["dtype"]}


@pytest.mark.cases("number, backend, mode, dtype", chosen)
def test_settings_together_give_what_diffusers_own_class_gives(number, backend, mode, dtype, once, options, record):
    row = ROWS[number - 1]
    print(row)
    theirs = once((__name__, number), lambda: reference(row, number, options.seed))
    held(record, f"settings {number}", dtype, *sides(row, backend, *theirs), operation=row["asked"])


def sides(row: Row, backend: str, model, clip, exact, in_torch):
    """What a backend gives, what diffusers gives in float64, and in the row's dtype."""
    found = settings.of_backend(settings.load(model, backend, row), row, clip)
    return [{"output": side} for side in (found, exact, in_torch)]


def reference(row: Row, number: int, seed: int):
    """A model in float64, a clip, and what diffusers makes of it in float64 and in the row's dtype."""
    rng = np.random.default_rng([number, seed])
    model = settings.drawn_model(row, rng)
    clip = settings.clip_of(row, rng)
    return model, clip, settings.of_diffusers(model, row, clip), settings.of_diffusers(rounded(model, row), row, clip)


def rounded(model, row: Row):
    """diffusers' model in the row's dtype; the same one where that is float64."""
    return model if row["dtype"] == "float64" else copy.deepcopy(model).to(getattr(torch, row["dtype"]))


def held(record, case, dtype, found, exact, in_torch, **fields):
    """Hold the worst part: in float64 its error, else that over PyTorch's own in the same dtype."""
    check_dtypes(found, dtype)
    check_shapes(found, exact)
    hold(record, SETTINGS[dtype], worst(dtype, found, exact, in_torch), case, **fields)


def worst(dtype, found, exact, in_torch) -> dict[str, float]:
    """By the one metric of the dtype's bars."""
    if dtype == "float64":
        return {"relative_l2": max(metrics.relative_l2(found[part], exact[part]) for part in exact)}
    errors = {part: [metrics.mae(side[part], exact[part]) for side in (found, in_torch)] for part in exact}
    return {"error over PyTorch's": max(ratio(*pair) for pair in errors.values())}


# Calls that no other test makes


@pytest.mark.only(mode=("jit",))
def test_a_sample_by_any_key_is_the_mean_and_noise_that_diffusers_class_decodes(backend, mode, dtype, options, record):
    row = PLAIN | {"dtype": dtype}
    rng = np.random.default_rng(options.seed)
    model = settings.drawn_model(row, rng)
    clip = settings.clip_of(row, rng)
    vae = settings.load(model, backend, row)
    for name, key in KEYS.items():
        found = {"sample": vae.encode(clip).sample(key), "video": vae(clip, sample_posterior=True, key=key)}
        found = {part: np.asarray(array) for part, array in found.items()}
        shape = found["sample"].shape
        with dtype_scope(DTYPES[dtype]):
            given = jax.random.key(key) if isinstance(key, int) else key
            noise = np.array(jax.random.normal(given, shape, DTYPES[dtype]), np.float64)
        exact, in_torch = (sampled(side, clip, noise) for side in (model, rounded(model, row)))
        held(record, f"settings, a sample by {name}", dtype, found, exact, in_torch, operation="reconstruct")
    if "house" not in vae.capabilities:
        return
    noise = torch.randn(shape[0], shape[-1], *shape[1:-1], generator=torch.Generator().manual_seed(GENERATOR),
                        dtype=getattr(torch, dtype))  # fmt: skip
    exact, in_torch = (sampled(side, clip, settings.last(noise)) for side in (model, rounded(model, row)))
    generator = torch.Generator().manual_seed(GENERATOR)
    x = settings.first(settings.given_as("torch", clip))
    video = vae.as_diffusers()(x, sample_posterior=True, generator=generator).sample
    found = {"video": settings.last(video).astype(DTYPES[str(video.dtype).removeprefix("torch.")])}
    parts = [{"video": side["video"]} for side in (exact, in_torch)]
    held(record, "settings, a sample by a generator", dtype, found, *parts, operation="reconstruct")


def sampled(model, clip, noise):
    """The posterior's mean plus standard deviations of noise, and what diffusers decodes of it."""
    x, noise = (settings.first(torch.from_numpy(np.array(one, np.float64))).to(model.dtype) for one in (clip, noise))
    with torch.no_grad(), settings.ProductsInFloat32():
        posterior = model.encode(x).latent_dist
        latents = posterior.mean + posterior.std * noise
        return {"sample": settings.last(latents), "video": settings.last(model.decode(latents).sample)}


@pytest.mark.needs("step")
@pytest.mark.only(mode=("jit",), dtype=("bfloat16",))
@pytest.mark.parametrize("operation", ["encode", "decode"])
def test_slabs_in_bfloat16_are_nearer_to_the_whole_than_its_error(operation, backend, mode, dtype, options, record):
    row = PLAIN | {"asked": operation, "dtype": dtype, "batch": 8, "frames": (1, 0), "size": (4, 4)}
    rng = np.random.default_rng(options.seed)
    model = settings.drawn_model(row, rng)
    clip = settings.clip_of(row, rng)
    exact = settings.of_diffusers(model, row, clip)
    whole, slabs = (
        np.asarray(settings.of_backend(settings.load(model, backend, one), one, clip), np.float64)
        for one in (row, row | {"asked": f"{operation} in row slabs"})
    )
    value = ratio(metrics.mae(slabs, whole), metrics.mae(whole, exact))
    hold(record, SLABS_OFF_WHOLE, {"difference over the whole form's error": value}, "settings, slabs",
         operation=operation)  # fmt: skip


@pytest.mark.only(dtype=("float64",))
def test_calls_from_several_threads_give_what_diffusers_class_gives(backend, mode, dtype, options, record):
    row = PLAIN | {"mode": mode, "frames": (2, 0)}
    rng = np.random.default_rng(options.seed)
    model = settings.drawn_model(row, rng)
    clips = [settings.clip_of(row, rng) for _ in range(THREADS)]
    vae = settings.load(model, backend, row)
    together = threading.Barrier(THREADS)
    if mode == "eager":  # else each thread compiles every operation
        vae.encode(clips[0])

    def turns(clip):
        together.wait()
        return [np.asarray(vae.encode(clip).moments) for _ in range(TURNS)]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # what threads get wrong together shows sooner
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            outputs = list(pool.map(turns, clips))
    finally:
        sys.setswitchinterval(before)
    exact = {f"clip {number}, turn {turn}": settings.of_diffusers(model, row, clip)
             for number, clip in enumerate(clips) for turn in range(TURNS)}  # fmt: skip
    found = {f"clip {number}, turn {turn}": output
             for number, turns in enumerate(outputs) for turn, output in enumerate(turns)}  # fmt: skip
    held(record, "settings, threads", dtype, found, exact, exact, operation="encode")
