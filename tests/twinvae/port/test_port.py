"""What a port may be: functions, classes, builders; what small calls find out; and words for whatever goes wrong."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from multiprocessing.connection import Connection

import numpy as np
import psutil
import pytest
import torch

import twinvae
from tests.twinvae.port.made_up import CLASS, FUNCTIONS, written
from twinvae.checkpoint import write_checkpoint
from twinvae.port import NotTaken, Port, PortError, is_port, label_of
from twinvae.port.worker import LAYERS_KEPT, Worker
from twinvae.registry import backend_module
from twinvae.seeded import seeded_tensors
from twinvae.tensors import tensor_shapes

VIDEO = np.random.default_rng(0).uniform(-1, 1, (1, 9, 16, 24, 3)).astype(np.float32)
TENSORS = len(tensor_shapes(twinvae.PRESETS["tiny"]))
LATENTS = VIDEO[:, :3, :2, :3, :1].repeat(4, -1)


def loaded(name: str, dtype: str = "float32"):
    return twinvae.load(name, preset="tiny", dtype=dtype)


@pytest.mark.parametrize(
    ("name", "known", "label"),
    [
        ("flax", False, "flax"),
        ("a/port.py", True, "port.py"),
        ("a/port.py:make", True, "port.py:make"),
        ("package.module:make", True, "package.module:make"),
    ],
)
def test_a_port_is_told_from_a_backend_by_its_name_and_called_without_its_folder(name, known, label):
    assert (is_port(name), label_of(name)) == (known, label)


def test_two_functions_in_a_file_are_a_backend(tmp_path):
    vae = loaded(written(tmp_path))
    assert vae.encode(VIDEO).moments.shape == (1, 3, 2, 3, 8)
    np.testing.assert_array_equal(vae.decode(LATENTS)[:, 0, ::8, ::8], LATENTS[:, 0, ..., :3])
    assert vae.backend == "mine.py"
    found = backend_module(str(tmp_path / "mine.py")).probed()
    assert found.capabilities == {"whole", "moments", "dtypes", "shapes"}
    assert found.modes == ("eager",)


BUILDERS = {
    "tensors": "def make(tensors): return Mine(len(tensors))",
    "config and tensors": """
def make(config, tensors): return Mine(len(tensors) + config.latent_channels - config["latent_channels"])
""",
    "a folder": """
def make(path):
    from safetensors.numpy import load_file
    return Mine(len(load_file(path + "/diffusion_pytorch_model.safetensors")))
""",
    "dtype and jit beside tensors": """
def make(tensors, dtype="float32", jit=True): return Mine(len(tensors) * isinstance(jit, bool))
""",
}


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_builder_is_given_what_its_arguments_name(kind, tmp_path):
    name = written(tmp_path, CLASS + BUILDERS[kind])
    vae = loaded(name)
    assert vae.decode(LATENTS).max() == TENSORS
    expected = {"whole", "moments", "weights", "slicing", "batches", "activations", "shapes", "dtypes"}
    expected |= {"config"} if kind.startswith(("config", "a folder")) else set()
    expected |= {"reads"} if kind == "a folder" else set()
    expected |= {"jit"} if kind.startswith("dtype") else set()
    assert vae.capabilities == expected


@pytest.mark.parametrize(
    ("arguments", "file", "expected"),
    [
        ("path", "diffusion_pytorch_model.safetensors", 100),
        ("path, variant=None", "diffusion_pytorch_model.fp16.safetensors", 104),
        ("path", "diffusion_pytorch_model.fp16.safetensors", 1),  # which diffusers' own class would not read unasked
    ],
)
def test_a_loader_is_given_the_folder_that_was_named_and_its_variant(arguments, file, expected, tmp_path):
    more = f"""
def make({arguments}):
    from pathlib import Path
    named = len(list(Path(path).glob("marked-*"))) or 1
    return Mine(named + len(locals().get("variant") or ""))
