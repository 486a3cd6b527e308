"""A model that trains in seconds."""

import pytest

from jax_fa4.demo.model import ModelConfig
from jax_fa4.demo.training import Recipe


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    """Thirty steps of it take well under a second."""
    return Recipe(
        model=ModelConfig(width=32, layers=1, heads=2, context=32, dtype="float32"),
        batch_size=8,
        learning_rate=1e-2,
        max_steps=60,
    )
