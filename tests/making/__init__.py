"""What several tests share: small data, networks, and programs to run."""

QUICK_XLA = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
"""For XLA_FLAGS: JAX then compiles small networks faster."""