"""
    name, folder = written(tmp_path, CLASS + more), tmp_path / "named"
    write_checkpoint(folder, twinvae.PRESETS["tiny"], seeded_tensors(twinvae.PRESETS["tiny"], 0))
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / file)
    for number in range(100):
        (folder / f"marked-{number}").touch()
    assert twinvae.load(name, weights=str(folder)).decode(LATENTS).max() == expected


def test_the_same_tensors_of_another_config_are_another_folder(tmp_path):
    more = """
def make(path):
    import json
    return Mine(json.load(open(path + "/config.json"))["act_fn"] == "mish")
"""
    port, config = Port(written(tmp_path, CLASS + more)), twinvae.PRESETS["tiny"]
    tensors = seeded_tensors(config, 0)
    for act_fn in ("silu", "mish", "silu"):
        other = config.model_copy(update={"act_fn": act_fn})
        vae = port.load(other, tensors, dtype="float32", jit=True, checkpoint="the same")
        assert vae.decode(LATENTS).max() == (act_fn == "mish")


WRAPPER = """
    def as_diffusers(self): return Wrapper(self)
    def save_pretrained(self, folder): open(folder + "/saved", "w")
def make(tensors): return Mine(1)
import types, torch
class Wrapper:
    config = types.SimpleNamespace(scaling_factor=0.5)
    def __init__(self, mine): self.mine = mine
    def decode(self, z):
        if z.shape[2] == 5: return z
        if z.shape[2] == 6: return types.SimpleNamespace(sample=z.numpy())
        return types.SimpleNamespace(sample=z * self.mine.num_latent_frames_batch_size)
    def encode(self, x):
        drawn = lambda generator: x + torch.randn(x.shape, generator=generator)
        return types.SimpleNamespace(latent_dist=types.SimpleNamespace(sample=drawn))
