"""Segment ids, lengths, packings and soft caps from public calls to bounded kernels, emulated."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.ops import sinks
from jax_fa4.ops.band import FULL
from jax_fa4.testing import expected, inputs, tolerances
from jax_fa4.testing.exact import exact
from jax_fa4.variants import CATALOG, ForwardVariant

ARCHES = sorted({v.arch.value for v in CATALOG if isinstance(v, ForwardVariant) and v.bounded})


@dataclass(frozen=True)
class Packed:
    """A call of two batch elements; `visible` is what its options mean, (B, Sq, Sk)."""

    visible: Any
    options: dict[str, Any] = field(default_factory=dict)
    lengths: tuple[int, int] = (200, 200)
    heads: tuple[int, int] = (2, 1)
    head_dim: int = 64


def ids(length, *documents):
    """Of documents with these lengths, and the rest of its own."""
    rest = length - sum(documents)
    return np.repeat(np.arange(len(documents) + 1), (*documents, rest))


DOCUMENTS = np.stack([ids(200, 100, 20, 3), ids(200, 64, 64)])
SHUFFLED = np.random.default_rng(0).permuted(DOCUMENTS, axis=1)
OTHERS = np.stack([ids(130, 30, 70), ids(130, 1, 128)])
CAUSAL = np.tril(np.ones((200, 200), bool))


def same(queries, keys):
    return queries[:, :, None] == keys[:, None, :]


def within(queries, keys, lengths):
    """Rows and keys below these numbers of them."""
    rows, columns = (np.arange(n)[None] for n in lengths)
    return (rows < queries[:, None])[:, :, None] & (columns < keys[:, None])[:, None, :]


QUERY_LENGTHS, KEY_LENGTHS = np.array([150, 0]), np.array([77, 200])
CASES = {
    "documents": Packed(
        same(DOCUMENTS, DOCUMENTS) & CAUSAL, {"query_segment_ids": DOCUMENTS, "is_causal": True}
    ),
    "documents-in-any-order": Packed(
        same(SHUFFLED, DOCUMENTS),
        {"query_segment_ids": SHUFFLED, "key_value_segment_ids": DOCUMENTS},
    ),
    "queries-and-keys-apart": Packed(
        same(DOCUMENTS, OTHERS),
        {"query_segment_ids": DOCUMENTS, "key_value_segment_ids": OTHERS},
        lengths=(200, 130),
        heads=(3, 3),
        head_dim=40,
    ),
    "lengths": Packed(
        within(QUERY_LENGTHS, KEY_LENGTHS, (200, 200)),
        {"query_seq_lengths": QUERY_LENGTHS, "key_value_seq_lengths": KEY_LENGTHS},
    ),
    "a-window-of-documents-up-to-a-length": Packed(
        same(DOCUMENTS, DOCUMENTS)
        & CAUSAL
        & ~np.tril(CAUSAL, -31)
        & within(np.array([200, 200]), KEY_LENGTHS, (200, 200)),
        {
            "query_segment_ids": DOCUMENTS,
            "key_value_seq_lengths": KEY_LENGTHS,
            "local_window_size": (30, 0),
        },
    ),
    "a-soft-cap": Packed(
        np.broadcast_to(CAUSAL, (2, 200, 200)), {"logits_soft_cap": 1.5, "is_causal": True}
    ),
    "a-soft-cap-of-documents": Packed(
        same(DOCUMENTS, OTHERS),
        {
            "query_segment_ids": DOCUMENTS,
            "key_value_segment_ids": OTHERS,
            "logits_soft_cap": 1.5,
        },
        lengths=(200, 130),
    ),
}


@pytest.fixture(params=ARCHES)
def arch(request):
    with jax_fa4.emulator.options(arch=request.param):
        yield request.param


def attention(options):
    """The public call on the emulator; ids and lengths are traced, as a program has them."""
    arrays = {name: jnp.asarray(x) for name, x in options.items() if isinstance(x, np.ndarray)}
    rest = {name: x for name, x in options.items() if name not in arrays}

    def call(q, k, v):
        found = jax_fa4.dot_product_attention(
            q, k, v, **arrays, **rest, return_residual=True, implementation="emulator"
        )
        return found[0], found[1].transpose(0, 2, 1)

    return call


def make(packed):
    case = inputs.Case(
        name="packed",
        query_length=packed.lengths[0],
        key_length=packed.lengths[1],
        heads=packed.heads[0],
        heads_kv=packed.heads[1],
        head_dim=packed.head_dim,
    )
    return case, inputs.make(case, jnp.bfloat16)


def definition(case, x, packed):
    """out, lse and gradients where row i sees key j iff visible[b, i, j]: exact, and plain."""
    options = {
        "softmax_scale": case.scale,
        "band": FULL,
        "mask": jnp.asarray(packed.visible)[:, None],
        "softcap": packed.options.get("logits_soft_cap", 0.0),
    }
    return exact(x, **options), expected.plain(x, gradients=True, **options)


@pytest.mark.parametrize("name", CASES)
def test_a_call_and_its_gradient_are_the_definition(name, arch):
    packed = CASES[name]
    case, x = make(packed)
    words = jax_fa4.explain(*x[:3], **packed.options, implementation="emulator")
    kind = "bounded" + "_softcap" * ("logits_soft_cap" in packed.options)
    assert words.startswith(f"kernel fwd_{arch}_bf16_d64_{kind} on the emulator")
    found = expected.results(attention(packed.options), x, gradients=True)
    tolerances.check(found, *definition(case, x, packed))


def test_one_program_serves_all_documents(arch):
    """The ids are arrays of the program, and none of its shape."""
    _, x = make(CASES["documents"])

    @jax.jit
    def call(q, k, v, ids):
        return jax_fa4.dot_product_attention(
            q, k, v, query_segment_ids=ids, implementation="emulator"
        )

    found = [call(*x[:3], jnp.asarray(y)) for y in (DOCUMENTS, SHUFFLED, DOCUMENTS)]
    assert call._cache_size() == 1
    assert (found[0] == found[2]).all()
    assert (found[0] != found[1]).any()


def test_documents_are_alone(arch):
    """A packed document has the bits that it has in a batch of its own lengths."""
    _, x = make(CASES["documents"])
    options = {"query_segment_ids": DOCUMENTS, "is_causal": True}
    packed, _ = attention(options)(*x[:3])
    alone = tuple(y[:1, :100] for y in x[:3])
    found, _ = attention({"query_segment_ids": DOCUMENTS[:1, :100], "is_causal": True})(*alone)
    assert (packed[:1, :100] == found).all()


def test_vmap_folds_ids_too(arch):
    _, x = make(CASES["documents"])

    def one(q, k, v, ids):
        return jax_fa4.dot_product_attention(
            q, k, v, query_segment_ids=ids, implementation="emulator"
        )

    ids = jnp.asarray(DOCUMENTS)
    wanted = one(*x[:3], ids)
    split = (y[:, None] for y in (*x[:3], ids))
    assert (jax.vmap(one)(*split)[:, 0] == wanted).all()


PACKING = ((40, 60), (0, 30), (90, 90), (37, 3), (4, 0))  # queries and keys of documents
USED = ((40, 0, 70, 37, 1), (33, 30, 65, 2, 0))  # of them, where they do not use all


def visible_in_packing(shape, uses, causal):
    """What the documents of a packing see; keys and rows behind them all are nobody's."""
    visible, starts = np.zeros(shape, bool), np.cumsum([(0, 0), *PACKING], axis=0)
    for n, (row, column) in enumerate(starts[:-1]):
        rows, keys = (USED[a][n] if uses else PACKING[n][a] for a in range(2))
        band = np.tri(rows, keys, keys - rows if causal else keys, dtype=bool)
        visible[row : row + rows, column : column + keys] = band
    return visible


