"""Body of the process in which test_triton_compiled traces the Triton backend without a GPU."""

import torch
from torch._dynamo.backends.common import aot_autograd
from torch.fx import GraphModule, Node
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from univa_kernels._triton import ops

graphs: list[GraphModule] = []


class Driver:
    """What torch asks to find out which arguments a kernel writes; there is no GPU to ask."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def hint(size: object) -> int:
    """A number for a size that may be symbolic."""
    return size.node.hint if isinstance(size, torch.SymInt) else size


def nought(value: object) -> object:
    """Something of the shape that a traced value has."""
    if not isinstance(value, torch.Tensor):
        return hint(value)
    return torch.zeros([hint(size) for size in value.shape], dtype=value.dtype)


def keep(graph: GraphModule, _: object) -> object:
    graphs.append(graph)
    results = next(n for n in graph.graph.nodes if n.op == "output").args[0]
    return lambda *inputs: [
        nought(node.meta["val"]) if isinstance(node, Node) else node for node in results
    ]


@torch.compile(fullgraph=True, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))
def loss(rows: torch.Tensor, va: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    options = (1.0, 0.1, 0.0, 0.5, None, False, False)
    return ops.contrastive(rows, None, va, None, None, None, temperature, *options)[0].sum()


def main() -> None:
    if not torch.cuda.is_available():
        driver.set_active(Driver())
    # Beyond 32768 rows samples are sorted. The second size of a depth makes N symbolic.
    for depth, sizes in ((64, (300, 411, 33000)), (768, (300, 411))):
        torch._dynamo.reset()
        for size in sizes:
            graphs.clear()
            rows = torch.randn(size, depth, requires_grad=True)
            temperature = torch.tensor(0.5, requires_grad=True)
            loss(rows, torch.rand(size, 2), temperature).backward()
            assert len(graphs) == 2, graphs
            names = [str(node.target) for graph in graphs for node in graph.graph.nodes]
            launches = [name for name in names if "triton_kernel_wrapper" in name]
            assert len(launches) >= 3, names
            assert any("sort" in name for name in names) == (size > 32768)
            assert rows.grad is not None
            assert rows.grad.shape == rows.shape
    print("traced")


if __name__ == "__main__":
    main()