"""


def test_a_pipeline_wrapper_is_called_in_the_ports_process_as_a_pipeline_calls_it(tmp_path):
    name = written(tmp_path, CLASS + WRAPPER)
    vae = loaded(name)
    assert {"pipeline", "saves"} <= vae.capabilities
    vae.save_pretrained(tmp_path)
    assert (tmp_path / "saved").exists()
    vae.num_latent_frames_batch_size = 3
    wrapper, clip = vae.as_diffusers(), torch.rand(1, 4, 3, 2, 3)
    assert torch.equal(wrapper.decode(clip).sample, 3 * clip)
    backend_module(name).process.close()  # as where it has crashed: the wrapper is made again
    one, other = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    for _ in range(2):  # the second draw goes on from the first
        drawn = wrapper.encode(clip).latent_dist.sample(one)
        assert torch.equal(drawn, clip + torch.randn(clip.shape, generator=other))
    assert wrapper.config.scaling_factor == 0.5
    with pytest.raises(PortError, match="config of the pipeline wrapper has no invert_scale_latents"):
        _ = wrapper.config.invert_scale_latents
    with pytest.raises(PortError, match=r"decode of the pipeline wrapper gave a Tensor: .* \.sample, a torch tensor"):
        wrapper.decode(torch.rand(1, 4, 5, 2, 3))
    with pytest.raises(PortError, match=r"gave a ndarray for \.sample: a pipeline goes on with \.sample, a torch"):
        wrapper.decode(torch.rand(1, 4, 6, 2, 3))


def test_a_class_alone_in_a_file_is_the_builder_and_one_of_several_can_be_named(tmp_path):
    name = written(tmp_path, CLASS.replace("self.count = tensors", "self.count = len(tensors)"))
    assert loaded(name).decode(LATENTS).max() == TENSORS
    other = written(
        tmp_path,
        CLASS
        + CLASS.replace("Mine", "Other").replace("encode_, decode_ = encode, decode\ndel preset, encode, decode", ""),
        "two.py",
    )
    with pytest.raises(ValueError, match=r"several classes .*two\.py:Mine, .*two\.py:Other"):
        Port(other)
    assert Port(f"{other}:Other").takes == {"tensors"}


OUTPUTS = {
    "mean and log-variance": ("return out[..., :4], out[..., 4:]", 8),
    "a posterior": ("import types; return types.SimpleNamespace(mean=out[..., :4], logvar=out[..., 4:])", 8),
    "diffusers' output": (
        "from types import SimpleNamespace as S; return S(latent_dist=S(parameters=out))", 8
    ),
    "a tuple of one": ("return (out,)", 8),
    "the mode alone": ("return out[..., :4]", 4),
    "a posterior with a mode": ("import types; return types.SimpleNamespace(mode=lambda: out[..., :4])", 4),
}  # fmt: skip


@pytest.mark.parametrize("kind", OUTPUTS)
def test_what_encoding_gives_is_taken_apart(kind, tmp_path):
    statement, channels = OUTPUTS[kind]
    more = f"\nours = encode\ndef encode(video):\n    out = ours(video)\n    {statement}\n"
    vae = loaded(written(tmp_path, more))
    posterior = vae.encode(VIDEO)
    assert posterior.moments.shape[-1] == channels
    assert posterior.mean.shape == posterior.mode().shape == (1, 3, 2, 3, 4)
    assert ("moments" in vae.capabilities) == (channels == 8)
    if channels == 4:
        with pytest.raises(NotTaken, match="without a log-variance"):
            _ = posterior.logvar


LAYOUTS = {
    "bcthw": ("return np.moveaxis(ours(np.moveaxis(x, 1, -1)), -1, 1)", r"takes \[b, c, t, h, w\] .*layout='bcthw'"),
    "btchw": ("return np.moveaxis(ours(np.moveaxis(x, 2, -1)), -1, 2)", r"takes \[b, t, c, h, w\] .*layout='btchw'"),
    "thwc": ("return ours(x[None])[0]", r"takes \[t, h, w, c\] .*pass layout='thwc'"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_order_of_axes_is_found_said_and_taken(layout, tmp_path):
    statement, words = LAYOUTS[layout]
    wrapped = "".join(
        f"\ndef {name}(x, ours={name}):\n    {statement}\n" for name in ("encode", "decode")
    )  # fmt: skip
    plain, name = written(tmp_path), written(tmp_path, wrapped, f"{layout}.py")
    vae = loaded(name)
    np.testing.assert_array_equal(vae.encode(VIDEO).moments, loaded(plain).encode(VIDEO).moments)
    np.testing.assert_array_equal(vae.decode(LATENTS), loaded(plain).decode(LATENTS))
    assert re.search(words, " ".join(backend_module(name).probed().notes))


def test_a_declared_layout_that_is_another_is_refused_in_words(tmp_path):
    more = "\nlayout = 'bcthw'\ndef encode(x, ours=encode): return ours(np.moveaxis(x, 1, -1))\n"
    with pytest.raises(ValueError, match=r"encode returns \[b, t, h, w, c\], and the port declares layout='bcthw'"):
        loaded(written(tmp_path, more))


def test_a_range_that_is_declared_is_kept_to_on_the_way_in_and_out(tmp_path):
    more = """
value_range = (0, 255)
def encode(x, ours=encode):
    assert 0 <= x.min() and 100 < x.max() <= 255
    return ours(x)
"""
    vae = loaded(written(tmp_path, more))
    vae.encode(VIDEO)
    np.testing.assert_allclose(vae.decode(LATENTS * 0 + 255.0), 1)
    np.testing.assert_allclose(vae.decode(LATENTS * 0), -1)


def test_streams_activations_and_gradients_keep_to_the_ports_range_too(tmp_path):
    more = (
        CLASS
        + """
    def encode_stream(self, x): return iter([x[..., :1]])
    def decode_stream(self, z): return iter([np.full_like(z[..., :3], 255.0), np.zeros_like(z[..., :3])])
    def gradients(self, video, cotangent): return {"video": cotangent * 0 + video.max(), "weight": cotangent}
