"""Builds the extension `univa_kernels._C`; everything else about the project is in pyproject.toml.

The extension targets torch's stable ABI, so it needs torch's headers but is not tied to the torch
it was built with. Environment variables:

    UNIVA_BUILD_EXTENSION   0: pure Python, everything runs on the PyTorch reference path
                            1: a build that fails is an error
                            auto (default): a build that fails is reported and left out
    UNIVA_BUILD_CUDA        0: no CUDA code
                            1: CUDA code, also beside a CPU build of torch; no nvcc is an error
                            auto (default): CUDA code where nvcc is there and something could run
                            it: torch is a CUDA build, or nvidia-smi shows a GPU
    TORCH_CUDA_ARCH_LIST    e.g. "8.0;9.0+PTX"; default: with auto those of the GPUs that are
                            there, else 8.0, 9.0 and 10.0 with PTX of the last
    MAX_JOBS                compilers at a time; default one per CPU
    CUDA_HOME or CUDA_PATH  the CUDA toolkit, where nvcc is not on PATH
    CXX, CXXFLAGS, LDFLAGS  the C++ compiler and what it is given on top
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "csrc"
TARGET_TORCH = (2, 11)
DEFAULT_CAPABILITIES = ("8.0", "9.0", "10.0")
MINIMUM_CAPABILITY = 8.0
FAILURE_FILE = "univa_kernels/_build_failure.txt"  # univa_kernels/ops.py reads it

# -ffp-contract=off: whether a pair is positive must not depend on fused multiply-add.
CXX_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden"]
CXX_FLAGS += ["-fopenmp-simd", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
CXX_FLAGS += ["-Wall", "-Wextra"]
NVCC_FLAGS = ["-std=c++17", "-O3", "--expt-relaxed-constexpr"]
NVCC_FLAGS += ["-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall"]
NVCC_FLAGS += ["-Xptxas", "-v"]  # kept beside the object: benchmarks/cuda_resources.py


class BuildFailure(Exception):
    """The extension cannot be built; the message says why."""

    @property
    def first_error(self) -> str:
        """One line: the compiler's first error, or the message itself."""
        lines = [line.strip() for line in str(self).splitlines() if line.strip()]
        lines = lines[1:] or lines  # the first line of several is the command
        errors = [line for line in lines if re.search(r"\berror\b|undefined reference", line, re.I)]
        return (errors or lines)[0]


class CudaFailure(BuildFailure):
    """Its CUDA part cannot be built."""


class CudaLeftOut(Exception):
    """Its CUDA part is not wanted; the message says why."""


def switch(name: str) -> str:
    """The setting "0", "1" or "auto" of an environment variable."""
    value = os.environ.get(name, "").strip().lower() or "auto"
    if value not in ("0", "1", "auto"):
        raise SystemExit(f"{name} must be 0, 1 or auto, not {value!r}")
    return value


def job_count() -> int:
    """Compilers to run at a time: MAX_JOBS, or one per CPU."""
    value = os.environ.get("MAX_JOBS", "").strip()
    if not value:
        return os.cpu_count() or 1
    if not value.isdigit() or int(value) < 1:
        raise BuildFailure(f"MAX_JOBS must be a whole number above 0, not {value!r}")
    return int(value)


def package_folder(name: str) -> Path:
    """Folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise BuildFailure(
            f"the package {name} is not installed beside {sys.executable} "
            "(pip install --no-build-isolation needs it installed first)"
        )
    return Path(spec.submodule_search_locations[0])


def torch_version(include: Path) -> str:
    """Version of the torch headers."""
    header = include / "torch" / "headeronly" / "version.h"
    text = header.read_text() if header.is_file() else ""
    found = re.search(r'TORCH_VERSION\s*\\?\s*"([^"]+)"', text)
    version = found.group(1) if found else "unknown"
    release = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if release < TARGET_TORCH:
        wanted = ".".join(map(str, TARGET_TORCH))
        raise BuildFailure(f"the extension needs the headers of torch {wanted}, found {version}")
    return version


def find_compiler() -> list[str]:
    """The C++ compiler's command: CXX, or the first of the usual names."""
    command = shlex.split(os.environ.get("CXX", ""))
    names = [command[0]] if command else ["c++", "g++", "clang++"]
    for name in names:
        if shutil.which(name):
            return [name, *command[1:]]
    raise BuildFailure(f"found no C++ compiler (looked for {', '.join(names)})")


