"""The options that every suite shares, checked before any test runs, and the cases that they select."""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import pytest

import twinvae
from twinvae.arrays import DTYPES
from twinvae.bench.aot.compilers import platform_of
from twinvae.bench.baselines import read_baseline
from twinvae.bench.cases import Outputs, read_outputs
from twinvae.bench.clips import read_clip
from twinvae.bench.meshes import Asked, asked
from twinvae.bench.models import Model
from twinvae.bench.places import BASELINES, LOCAL_REPORTS, SUITES
from twinvae.bench.ports import Taken, taken_by
from twinvae.bench.provenance import COMMIT, detect_platform, git_commit
from twinvae.jax.chips import CHIPS
from twinvae.port import is_port, label_of
from twinvae.registry import REFERENCE

MODES = ("eager", "jit")
DEFAULT_PRESETS = ("tiny", "cogvideox-2b")
# A model of the full architecture takes minutes per mode and dtype: unless asked otherwise, it runs in these alone.
LARGE_MODES = ("jit",)
LARGE_DTYPES = ("float32", "bfloat16")
AXES = ("model", "backend", "mode", "dtype")
NAMES = (
    "backend", "mode", "dtype", "preset", "weights", "subfolder", "clip", "seed", "platform", "aot",
    "baseline-dir", "report-dir", "commit", "time-limit", "outputs", "mesh", "host",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The suites' options, checked.

    Args:
        compiles_all: whether a compiler without its device is given large programs, too, where they have changed.
        weights, clip_label: what a run's numbers belong to; values are compared between equal labels only.
        commit: of TwinVAE, where git does not know it.
        given: the suite options that stood on the command line, to run a case again with.
        one_round: whether everything is timed in a single round, which judges nothing by its time.
        ports: of the backends that are ports, what each takes.
        time_limit: seconds that a call of a port may take; None: the default.
        outputs: made elsewhere, to be judged.
        mesh: that backends are put on; None: one device.
    """

    backends: tuple[str, ...]
    modes: tuple[str, ...]
    dtypes: tuple[str, ...]
    models: tuple[Model, ...]
    weights: str
    clip: Path | None
    platform: str
    baseline_dir: Path
    report_dir: Path
    seed: int
    given: tuple[str, ...]
    compiles_all: bool = False
    commit: str | None = None
    one_round: bool = False
    ports: dict[str, Taken] = field(default_factory=dict)
    time_limit: float | None = None
    outputs: Outputs | None = None
    mesh: Asked | None = None

    @property
    def clip_label(self) -> str:
        return "synthetic" if self.clip is None else self.clip.name

    @property
    def ports_alone(self) -> bool:
        return set(self.ports) == set(self.backends)

    @property
    def names_models(self) -> bool:
        """Whether the models to measure were named, and are not those that are measured by default."""
        return any(option.startswith(("--preset=", "--weights=")) for option in self.given)

    def takes(self, model: Model | None, mode: str | None, dtype: str | None) -> bool:
        """Whether a model is run in this mode and dtype: a large one not in all of them, unless asked for."""
        if model is None or not model.is_large:
            return True
        names = [option.partition("=")[0] for option in self.given]
        modes = self.modes if "--mode" in names else LARGE_MODES
        dtypes = self.dtypes if "--dtype" in names else LARGE_DTYPES
        return mode in (None, *modes) and dtype in (None, *dtypes)


MARKERS = (
    "only(mode=, dtype=, once=, small=, large=, asked=): which of the chosen modes and dtypes a test is for; once=True "
    "means the last of the modes and the first of the dtypes; small and large are such bounds for models of that size, "
    "large=False leaves large ones out, asked=True does so unless --preset or --weights names them",
    "cases(names, select): the values of these arguments are the rows of select(options), a list of dictionaries",
    "clip_frames(n): how many frames a test takes from --clip",
    "needs(*capabilities): what a backend has to be able to do (see `twinvae.capabilities`) for a test to judge it",
)
OPTIONS = pytest.StashKey[Options]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("twinvae", "what the suites measure (lists are separated by commas)")
    group.addoption(
        "--backend", metavar="NAMES", help=f"backends to measure (default: all but {REFERENCE!r}, the reference)"
    )
    group.addoption("--mode", metavar="NAMES", help=f"of {', '.join(MODES)} (default: both)")
    group.addoption("--dtype", metavar="NAMES", help=f"of {', '.join(DTYPES)} (default: all)")
    group.addoption(
        "--preset",
        metavar="NAMES",
        help=f"architectures with seeded weights, of {', '.join(twinvae.PRESETS)} (default: "
        f"{','.join(DEFAULT_PRESETS)}; none when --weights is given)",
    )
    group.addoption("--weights", metavar="PATH", help="a diffusers folder or hub id to measure as well as --preset")
    group.addoption("--subfolder", metavar="NAME", help="the VAE's folder inside --weights, such as vae")
    group.addoption(
        "--clip",
        metavar="FILE",
        help="a video, or an .npy of floats [t, h, w, 3] in [-1, 1] (default: synthetic)",
    )
    group.addoption("--seed", metavar="N", help="of seeded weights and random inputs (default: 0)")
    group.addoption("--platform", metavar="NAME", help="whose baselines and pages, such as cpu (default: detected)")
    group.addoption(
        "--aot",
        metavar="CHIP",
        help=f"take the platform of the compiler for {', '.join(CHIPS)}, and compile all that has changed",
    )
    group.addoption("--one-round", action="store_true", help="time everything once: nothing is then judged by its time")
    group.addoption(
        "--time-limit",
        metavar="SECONDS",
        help="that a call of a port may take; five times that for all calls of a kind",
    )
    group.addoption(
        "--mesh",
        metavar="AXES",
        help="run backends on a mesh, such as clips=1,time=2,rows=2; of virtual devices on a CPU",
    )
    group.addoption(
        "--host", metavar="N/M@ADDRESS", help="with --mesh: this is host N of M, which run the same; 0 writes the page"
    )
    group.addoption("--outputs", metavar="DIR", help="outputs made elsewhere, beside the cases.json of export-cases")
    group.addoption("--baseline-dir", metavar="DIR", help="where baselines are (default: baselines)")
    group.addoption("--report-dir", metavar="DIR", help="where records and pages go (default: reports/local)")
    group.addoption(
        "--commit", metavar="ID", help=f"TwinVAE's commit, where git does not know it (default: {COMMIT}, if set)"
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if not (config.option.help or config.option.version or config.option.markers or config.option.showfixtures):
        config.stash[OPTIONS] = read_options(config.option)


def read_options(given: Any) -> Options:
    """Check pytest's namespace of option values.

    Raises:
        pytest.UsageError: a value that is unknown, missing, or not readable or writable; the message says which
            option, what was found and what to give instead.
    """
    mesh = _mesh(given)
    seed = _seed(given.seed)
    backends, limit = _backends(given.backend), _seconds(given.time_limit)
    weights = _weights(given.weights, given.subfolder, seed)
    presets = _names("--preset", given.preset, tuple(twinvae.PRESETS), () if weights else DEFAULT_PRESETS)
    models = [Model.of_preset(name, seed) for name in presets]
    models += [weights] if weights else []
    platform = _platform(given) + (mesh.label if mesh else "")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", platform):
        raise pytest.UsageError(f"--platform {platform!r}: expected small letters, digits and dashes, such as gpu-h200")
    baseline_dir = _folder(given.baseline_dir, BASELINES, "--baseline-dir")
    ports = {}
    if names := [name for name in backends if is_port(name)]:
        named = given.preset is not None or weights is not None
        dtypes = _names("--dtype", given.dtype, tuple(DTYPES), tuple(DTYPES))
        ports, own = _ports(names, models if named else models[:1], named, dtypes, limit, seed)
        models = own if len(names) == len(backends) else list({m.label: m for m in (*models, *own)}.values())
    return Options(
        backends=backends,
        modes=("jit",) if mesh else _names("--mode", given.mode, MODES, MODES),
        dtypes=_names("--dtype", given.dtype, tuple(DTYPES), tuple(DTYPES)),
        models=tuple(models),
        weights=next((model.label for model in models if "weights" in model.source), "seeded"),
        clip=_clip(given.clip),
        platform=platform,
        baseline_dir=_valid_baselines(baseline_dir, platform),
        report_dir=_reports(given, mesh, platform),
        seed=seed,
        given=_given(given),
        compiles_all=given.aot is not None,
        commit=_commit(given.commit),
        one_round=given.one_round,
        ports=ports,
        time_limit=limit,
        outputs=_outputs(given.outputs),
        mesh=mesh,
    )


def _mesh(given: Any) -> Asked | None:
    """Before anything asks JAX for its devices."""
    try:
        found = asked(given.mesh, given.host)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if found and given.mode not in (None, "jit"):
        raise pytest.UsageError(f"--mode {given.mode} with --mesh: a mesh runs compiled programs, --mode jit")
    if found and any(map(is_port, (given.backend or "").split(","))):
        raise pytest.UsageError(f"--backend {given.backend} with --mesh: a port runs in a process of its own")
    return found


def _reports(given: Any, mesh: Asked | None, platform: str) -> Path:
    """Where records and pages go; of hosts but the first, a folder that nobody reads."""
    if mesh and mesh.host:
        return Path(tempfile.mkdtemp(prefix="twinvae-host-"))
    return _writable(_folder(given.report_dir, LOCAL_REPORTS), platform)


def _commit(given: str | None) -> str | None:
    name, given = ("--commit", given) if given is not None else (COMMIT, os.environ.get(COMMIT))
    if given is None or (name == COMMIT and git_commit()):
        return None
    if not re.fullmatch("[0-9a-f]{7,40}", given):
        raise pytest.UsageError(f"{name} {given}: expected a commit's id, 7 to 40 hexadecimal digits")
    if known := git_commit():
        raise pytest.UsageError(f"{name} {given}: git says that this is {known}; leave it out")
    return given


def _platform(given: Any) -> str:
    try:
        detected = detect_platform()  # whatever is given: something has to run the tests
    except (RuntimeError, AssertionError) as error:
        asked: Any = jax.config
        said = str(error).strip().splitlines()[-1:] or ["it does not say why"]
        raise pytest.UsageError(
            f"JAX has no device of the platforms that it was asked for, JAX_PLATFORMS={asked.jax_platforms} "
            f"({said[0]:.200}): unset it, or name one that this machine has and this JAX is installed for, such as cpu"
        ) from None
    if given.aot is None:
        return given.platform or detected
    if given.aot not in CHIPS:
        several = "; several: `nox -s memory -- --aot v6e,v5e`" if "," in given.aot else ""
        raise pytest.UsageError(
            f"--aot {given.aot}: unknown chip; choose one of {', '.join(CHIPS)}{several}. CONTRIBUTING.md says how "
            "another is added"
        )
    if given.platform not in (None, platform_of(given.aot)):
        raise pytest.UsageError(
            f"--platform {given.platform} with --aot {given.aot}: its compiler's platform is "
            f"{platform_of(given.aot)}; leave --platform out"
        )
    return platform_of(given.aot)


def _names(option: str, given: str | None, known: tuple[str, ...], default: tuple[str, ...]) -> tuple[str, ...]:
    if given is None:
        return default
    names = tuple(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        found = f"unknown {', '.join(map(repr, unknown))}" if unknown else "found no name"
        raise pytest.UsageError(f"{option} {given}: {found}; choose from {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _backends(given: str | None) -> tuple[str, ...]:
    """The backends that are named, ports among them; each once, and no two ports of one label."""
    installed = twinvae.backends()
    names = [] if given is None else [name.strip() for name in given.split(",") if name.strip()]
    ports = [name for name in dict.fromkeys(names) if is_port(name)]
    if len({label_of(name) for name in ports}) < len(ports):
        raise pytest.UsageError(f"--backend {given}: two ports are called alike; give their files different names")
    others = ",".join(name for name in names if not is_port(name))
    if ports and not others:
        return tuple(ports)
    default = tuple(backend for backend in installed if backend != REFERENCE)
    return (*_names("--backend", others if ports else given, tuple(installed), default), *ports)


def _ports(
    names: list[str], models: list[Model], named: bool, dtypes: tuple[str, ...], limit: float | None, seed: int
) -> tuple[dict[str, Taken], list[Model]]:
    """What each port takes, and the models that any of them is of."""
    ports: dict[str, Taken] = {}
    own: dict[str, Model] = {}
    for name in names:
        try:
            taken = taken_by(name, models, named, dtypes, limit, seed)
        except (OSError, ValueError) as error:
            raise pytest.UsageError(f"--backend {name}: {error}") from None
        ports[name] = taken
        own |= {model.label: model for model in taken.models}
    return ports, list(own.values())


def _outputs(given: str | None) -> Outputs | None:
    try:
        return None if given is None else read_outputs(Path(given))
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"--outputs {given}: {error}") from None


def _seconds(given: str | None) -> float | None:
    if given is None:
        return None
    if not re.fullmatch(r"\d+(\.\d+)?", given) or not float(given):
        raise pytest.UsageError(f"--time-limit {given}: expected seconds, above 0")
    return float(given)


def _seed(given: str | None) -> int:
    if given is None:
        return 0
    if not given.isdecimal():
        raise pytest.UsageError(f"--seed {given}: expected a whole number from 0 up")
    return int(given)


def _weights(given: str | None, subfolder: str | None, seed: int) -> Model | None:
    if given is None:
        if subfolder is not None:
            raise pytest.UsageError(f"--subfolder {subfolder}: it belongs to --weights, which is not given")
        return None
    try:
        return Model.of_checkpoint(given, subfolder, seed)
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"--weights {given}: {error}") from None


def _clip(given: str | None) -> Path | None:
    if given is None:
        return None
    check_clip(Path(given), frames=1)
    return Path(given)


def check_clip(clip: Path, frames: int) -> None:
    """Check that a clip can be read and has the frames asked for.

    Raises:
        pytest.UsageError: it cannot, or has not.
    """
    try:
        read_clip(clip, frames, 8, 8)
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"--clip: {error}") from None


def _folder(given: str | None, default: Path, must_exist: str = "") -> Path:
    folder = default if given is None else Path(given)
    if must_exist and not folder.is_dir():
        missing = "no such folder" if given else "they are missing from what is installed: install twinvae again"
        written = f"; `twinvae baseline {must_exist} {folder}` writes it, of the last run" if given else ""
        raise pytest.UsageError(
            f"{must_exist} {folder}: {missing}; name one with <platform>/<suite>.json in it{written}"
        )
    return folder.absolute()


def _valid_baselines(folder: Path, platform: str) -> Path:
    for path in sorted((folder / platform).glob("*.json")):
        try:
            read_baseline(path)
        except (OSError, ValueError) as error:
            raise pytest.UsageError(f"--baseline-dir: {error}") from None
    return folder


def _writable(folder: Path, platform: str) -> Path:
    """Check without making anything: the records' folder, or the nearest one above it that exists."""
    records = folder / platform / "records"
    place = next(path for path in (records, *records.parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        found = "cannot be written" if place.is_dir() else "is a file"
        raise pytest.UsageError(f"--report-dir {folder}: {place} {found}; name a folder for records and pages")
    return folder


def _given(given: Any) -> tuple[str, ...]:
    values = {name: getattr(given, name.replace("-", "_")) for name in NAMES}
    return tuple(f"--{name}={value}" for name, value in values.items() if value is not None)


# Which cases the options select


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the arguments model, backend, mode and dtype of a suite's test the values that the options select."""
    if SUITES not in metafunc.definition.path.parents:
        return
    marks = [*metafunc.definition.iter_markers("parametrize"), *metafunc.definition.iter_markers("cases")]
    own = {name for mark in marks for name in _argument_names(mark.args[0])}
    for mark in metafunc.definition.iter_markers("cases"):
        names, select = _argument_names(mark.args[0]), mark.args[1]
        rows = [tuple(row[name] for name in names) for row in select(metafunc.config.stash[OPTIONS])]
        metafunc.parametrize(names, rows, ids=["-".join(dict.fromkeys(map(_label, row))) for row in rows])
    axes = [name for name in AXES if name in metafunc.fixturenames and name not in own]
    if axes:
        only = {k: v for mark in metafunc.definition.iter_markers("only") for k, v in mark.kwargs.items()}
        if unknown := only.keys() - {"mode", "dtype", "once", "small", "large", "asked"}:
            raise pytest.UsageError(f"{metafunc.definition.nodeid}: only() has no {', '.join(sorted(unknown))}")
        rows = list(selected(metafunc.config.stash[OPTIONS], axes, only))
        metafunc.parametrize(axes, rows, ids=["-".join(map(_label, row)) for row in rows])


def selected(options: Options, axes: list[str], only: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Every combination of the axes that the options and a test's `only` marker leave, and that a backend takes."""
    rows = []
    for model, backend in itertools.product(
        options.models if "model" in axes else (None,), options.backends if "backend" in axes else (None,)
    ):
        taken = options.ports.get(backend or "")
        modes, dtypes = options.modes, options.dtypes
        if taken is not None:
            modes = tuple(mode for mode in modes if mode in taken.modes) or taken.modes
            dtypes = tuple(dtype for dtype in dtypes if dtype in taken.dtypes)
        if only.get("once"):
            modes, dtypes = modes[-1:], dtypes[:1]
        bounds = only | ((only.get("large" if model.is_large else "small") or {}) if model else {})
        unwanted = only.get("large") is False or (only.get("asked") and not options.names_models)
        if (model and model.is_large and unwanted) or (model and taken and model not in taken.models):
            continue
        in_modes = modes[:1] if bounds.get("mode") == "first" else bounds.get("mode", modes)
        if taken is not None and len(taken.modes) == 1:  # what runs in one way alone is judged in that
            in_modes = modes
        for mode, dtype in itertools.product(
            modes if "mode" in axes else (None,), dtypes if "dtype" in axes else (None,)
        ):
            wanted = mode in (None, *in_modes) and dtype in (None, *bounds.get("dtype", dtypes))
            if wanted and options.takes(model, mode, dtype):
                values = {"model": model, "backend": backend, "mode": mode, "dtype": dtype}
                rows.append(tuple(values[axis] for axis in axes))
    return rows


def _argument_names(names: str | list[str] | tuple[str, ...]) -> list[str]:
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def _label(value: Any) -> str:
    return value.label if isinstance(value, Model) else label_of(str(value))