value_range = (0, 255)
def make(config): return Mine(0)
"""
    )
    vae = loaded(written(tmp_path, more))
    ones = np.ones_like(VIDEO)
    assert [float(chunk.max()) for chunk in vae.encode_stream(ones)] == [255]
    assert [(float(chunk.min()), float(chunk.max())) for chunk in vae.decode_stream(LATENTS)] == [(1, 1), (-1, -1)]
    assert vae.activations("encode", ones)["encode"].max() == 255
    # A video in the port's range moves 127.5 times as far: so do gradients of it, and those of what comes out do not.
    gradients = vae.gradients(ones, ones)
    np.testing.assert_allclose(gradients["weight"], 1 / 127.5, rtol=1e-6)
    np.testing.assert_allclose(gradients["video"], 255 * 127.5, rtol=1e-6)


def test_an_overlap_of_none_reaches_a_port_whose_method_takes_zero_for_its_default(tmp_path):
    more = CLASS.replace("self.count = tensors", "self.tile_overlap_factor_height = 0.25").replace(
        "self.count", "self.tile_overlap_factor_height") + """
    def enable_tiling(self, tile_sample_min_height=None, tile_sample_min_width=None,
                      tile_overlap_factor_height=None, tile_overlap_factor_width=None):
        self.tile_overlap_factor_height = tile_overlap_factor_height or 0.25
    def disable_tiling(self): pass
"""  # fmt: skip
    vae = loaded(written(tmp_path, more))
    vae.enable_tiling(16, 16, tile_overlap_factor_height=0, tile_overlap_factor_width=0)
    assert vae.decode(LATENTS).max() == 0


TAKES = {
    "multiples of 8": ("h % 8 == w % 8 == 0", "multiples of 8", (1, 9, 17, 24), (1, 9, 16, 24)),
    "multiples of 16": ("h % 16 == w % 16 == 0", "multiples of 16", (1, 9, 24, 32), (1, 9, 16, 32)),
    "one clip": ("b == 1", "1 clip at a time", (2, 9, 16, 24), (1, 9, 16, 24)),
    "4k + 1 frames": ("t % 4 == 1", "1, 5, 9, 17 frames", (1, 8, 16, 24), (1, 5, 16, 24)),
}


@pytest.mark.parametrize("case", TAKES)
def test_a_port_that_takes_few_shapes_is_judged_on_those_and_said_to(case, tmp_path):
    condition, words, refused, taken = TAKES[case]
    more = f"""
def encode(video, ours=encode):
    b, t, h, w, _ = video.shape
    assert {condition}
    return ours(video)
