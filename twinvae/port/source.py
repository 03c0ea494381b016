"""Where a port is and what it is: a file or module, and in it functions, an object, a builder or a whole backend."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

Kind = Literal["object", "builder", "backend"]
BUILDERS = ("make", "build", "create", "load", "port")
FACTS = (
    "layout", "value_range", "arrays", "dtype", "dtypes", "jit", "sizes", "frames", "items", "capabilities", "preset",
    "seed", "weights", "subfolder",
)  # fmt: skip
OF_A_FOLDER = re.compile("path|folder|dir|checkpoint|pretrained|repo")
LEAST = "expected functions encode(video) and decode(latents), or a class or function that builds an object with them"


class Source(NamedTuple):
    """A port, taken apart: where it is, and the name in it; None where none is given."""

    place: str
    name: str | None

    @property
    def is_file(self) -> bool:
        return self.place.endswith(".py")


class Found(NamedTuple):
    """What stands at a source.

    Attributes:
        target: an object with `encode` and `decode` (a module may be one), a builder of one, or a module like
            `twinvae.registry.BackendModule`.
        facts: what the port declares of itself (see FACTS).
    """

    kind: Kind
    target: Any
    facts: dict[str, Any]


def is_port(name: str) -> bool:
    """Whether a backend's name is a port's: `port.py`, `port.py:make`, `package.module:make`."""
    return name.endswith(".py") or ":" in name


def label_of(name: str) -> str:
    """How a backend is called in records: a port's without its folder."""
    if not is_port(name):
        return name
    source = parsed(name)
    place = Path(source.place).name if source.is_file else source.place
    return place if source.name is None else f"{place}:{source.name}"


def parsed(name: str) -> Source:
    place, colon, attribute = name.rpartition(":")
    return Source(place, attribute) if colon else Source(name, None)


def find(name: str) -> Found:
    """Import a port and see what it is.

    Raises:
        ValueError: there is no such file or module, it does not import, or holds no port; the message says why.
    """
    source = parsed(name)
    module = imported(source)
    target, what = module, source.place
    for part in source.name.split(".") if source.name else ():
        if not hasattr(target, part):
            raise ValueError(f"{what} has no {part!r}: it holds {_held(target)}")
        target, what = getattr(target, part), f"{what}:{part}"
    facts = {fact: getattr(module, fact) for fact in FACTS if _is_fact(module, fact)}
    facts |= {fact: getattr(target, fact) for fact in FACTS if _is_fact(target, fact)}
    if source.name is None:
        target = _only_one(module, what)
        facts |= {fact: getattr(target, fact) for fact in FACTS if _is_fact(target, fact)}
    return Found(_kind(target, what), target, facts)


def imported(source: Source) -> ModuleType:
    """The module of a port, imported; a file's folder can be imported from, as where it is run."""
    if not source.is_file:
        sys.path.insert(0, "")
        return _said(lambda: importlib.import_module(source.place), source.place)
    path = Path(source.place).resolve()
    if not path.is_file():
        raise ValueError(
            f"{source.place}: {'a folder' if path.is_dir() else 'no such file'}; name a port's Python file"
        )
    module_name = re.sub(r"\W", "_", path.stem)
    if module_name in sys.modules and getattr(sys.modules[module_name], "__file__", None) == str(path):
        return sys.modules[module_name]
    sys.path.insert(0, str(path.parent))
    module_name = f"port_{module_name}" if module_name in sys.modules else module_name
    spec: Any = importlib.util.spec_from_file_location(module_name, path)  # of a name that ends in .py there is one
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    _said(lambda: spec.loader.exec_module(module), source.place)
    return module


def _said(run: Any, place: str) -> Any:
    """Run an import, and say in one line where it fails."""
    try:
        return run()
    except SystemExit as end:
        raise ValueError(f"{place} calls sys.exit({end.code!r}) when it is imported: it has to import alone") from None
    except BaseException as error:
        raise ValueError(f"{place} does not import: {where(error, place)}") from error


def where(error: BaseException, place: str = "") -> str:
    """An error in one line, with the last line of the port's that it came through, else the last of all."""
    words = (str(error).strip().splitlines() or [""])[0]
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({Path(error.filename or place).name}, line {error.lineno})"
    own = [frame for frame in frames if "site-packages" not in frame.filename and "importlib" not in frame.filename]
    own = [frame for frame in own if Path(__file__).parent not in Path(frame.filename).parents]
    at = f" ({Path(own[-1].filename).name}, line {own[-1].lineno}, in {own[-1].name})" if own else ""
    return f"{type(error).__name__}: {words}{at}"


