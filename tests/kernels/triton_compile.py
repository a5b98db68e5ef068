"""Body of the process in which test_triton_compiled traces the Triton backend without a GPU."""

import torch
from torch._dynamo.backends.common import aot_autograd
from torch.fx import GraphModule
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from univa_kernels._triton import ops

graphs: list[GraphModule] = []


class Driver:
    """What torch asks to find out which arguments a kernel writes; there is no GPU to ask."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def keep(graph: GraphModule, _: object) -> object:
    graphs.append(graph)
    return lambda *inputs: [
        node.meta["val"].new_zeros(node.meta["val"].shape) if node is not None else None
        for node in next(n for n in graph.graph.nodes if n.op == "output").args[0]
    ]


@torch.compile(fullgraph=True, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))
def loss(rows: torch.Tensor, va: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    options = (1.0, 0.1, 0.0, 0.5, None, False, False)
    return ops.contrastive(rows, None, va, None, None, None, temperature, *options)[0].sum()


def main() -> None:
    if not torch.cuda.is_available():
        driver.set_active(Driver())
    for depth in (64, 768):
        graphs.clear()
        rows = torch.randn(300, depth, requires_grad=True)
        temperature = torch.tensor(0.5, requires_grad=True)
        loss(rows, torch.rand(300, 2), temperature).backward()
        assert len(graphs) == 2, graphs
        launches = [
            node
            for graph in graphs
            for node in graph.graph.nodes
            if "triton_kernel_wrapper" in str(node.target)
        ]
        assert len(launches) >= 3, [str(node.target) for g in graphs for node in g.graph.nodes]
        assert rows.grad is not None
        assert rows.grad.shape == rows.shape
        torch._dynamo.reset()
    print("traced")


if __name__ == "__main__":
    main()
