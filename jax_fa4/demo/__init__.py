"""What `python -m jax_fa4` runs: report, self-check and a small GPT trained on real text.

Needs the extra `demo` (flax, optax, rich, matplotlib); `import jax_fa4` never imports it.
"""
