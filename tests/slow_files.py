"""Test files of more than five seconds, the longest first.

They are begun first, so that two test processes end at about the same time, and left out by
`make test-quick`. Times: `pytest --durations=0`.
"""

SLOW_FILES = (
    "kernels/test_triton_compiled.py",
    "train/test_distributed.py",
    "benchmarks/test_smoke.py",
    "kernels/test_triton.py",
    "train/test_resume.py",
    "figures/test_browser.py",
    "kernels/test_cuda_objective.py",
    "kernels/test_cuda.py",
    "data/test_safe_pickle.py",
    "va/test_road.py",
    "figures/test_commands.py",
    "kernels/test_triton_tuning.py",
    "figures/test_report.py",
    "kernels/test_build.py",
    "train/test_text_encoder.py",
    "kernels/test_cuda_build.py",
    "figures/test_drawings.py",
    "train/test_authors_presets.py",
    "kernels/test_ops.py",
    "train/test_reports.py",
    "va/test_fit_media.py",
    "benchmarks/test_gpu_check.py",
    "va/test_score_manifest.py",
    "console/test_console.py",
    "train/test_refusals.py",
    "kernels/test_distributed.py",
    "train/test_authors_switch.py",
    "kernels/test_cpu_capability.py",
    "data/test_store.py",
    "test_rooms.py",
)
