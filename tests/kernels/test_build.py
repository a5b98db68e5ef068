"""The build: what setup.py makes, when it refuses, and what is in the extension that is loaded."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
OPS = ["contrastive_forward", "contrastive_backward"]
OPS += ["correlation_prior_forward", "correlation_prior_backward"]


def load_setup():
    spec = importlib.util.spec_from_file_location("univa_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


build = load_setup()
nvcc = build.find_nvcc()
needs_nvcc = pytest.mark.skipif(nvcc is None, reason="no nvcc on this machine")


@pytest.fixture
def extension():
    """The loaded extension. It may be missing only where nothing could have built it."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler on this machine")
    from univa_kernels import _C

    return _C


def tool(name):
    """Path of a binary utility, from PATH, beside nvcc or in Triton; skips where there is none."""
    places = [name]
    if nvcc is not None:
        places.append(str(Path(nvcc).resolve().with_name(name)))
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.submodule_search_locations:
        places.append(f"{triton.submodule_search_locations[0]}/backends/nvidia/bin/{name}")
    for place in places:
        if path := shutil.which(place):
            return path
    pytest.skip(f"no {name} on this machine")


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class TestLoadedExtension:
    def test_tells_what_it_was_built_with(self, extension):
        info = extension.build_info()
        assert info["target_torch"] == "2.11"
        assert re.fullmatch(r"\d+\.\d+\.\d+.*", info["torch_build_version"])
        assert re.match(r"(gcc|clang) \d+", info["compiler"])
        assert info["cxx_standard"] >= 201703
        assert info["cpu_capability"] in ("default", "avx2", "avx512")
        assert (info["cuda"] is None) == isinstance(info["cuda_left_out"], str)

    def test_has_every_op_on_the_cpu(self, extension):
        for op in OPS:
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"univa::{op}", "CPU"), op

    @needs_nvcc
    def test_has_cuda_code_where_nvcc_is(self, extension):
        info = extension.build_info()
        assert info["cuda"] in output(nvcc, "--version")
        assert info["cuda_architectures"]
        assert all(re.fullmatch(r"sm_\d+[af]?", name) for name in info["cuda_architectures"])
        for op in OPS:
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"univa::{op}", "CUDA"), op

    @needs_nvcc
    def test_the_file_holds_the_code_it_reports(self, extension):
        info = extension.build_info()
        listed = output(tool("cuobjdump"), "--list-elf", "--list-ptx", extension.__file__)
        assert set(re.findall(r"\.(sm_\w+)\.cubin", listed)) == set(info["cuda_architectures"])
        ptx = {f"compute_{number}" for number in re.findall(r"\.sm_(\w+)\.ptx", listed)}
        assert ptx == set(info["cuda_ptx"])

    @pytest.mark.skipif(sys.platform != "linux", reason="ELF only")
    def test_needs_only_what_every_torch_has(self, extension):
        needed = output(tool("readelf"), "-d", extension.__file__)
        libraries = set(re.findall(r"NEEDED.*\[(.+?)\.so", needed))
        assert "libtorch_cpu" in libraries
        system = {"libstdc++", "libm", "libgcc_s", "libc", "libdl", "librt", "libpthread"}
        assert libraries - system - {"libtorch_cpu"} <= {"ld-linux-x86-64", "ld-linux-aarch64"}
        assert not re.search("RPATH|RUNPATH", needed)

    @pytest.mark.skipif(sys.platform != "linux", reason="ELF only")
    def test_links_torch_by_its_stable_interface_alone(self, extension):
        symbols = output(tool("nm"), "-D", extension.__file__).splitlines()
        undefined = [line.split()[-1] for line in symbols if " U " in line]
        assert any(name.startswith("aoti_torch_") for name in undefined)
        assert not [name for name in undefined if "cuda_stream" in name]
        # CUDA's runtime is inside, and not shown to others; libtorch's C++ is not used at all.
        assert not [line for line in symbols if re.search(r" [UTW] _*cuda[A-Z]", line)]
        assert not [name for name in undefined if re.match(r"_ZN\w*?(2at|3c10|5torch)\d", name)]

    def test_knows_whether_torch_can_tell_its_stream(self, extension):
        assert extension.cuda_stream_found() == (torch.version.cuda is not None)


SUPPORTED = {"75", "80", "86", "89", "90", "100", "120"}