def _is_fact(target: Any, fact: str) -> bool:
    """Whether it is declared, and no function or property that happens to have the name."""
    try:
        value = inspect.getattr_static(target, fact)
    except AttributeError:
        return False
    return isinstance(value, str | int | float | tuple | list | set | frozenset)


def _only_one(module: ModuleType, what: str) -> Any:
    """What a port without a name means: a builder of a name that says so, else its functions, else its class."""
    if _is_backend(module):
        return module
    for name in BUILDERS:
        if callable(getattr(module, name, None)):
            return getattr(module, name)
    if _is_port_object(module):
        return module
    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    classes = [value for value in own if inspect.isclass(value) and _is_port_object(value)]
    if len(classes) == 1:
        return classes[0]
    if classes:
        names = ", ".join(f"{what}:{one.__name__}" for one in classes)
        raise ValueError(f"{what} holds several classes with encode and decode: name one, of {names}")
    half = [name for name in ("encode", "decode") if callable(getattr(module, name, None))]
    lacking = f"has {half[0]} and not {'decode' if half[0] == 'encode' else 'encode'}" if half else "holds no port"
    raise ValueError(f"{what} {lacking}: {LEAST}, or {what}:name; it holds {_held(module)}")


def _kind(target: Any, what: str) -> Kind:
    if _is_backend(target):
        return "backend"
    if inspect.isclass(target) or (callable(target) and not _is_port_object(target)):
        arguments(target, what)  # refuses what cannot be given
        return "builder"
    if _is_port_object(target):
        for operation in ("encode", "decode"):
            _takes_one(getattr(target, operation), operation, what)
        return "object"
    raise ValueError(f"{what} is a {type(target).__name__}: {LEAST}")


def _is_port_object(target: Any) -> bool:
    return callable(getattr(target, "encode", None)) and callable(getattr(target, "decode", None))


def _is_backend(target: Any) -> bool:
    """Whether it is a module as backends of the house are: `load` of config, tensors and three keywords."""
    load = getattr(target, "load", None)
    if not callable(load) or not callable(getattr(target, "load_layer", None)):
        return False
    return {"config", "tensors", "dtype", "jit", "checkpoint"} <= _parameters(load).keys()


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # of a C function, say
        return {}


def _required(function: Any) -> list[inspect.Parameter]:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = _parameters(function).values()
    return [one for one in found if one.default is inspect.Parameter.empty and one.kind not in variadic]


def _takes_one(function: Any, operation: str, what: str) -> None:
    """Refuse functions that cannot be called with a clip alone.

    Raises:
        ValueError: another number of arguments is required.
    """
    clip = "video" if operation == "encode" else "latents"
    if not inspect.signature(function).parameters or len(_required(function)) > 1:
        given = ", ".join(inspect.signature(function).parameters)
        raise ValueError(
            f"{what}: {operation}({given}) cannot be called as {operation}({clip}): give the others defaults, or "
            "name a builder that knows them"
        )


def arguments(
    builder: Any, what: str = "the builder"
) -> dict[str, Literal["config", "tensors", "folder", "variant", "dtype", "jit"]]:
    """What each argument of a builder is given: config, tensors, a diffusers folder's path, its variant, dtype, jit.

    Raises:
        ValueError: one that is required is none of these.
    """
    required = [parameter.name for parameter in _required(builder)]
    given: dict[str, Any] = {}
    for name, parameter in _parameters(builder).items():
        if name in ("dtype", "jit", "variant"):
            given[name] = name
        elif name in required or name in ("config", "tensors"):
            of_path = "Path" in str(parameter.annotation) or parameter.annotation in (str, "str")
            role = "config" if re.match("config|cfg", name) else None
            role = role or ("folder" if of_path or OF_A_FOLDER.search(name) else "tensors")
            if role in given.values():
                raise ValueError(
                    f"{what}({', '.join(_parameters(builder))}): {name} cannot be filled; a builder takes (tensors), "
                    "(config, tensors) or (folder), and if it likes variant, dtype and jit"
                )
            given[name] = role
    return given


def _held(target: Any) -> str:
    names = [name for name in vars(target) if not name.startswith("_")]
    return ", ".join(names[:12]) or "nothing"