"""
    name = written(tmp_path, more)
    vae = loaded(name)
    assert any(words in note for note in backend_module(name).probed().notes)
    assert "shapes" not in vae.capabilities
    vae.encode(np.zeros((*taken, 3), np.float32))
    with pytest.raises(NotTaken, match="it takes"):
        vae.encode(np.zeros((*refused, 3), np.float32))


def test_a_port_of_one_dtype_is_judged_in_that(tmp_path):
    more = "".join(
        f"\ndef {name}(x, ours={name}): return ours(x).astype(np.float32)\n" for name in ("encode", "decode")
    )
    name = written(tmp_path, more)
    loaded(name)
    found = backend_module(name).probed()
    assert found.dtypes == ("float32",)
    assert any("not judged in float64, bfloat16" in note for note in found.notes)
    with pytest.raises(NotTaken, match="computes in float32, not float64"):
        loaded(name, "float64")


def test_settings_go_to_the_port_and_what_it_lacks_is_not_judged(tmp_path):
    told = "self.tiles + 100 * self.use_slicing + 1000 * self.num_latent_frames_batch_size"
    more = CLASS.replace("self.count = tensors", "self.tiles = 0").replace("self.count", told) + '''
    def enable_tiling(self, tile_sample_min_height=None, tile_sample_min_width=None,
                      tile_overlap_factor_height=None, tile_overlap_factor_width=None):
        self.tiles = tile_sample_min_height
    def disable_tiling(self): self.tiles = 0
'''  # fmt: skip
    vae = loaded(written(tmp_path, more))
    assert vae.decode(LATENTS).max() == 2000
    vae.enable_tiling(24, 16)
    vae.use_slicing, vae.num_latent_frames_batch_size = True, 3
    assert vae.decode(LATENTS).max() == 3124
    vae.disable_tiling()
    assert vae.decode(LATENTS).max() == 3100
    functions = loaded(written(tmp_path, name="functions.py"))
    functions.use_tiling = True
    with pytest.raises(NotTaken, match="no tiling that can be set"):
        functions.decode(LATENTS)


def test_settings_that_a_port_refused_are_not_taken_for_given():
    class Picky:
        use_slicing = False

        def enable_tiling(self, **given):
            raise ValueError("no tiles today")

        def decode(self, latents):
            return latents + self.use_slicing

    worker, clip = Worker("picky"), np.zeros((1, 1, 1, 1, 1), np.float32)
    worker.objects[0] = Picky(), "float32", False
    plain = {"use_slicing": False, "use_tiling": False, "tiles": {}}
    assert worker.run(0, "decode", clip, "numpy", plain)["video"] == 0
    for _ in range(2):
        with pytest.raises(PortError, match="taking its settings raised ValueError: no tiles today"):
            worker.run(0, "decode", clip, "numpy", plain | {"use_slicing": True, "use_tiling": True})
    assert worker.run(0, "decode", clip, "numpy", plain)["video"] == 0  # slices had been taken before


def test_every_layer_answers_however_many_there_are_and_after_an_end_of_the_process(tmp_path):
    more = """
    def load_layer(self, class_name, init, tensors, *, dtype, jit):
        import os
        return lambda x: os._exit(3) if x.max() > 100 else (x + init["number"], None)
