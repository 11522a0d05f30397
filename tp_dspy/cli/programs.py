"""DSPy programs by what a user types."""

from __future__ import annotations

import importlib
import importlib.util
import operator
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import dspy

from tp_dspy.errors import ProgramError

__all__ = ["in_python", "load_program"]

_EXPECTED = (
    "expected 'package.module:object', 'file.py:object', or a signature such as 'question -> answer'; the object is a "
    "dspy.Module, its class, or a function that makes one"
)


def load_program(spec: str, *, instruction: str | None = None, state: str | os.PathLike[str] | None = None) -> Any:
    """Load a program.

    Args:
        spec: ``package.module:object``, ``file.py:object`` (the object may be left out where there is one only), or a
            signature in DSPy's notation for a ``dspy.Predict``.
        instruction: Of a signature.
        state: A file that ``program.save`` wrote, to be loaded into it.

    Raises:
        ProgramError: If there is no such thing, it raises, or is no DSPy program.
    """
    if "->" in spec:
        program = _of_signature(spec, instruction)
    elif instruction is not None:
        raise ProgramError(f"An instruction was given for {spec!r}; a program of one's own has its own instructions.")
    else:
        program = _made(_found(spec), spec)
    if state is not None:
        _load_state(program, Path(state))
    return program


def in_python(spec: str) -> list[str]:
    """Say how to make a program that was loaded, as lines of Python for the folder one is in."""
    if "->" in spec:
        return [f"program = dspy.Predict({spec!r})"]
    place, name = _parted(spec)
    path, lines = Path(place), []
    module = sys.modules[_name_of(path) if path.suffix == ".py" else place]
    name = name or _only(module, spec)
    if path.suffix == ".py":
        place = path.stem
        if path.resolve().parent != Path.cwd():
            lines.append(f"import sys; sys.path.insert(0, {path.parent.as_posix()!r})")
    if all(map(str.isidentifier, place.split("."))):
        lines.append(f"from {place} import {name.partition('.')[0]}")
        made = name
    else:
        made = f"__import__({place!r}).{name}"
    called = "" if isinstance(operator.attrgetter(name)(module), dspy.Module) else "()"
    return [*lines, f"program = {made}{called}"]


def _of_signature(spec: str, instruction: str | None) -> dspy.Module:
    try:
        signature = dspy.Signature(spec) if instruction is None else dspy.Signature(spec, instruction)
    except Exception as error:
        raise ProgramError(f"{spec!r} is no signature ({error}); expected e.g. 'question -> answer'.") from error
    if not (signature.input_fields and signature.output_fields):
        raise ProgramError(f"{spec!r} is no signature (a side is empty); expected e.g. 'question -> answer'.")
    return dspy.Predict(signature)


def _parted(spec: str) -> tuple[str, str]:
    """Part a spec into a module or file, and the name of an object, which may be empty."""
    # The last colon, and not that of a drive.
    place, _, name = spec.rpartition(":") if not re.fullmatch(r"[A-Za-z]:[\\/][^:]*|[^:]*", spec) else (spec, "", "")
    return place, name


def _found(spec: str) -> Any:
    """Find the object that a spec names."""
    place, name = _parted(spec)
    module = _imported(place, spec)
    if not name:
        return getattr(module, _only(module, spec))
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ProgramError(f"{place} has no {name!r}; {_candidates(module)}.") from None
    return found


def _imported(place: str, spec: str) -> ModuleType:
    path = Path(place)
    try:
        if path.suffix == ".py":
            if not path.is_file():
                raise ProgramError(f"There is no file {place!r}; {_EXPECTED}.")
            return _from_file(path)
        # What is run from a checkout is found there, as by `python -m`.
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(place)
    except ProgramError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise ProgramError(f"There is no module {error.name!r} for {spec!r}; {_EXPECTED}.") from error
        raise ProgramError(f"{place} could not be imported: there is no module {error.name!r}.") from error
    except (ValueError, TypeError) as error:
        raise ProgramError(f"{spec!r} names no module ({error}); {_EXPECTED}.") from error
    except (Exception, SystemExit) as error:
        raise ProgramError(f"{place} raised {type(error).__name__} on import: {error}") from error


def _name_of(path: Path) -> str:
    """Name the module of a file: not as the file, which may be called as a package is."""
    return f"_tp_dspy_program_{path.stem}"


def _from_file(path: Path) -> ModuleType:
    name = _name_of(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ProgramError(f"{path} cannot be read as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # So that it can import its neighbours.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _programs(module: ModuleType) -> list[str]:
    """List what in a module could be meant: its own programs, and classes of such."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (
            isinstance(value, dspy.Module)
            or (isinstance(value, type) and issubclass(value, dspy.Module) and value.__module__ == module.__name__)
        )
    ]


def _candidates(module: ModuleType) -> str:
    names = _programs(module)
    return f"its programs are {', '.join(names)}" if names else "it has no dspy.Module of its own"


def _only(module: ModuleType, spec: str) -> str:
    names = _programs(module)
    instances = [name for name in names if isinstance(getattr(module, name), dspy.Module)]
    for some in (instances, names):
        if len(some) == 1:
            return some[0]
    raise ProgramError(f"{spec!r} does not say which object: {_candidates(module)}. Name one: '{spec}:NAME'.")


def _made(found: Any, spec: str) -> Any:
    """Make the program of what was found."""
    program = found
    if not isinstance(found, dspy.Module) and callable(found):
        try:
            program = found()
        except Exception as error:
            raise ProgramError(
                f"{spec!r} could not be made without arguments ({type(error).__name__}: {error}). Name a function that "
                "makes the program, or the program itself."
            ) from error
    if not isinstance(program, dspy.Module):
        raise ProgramError(f"{spec!r} is of type {type(program).__name__}; expected a dspy.Module.")
    return program


def _load_state(program: Any, path: Path) -> None:
    if not path.is_file():
        raise ProgramError(f"There is no file {str(path)!r}; expected one that program.save wrote.")
    names = [name for name, _ in program.named_predictors()]
    try:
        program.load(path)
    except Exception as error:
        raise ProgramError(
            f"{path} does not fit the program ({type(error).__name__}: {error}); its predictors are {names}. Load what "
            "was saved of the same program."
        ) from error
