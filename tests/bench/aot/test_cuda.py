"""Cards that are compiled for without one: their descriptions, what is said where there is no compiler, and silence."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import jax
import pytest

from suites.memory.__main__ import app
from suites.memory.stores import compiler_for, sizer_for
from twinvae.bench.aot import compilers, cuda
from twinvae.bench.aot.tpu_compiler import compiled, compiled_within
from twinvae.jax.chips import GPUS
from twinvae.jax.compiling import GPU
from twinvae.jax.memory import usable_bytes

pytestmark = pytest.mark.compiles  # JAX keeps programs for a card that is not here, and cannot read them
needs_plugin = pytest.mark.skipif(bool(cuda.missing()), reason=cuda.missing())


def doubled(card: str, size: int = 8):
    x = jax.ShapeDtypeStruct((size,), "int8", sharding=compilers.sharding_on(card))
    return jax.jit(lambda x: x + x).lower(x)


@pytest.mark.parametrize("card", GPUS)
def test_a_description_says_what_the_table_does(card):
    text, spec = cuda.description(card), GPUS[card]
    said = {name: float(value) for name, value in re.findall(r"(\w+): ([\d.]+)\n", text)}
    assert f'device_description_str: "{spec.device_kind}"' in text
    assert said["memory_bandwidth"] == pytest.approx(1e12 * spec.bandwidth, rel=1e-3)
    assert 0.75 * said["device_memory_size"] == pytest.approx(spec.usable_bytes, rel=1e-3)
    assert 0.91 < said["device_memory_size"] / (spec.memory * 1e9) < 1.08
    assert "#" not in text


def test_what_was_not_read_on_a_card_says_so():
    assert [card for card in GPUS if "not read on" in cuda.origin(card)] == ["l4", "a100-40", "a100", "h200"]
    assert cuda.origin("h100") == "Read on an NVIDIA H100 80GB HBM3"


def test_programs_for_another_card_or_another_description_of_it_are_others(monkeypatch):
    names = {compilers.target(card) for card in GPUS}
    assert len(names) == len(GPUS)
    monkeypatch.setattr(cuda, "description", lambda card: "another")
    assert compilers.target("h100") not in names
    assert compilers.target("h100").startswith("h100 ")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("", "pip install -c constraints.txt '.[gpu-aot]'"),
        ("0.9.1", f"pip install --no-deps jax-cuda13-pjrt=={jax.__version__} jax-cuda13-plugin=={jax.__version__}"),
    ],
)
def test_a_plug_in_that_is_missing_or_of_another_jax_is_an_error_with_the_line_that_mends_it(found, said, monkeypatch):
    monkeypatch.setattr(cuda, "installed", lambda: found)
    reason = compilers.missing("h100")
    assert reason.endswith(said)
    assert (f"{found} is installed beside jax {jax.__version__}" in reason) == bool(found)
    with pytest.raises(RuntimeError, match=re.escape(said)):
        cuda.devices.__wrapped__("h100")


def test_a_plug_in_of_this_jax_is_none(monkeypatch):
    monkeypatch.setattr(cuda, "installed", lambda: jax.__version__)
    assert compilers.missing("l4") == ""


def test_a_machine_with_a_card_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(cuda, "DRIVERS", (str(tmp_path),))
    cuda.expect_no_gpu()
    assert cuda.UNCHECKED not in os.environ
    monkeypatch.setattr(cuda, "DRIVERS", (str(tmp_path / "none"),))
    cuda.expect_no_gpu()
    assert os.environ[cuda.UNCHECKED] == "1"


def test_several_cards_are_refused():
    with pytest.raises(ValueError, match=r"2 devices of an h100: .* one card"):
        compilers.sharding_on("h100", 2)


def test_the_description_of_a_card_that_is_not_here_or_not_known_is_not_kept(tmp_path, capsys):
    with pytest.raises(ValueError, match="JAX computes on cpu here, and l4 is an NVIDIA L4"):
        cuda.save("l4", tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit, match="2"):
        app(["--describe", "rtx4090"])
    assert "choose one of l4, a100-40, a100, h100, h200, or enter the card" in capsys.readouterr().err


@needs_plugin
def test_what_xla_knows_of_a_card_is_what_it_was_told(tmp_path, monkeypatch):
    said = cuda.own_description(compilers.sharding_on("l4"))
    for line in cuda.description("l4").splitlines():
        if re.fullmatch(r"  \w+: [\d.]+", line):
            assert line in said
    here = type("Card", (), {"device_kind": "NVIDIA L4"})
    monkeypatch.setattr(cuda.jax, "devices", lambda: [here])
    monkeypatch.setattr(cuda, "own_description", lambda: said)
    path = cuda.save("l4", tmp_path)
    assert path.read_text() == f"# Read on an NVIDIA L4, jax {jax.__version__}.\n{said}"


@needs_plugin
def test_a_program_that_a_card_has_no_room_for_is_compiled_and_does_not_fit(tmp_path):
    asks = compiler_for("l4", tmp_path, large=True)
    assert asks.options == GPU
    small, large = asks.compile(doubled("l4")), asks.compile(doubled("l4", 2**35))
    assert small.fits
    assert not large.fits
    assert large.peak_bytes == 2**36
    assert compiled_within(2**36, doubled("l4", 2**35)).fits
    assert compiled(doubled("l4", 2**35)).fits
    assert sizer_for("l4", tmp_path).store.path == asks.store.path


@needs_plugin
@pytest.mark.parametrize("card", GPUS)
def test_plans_for_a_card_that_is_not_here_are_made_with_three_quarters_of_its_memory(card):
    (device,) = compilers.sharding_on(card).device_set
    assert usable_bytes(device) == GPUS[card].usable_bytes


@needs_plugin
@pytest.mark.skipif(any(map(os.path.exists, cuda.DRIVERS)), reason="this machine has a card")
def test_the_plug_in_leaves_a_machine_without_a_card_as_it_is():
    """JAX takes the CPU, without a word: the plug-in would say at length that CUDA's libraries are missing."""
    lines = (
        "from twinvae.bench.environment import prepare_jax",
        "prepare_jax()",
        "import jax",
        "print(jax.default_backend(), len(jax.devices()))",
    )
    bare = {name: value for name, value in os.environ.items() if name not in ("JAX_PLATFORMS", cuda.UNCHECKED)}
    done = subprocess.run([sys.executable, "-c", ";".join(lines)], env=bare, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("cpu 1", "")