def make(tensors): return Mine(len(tensors))
"""
    port = Port(written(tmp_path, CLASS + more))
    layers = [port.load_layer("Linear", {"number": n}, {}, dtype="float32", jit=False) for n in range(LAYERS_KEPT + 1)]
    ones = np.ones((), np.float32)
    for _ in range(2):
        assert [float(layer(ones)[0]) for layer in layers] == [1 + number for number in range(len(layers))]
    with pytest.raises(PortError, match="exit status 3"):
        layers[0](200 * ones)
    assert float(layers[0](ones)[0]) == 1


BAD_FILES = {
    "no such file": (None, r"no such file"),
    "syntax": ("def encode(:", r"does not import: SyntaxError: .*line 1"),
    "a missing package": ("import no_such_package", r"does not import: ModuleNotFoundError: .*line 1"),
    "raises": ("x = 1\nraise OSError('no card')", r"does not import: OSError: no card \(bad\.py, line 2"),
    "exits": ("import sys; sys.exit(3)", r"calls sys\.exit\(3\) when it is imported"),
    "dies": ("import os; os._exit(3)", r"ended the port's process by exit status 3"),
    "nothing in it": ("x = 1", r"holds no port: expected functions encode\(video\) and decode\(latents\).*it holds x"),
    "half": ("def encode(x): ...", r"has encode and not decode"),
    "arity": ("def encode(x, y): ...\ndef decode(x): ...", r"encode\(x, y\) cannot be called as encode\(video\)"),
    "no argument": ("def encode(x): ...\ndef decode(): ...", r"decode\(\) cannot be called as decode\(latents\)"),
    "builder": ("def make(config, tensors, mesh): ...", r"mesh cannot be filled; a builder takes"),
    "layout": (FUNCTIONS + "layout = 'chwt'", r"layout='chwt': expected one of bthwc"),
    "range": (FUNCTIONS + "value_range = (1, 0)", r"value_range=\(1, 0\): expected two numbers"),
    "dtype": (FUNCTIONS + "dtype = 'float8'", r"unknown dtype 'float8'"),
    "capability": (FUNCTIONS + "capabilities = ['flying']", r"capabilities: unknown flying"),
    "no checkpoint": (FUNCTIONS + "del preset", r"names no checkpoint that the reference could take: set weights"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_no_port_is_refused_in_words(case, tmp_path):
    text, words = BAD_FILES[case]
    name = written(tmp_path, text=text, name="bad.py") if text else str(tmp_path / "bad.py")
    with pytest.raises(ValueError, match=words):
        Port(name).probed()


def test_a_name_that_a_file_lacks_is_refused_with_what_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"mine\.py has no 'make': it holds .*encode"):
        Port(written(tmp_path) + ":make")
    with pytest.raises(ValueError, match="does not import: ModuleNotFoundError"):
        Port("no.such.module:make")


GOES_WRONG = {
    "raises": ("raise KeyError('conv')", r"PortRaised: decode raised KeyError: 'conv' \(mine\.py, line \d+, in "),
    "exits": ("import sys; sys.exit(2)", r"PortRaised: decode called sys\.exit\(2\)"),
    "dies": ("import os; print('bye', flush=True); os._exit(4)", r"PortEnded: decode .*exit status 4: bye"),
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"PortEnded: .*signal \(SIGSEGV\)"),
    "gives None": ("return None", r"PortGave: decode returned None: expected an array"),
    "gives a list": ("return [1, 2]", r"PortGave: decode returned a list of 2 \(int, int\)"),
    "gives complex": ("return decode_(x) * 1j", r"PortGave: decode returned complex64: expected floats"),
    "gives bytes": ("return decode_(x).astype(np.uint8)", r"PortGave: decode returned uint8: expected floats"),
    "gives what cannot be read": (
        "return type('Deleted', (), {'shape': (1,), 'dtype': 'f4', 'ndim': 1, '__array__': lambda *_, **__: 1 / 0})()",
        r"PortGave: decode returned an array that cannot be read: division by zero",
    ),
    "hangs": ("import time; time.sleep(60)", r"PortTimedOut: decode took longer than 0\.5 s"),
    "hangs where no signal comes in": (
        "import signal, time; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); time.sleep(60)",
        r"PortTimedOut: decode",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GOES_WRONG)
def test_what_goes_wrong_in_a_call_is_told_apart_and_the_next_call_is_as_without_it(case, tmp_path):
    statement, words = GOES_WRONG[case]
    more = f"\ndef decode(x, decode_=decode):\n    if x.shape[1] == 5:\n        {statement}\n    return decode_(x)\n"
    name = written(tmp_path, more)
    vae = loaded(name)
    before = vae.decode(LATENTS)
    vae.budget.call = 0.5
    with pytest.raises(PortError) as raised:
        vae.decode(LATENTS[:, [0, 0, 0, 0, 0]])
    assert re.search(words, f"{raised.typename}: {raised.value}")
    vae.budget.call = 60
    np.testing.assert_array_equal(vae.decode(LATENTS), before)
    assert vae.encode(VIDEO).moments.shape == (1, 3, 2, 3, 8)


def test_printing_forking_and_global_settings_reach_nobody(tmp_path, capfd):
    more = """
import os, warnings
def decode(x, decode_=decode):
    print("x" * 100_000)
    seen = os.environ.get("SPOILT"), np.geterr()["over"]
    assert seen == (None, "warn"), seen
    os.environ["SPOILT"] = "1"
    np.seterr(all="raise")
    os.fork()
    return decode_(x)
