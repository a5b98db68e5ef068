"""Tile sizes of the Triton kernels: what is tuned, kept, found again, and never trusted."""

import json
import warnings

import pytest
import torch

import univa_kernels
from univa_kernels import triton_tune, use_backend, va_supcon_loss

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.skipif(
        univa_kernels.available_backends()["triton"] is not None,
        reason=f"triton: {univa_kernels.available_backends()['triton']}",
    ),
    pytest.mark.filterwarnings("ignore:.*encountered in"),  # numpy's, on -inf
]
cache = pytest.importorskip("univa_kernels._triton.cache")
choice = pytest.importorskip("univa_kernels._triton.choice")
configs = pytest.importorskip("univa_kernels._triton.configs")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KIND = {16: "gradient_rows", 300: "gradient_block"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache folder, forgotten afterwards."""
    monkeypatch.setenv("UNIVA_CACHE_DIR", str(tmp_path))
    cache.forget()
    cache._warn.cache_clear()
    yield tmp_path
    cache.forget()


def file_of(folder):
    return folder / cache.cache_file(cache.gpu_name(DEVICE)).name


def chosen(kernel, depth, rows=20, kind="ieee"):
    return choice.choose(kernel, kind, depth, rows, DEVICE)


def last_is_best():
    """A timer that runs each call once and makes each faster than the one before."""
    count = iter(range(100, 0, -1))

    def timer(call):
        call()
        return float(next(count))

    return timer


@pytest.mark.parametrize("dim", [16, 300])
def test_the_fastest_is_kept_and_serves_later_calls(dim, folder):
    lines = []
    best = triton_tune(
        20, dim, torch.float32, device=DEVICE, timer=last_is_best(), show=lines.append
    )
    kernels = ("forward", KIND[dim])
    assert [name.split("/")[0] for name in best] == list(kernels)
    for kernel, config in zip(kernels, best.values(), strict=True):
        tried = configs.candidates(kernel, "ieee", dim, configs.capability_of(DEVICE))
        assert 2 <= len(tried) <= 6
        for candidate in tried:  # every one is printed with its time
            assert any(f"{kernel}: {candidate}: " in line for line in lines)
        assert config == tried[-1] != tried[0]
        assert chosen(kernel, dim) == config
        # Another bucket of D, of N, another kind of product: not measured, so the default.
        for depth, rows, kind in ((dim * 8, 20, "ieee"), (dim, 2000, "ieee"), (dim, 20, "half")):
            if kernel == "gradient_rows" and depth > 256:
                continue
            same = kernel == "gradient_block" and (rows, kind) == (20, "ieee")
            if not same and not (dim == 300 and (rows, kind) == (20, "ieee")):
                default = configs.candidates(kernel, kind, depth, configs.capability_of(DEVICE))[0]
                assert chosen(kernel, depth, rows, kind) == default
    assert sorted(folder.iterdir()) == [file_of(folder)]


@pytest.mark.parametrize("dim", [16, 300])
def test_every_candidate_gives_the_same_loss(dim):
    """Whatever wins, the numbers hold: each candidate against the reference."""
    rows, va = torch.randn(40, dim, device=DEVICE), torch.rand(40, 2, device=DEVICE)
    rows.requires_grad_()

    def run():
        loss = va_supcon_loss(rows, va, radius=0.3, temperature=dim**0.5)
        return loss, *torch.autograd.grad(loss, rows)

    with use_backend("reference"):
        expected = run()
    for kernel in ("forward", KIND[dim]):
        for config in configs.candidates(kernel, "ieee", dim, configs.capability_of(DEVICE)):
            with use_backend("triton"), choice.forced(kernel, config):
                got = run()
            for ours, theirs in zip(got, expected, strict=True):
                torch.testing.assert_close(ours, theirs)


def test_a_user_without_a_home_folder_has_a_file_too(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("UNIVA_CACHE_DIR", raising=False)
    monkeypatch.setattr("pathlib.Path.home", homeless)
    assert cache.cache_file("NVIDIA H200").name == "triton-nvidia-h200.json"


def test_tuning_adds_to_what_was_found_before():
    for dim in (16, 300):
        triton_tune(
            20, dim, torch.float32, device=DEVICE, timer=last_is_best(), show=lambda line: None
        )
    content = json.loads(cache.cache_file(cache.gpu_name(DEVICE)).read_text())
    assert len(content["entries"]) == 4


def test_training_measures_nothing(folder, monkeypatch):
    from univa_kernels._triton import tuning

    monkeypatch.setattr(tuning, "tune", None)
    monkeypatch.setattr(tuning, "milliseconds", None)
    with use_backend("triton"), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*tile sizes")
        va_supcon_loss(torch.eye(8, device=DEVICE), torch.zeros(8, 2, device=DEVICE))
    assert not list(folder.iterdir())
    default = configs.candidates("forward", "ieee", 8, configs.capability_of(DEVICE))[0]
    assert chosen("forward", 8) == default


def entries_of(**changes):
    config = {"block_m": 7, "block_n": 3, "block_d": 5, "warps": 1, "stages": 1, "parts": 1}
    return {configs.key("forward", "ieee", 16, 20): {**config, **changes}}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"version": 1, "gpu": "GPU"}', "is damaged"),
        ('{"version": 1, "gpu": "GPU", "entries": {"forward": {"warps": 8}}}', "is damaged"),
        ("[" * 100_000, "is damaged"),
        (b"\xff\xfe", "cannot be read"),
        ('{"version": 1, "gpu": "another one", "entries": {}}', "is not for"),
        ('{"version": 99, "gpu": "GPU", "entries": {}}', "is not for"),
        ({"entries": entries_of()}, "does not know"),
        ({"entries": entries_of(block_m="16")}, "does not know"),
        ({"entries": entries_of(block_m=[])}, "does not know"),
    ],
)
def test_a_damaged_or_foreign_file_is_told_of_once_and_ignored(text, complaint, folder):
    if isinstance(text, dict):
        text = json.dumps({"version": 1, "gpu": "GPU", **text})
    raw = text if isinstance(text, bytes) else text.encode()
    file_of(folder).write_bytes(raw.replace(b"GPU", cache.gpu_name(DEVICE).encode()))
    rows, va = torch.eye(20, 16, device=DEVICE), torch.zeros(20, 2, device=DEVICE)
    with use_backend("reference"):
        expected = va_supcon_loss(rows, va)
    with use_backend("triton"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            torch.testing.assert_close(va_supcon_loss(rows, va), expected)
    told = [str(w.message) for w in caught if w.category is RuntimeWarning and "tile" in str(w)]
    assert len(told) == 1
    assert complaint in told[0]
    assert "triton_tune" in told[0]


def test_a_number_of_another_type_in_the_file_reaches_no_kernel(folder):
    entry = {name: float(value) for name, value in vars(chosen("forward", 16)).items()}
    content = {"version": 1, "gpu": cache.gpu_name(DEVICE)}
    content["entries"] = {configs.key("forward", "ieee", 16, 20): entry}
    file_of(folder).write_text(json.dumps(content))
    cache.forget()
    assert {type(value) for value in vars(chosen("forward", 16)).values()} == {int}


@pytest.mark.parametrize("what", ["resources", "assembler", "compiler"])
def test_a_candidate_that_does_not_fit_is_passed_over(what):
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources, PTXASError

    errors = {
        "resources": OutOfResources(300_000, 232_448, "shared memory"),
        "assembler": PTXASError("registers"),
        "compiler": CompilationError(None, None, "a shape"),
    }
    tried = configs.candidates("forward", "ieee", 16, configs.capability_of(DEVICE))
    lines = []

    def timer(call):
        if choice._forced.get("forward") == tried[0]:
            raise errors[what]
        return 1.0

    best = triton_tune(20, 16, torch.float32, device=DEVICE, timer=timer, show=lines.append)
    assert best[configs.key("forward", "ieee", 16, 20)] == tried[1]
    assert any("does not run" in line for line in lines)


def test_nothing_is_kept_where_no_candidate_runs(folder):
    def timer(call):
        raise RuntimeError("PassManager::run failed\nand more")

    lines = []
    with pytest.raises(RuntimeError, match="no configuration of forward runs"):
        triton_tune(20, 16, torch.float32, device=DEVICE, timer=timer, show=lines.append)
    assert all(line.endswith("does not run (PassManager::run failed)") for line in lines)
    assert not list(folder.iterdir())


def test_an_unwritable_folder_costs_the_file_not_the_result(folder, monkeypatch):
    blocked = folder / "file"
    blocked.write_text("")
    monkeypatch.setenv("UNIVA_CACHE_DIR", str(blocked))
    cache.forget()
    lines = []
    best = triton_tune(
        20, 16, torch.float32, device=DEVICE, timer=last_is_best(), show=lines.append
    )
    assert len(best) == 2
    assert any("cannot be written" in line for line in lines)
    # Nor does a folder that cannot be read disturb a call.
    with use_backend("triton"):
        va_supcon_loss(torch.eye(8, device=DEVICE), torch.zeros(8, 2, device=DEVICE))


def test_bad_arguments_and_devices_are_refused_by_name():
    with pytest.raises(ValueError, match="rows and dim must be at least 1, not 0 and 4"):
        triton_tune(0, 4, device=DEVICE)
    with pytest.raises(RuntimeError, match=r"does not serve torch\.float64"):
        triton_tune(8, 4, torch.float64, device=DEVICE)
    with pytest.raises(RuntimeError, match="not meta"):
        triton_tune(8, 4, device="meta")
    if DEVICE.type == "cpu":
        with pytest.raises(RuntimeError, match="needs a timer"):
            triton_tune(8, 4, device=DEVICE)