class TestArchitectures:
    @pytest.mark.parametrize(
        ("wanted", "binaries", "ptx"),
        [
            ("", ("80", "90", "100"), ("100",)),
            ("  ", ("80", "90", "100"), ("100",)),
            ("8.0;9.0+PTX", ("80", "90"), ("90",)),
            ("8.0 8.6,9.0a", ("80", "86", "90a"), ()),
            ("8.0+PTX;8.0;10.0", ("80", "100"), ("80",)),
            ("3.5;12.0", ("120",), ()),
        ],
    )
    def test_reads_the_list(self, wanted, binaries, ptx):
        chosen = build.choose_architectures(wanted, SUPPORTED)
        assert (chosen.binaries, chosen.ptx) == (binaries, ptx)
        assert len(chosen.flags()) == len(binaries) + len(ptx)

    def test_default_leaves_out_what_an_older_nvcc_cannot_make(self):
        chosen = build.choose_architectures("", {"80", "90"})
        assert chosen.flags() == [
            "-gencode=arch=compute_80,code=sm_80",
            "-gencode=arch=compute_90,code=sm_90",
            "-gencode=arch=compute_90,code=compute_90",
        ]

    def test_says_what_it_left_out(self, capsys):
        build.choose_architectures("3.5;9.0", SUPPORTED)
        assert "cannot make code for 3.5: left out" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            ("Hopper", "TORCH_CUDA_ARCH_LIST: cannot read 'Hopper'"),
            ("9.0+ptx+ptx", "cannot read"),
            ("sm_90", "cannot read 'sm_90'"),
            ("3.5;3.7", r"cannot make code for 3.5, 3.7 \(it can for 75, 80, 86, 89, 90, 100"),
        ],
    )
    def test_refuses(self, wanted, message):
        with pytest.raises(build.CudaFailure, match=message):
            build.choose_architectures(wanted, SUPPORTED)


class TestSettings:
    def test_switch(self, monkeypatch):
        for value, meaning in [("", "auto"), ("AUTO", "auto"), ("0", "0"), (" 1 ", "1")]:
            monkeypatch.setenv("UNIVA_BUILD_CUDA", value)
            assert build.switch("UNIVA_BUILD_CUDA") == meaning
        monkeypatch.setenv("UNIVA_BUILD_CUDA", "yes")
        with pytest.raises(SystemExit, match="UNIVA_BUILD_CUDA must be 0, 1 or auto, not 'yes'"):
            build.switch("UNIVA_BUILD_CUDA")

    def test_max_jobs(self, monkeypatch):
        monkeypatch.setenv("MAX_JOBS", "3")
        assert build.job_count() == 3
        monkeypatch.delenv("MAX_JOBS")
        assert build.job_count() == os.cpu_count()
        for value in ("0", "many", "-1"):
            monkeypatch.setenv("MAX_JOBS", value)
            with pytest.raises(build.BuildFailure, match="MAX_JOBS must be a whole number"):
                build.job_count()

    def test_nvcc_from_cuda_home_before_path(self, monkeypatch, tmp_path):
        for folder in ("home", "path"):
            (tmp_path / folder / "bin").mkdir(parents=True)
            script = tmp_path / folder / "bin" / "nvcc"
            script.write_text("#!/bin/sh\nexit 1\n")
            script.chmod(0o755)
        monkeypatch.delenv("CUDA_PATH", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path / "path" / "bin"))
        monkeypatch.delenv("CUDA_HOME", raising=False)
        assert build.find_nvcc() == str(tmp_path / "path" / "bin" / "nvcc")
        monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
        assert build.find_nvcc() == str(tmp_path / "home" / "bin" / "nvcc")
        monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
        assert build.find_nvcc() is None
        monkeypatch.setenv("UNIVA_BUILD_CUDA", "1")
        with pytest.raises(build.CudaFailure, match="UNIVA_BUILD_CUDA=1, but there is no nvcc"):
            build.CudaToolkit.find()
        monkeypatch.setenv("UNIVA_BUILD_CUDA", "0")
        with pytest.raises(build.CudaLeftOut, match="UNIVA_BUILD_CUDA=0"):
            build.CudaToolkit.find()
        monkeypatch.setenv("UNIVA_BUILD_CUDA", "auto")
        with pytest.raises(build.CudaLeftOut, match="no nvcc was found"):
            build.CudaToolkit.find()

    @needs_nvcc
    def test_finds_the_static_runtime(self):
        assert build.find_static_runtime(nvcc).name == "libcudart_static.a"