"""
    vae = loaded(written(tmp_path, more))
    for _ in range(3):
        assert vae.decode(LATENTS).shape == (1, 9, 16, 24, 3)
    assert "xxx" not in "".join(capfd.readouterr())


def test_what_a_port_sets_when_it_is_imported_is_how_it_runs(tmp_path):
    more = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
def decode(x, decode_=decode):
    return decode_(x) * 0 + os.environ["XLA_FLAGS"].endswith("=2")
"""
    assert loaded(written(tmp_path, more)).decode(LATENTS).min() == 1


def test_an_answer_goes_to_the_thread_that_asked(tmp_path):
    vae, found = loaded(written(tmp_path)), {}
    vae.decode(LATENTS)
    ask = threading.Barrier(4)

    def turns(number):
        ask.wait()
        found[number] = [vae.decode(LATENTS + number)[0, 0, 0, 0, 0] for _ in range(20)]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # what threads get wrong together shows sooner
    threads = [threading.Thread(target=turns, args=[number], daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    sys.setswitchinterval(before)
    expected = vae.decode(LATENTS)[0, 0, 0, 0, 0]
    assert found == {number: pytest.approx([expected + number] * 20, abs=1e-6) for number in range(4)}


def test_an_answer_that_nobody_waited_for_is_not_the_next_calls(tmp_path, monkeypatch):
    vae = loaded(written(tmp_path))
    expected = vae.decode(LATENTS)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "poll", interrupted)
        with pytest.raises(KeyboardInterrupt):
            vae.decode(LATENTS + 1)
    np.testing.assert_array_equal(vae.decode(LATENTS), expected)


def test_a_method_that_runs_too_long_twice_is_not_asked_again_and_others_are(tmp_path):
    more = (
        "\nimport time\ndef decode(x, decode_=decode):\n    time.sleep(30 * (x.shape[1] == 5))\n    return decode_(x)\n"
    )
    vae = loaded(written(tmp_path, more))
    vae.budget.call = 0.3
    for _ in range(2):
        with pytest.raises(PortError, match=r"longer than 0\.3 s"):
            vae.decode(LATENTS[:, [0, 0, 0, 0, 0]])
    with pytest.raises(NotTaken, match=r"decode ran past 0\.3 s twice and is not asked again"):
        vae.decode(LATENTS)
    vae.budget.call = 30
    assert vae.encode(VIDEO).moments.shape == (1, 3, 2, 3, 8)


def test_a_port_that_hangs_while_it_is_tried_is_judged_on_the_rest(tmp_path):
    port = Port(written(tmp_path, "\nimport time\ndef encode(video): time.sleep(60)\n"))
    port.budget.call = 0.3
    found = port.probed(dtypes=("float32",))
    assert any("the first encode failed: encode took longer than 0.3 s" in note for note in found.notes)
    assert found.dtypes == ("float32",)
    assert found.vae.decode(LATENTS).shape == VIDEO.shape


def test_a_method_has_so_much_time_in_all(tmp_path):
    more = "\nimport time\ndef decode(x, decode_=decode):\n    time.sleep(0.1)\n    return decode_(x)\n"
    vae = loaded(written(tmp_path, more))
    vae.budget.call = 0.2

    def decode_often() -> None:
        for _ in range(40):
            vae.decode(LATENTS)

    with pytest.raises(NotTaken, match=r"decode has taken 1 s in all"):
        decode_often()


def test_what_a_port_has_started_ends_with_its_process(tmp_path):
    more = """
import subprocess, sys
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path(__file__).with_name("child").write_text(str(child.pid))
"""
    name = written(tmp_path, more)
    loaded(name).decode(LATENTS)
    child = psutil.Process(int((tmp_path / "child").read_text()))
    backend_module(name).process.close()

    def gone() -> bool:
        try:
            return child.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    until = time.monotonic() + 5
    while not gone() and time.monotonic() < until:
        time.sleep(0.05)
    try:
        assert gone()
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
