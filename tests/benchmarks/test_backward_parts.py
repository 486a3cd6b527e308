"""Which kernel of the backward a profiler's event is of."""

from benchmarks.backward_parts import durations, part_of

PREFIX = "kernel_cutlass_kernel_jax_fa4kernels"
NAMES = {
    f"{PREFIX}commonbackward_preprocessBackwardPreprocess_object_at_": "backward_preprocess",
    f"{PREFIX}commonbackward_postprocessBackwardPostprocess_object_at_": "backward_postprocess",
    f"{PREFIX}sm90backwardkernelBackwardSm90_object_at__TiledMMA": "backward",
    f"{PREFIX}sm90backward_pairkernelBackwardPairSm90_object_at_": "backward",
    f"{PREFIX}sm90forwardkernelForwardSm90_object_at__TiledMMA": None,
    "$jax_fa4/ffi/backward.py:50 backward": None,
    "loop_convert_fusion": None,
}


def test_parts_are_told_by_name():
    assert {name: part_of(name) for name in NAMES} == NAMES


def test_durations_are_in_the_order_of_starts():
    names = list(NAMES)
    events = [
        {"ph": "X", "name": names[2], "ts": 9, "dur": 4.0},
        {"ph": "M", "name": "process_name"},
        {"ph": "X", "name": names[0], "ts": 1, "dur": 1.5},
        {"ph": "X", "name": names[2], "ts": 3, "dur": 2.0},
        {"ph": "X", "name": names[4], "ts": 2, "dur": 8.0},
    ]
    assert durations({"traceEvents": events}) == {
        "backward_preprocess": [1.5],
        "backward": [2.0, 4.0],
        "backward_postprocess": [],
    }