class TestAutomaticCuda:
    """UNIVA_BUILD_CUDA=auto: CUDA code where nvcc is there and something could run it."""

    @pytest.fixture
    def machine(self, monkeypatch, tmp_path):
        """Makes a machine with nvcc: a torch of this CUDA version, GPUs of these capabilities."""

        def make(torch_cuda, capabilities):
            folder = tmp_path / "bin"
            folder.mkdir()
            said = {
                "nvcc": 'case "$1" in --list-gpu-code) echo sm_80 sm_90 sm_100;; '
                '--version) echo "release 13.0, V13.0.88";; *) echo "#$ TOP=$TOP";; esac',
                "nvidia-smi": "exit 9"
                if capabilities is None
                else f"printf '%s\\n' {' '.join(capabilities)}",
            }
            for name, script in said.items():
                (folder / name).write_text(f"#!/bin/sh\n{script}\n")
                (folder / name).chmod(0o755)
            (tmp_path / "lib64").mkdir()
            (tmp_path / "lib64" / "libcudart_static.a").touch()
            (tmp_path / "torch").mkdir()
            text = (
                f"from typing import Optional\ncuda: Optional[str] = {torch_cuda!r}\nhip = None\n"
            )
            (tmp_path / "torch" / "version.py").write_text(text)
            monkeypatch.setattr(build, "package_folder", lambda name: tmp_path / name)
            monkeypatch.setenv("TOP", str(tmp_path))
            monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
            for name in ("CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "UNIVA_BUILD_CUDA"):
                monkeypatch.delenv(name, raising=False)

        return make

    def test_beside_a_cpu_torch_without_a_gpu_it_is_left_out(self, machine, monkeypatch):
        machine(None, None)
        said = (
            r"no GPU of capability 8.0 or later is visible; UNIVA_BUILD_CUDA=1 compiles it anyway"
        )
        with pytest.raises(build.CudaLeftOut, match=said):
            build.CudaToolkit.find()
        monkeypatch.setenv("UNIVA_BUILD_CUDA", "1")
        assert build.CudaToolkit.find().architectures.binaries == ("80", "90", "100")

    def test_for_the_gpus_that_are_there(self, machine, monkeypatch):
        machine(None, ["9.0", "8.0", "9.0", "7.5"])
        assert build.CudaToolkit.find().architectures.binaries == ("80", "90")
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "10.0")
        assert build.CudaToolkit.find().architectures.binaries == ("100",)
        monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
        monkeypatch.setenv("UNIVA_BUILD_CUDA", "1")
        assert build.CudaToolkit.find().architectures.binaries == ("80", "90", "100")

    def test_a_gpu_newer_than_nvcc_gets_the_usual_ones(self, machine):
        machine(None, ["9.0", "12.0"])
        architectures = build.CudaToolkit.find().architectures
        assert architectures.binaries == ("80", "90", "100")
        assert architectures.ptx == ("100",)  # which its driver compiles

    @pytest.mark.parametrize("capabilities", [None, [], ["7.5"]])
    def test_for_the_usual_ones_beside_a_cuda_torch(self, machine, capabilities):
        machine("13.0", capabilities)
        assert build.CudaToolkit.find().architectures.ptx == ("100",)

    def test_reads_the_torch_that_is_installed(self):
        assert build.torch_cuda_version() == torch.version.cuda


@pytest.mark.usefixtures("extension")  # skips where there is no compiler
class TestIncrementalBuild:
    @pytest.fixture
    def compilation(self, tmp_path, monkeypatch):
        monkeypatch.setattr(build, "ROOT", tmp_path)
        folder = tmp_path / "with space"
        folder.mkdir()
        (folder / "part.h").write_text("constexpr int part = 1;\n")
        (folder / "main.cpp").write_text('#include "part.h"\nint answer() { return part; }\n')
        return build.Compilation(
            source=folder / "main.cpp",
            object=tmp_path / "objects" / "main.cpp.o",
            command=(*build.find_compiler(), f"-I{folder}"),
            salt="2.13",
        )

    def test_redoes_only_what_changed(self, compilation):
        assert not compilation.is_current()
        compilation.run()
        assert compilation.is_current()
        header = compilation.source.with_name("part.h")
        later = time.time_ns() + 10**9
        os.utime(header, ns=(later, later))
        assert not compilation.is_current()
        os.utime(header, ns=(0, 0))
        assert compilation.is_current()
        for change in ({"command": (*compilation.command, "-O1")}, {"salt": "2.14"}):
            changed = build.Compilation(**{**vars(compilation), **change})
            assert not changed.is_current()
        header.unlink()
        assert not compilation.is_current()

    def test_a_failed_compilation_is_not_current(self, compilation):
        compilation.run()
        compilation.source.write_text("int answer() { return part; }\n")
        with pytest.raises(build.BuildFailure, match=r"main\.cpp:1"):
            compilation.run()
        assert not compilation.is_current()


@pytest.fixture
def source_tree(tmp_path):
    """A copy to build in: nothing is written where the tests run from."""
    tree = tmp_path / "tree"
    tree.mkdir()
    no_build = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("csrc", "univa", "univa_kernels"):
        shutil.copytree(ROOT / name, tree / name, ignore=no_build)
    for path in (*ROOT.glob("*.py"), *ROOT.glob("*.toml"), *ROOT.glob("*.md"), ROOT / "LICENSE"):
        shutil.copy(path, tree)
    return tree


