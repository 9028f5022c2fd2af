"""Mutation run: do the tests notice every broken kernel?   python -m tests.cuda_on_cpu.mutate

Each mutant lacks one barrier, one clamp (a `min` or `max` gives its first or its second argument)
or the atomicity of one update. A mutant is caught if some case that contains it, run on the CPU,
gives other bits in some order of threads, or is stopped by AddressSanitizer or ThreadSanitizer.
Prints a line a mutant and the score; exit code 1 if a mutant survives.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

from kernels.cuda_module import FOLDER
from tests.cuda_on_cpu import ORDERS, CpuDevice, Order, Sanitiser, isolated
from tests.cuda_on_cpu.cases import CASES, digest

DETECTORS: tuple[tuple[Sanitiser | None, Order], ...] = (
    *((None, order) for order in ORDERS),
    ("thread", "forward"),
    ("address", "forward"),
)
_SITE = re.compile(r"__syncthreads\(\);|\b(?:min|max|fminf|fmaxf|atomic[A-Z]\w*)\(")


@dataclass(frozen=True)
class Mutant:
    file: str
    begin: int  # the characters file[begin:end] become `text`
    end: int
    text: str

    def apply(self, source: str) -> str:
        """The text of a module with this mutant in its file."""
        file = (FOLDER / self.file).read_text()
        return source.replace(file, file[: self.begin] + self.text + file[self.end :])

    def __str__(self) -> str:
        file = (FOLDER / self.file).read_text()
        line = file.count("\n", 0, self.begin) + 1
        before = " ".join(file[self.begin : self.end].split())
        return f"{self.file}:{line}: {before} -> {self.text or 'nothing'}"


def mutants(file: str) -> Iterator[Mutant]:
    """Every mutant of a file in kernels/."""
    text = (FOLDER / file).read_text()
    code = re.sub(r"//.*", lambda comment: " " * len(comment[0]), text)  # same offsets
    for site in _SITE.finditer(code):
        begin, end = site.span()
        if site[0].startswith("__syncthreads"):
            yield Mutant(file, begin, end, "")
        elif site[0].startswith("atomic"):
            yield Mutant(file, begin, end, f"plain::{site[0]}")
        else:
            end, arguments = _arguments(code, end)
            for argument in arguments:
                yield Mutant(file, begin, end, f"({argument})")


def _arguments(code: str, begin: int) -> tuple[int, list[str]]:
    """The end of a call and its arguments; `begin` is just after the opening parenthesis."""
    arguments, depth, start = [], 0, begin
    for i in range(begin, len(code)):
        if code[i] in "([{":
            depth += 1
        elif code[i] in ")]}" and depth:
            depth -= 1
        elif code[i] == ")":
            return i + 1, [*arguments, " ".join(code[start:i].split())]
        elif code[i] == "," and not depth:
            arguments.append(" ".join(code[start:i].split()))
            start = i + 1
    raise ValueError("a call does not end")


@cache
def files_of_case(name: str) -> frozenset[str]:
    device = CpuDevice()
    CASES[name].run(device)
    return frozenset(file for launch in device.launches for file in launch.files)


@cache
def expected(name: str, order: Order) -> str:
    return digest(name, CpuDevice(order, seed=1))


def caught_by(mutant: Mutant) -> str | None:
    """What notices the mutant, or None."""
    for sanitize, order in DETECTORS:
        for name in CASES:
            if mutant.file not in files_of_case(name):
                continue
            device = f"CpuDevice({order!r}, 1, {sanitize!r}, mutate.{mutant!r}.apply)"
            try:
                done = isolated(
                    "from tests.cuda_on_cpu import CpuDevice, cases, mutate\n"
                    f"print(cases.digest({name!r}, {device}))",
                    sanitize,
                    timeout_seconds=300,
                )
            except subprocess.TimeoutExpired:
                return f"{name}: hangs"
            if "g++ rejects" in done.stderr:
                raise RuntimeError(f"{mutant} does not compile:\n{done.stderr}")
            if done.returncode == 66:
                return f"{name}: {sanitize} sanitiser"
            if done.returncode:
                return f"{name}: {done.stderr.strip().splitlines()[-1][:80]}"
            if done.stdout.strip() != expected(name, order):
                return f"{name}: other bits ({order})"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="*", help="files in kernels/; default: all that cases run")
    arguments = parser.parse_args()
    files = arguments.file or sorted(set().union(*map(files_of_case, CASES)))
    for name in CASES:
        for order in ORDERS:
            expected(name, order)
    todo = [mutant for file in files for mutant in mutants(file)]
    survivors = 0
    with ThreadPoolExecutor(2) as pool:
        for mutant, catcher in zip(todo, pool.map(caught_by, todo), strict=True):
            print(f"{'caught  ' if catcher else 'SURVIVES'} {mutant}   {catcher or ''}", flush=True)
            survivors += catcher is None
    print(f"{len(todo) - survivors} of {len(todo)} mutants caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
