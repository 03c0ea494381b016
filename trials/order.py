"""The quick form of the suites: which tests a trial runs on the tiny preset, the cheapest and most telling first.

One backend's tests come after the other's: code that both share fails in the first. A trial goes on until an alarm or
until its time is over, so that what comes late may not be reached. What is in no stage is not run: tests that time
something say nothing on a machine that runs several trials at once, and the rest asks again what an earlier stage has
asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SUITES = ("parity", "tiling", "frames", "speed", "memory")
PARITY, TILING, FRAMES, SPEED, MEMORY = (f"suites/{suite}" for suite in SUITES)
# Who has to notice a fault of each kind by itself: numbers are one matter, what they cost another.
ANSWERABLE = {"value": ("parity", "tiling", "frames"), "cost": ("speed", "memory")}


class Stage(NamedTuple):
    """Tests of one function.

    Args:
        test: its file, or file and name.
        having: parts of the id that pytest puts in brackets, all of which it must have.
    """

    test: str
    having: tuple[str, ...] = ()

    def holds(self, nodeid: str) -> bool:
        name, _, parameters = nodeid.partition("[")
        if self.test not in (name, name.partition("::")[0]):
            return False
        return all(f"-{part}-" in f"-{parameters.removesuffix(']')}-" for part in self.having)


LAYER = f"{PARITY}/test_layers.py::test_a_layer_alone_computes_what_diffusers_computes"
VARIANT = f"{PARITY}/test_layers.py::test_a_variant_of_a_layer_computes_what_diffusers_computes"
WIDE = f"{SPEED}/test_growth.py::test_a_wide_layer_costs_what_it_did"
ENCODED = f"{PARITY}/test_frame_counts.py::test_encode_matches_the_reference_for_every_frame_count"
DECODED = f"{PARITY}/test_frame_counts.py::test_decode_matches_the_reference_for_every_frame_count"
ANY_LENGTH = f"{FRAMES}/test_counts.py::test_a_clip_of_any_length_gives_what_diffusers_gives"
TILED = f"{TILING}/test_grids.py::test_tiled_results_are_those_of_diffusers"
TILED_STREAM = f"{TILING}/test_grids.py::test_a_tiled_stream_gives_the_bits_of_the_whole"
FORMS = f"{PARITY}/test_forms.py"
CHECKPOINT = f"{PARITY}/test_checkpoint.py"

STAGES: tuple[Stage, ...] = (
    # Without a network.
    Stage(f"{PARITY}/test_posterior.py", ("float64",)),
    Stage(f"{TILING}/test_blend.py::test_a_tile_blends_with_neighbours_that_are_blended_themselves_above_first"),
    Stage(f"{TILING}/test_blend.py::test_a_blend_is_that_of_diffusers", ("a few cells",)),
    Stage(f"{FRAMES}/test_counts.py::test_the_default_frame_batches_are_those_of_diffusers"),
    Stage(f"{CHECKPOINT}::test_every_tensor_comes_back_by_its_name_in_its_layout_with_its_bits"),
    # Layers alone: the small ones that most faults are in, what they cost, then blocks of them.
    Stage(LAYER, ("jit", "float64", "causal conv")),
    Stage(LAYER, ("jit", "float64", "group norm")),
    Stage(LAYER, ("jit", "float64", "spatial norm, odd")),
    Stage(LAYER, ("jit", "float64", "downsample, time, odd")),
    Stage(LAYER, ("jit", "float64", "upsample, time, odd")),
    Stage(LAYER, ("jit", "float64", "causal conv, wide, odd")),
    Stage(WIDE, ("float32",)),
    Stage(LAYER, ("jit", "float64", "resnet, decoding, 1x1x1 shortcut")),
    Stage(LAYER, ("jit", "bfloat16", "causal conv")),
    Stage(WIDE, ("bfloat16",)),
    Stage(LAYER, ("jit", "float64")),
    Stage(LAYER, ("jit", "bfloat16")),
    # Numbers and files beside the network, and what is refused before it runs.
    Stage(f"{PARITY}/test_posterior.py"),
    Stage(f"{TILING}/test_blend_rounding.py"),
    Stage(f"{CHECKPOINT}::test_an_unusual_architecture_goes_there_and_back_and_computes_the_same"),
    Stage(f"{PARITY}/test_bad_input.py"),
    Stage(f"{TILING}/test_refusals.py::test_a_tiling_that_leaves_no_room_is_refused_and_changes_nothing"),
    Stage(f"{FRAMES}/test_bad_input.py::test_a_stream_is_not_resumed_with_what_does_not_go_on_from_its_cache"),
    Stage(f"{FRAMES}/test_bad_input.py::test_a_stream_is_not_resumed_from_a_cache_of_another_backend_or_half"),
    Stage(CHECKPOINT),
    Stage(f"{TILING}/test_refusals.py"),
    # The whole VAE, in its smallest forms; rare arguments, and the way in from a pipeline.
    Stage(DECODED, ("float64", "3-1-2-3")),
    Stage(ENCODED, ("float64", "9-1-17-26")),
    Stage(FORMS, ("encode", "several rows")),
    Stage(f"{FRAMES}/test_streaming.py::test_a_stream_goes_on_from_a_saved_cache_as_if_never_stopped"),
    Stage(f"{FRAMES}/test_streaming.py::test_a_stream_gives_the_whole_a_frame_batch_at_a_time"),
    Stage(f"{FRAMES}/test_counts.py::test_slicing_runs_one_clip_after_the_other"),
    Stage(ANY_LENGTH, ("decode-2-5",)),
    Stage(ANY_LENGTH, ("encode-8-17",)),
    Stage(f"{SPEED}/test_programs.py::test_a_program_is_compiled_once"),
    Stage(VARIANT, ("jit", "float64")),
    Stage(f"{PARITY}/test_growth.py::test_blocks_of_a_later_frame_batch_see_the_one_before"),
    Stage(f"{PARITY}/test_pipeline.py"),
    Stage(f"{FRAMES}/test_counts.py::test_one_program_is_compiled_for_each_frame_batch_length_first_or_later"),
    Stage(f"{FRAMES}/test_counts.py::test_two_clips_together_give_what_diffusers_gives"),
    Stage(TILED_STREAM, ("equal tiles, three frame batches",)),
    Stage(TILED, ("overlaps near 0, one pixel blended", "decode")),
    Stage(TILED, ("tile no multiple of the compression", "encode")),
    Stage(f"{FRAMES}/test_streaming.py::test_a_whole_decode_as_one_program_is_that_of_its_frame_batches"),
    # What programs cost, and what takes longest to compile.
    Stage(f"{SPEED}/test_growth.py"),
    Stage(TILED, ("three frame batches",)),
    Stage(TILED_STREAM),
    Stage(f"{SPEED}/test_programs.py::test_a_call_costs_what_it_did"),
    Stage(f"{MEMORY}/test_measured.py::test_a_leaner_form_takes_no_more_than_it_did"),
    Stage(FORMS, ("encode",)),
    Stage(FORMS, ("several rows",)),
    Stage(FORMS, ("short frame batches",)),
    Stage(f"{PARITY}/test_gradients.py"),
    # The whole VAE in other lengths, and every block of it.
    Stage(ANY_LENGTH, ("decode-1-3",)),
    Stage(ANY_LENGTH, ("encode-4-13",)),
    Stage(f"{PARITY}/test_vae.py", ("jit", "float64")),
    Stage(f"{PARITY}/test_growth.py", ("float64",)),
    # Rounding.
    Stage(VARIANT),
    Stage(f"{PARITY}/test_vae.py", ("jit", "bfloat16")),
    # What else is refused.
    Stage(f"{FRAMES}/test_bad_input.py"),
    # Leaner forms, tiles and streams.
    Stage(FORMS),
    Stage(f"{TILING}/test_blend.py"),
    Stage(f"{FRAMES}/test_streaming.py"),
    Stage(f"{TILING}/test_grids.py::test_a_tiled_stream_goes_on_from_its_conv_cache"),
    Stage(f"{TILING}/test_grids.py"),
    # The same again, at more sizes and in other ways.
    Stage(LAYER, ("jit", "float32")),
    Stage(f"{FRAMES}/test_causality.py"),
    Stage(f"{FRAMES}/test_counts.py::test_a_length_survives_where_encoding_and_decoding_give_it_back"),
    Stage(f"{TILING}/test_programs.py"),
    Stage(ENCODED, ("float64",)),
    Stage(DECODED, ("float64",)),
    Stage(LAYER, ("eager", "float64")),
    Stage(f"{PARITY}/test_vae.py", ("eager", "float64")),
    Stage(f"{PARITY}/test_vae.py", ("jit",)),
)


def files(suites: Sequence[str] = SUITES, stages: Sequence[Stage] = STAGES) -> list[str]:
    """The test files of these suites that pytest has to collect."""
    found = dict.fromkeys(stage.test.partition("::")[0] for stage in stages)
    return [file for file in found if file.split("/")[1] in suites]


def in_order(nodeids: Sequence[str], backends: Sequence[str], stages: Sequence[Stage] = STAGES) -> list[str]:
    """The tests of the stages in their order, for one backend after the other; the others are left out."""
    placed: list[tuple[int, int, str]] = []
    for nodeid in nodeids:
        stage = next((number for number, stage in enumerate(stages) if stage.holds(nodeid)), None)
        if stage is None:
            continue
        parameters = nodeid.partition("[")[2].removesuffix("]").split("-")
        turn = next((turn for turn, backend in enumerate(backends) if backend in parameters), 0)
        placed.append((turn, stage, nodeid))
    return [nodeid for *_, nodeid in sorted(placed, key=lambda one: one[:2])]