def run(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def run_in(site, code):
    """Run code with the packages of the folder `site`, which the code knows as SITE."""
    # -S: an editable install would lend its extension. What else is installed comes by the path.
    elsewhere = [path for path in sys.path if path and Path(path).resolve() != ROOT]
    code = f"import sys; SITE = {str(site)!r}; sys.path = [SITE, *{elsewhere!r}]\n{code}"
    return run("-S", "-P", "-c", code, cwd=site, UNIVA_BACKEND="", PYTHONPATH="")


class TestRefusals:
    def build_in_place(self, tree, **environment):
        nowhere = str(tree / "nowhere")
        settings = {"UNIVA_BUILD_EXTENSION": "", "UNIVA_BUILD_CUDA": "", "CXX": ""}
        settings |= {"PATH": nowhere, "CUDA_HOME": nowhere}
        return run(
            "setup.py", "-q", "build_ext", "--inplace", cwd=tree, **{**settings, **environment}
        )

    def test_no_compiler(self, source_tree):
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        stale = source_tree / "univa_kernels" / f"_C{suffix}"
        stale.write_text("of an earlier build")
        done = self.build_in_place(source_tree)
        assert done.returncode == 0
        assert done.stderr.count("NOT built") == 1
        assert "found no C++ compiler (looked for c++, g++, clang++)" in done.stderr
        assert "univa works without it, on the slower PyTorch reference path" in done.stderr
        assert not stale.exists()

    @pytest.mark.parametrize(
        ("compiler", "reason"),
        [
            ("echo 'part.cpp:3:1: fatal error: no <vector>' >&2; echo more; exit 1", "fatal error"),
            ("exit 3", "c++ ended with status 3"),
        ],
    )
    def test_a_broken_compiler_is_remembered(self, source_tree, compiler, reason):
        """`build_info()` keeps the compiler's first error."""
        folder = source_tree / "bin"
        folder.mkdir()
        (folder / "c++").write_text(f"#!/bin/sh\n{compiler}\n")
        (folder / "c++").chmod(0o755)
        path = f"{folder}:/usr/bin:/bin"
        flags = "-Wno-error=unused"  # a word of the command that is none of the compiler's
        done = self.build_in_place(source_tree, PATH=path, UNIVA_BUILD_CUDA="0", CXXFLAGS=flags)
        assert done.returncode == 0
        assert done.stderr.count("NOT built") == 1
        code = "import univa_kernels; print(univa_kernels.build_info()['extension_error'])"
        said = run_in(source_tree, code).stdout
        assert said.startswith("it was not built: ")
        assert reason in said
        assert flags not in said
        assert said.count("\n") == 1
        if reason != "fatal error":
            return
        # So does a wheel.
        site = source_tree / "site"
        done = run(
            *["setup.py", "-q", "build", "--build-lib", site],
            cwd=source_tree,
            PATH=path,
            UNIVA_BUILD_EXTENSION="",
            UNIVA_BUILD_CUDA="0",
            CXX="",
            CXXFLAGS=flags,
        )
        assert done.returncode == 0, done.stderr
        kept = site / "univa_kernels" / "_build_failure.txt"
        assert f"it was not built: {kept.read_text()}" == said

    def test_what_is_demanded_is_an_error(self, source_tree):
        done = self.build_in_place(source_tree, UNIVA_BUILD_EXTENSION="1")
        assert done.returncode == 1
        assert "univa: the extension was not built: found no C++ compiler" in done.stderr
        assert "Traceback" not in done.stderr
        done = self.build_in_place(source_tree, UNIVA_BUILD_CUDA="1", PATH=os.environ["PATH"])
        assert done.returncode == 1
        assert "UNIVA_BUILD_CUDA=1, but there is no nvcc: set CUDA_HOME or PATH" in done.stderr


def test_wheel_without_the_extension(source_tree, tmp_path):
    """`UNIVA_BUILD_EXTENSION=0`: pure Python, and the losses run on the reference path."""
    done = run(
        *["-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"],
        *["--wheel-dir", tmp_path, source_tree],
        cwd=tmp_path,
        UNIVA_BUILD_EXTENSION="0",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    site = tmp_path / "site"
    shutil.unpack_archive(wheel, site, "zip")
    assert (site / "univa" / "py.typed").is_file()
    assert not [*site.rglob("*.so"), *site.rglob("*.cpp")]
    code = """
import torch, univa, univa_kernels
assert univa_kernels.__file__.startswith(SITE) and univa.__file__.startswith(SITE)
assert univa_kernels.build_info()["extension"] is False
torch.manual_seed(0)
rows = torch.randn(8, 4, requires_grad=True)
loss = univa_kernels.VASupConLoss(temperature=0.5, radius=0.5)(rows, torch.rand(8, 2))
loss.backward()
assert loss.item() > 0 and rows.grad.abs().sum() > 0
"""
    done = run_in(site, code)
    assert done.returncode == 0, done.stderr
