"""Flags of XLA with which the tests compile, which is most of their time."""

import importlib.metadata

# Without LLVM's optimiser compiling takes a third, and small steps hardly longer. Without the newer emitters of fused loops it
# takes half of that; JAX 0.12 has no such flag any more.
COMPILE_FLAGS = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    COMPILE_FLAGS += " --xla_cpu_use_fusion_emitters=false"
