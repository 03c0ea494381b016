"""What the speed suite makes of a backend: a toy one, in which a fault is a line, takes PyTorch's place and Flax's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suites.speed import cases, measure
from suites.speed.bars import VS_REFERENCE
from suites.speed.cases import COMPILED, PYTORCH, Contender, Group, Size
from suites.speed.clock import replay_clock
from suites.speed.contenders import out_of_memory
from twinvae.bench import timing
from twinvae.bench.baselines import Entry
from twinvae.bench.options import Model
from twinvae.bench.records import Record
from twinvae.bench.verdicts import judge
from twinvae.config import preset_config
from twinvae.jax.backend import JaxVideoVAE

TOY = Contender("toy", "jit")
GROUP = Group(Model("tiny", preset_config("tiny"), {}), "decode", Size(16, 32, 48), "float32", 4, 4)


class Toy(JaxVideoVAE):
    """Latents to video by one matrix product and nearest upsampling."""

    backend = "toy"

    def __init__(self, fault: str = "", dtype: str = "float32"):
        super().__init__(GROUP.model.config, dtype, "toy", jnp.ones((4, 3), dtype), jit=True)
        self.fault, self.calls = fault, 0

    def step(self, operation: Any, params: Any, frames: Any, cache: Any) -> Any:
        if self.fault == "float32":
            frames = frames.astype(jnp.float32)
        out = frames @ params.astype(frames.dtype)
        if self.fault == "twice":
            out = out + frames[..., ::-1] @ params.astype(frames.dtype)
        if self.fault == "row by row":
            out = jnp.concatenate([jnp.tanh(out[:, :, row : row + 1]) for row in range(out.shape[2])], axis=2)
        return out.repeat(8, axis=2).repeat(8, axis=3).repeat(4, axis=1), frames

    def decode(self, latents: Any) -> Any:
        self.calls += 1
        if self.fault == "compiles every call":
            self._compiled_steps.clear()
        if self.fault == "fails":
            raise TypeError("no such luck")
        if self.fault == "fails later" and self.calls > 4:
            raise TypeError("no such luck")
        if self.fault == "too large":
            raise MemoryError("out of memory")
        if self.fault == "calls for each row":
            return jnp.concatenate([super(Toy, self).decode(latents[:, :, row : row + 1]) for row in range(4)], axis=2)
        return super().decode(latents)

    named_activations = named_tensors = None


Toy.__abstractmethods__ = frozenset()


@pytest.fixture(autouse=True)
def _quiet_and_quick(monkeypatch):
    monkeypatch.setattr(timing, "TURN_SECONDS", 1e-9)
    monkeypatch.setattr(timing, "QUIET", 1e9)
    monkeypatch.setattr(measure, "QUIET", 1e9)
    monkeypatch.setattr(measure, "ready", _ready)
    monkeypatch.setattr(measure, "peak", lambda dtype: {"convolution": 1e12})


def _ready(vae: Toy, contender: Contender, group: Group, clip: np.ndarray) -> Any:
    given = jnp.asarray(clip)
    return lambda: jax.block_until_ready(vae.decode(given))


def measured(fault: str = "", reference_fault: str = "", group: Group = GROUP) -> measure.Measured:
    def vae_of(contender: Contender, group: Group) -> Toy:
        return Toy(fault if contender == TOY else reference_fault, group.dtype)

    return measure.measure(group, [TOY, PYTORCH], vae_of=vae_of)


def exact(found: measure.Measured) -> dict[str, float]:
    """Every exact value by program and metric."""
    rows = [("call", values) for values in [measure.compilation_values(found, TOY)]]
    rows += measure.program_values(found, TOY).items()
    return {(case, row["metric"]): row["value"] for case, values in rows for row in values}


@pytest.mark.parametrize(
    ("fault", "case", "metric"),
    [
        ("twice", "first frame batch (2)", "flops"),
        ("twice", "later frame batch (2)", "matrix products"),
        ("row by row", "first frame batch (2)", "operations as written"),
        ("calls for each row", "call", "programs run"),
        ("compiles every call", "call", "programs compiled when called again"),
    ],
)
def test_a_fault_of_cost_changes_an_exact_number(fault, case, metric):
    sound, faulty = exact(measured()), exact(measured(fault))
    assert faulty[case, metric] > sound[case, metric]


def test_float32_in_a_bfloat16_program_changes_an_exact_number():
    group = GROUP._replace(dtype="bfloat16")
    key = ("first frame batch (2)", "products in float32 as written")
    assert exact(measured(group=group))[key] == 0
    assert exact(measured("float32", group=group))[key] > 0


def test_a_measurement_of_the_same_thing_gives_the_same_exact_numbers():
    assert exact(measured()) == exact(measured())


def test_a_backend_that_fails_has_a_row_that_says_so_and_the_others_go_on():
    found = measured("fails")
    (row,) = measure.steady_values(found, TOY)
    assert (row["value"], row["note"]) == (None, measure.FAILED)
    assert isinstance(found.failures[TOY], TypeError)
    assert len(found.timings.quiet(str(PYTORCH))) == 4
    assert measure.steady_values(found, PYTORCH)[0]["value"] > 0


def test_a_backend_that_fails_in_the_middle_keeps_its_first_call():
    found = measured("fails later")
    assert measure.steady_values(found, TOY)[0]["value"] is None
    values, seconds = measure.first_call_values(found, TOY)
    assert values[0]["value"] == seconds[0] > 0


def test_running_out_of_memory_is_a_result():
    found = measured("too large")
    (row,) = measure.steady_values(found, TOY)
    assert row["note"] == "out of memory"
    record = Record(suite="speed", case="c", **row)
    assert judge(record).status == "new"
    assert judge(record, Entry(case="c", metric=row["metric"], value=None)).status == "pass"
    assert judge(record, Entry(case="c", metric=row["metric"], value=1.0)).status == "regressed"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), True),
        (MemoryError(), True),
        (jax.errors.JaxRuntimeError("INTERNAL: something else"), False),
        (ValueError("out of memory of what was said"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, expected):
    assert out_of_memory(error) is expected


def test_without_pytorch_there_are_times_and_no_ratio():
    values = {row["metric"]: row for row in measure.steady_values(measured("", "fails"), TOY)}
    assert values["time of a call"]["value"] > 0
    assert values["time over PyTorch"]["value"] is None
    assert values["time over PyTorch"]["note"] == f"PyTorch: {measure.FAILED}"


def test_rates_follow_from_the_time():
    values = {row["metric"]: row for row in measure.steady_values(measured(), TOY)}
    seconds = values["time of a call"]["value"]
    assert values["frames/s"]["value"] == pytest.approx(16 / seconds)
    assert values["megapixels/s"]["value"] == pytest.approx(16 * 32 * 48 / 1e6 / seconds)
    assert values["frames/s"]["interval"][1] == pytest.approx(16 / values["time of a call"]["interval"][0])
    assert 1e8 < values["nominal FLOP/s"]["value"] * 1e9 * seconds < 1e10


def test_a_first_call_on_a_busy_machine_says_nothing_sure(monkeypatch):
    found = measured()
    monkeypatch.setattr(measure, "QUIET", -1.0)
    row = Record(suite="speed", case="c", **measure.first_call_values(found, TOY)[0][0])
    assert not row.sure
    assert "other work took" in row.note


def test_no_absolute_time_is_held_against_a_baseline():
    found = measured()
    rows = measure.steady_values(found, TOY) + measure.first_call_values(found, TOY)[0]
    for row in (Record(suite="speed", case="c", **row) for row in rows if row["kind"] == "absolute"):
        assert judge(row, Entry(case="c", metric=row.metric, value=1e-9)).status == "pass"


def test_the_stages_of_a_first_call_add_up():
    first = measured().first[TOY]
    assert sum(first.stages.values()) == pytest.approx(first.seconds)
    assert all(first.stages[stage] > 0 for stage in ("tracing", "lowering", "compiling"))


# Cases


def options(**given: Any) -> Any:
    models = tuple(Model(name, preset_config(name), {"preset": name}) for name in given.pop("presets", ("tiny",)))
    fields = {"backends": ("flax", "torchax"), "modes": ("eager", "jit"), "dtypes": ("float64", "float32", "bfloat16")}
    return SimpleNamespace(models=models, **({"given": (), "one_round": False} | fields | given))


def test_pytorch_is_timed_in_every_group():
    for given in (options(), options(backends=("flax",), modes=("jit",)), options(presets=("tiny", "cogvideox-2b"))):
        assert all(PYTORCH in contenders for _, contenders in cases.groups(given))


def test_an_option_leaves_out_what_it_does_not_name():
    given = options(backends=("flax",), modes=("jit",), presets=("cogvideox-2b",))
    found = {one for _, contenders in cases.groups(given) for one in contenders}
    assert found == {Contender("flax", "jit"), PYTORCH, COMPILED}


def test_a_dtype_that_is_asked_for_is_timed_at_every_size():
    given = options(dtypes=("bfloat16",), given=("--dtype=bfloat16",), presets=("tiny", "cogvideox-2b"))
    groups = [group for group, _ in cases.groups(given)]
    assert {(group.model.label, group.size) for group in groups} == {
        ("tiny", Size(16, 32, 48)), ("tiny", Size(8, 32, 48)), ("cogvideox-2b", Size(9, 96, 160))
    }  # fmt: skip
    assert {group.dtype for group in groups} == {"bfloat16"}


def test_one_round_times_everything_once_and_waits_for_no_quiet(monkeypatch):
    found = [group for group, _ in cases.groups(options(one_round=True, presets=("tiny", "cogvideox-2b")))]
    assert {(group.rounds, group.eager_rounds) for group in found} == {(1, 1)}
    assert {group.rounds for group, _ in cases.groups(options())} == {40, 20}
    patience = []

    def time_in_turn(named, rounds, **how):
        patience.append(how["patience"])
        return timing.Timings({}, {})

    monkeypatch.setattr(measure, "time_in_turn", time_in_turn)
    for rounds in (1, 2):
        measured(group=GROUP._replace(rounds=rounds))
    assert patience == [0.0, measure.PATIENCE]


def test_bars_are_of_the_full_architecture_on_a_cpu_alone(monkeypatch):
    given = options(presets=("tiny", "cogvideox-2b"))
    limits = {group.model.label: group.limit(VS_REFERENCE, Contender("flax", "jit"))
              for group, _ in cases.groups(given) if group.operation == "decode"}  # fmt: skip
    assert limits == {"tiny": None, "cogvideox-2b": VS_REFERENCE["flax", "jit", "decode"].limit}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    sizes = {group.size for group, _ in cases.groups(given)}
    assert {Size(81, 768, 1360, True), Size(13, 480, 720), Size(4, 768, 1360)} <= sizes
    assert all(group.limit(VS_REFERENCE, Contender("flax", "jit")) is None for group, _ in cases.groups(given))


def test_measured_times_are_what_pytest_benchmark_reads_off_its_timer(benchmark_of):
    fixture = benchmark_of([0.25, 0.5, 0.125], case="warm call")
    assert fixture.stats.stats.data == [0.25, 0.5, 0.125]
    assert fixture.extra_info == {"suite": "twinvae speed", "case": "warm call"}


@pytest.fixture
def benchmark_of(request):
    from pytest_benchmark.fixture import BenchmarkFixture

    from suites.speed.clock import replay

    def benchmark_of(seconds: list[float], **extra: Any) -> Any:
        fields = {
            "disable_gc": False, "min_rounds": 1, "min_time": 0, "max_time": 0, "precision": None, "confidence": None,
            "warmup": False, "warmup_iterations": 0, "calibration_precision": 1, "add_stats": lambda stats: None,
            "logger": SimpleNamespace(debug=lambda *_, **__: None), "warner": None, "disabled": False,
            "cprofile": False, "cprofile_loops": None, "cprofile_dump": None,
        }  # fmt: skip
        timer = SimpleNamespace(target=replay_clock)
        fixture = BenchmarkFixture(SimpleNamespace(name="n", nodeid="i"), timer=timer, **fields)
        replay(fixture, seconds, **extra)
        return fixture

    return benchmark_of