def torch_cuda_version() -> str | None:
    """CUDA version of the torch that is built against; None: a CPU build."""
    text = (package_folder("torch") / "version.py").read_text()
    found = re.search(r"""^cuda\b[^=\n]*=\s*["'](.+?)["']""", text, re.MULTILINE)
    return found.group(1) if found else None


def visible_gpus() -> list[str]:
    """Compute capabilities, such as "9.0", of this machine's GPUs that the kernels can run on."""
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return []
    try:
        listed = output_of(
            nvidia_smi, "--query-gpu=compute_cap", "--format=csv,noheader", timeout=30
        )
    except CudaFailure:  # no driver that answers, no GPU
        return []
    found = sorted(set(re.findall(r"(?m)^(\d+\.\d)\s*$", listed)), key=float)
    return [capability for capability in found if float(capability) >= MINIMUM_CAPABILITY]


def find_nvcc() -> str | None:
    """Path of nvcc: from CUDA_HOME, CUDA_PATH, PATH, or the usual place."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(name):
            return shutil.which(str(Path(home) / "bin" / "nvcc"))
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


@dataclass(frozen=True, kw_only=True)
class Architectures:
    """GPU code to make: capability numbers such as "90" or "90a"."""

    binaries: tuple[str, ...]
    ptx: tuple[str, ...]

    def flags(self) -> list[str]:
        """What nvcc is told."""
        return [f"-gencode=arch=compute_{c},code=sm_{c}" for c in self.binaries] + [
            f"-gencode=arch=compute_{c},code=compute_{c}" for c in self.ptx
        ]


def choose_architectures(wanted: str, supported: set[str]) -> Architectures:
    """Reads TORCH_CUDA_ARCH_LIST and leaves out what nvcc cannot make.

    Args:
        wanted: capabilities such as "8.0;9.0+PTX", separated by semicolons, commas or spaces;
            empty for the default.
        supported: capability numbers such as "90" that nvcc knows.

    Raises:
        CudaFailure: an entry cannot be read, or nothing is left.
    """
    entries = re.split(r"[;,\s]+", wanted.strip()) if wanted.strip() else []
    binaries: list[str] = []
    ptx: list[str] = []
    left_out: list[str] = []
    for entry in entries or DEFAULT_CAPABILITIES:
        found = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry, re.IGNORECASE)
        if not found:
            raise CudaFailure(
                f"TORCH_CUDA_ARCH_LIST: cannot read {entry!r}; write capabilities, "
                'as in "8.0;9.0+PTX"'
            )
        number = found.group(1) + found.group(2)
        capability = number + found.group(3).lower()
        if number not in supported:
            left_out.append(entry)
            continue
        if capability not in binaries:
            binaries.append(capability)
        if found.group(4) and capability not in ptx:
            ptx.append(capability)
    if left_out and entries:
        report(f"this nvcc cannot make code for {', '.join(left_out)}: left out")
    if not binaries:
        able = ", ".join(sorted(supported, key=int)) or "none"
        raise CudaFailure(
            f"this nvcc cannot make code for {', '.join(left_out)} (it can for {able}): "
            "set TORCH_CUDA_ARCH_LIST"
        )
    if not entries:
        ptx = [binaries[-1]]  # newer GPUs compile it when the extension is loaded
    return Architectures(binaries=tuple(binaries), ptx=tuple(ptx))


@dataclass(frozen=True, kw_only=True)
class CudaToolkit:
    """An nvcc that works, and what goes with it."""

    nvcc: str
    version: str
    architectures: Architectures
    static_runtime: Path

    @classmethod
    def find(cls) -> "CudaToolkit":
        """The toolkit to build with.

        Raises:
            CudaLeftOut: UNIVA_BUILD_CUDA says so, or auto and nothing could run CUDA code.
            CudaFailure: the toolkit cannot be used.
        """
        setting = switch("UNIVA_BUILD_CUDA")
        if setting == "0":
            raise CudaLeftOut("UNIVA_BUILD_CUDA=0")
        nvcc = find_nvcc()
        if nvcc is None:
            if setting == "1":
                raise CudaFailure("UNIVA_BUILD_CUDA=1, but there is no nvcc: set CUDA_HOME or PATH")
            raise CudaLeftOut("no nvcc was found")
        gpus = visible_gpus() if setting == "auto" else []
        if setting == "auto" and not gpus and torch_cuda_version() is None:
            raise CudaLeftOut(
                "torch is a CPU build and no GPU of capability 8.0 or later is visible; "
                "UNIVA_BUILD_CUDA=1 compiles it anyway"
            )
        version = re.search(r"release [\d.]+, V([\d.]+)", output_of(nvcc, "--version"))
        codes = set(re.findall(r"sm_(\d+)", output_of(nvcc, "--list-gpu-code")))
        wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
        if not wanted and {gpu.replace(".", "") for gpu in gpus} <= codes:
            wanted = ";".join(gpus)  # else one is newer than nvcc, and compiles the PTX
        return cls(
            nvcc=nvcc,
            version=version.group(1) if version else "unknown",
            architectures=choose_architectures(wanted, codes),
            static_runtime=find_static_runtime(nvcc),
        )


def find_static_runtime(nvcc: str) -> Path:
    """Path of libcudart_static.a. nvcc may be a script far from its toolkit, so it is asked."""
    plan = output_of(nvcc, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull)
    top = re.search(r"^#\$ TOP=(.+?)\s*$", plan, re.MULTILINE)
    home = Path(top.group(1)) if top else Path(nvcc).resolve().parents[1]
    folders = [home / "lib64", home / "lib", *sorted(home.glob("targets/*/lib"))]
    folders += [
        Path("/usr/lib") / (sysconfig.get_config_var("MULTIARCH") or ""),
        Path("/usr/lib64"),
    ]
    for folder in folders:
        if (folder / "libcudart_static.a").is_file():
            return (folder / "libcudart_static.a").resolve()
    raise CudaFailure(f"found nvcc ({nvcc}) but no libcudart_static.a near {home.resolve()}")


def output_of(*command: str, timeout: float | None = None) -> str:
    """What nvcc prints, on either stream."""
    try:
        run = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CudaFailure(f"cannot run {command[0]}: {error}") from error
    if run.returncode != 0:
        raise CudaFailure(f"{shlex.join(command)} failed:\n{run.stdout.strip()}")
    return run.stdout


def report(message: str) -> None:
    """One line or paragraph for whoever builds."""
    print(f"univa: {message}", file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """One source file to one object file, redone only when something it rests on has changed."""

    source: Path
    object: Path
    command: tuple[str, ...]
    salt: str
    """What the object depends on that neither the command nor the listed headers tell."""

    @property
    def _stamp(self) -> Path:
        return self.object.with_suffix(".json")

    @property
    def _dependencies(self) -> Path:
        return self.object.with_suffix(".d")

    def is_current(self) -> bool:
        """Whether the object is there, made by this command, from files not changed since."""
        try:
            if json.loads(self._stamp.read_text()) != [*self.command, self.salt]:
                return False
            made = self.object.stat().st_mtime_ns
            rules = self._dependencies.read_text().replace("\\\n", " ")
            needed = re.split(r"(?<!\\)\s+", rules.partition(": ")[2].strip())
            return all(
                Path(name.replace("\\ ", " ")).stat().st_mtime_ns <= made for name in needed if name
            )
        except (OSError, ValueError):
            return False

    @property
    def size(self) -> int:
        """Size by which the longest compilations go first.

        nvcc makes code for several GPUs; the headers of pybind11 are more than any of our files.
        """
        text = self.source.read_bytes()
        slow = self.source.suffix == ".cu" or b"<pybind11/" in text
        return len(text) * (100 if slow else 1)

    def run(self) -> None:
        """Compiles; prints one line with the time, after what the compiler says."""
        begin = time.monotonic()
        self.object.parent.mkdir(parents=True, exist_ok=True)
        self._stamp.unlink(missing_ok=True)
        command = [*self.command, "-MMD", "-MF", str(self._dependencies)]
        failure = CudaFailure if self.source.suffix == ".cu" else BuildFailure
        said = execute([*command, "-c", str(self.source), "-o", str(self.object)], failure)
        if self.source.suffix == ".cu":
            self.object.with_suffix(".ptxas").write_text(said)
        self._stamp.write_text(json.dumps([*self.command, self.salt]))
        seconds = time.monotonic() - begin
        report(f"compiled {self.source.relative_to(ROOT)} in {seconds:.1f} s")


def execute(command: list[str], failure: type[BuildFailure] = BuildFailure) -> str:
    """Runs a compiler or linker and returns what it said; raises `failure` with that."""
    run = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if run.returncode != 0:
        said = run.stdout.strip() or f"{command[0]} ended with status {run.returncode}"
        raise failure(f"{shlex.join(command)}\n{said}")
    # ptxas tells of every kernel's registers; whoever builds need not see that.
    rest = re.sub(r"(?m)^(ptxas info .*|.* bytes stack frame.*)\n?", "", run.stdout)
    if rest.strip():
        print(rest.rstrip(), file=sys.stderr, flush=True)
    return run.stdout


class BuildExtension(build_ext):
    """Compiles csrc/ into univa_kernels._C."""

    def run(self) -> None:
        folder = ROOT if self.inplace else Path(self.build_lib)
        reason = folder / FAILURE_FILE
        try:
            super().run()
            reason.unlink(missing_ok=True)
        except BuildFailure as failure:
            cuda_demanded = isinstance(failure, CudaFailure) and switch("UNIVA_BUILD_CUDA") == "1"
            if cuda_demanded or switch("UNIVA_BUILD_EXTENSION") == "1":
                raise SystemExit(f"univa: the extension was not built: {failure}") from failure
            # A library of an earlier build would not fit the Python code of this one.
            stale = ROOT / self.get_ext_filename(self.extensions[0].name)
            stale.unlink(missing_ok=True)
            reason.parent.mkdir(parents=True, exist_ok=True)
            reason.write_text(failure.first_error + "\n")
            self.extensions = []
            report(
                f"the extension univa_kernels._C was NOT built, and is left out: {failure}\n"
                "univa works without it, on the slower PyTorch reference path. Set "
                "UNIVA_BUILD_EXTENSION=1 to make this an error, or 0 to not try."
            )

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name))
        compiler = find_compiler()
        try:
            try:
                toolkit = CudaToolkit.find()
            except CudaLeftOut as reason:
                report(f"CUDA code is left out: {reason}")
                self.compile_and_link(output, compiler, str(reason))
            else:
                self.compile_and_link(output, compiler, toolkit)
        except CudaFailure as failure:
            if "1" in (switch("UNIVA_BUILD_CUDA"), switch("UNIVA_BUILD_EXTENSION")):
                raise
            report(f"the CUDA part was NOT built, and is left out: {failure}")
            self.compile_and_link(output, compiler, failure.first_error)

    @property
    def objects(self) -> Path:
        """Folder of the object files.

        Not the temporary folder that an editable install is given: objects outlive the install.
        """
        return ROOT / "build" / f"extension-{self.plat_name}-{sys.implementation.cache_tag}"

    def compile_and_link(
        self, output: Path, compiler: list[str], toolkit: CudaToolkit | str
    ) -> None:
        """Brings every object up to date and links them.

        Args:
            output: the library.
            compiler: command of the C++ compiler.
            toolkit: what compiles the CUDA code, or why there is none.
        """
        torch = package_folder("torch")
        compilations = self.compilations(compiler, torch / "include", toolkit)
        outdated = [compilation for compilation in compilations if not compilation.is_current()]
        outdated.sort(key=lambda compilation: compilation.size, reverse=True)
        with ThreadPoolExecutor(job_count()) as pool:
            futures = [pool.submit(compilation.run) for compilation in outdated]
            try:
                for future in futures:
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)
        command = [*compiler, "-shared", "-fPIC", *(str(c.object) for c in compilations)]
        command += [f"-L{torch / 'lib'}", "-ltorch_cpu"]
        if sys.platform == "darwin":
            command += ["-undefined", "dynamic_lookup"]
        if isinstance(toolkit, CudaToolkit):
            command += [str(toolkit.static_runtime), "-Wl,--exclude-libs,libcudart_static.a"]
            command += ["-lrt", "-lpthread"]
        if sys.platform != "darwin":
            command += ["-ldl"]
        command += shlex.split(os.environ.get("LDFLAGS", ""))
        self.link(command, output, compilations)

    def link(self, command: list[str], output: Path, compilations: list[Compilation]) -> None:
        """Links the objects, unless the library is there and was made from them by this command."""
        stamp = self.objects / "linked.json"
        try:
            made = output.stat().st_mtime_ns
            current = json.loads(stamp.read_text()) == [command, str(output), made]
            if current and all(c.object.stat().st_mtime_ns <= made for c in compilations):
                return
        except (OSError, ValueError):
            pass  # it is not there, or made by nobody knows what
        output.parent.mkdir(parents=True, exist_ok=True)
        # Linked under another name: a process may have the old library loaded.
        fresh = output.with_name(f".{output.name}.{os.getpid()}")
        try:
            execute([*command, "-o", str(fresh)])
            os.replace(fresh, output)
        finally:
            fresh.unlink(missing_ok=True)
        stamp.write_text(json.dumps([command, str(output), output.stat().st_mtime_ns]))

    def compilations(
        self, compiler: list[str], torch_include: Path, toolkit: CudaToolkit | str
    ) -> list[Compilation]:
        """Every source with its command; arguments as for `compile_and_link`."""
        torch = torch_version(torch_include)
        # Before torch's own copy of pybind11, which may be older.
        headers = [package_folder("pybind11") / "include", torch_include]
        headers += [Path(sysconfig.get_path(name)) for name in ("include", "platinclude")]
        # Error messages name csrc/..., not a folder of whoever built.
        cxx = [*compiler, *CXX_FLAGS, f"-ffile-prefix-map={ROOT}{os.sep}="]
        cxx += [f"-I{SOURCES}", f"-I{SOURCES / 'include'}"]
        cxx += [word for folder in dict.fromkeys(headers) for word in ("-isystem", str(folder))]
        target = f"0x{TARGET_TORCH[0]:02x}{TARGET_TORCH[1]:02x}000000000000"
        stable = [f"-DTORCH_TARGET_VERSION={target}ULL"]
        info = [f'-DUNIVA_VERSION="{self.distribution.get_version()}"']
        info += [f'-DUNIVA_TARGET_TORCH="{".".join(map(str, TARGET_TORCH))}"']
        sources = [*SOURCES.glob("*.cpp"), *SOURCES.glob("cpu/*.cpp"), SOURCES / "cuda/stream.cpp"]
        commands = []
        if isinstance(toolkit, str):
            quoted = toolkit.replace("\\", "\\\\").replace('"', '\\"')
            info += [f'-DUNIVA_CUDA_LEFT_OUT="{quoted}"']
        else:
            info.append("-DUNIVA_WITH_CUDA")
            architectures = toolkit.architectures
            names = " ".join(f"sm_{c}" for c in architectures.binaries)
            info += [f'-DUNIVA_CUDA_VERSION="{toolkit.version}"']
            info += [f'-DUNIVA_CUDA_ARCHITECTURES="{names}"']
            info += [f'-DUNIVA_CUDA_PTX="{" ".join(f"compute_{c}" for c in architectures.ptx)}"']
            sources += [path for path in SOURCES.glob("cuda/*.cpp") if path not in sources]
            nvcc = [toolkit.nvcc, *NVCC_FLAGS, *architectures.flags()]
            nvcc += [f"-I{SOURCES}", f"-I{SOURCES / 'include'}"]
            if "CXX" in os.environ and "NVCC_CCBIN" not in os.environ:
                nvcc += ["-ccbin", compiler[-1]]
            commands = [(path, nvcc, toolkit.version) for path in SOURCES.glob("cuda/*.cu")]
        cxx += shlex.split(os.environ.get("CXXFLAGS", ""))
        for path in sources:
            # The module tells what it was built with. It takes no torch target: it calls no
            # torch, and torch's copy of pybind11 refuses to be included with one.
            command = [*cxx, *(info if path.name == "module.cpp" else stable)]
            commands.append((path, command, torch))
        compilations = []
        for path, command, salt in sorted(commands):
            # One of a build with CUDA and of one without, so that each finds its own again.
            with_cuda = path.name == "module.cpp" and isinstance(toolkit, CudaToolkit)
            suffix = f"{path.suffix}{'.cuda' if with_cuda else ''}.o"
            compilations.append(
                Compilation(
                    source=path,
                    object=self.objects / path.relative_to(SOURCES).with_suffix(suffix),
                    command=tuple(command),
                    salt=salt,
                )
            )
        return compilations


if __name__ == "__main__":
    wanted = switch("UNIVA_BUILD_EXTENSION") != "0"
    # The sources are listed by BuildExtension and go into the sdist by MANIFEST.in.
    extension = Extension("univa_kernels._C", sources=[], language="c++")
    setup(
        ext_modules=[extension] if wanted else [],
        cmdclass={"build_ext": BuildExtension},
    )