@pytest.mark.parametrize(
    ("head_dim", "options", "uses"),
    [
        (64, {}, False),
        (64, {"causal": True}, True),
        (128, {"causal": True, "softcap": 1.5}, False),
    ],
)
def test_a_packing_and_its_gradient_are_the_definition(head_dim, options, uses, arch):
    lengths = tuple(int(n) + 5 for n in np.sum(PACKING, axis=0))
    visible = visible_in_packing(lengths, uses, options.get("causal", False))
    packed = Packed(visible[None], lengths=lengths, head_dim=head_dim)
    case, x = make(packed)
    x = type(x)(*(y[:1] for y in x))
    ends = [
        jnp.asarray(np.cumsum([0, *column]), jnp.int32) for column in zip(*PACKING, strict=True)
    ]
    given = dict(options)
    if uses:
        given |= {"seqused_q": jnp.asarray(USED[0]), "seqused_k": jnp.asarray(USED[1])}

    @jax.jit
    def call(q, k, v):
        out, lse = jax_fa4.flash_attention_varlen(
            q[0], k[0], v[0], *ends, **given, return_lse=True, implementation="emulator"
        )
        return out[None], lse[None]

    found = expected.results(call, x, gradients=True)
    meaning = {"logits_soft_cap": options["softcap"]} if "softcap" in options else {}
    packed = Packed(visible[None], meaning)
    tolerances.check(found, *definition(case, x, packed))


def test_sinks_of_documents(arch):
    """They are applied to what the kernel gives, with the gradient of that."""
    _, x = make(CASES["documents"])
    sink = jnp.asarray([0.5, -2.0])
    options = CASES["documents"].options

    def without(q, k, v, sink):
        out, lse = attention(options)(q, k, v)
        return sinks.include(out, lse, sink)

    def given(q, k, v, sink):
        return attention({**options, "sinks": sink})(q, k, v)

    results, pull = jax.vjp(given, *x[:3], sink)
    wanted, pull_wanted = jax.vjp(without, *x[:3], sink)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), results, wanted))
    cotangents = (x.dout, x.dlse)
    for a, b in zip(pull(cotangents)[1:], pull_wanted(cotangents)[1:], strict=True):
        assert (a == b).all()  # dq is a sum in a varying order
