"""What lives beside a program, how the frontier is searched, and how ceilings are judged: no model, no compiler."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.console import Console

from suites.memory import test_frontier
from suites.memory.__main__ import app as memory
from suites.memory.__main__ import runs
from suites.memory.cases import Case, asked, asked_of_cards, layers, sharded, small_steps
from suites.memory.frontier import (
    CODE,
    GOALS,
    explore,
    hints_of,
    in_order,
    only_sized,
    peak_in,
    reach,
    read_rows,
    row_of,
    smaller,
    write_row,
)
from suites.memory.frontier import app as frontier
from suites.memory.lowered import Programs, Progress, lowered_for
from suites.memory.pieces import input_shape, peak, pieces, weight_bytes
from suites.memory.search import Found, largest
from twinvae import PRESETS
from twinvae.bench.aot.programs import Answer, Compiler, Program, Store
from twinvae.bench.aot.tpu_compiler import Outcome
from twinvae.bench.baselines import Entry
from twinvae.bench.options import Model
from twinvae.bench.records import Record
from twinvae.bench.verdicts import judge
from twinvae.forms import ROW_SLABS, WHOLE
from twinvae.jax.chips import GPUS, TPUS

FULL = PRESETS["cogvideox-2b"]
SELECTIONS = (asked, sharded, asked_of_cards, layers, small_steps)
CLIP = Case("clip", "decode", 81, 768, 1360)
FRAME = 768 * 1360 * 3 * 2  # bytes of a decoded frame in bfloat16


def answer(peak: int, fits: bool = True) -> Answer:
    program = Program(name="x", fingerprint="x", topology="t", compiler="v", fits=fits, peak_bytes=peak,
                      seconds=1, date="")  # fmt: skip
    return Answer("recalled", program)


def test_one_program_has_nothing_beside_it():
    (piece,) = pieces(CLIP, FULL, "bfloat16")
    assert (piece.kind, piece.shape, piece.beside) == ("whole", (1, 21, 96, 170, 16), 0)


def test_a_stream_keeps_the_latents_and_the_frames_that_were_made():
    first, later = pieces(CLIP._replace(way="streamed"), FULL, "bfloat16")
    assert (first.shape[1], later.shape[1]) == (3, 2)
    latent = 96 * 170 * 16 * 2
    assert first.beside == 18 * latent
    assert later.beside == 19 * latent + (81 - 8) * FRAME


def test_a_short_clip_is_one_piece_and_an_encoder_keeps_its_moments():
    (only,) = pieces(Case("clip", "decode", 8, 768, 1360, "streamed"), FULL, "bfloat16")
    assert (only.kind, only.beside) == ("first", 0)
    first, later = pieces(Case("clip", "encode", 17, 480, 720, "streamed"), FULL, "bfloat16")
    assert (first.shape[1], later.shape[1]) == (9, 8)
    assert later.beside == (9 * 480 * 720 * 3 + 3 * 60 * 90 * 32) * 2


def test_tiles_keep_the_rows_joined_so_far_the_tiles_above_and_those_on_the_left():
    case = Case("clip", "decode", 13, 480, 720, "tiled")
    first, _ = pieces(case, FULL, "bfloat16")
    assert first.shape == (1, 2, 30, 45, 16)
    tile, frames = 240 * 360 * 3 * 2, 16
    # 3 x 3 tiles; those of the last row begin 2 x 200 rows down.
    beside = (4 * 60 * 90 - 2 * 30 * 45) * 16 * 2 + frames * (400 * 720 * 3 * 2 + 5 * tile) + 8 * tile
    assert first.beside == beside


def test_a_frame_that_is_one_tile_is_not_tiled():
    tiled, streamed = (Case("clip", "decode", 13, 240, 360, form) for form in ("tiled", "streamed"))
    assert pieces(tiled, FULL, "bfloat16") == pieces(streamed, FULL, "bfloat16")


def test_the_peak_is_that_of_the_program_which_leaves_least():
    found = pieces(CLIP._replace(way="streamed"), FULL, "bfloat16")
    assert peak(found, {found[0]: 10**10, found[1]: 9 * 10**9}.get) == 10**10 + found[0].beside


def test_the_weights_of_both_halves_are_all_that_there_are():
    both = sum(weight_bytes(FULL, operation, "bfloat16") for operation in ("encode", "decode"))
    assert both == pytest.approx(2 * 215.6e6, rel=1e-3)


@pytest.mark.parametrize("truth", [0, 1, 7, 8, 9, 100, 511, 512])
@pytest.mark.parametrize("curve", ["line", "square", "no words"])
def test_the_search_finds_the_largest_that_fits_with_few_questions(truth, curve):
    def peak_of(n: int) -> int | None:
        if curve == "no words" and n > truth:
            return None
        return 10 * n * n if curve == "square" else 1000 + 10 * n

    found = largest(peak_of, peak_of(truth) or 0, 512, guess=10)
    assert found.value == truth
    assert len(found.peaks) <= 14
    assert truth in found.peaks or truth == 0
    assert truth == 512 or truth + 1 in found.peaks


@pytest.mark.parametrize("budget", [9_000, 16_000, 100_000])
def test_a_line_is_found_in_four_questions(budget):
    assert len(largest(lambda n: 5_000 + 37 * n, budget, 512, guess=10).peaks) <= 4


def test_good_hints_leave_two_questions_and_bad_ones_mislead_no_search():
    def square(n: int) -> int:
        return 5_000 + 2 * n * n

    truth = largest(square, 16_000, 512).value
    good = largest(square, 16_000, 512, guess=10, hints={n: square(n) for n in (70, 74, 75, 90)})
    assert (good.value, list(good.peaks)) == (truth, [truth, truth + 1])
    for bad in ({1: 10, 2: 10}, {1: 90_000, 2: 95_000}, {300: 10, 301: 16_001}, {5: 15_999, 6: 16_000}):
        found = largest(square, 16_000, 512, guess=10, hints=bad)
        assert found.value == truth
        assert len(found.peaks) <= 14


@pytest.mark.parametrize(("before", "asked"), [(126, [126, 127]), (125, [125, 126, 127]), (127, [127, 126])])
def test_what_fitted_before_is_asked_for_first_and_then_the_next(before, asked):
    found = largest(lambda n: n * n, 16_000, 512, guess=10, hints={240: 15_000, 241: 15_100}, before=before)
    assert found.value == 126
    assert list(found.peaks)[: len(asked)] == asked
    assert len(found.peaks) <= 8


def test_hints_that_are_a_little_low_do_not_spoil_the_line_through_what_was_asked():
    hints = {n: 5_000 + 37 * n for n in (297, 298)}
    found = largest(lambda n: 5_111 + 37 * n, 16_000, 512, guess=10, hints=hints, before=297)
    assert (found.value, len(found.peaks)) == (294, 4)


def test_what_other_chips_were_asked_is_a_hint_in_proportion_to_devices():
    found = reach(GOALS[1], "streamed", 32 * 10**9, lambda case: 10**10 + case.frames * FRAME)
    rows = [row_of("v6e", GOALS[1], "streamed", 1, found, "libtpu 1")]
    assert hints_of(rows, GOALS[1], "streamed", 2) == {n: peak // 2 for n, peak in found.peaks.items()}
    assert hints_of(rows, GOALS[1], "tiled", 1) == hints_of(rows, GOALS[0], "streamed", 1) == {}


def test_an_interrupted_search_goes_on_where_it_was(tmp_path):
    """What was compiled is recalled, so the same questions cost nothing the second time."""
    known: dict[int, int] = {}
    compiled = []

    def peak_of(n: int, stop_after: int) -> int:
        if n not in known:
            if len(compiled) == stop_after:
                raise KeyboardInterrupt
            compiled.append(n)
            known[n] = n * n
        return known[n]

    with pytest.raises(KeyboardInterrupt):
        largest(lambda n: peak_of(n, 3), 5_000, 512, guess=10)
    assert largest(lambda n: peak_of(n, 100), 5_000, 512, guess=10).value == 70
    assert len(compiled) == len(set(compiled))


def test_a_frontier_is_written_row_by_row_and_read_in_order(tmp_path):
    path, goal = tmp_path / "frontier.jsonl", GOALS[1]
    for chip, budget in (("v6e", 32 * 10**9), ("v5e", 16 * 10**9), ("v6e", 33 * 10**9)):
        found = reach(goal, "streamed", budget, lambda case: 10**10 + case.frames * FRAME)
        write_row(path, row_of(chip, goal, "streamed", 1, found, "libtpu 1"))
    rows = in_order(read_rows(path))
    assert [(row.chip, row.budget) for row in rows] == [("v5e", 16), ("v6e", 32)]
    frames = (33 * 10**9 - 10**10) // FRAME
    assert rows[1].value == str(8 * ((frames - 1) // 8) + 1)
    path.write_text("{}\n")
    with pytest.raises(ValueError, match=r"frontier\.jsonl, line 1: .*run the frontier again"):
        read_rows(path)


def test_a_step_is_asked_for_once_for_all_frame_counts():
    class Vae:
        config, dtype = FULL, "bfloat16"

    asked = []

    def ask(piece):
        asked.append((piece.kind, piece.shape))
        return answer(10**10)

    found = reach(GOALS[1], "streamed", 32 * 10**9, lambda case: peak_in(case, Vae, ask))
    assert found.value > 100
    assert len(set(asked)) == 2


def test_the_largest_is_confirmed_only_by_programs_that_were_compiled():
    class Vae:
        config, dtype = FULL, "bfloat16"

    case = GOALS[1].case(10, "streamed")
    assert peak_in(case, Vae, lambda piece: Answer("needs compiling", None)) is None
    answers = {kind: answer(10**10, fits=kind == "later") for kind in ("first", "later")}
    made, said = (peak_in(CLIP, Vae, lambda piece, fits=fits: answer(10**10, fits)) for fits in (True, False))
    assert (made, said) == (10**10, 10**10 + CODE)  # what was only asked for has no code yet
    beside = max(piece.beside for piece in pieces(case, FULL, "bfloat16"))
    assert peak_in(case, Vae, lambda piece: answer(10**10)) == 10**10 + CODE + beside  # nor is it minded beside others
    assert [piece.kind for piece in only_sized(case, Vae, lambda piece: answers[piece.kind])] == ["first"]
    found = reach(GOALS[1], "streamed", 32 * 10**9, lambda case: 10**10 + case.frames * FRAME)
    rows = [row_of("v6e", GOALS[1], "streamed", 1, found, "libtpu 1", compiled) for compiled in (False, True)]
    assert [row.words for row in rows] == [str(8 * found.value + 1), f"{8 * found.value + 1}, compiled"]


class Lowering:
    """A backend whose programs are their shapes."""

    backend, config, dtype = "flax", FULL, "bfloat16"

    @staticmethod
    def lower_decode(shape, sharding):
        return SimpleNamespace(shape=shape, as_text=lambda: str(shape))

    @staticmethod
    def lower_step(operation, shape, sharding, first, form, alone):
        return SimpleNamespace(shape=shape, as_text=lambda: f"{shape} {first}")


def test_where_the_largest_is_refused_when_it_is_compiled_the_search_goes_on_below(tmp_path, monkeypatch):
    """Said to need 10 MiB a latent, needing 0.6 % more: what is written was compiled, and fits."""
    budget, asked = TPUS["v6e"].usable_bytes, []

    def said(lowered, refusal=None):
        return Outcome(False, lowered.shape[1] * 10 * 2**20, 1.0)

    def compile(lowered):
        asked.append(lowered.shape[1])
        need = int(said(lowered).peak_bytes * 1.006)
        return Outcome(need <= budget, need, 1.0)

    def whole(chip, baseline_dir, large):
        return Compiler(Store(tmp_path / "programs.jsonl"), "t", "v", large, compile)

    def sizer(chip, baseline_dir, better):
        return Compiler(Store(tmp_path / "sizes.jsonl"), "t", "v", True, said, {"only": "sizes"}, better)

    monkeypatch.setattr("twinvae.load", lambda *_, **__: Lowering)
    monkeypatch.setattr("suites.memory.lowered.sharding_on", lambda chip, devices: None)
    monkeypatch.setattr("suites.memory.frontier.compiler_for", whole)
    monkeypatch.setattr("suites.memory.frontier.sizer_for", sizer)

    def explored(confirm: bool):
        explore("v6e", tmp_path, Console(quiet=True), GOALS[1:2], ("one program",), confirm)
        return read_rows(tmp_path / "frontier.jsonl")

    (row,) = explored(confirm=False)
    assert (row.n, row.compiled, asked) == (1594, False, [])
    (row,) = explored(confirm=True)
    assert (row.n, row.compiled, row.value) == (1589, True, str(8 * 1589 + 1))
    assert asked == [2 * n + 1 for n in range(1594, 1588, -1)]
    (again,) = explored(confirm=False)
    assert (again.n, again.compiled, len(asked)) == (1589, True, 6)


def test_a_curve_is_kept_where_it_is_known_and_asked_for_where_that_is_wanted(tmp_path, monkeypatch):
    asked = []

    def said(lowered, refusal=None):
        asked.append(lowered.shape[1])
        return Outcome(False, lowered.shape[1] * 10 * 2**20, 1.0)

    def sizer(chip, baseline_dir, better):
        return Compiler(Store(tmp_path / "sizes.jsonl"), "t", "v", True, said, {"only": "sizes"})

    monkeypatch.setattr("twinvae.load", lambda *_, **__: Lowering)
    monkeypatch.setattr("suites.memory.lowered.sharding_on", lambda chip, devices: None)
    monkeypatch.setattr("suites.memory.frontier.sizer_for", sizer)

    def explored(form, curve=False):
        asked.clear()
        explore("v6e", tmp_path, Console(quiet=True), GOALS[1:2], (form,), curve=curve)
        return next(row for row in read_rows(tmp_path / "frontier.jsonl") if row.form == form)

    below = [1, 6, 24, 99, 398]
    row = explored("one program")
    assert (row.n, asked.count(3), set(below) & dict(row.points).keys()) == (1594, 0, set())
    assert explored("one program", curve=True).points == tuple(
        (n, (2 * n + 1) * 10 * 2**20 + CODE) for n in (*below, 1594, 1595)
    )
    assert asked == [2 * n + 1 for n in reversed(below)]
    row = explored("one program")
    assert (asked, [n for n, _ in row.points][:5], row.x[:2]) == ([], below, (9, 49))
    row = explored("streamed")  # all frame counts go through the same two steps
    assert asked == [3, 2]
    assert {*smaller(row.n), row.n} <= dict(row.points).keys()


@pytest.mark.parametrize(("chip", "changed"), [("v6e", True), ("v6e", False), ("v5e", True)])
def test_a_reach_is_not_known_any_more_where_the_chips_own_programs_have_changed(chip, changed):
    found = reach(GOALS[1], "streamed", 32 * 10**9, lambda case: 10**10 + case.frames * FRAME)
    row = row_of("v6e", GOALS[1], "streamed", 1, found, "libtpu 1")
    asked, records = [], []

    def needs_compiling(operation, piece, devices):
        asked.append((operation, piece.kind, piece.shape[1:4], devices))
        return changed and piece.kind == "later"

    test_frontier.test_a_chip_reaches_as_far_as_it_did(
        row, SimpleNamespace(config=FULL), "flax", "bfloat16", SimpleNamespace(needs_compiling=needs_compiling), chip,
        lambda **fields: records.append(fields), lambda *exhibit, caption: None,
    )  # fmt: skip
    (record,) = records
    if chip == "v6e" and changed:
        assert (record["value"], record["pending"]) == (None, "nox -s memory -- --frontier v6e")
        assert record["note"].startswith(f"was {row.value}; ")
        assert asked == [("decode", "first", (3, 96, 170), 1), ("decode", "later", (2, 96, 170), 1)]
    else:
        assert (record["value"], record["pending"]) == (8 * found.value + 1, "")
        assert record["note"].startswith(f"{row.value}; ")


def test_a_peak_over_its_ceiling_is_wrong_and_one_two_per_cent_above_its_baseline_got_worse():
    row = Record(suite="memory", case="c", metric="peak", value=11.8, limit=12.0, tolerance=1.02)
    before = Entry(case="c", metric="peak", value=11.7)
    assert judge(row, before).status == "pass"
    assert judge(row.model_copy(update={"value": 12.1}), Entry(case="c", metric="peak", value=12.0)).status == "wrong"
    assert judge(row.model_copy(update={"value": 11.95}), before).status == "regressed"
    assert judge(row.model_copy(update={"value": 11.0}), before).status == "improved"
    assert judge(row.model_copy(update={"value": None, "note": "does not fit"}), before).status == "wrong"


def test_a_program_that_needs_compiling_is_said_with_its_command_and_fails_nothing():
    row = Record(suite="memory", case="c", metric="peak", value=None, limit=12.0, tolerance=1.02,
                 pending="nox -s memory -- --aot v6e", note="was 11.8 GB before it changed")  # fmt: skip
    verdict = judge(row, Entry(case="c", metric="peak", value=11.7))
    assert (verdict.status, verdict.failing, row.sure) == ("needs compiling", False, False)
    assert verdict.reason == "`nox -s memory -- --aot v6e` (was 11.8 GB before it changed)"


def test_progress_tells_what_is_left(tmp_path):
    said, now = [], iter([0.0, 0.0, 100.0])
    progress = Progress(["a", "b"], Store(tmp_path / "programs.jsonl"), said.append, lambda: next(now))
    for name in ("a", "recalled", "b"):
        progress.starts(name)
    assert said == [
        "compiling 1 of 2, 0 s gone, about 8 min left: a",
        "compiling 2 of 2, 2 min gone, about 4 min left: b",
    ]


def test_one_platform_is_judged_at_a_time():
    assert runs((), (), []) == [(), ("--platform", "tpu-v6e-aot"), ("--platform", "gpu-h100-aot")]
    assert runs((), (), ["--platform", "cpu"]) == [()]
    assert runs(("v6e", "v5e"), (), []) == [("--aot", "v6e"), ("--aot", "v5e")]
    assert runs(("v6e",), ("v6e", "v5e"), []) == [("--aot", "v6e"), ("--platform", "tpu-v5e-aot")]


def test_the_input_of_a_case_is_that_of_its_clip():
    assert input_shape(CLIP._replace(operation="encode"), FULL) == (1, 81, 768, 1360, 3)
    assert input_shape(CLIP._replace(frames=8), FULL) == (1, 2, 96, 170, 16)


@pytest.mark.parametrize("option", ["--confirm", "--curve"])
def test_an_option_of_the_frontier_without_one_is_refused_and_not_ignored(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        memory([option])
    assert f"--frontier v6e {option}" in capsys.readouterr().err


def test_chips_are_explored_and_compiled_for_and_the_rest_goes_to_pytest(monkeypatch):
    ran = []
    monkeypatch.setattr("suites.memory.__main__.missing", lambda chip: "")
    monkeypatch.setattr("suites.memory.__main__.run", lambda *arguments: ran.append(arguments) or 0)
    options = ["--aot", "v6e", "--frontier", "v6e,v5e", "--confirm", "--curve"]
    with pytest.raises(SystemExit, match="0"):
        memory([*options, "--dtype", "bfloat16", "-k", "chips", "-x"])
    rest = ("--dtype", "bfloat16", "-k", "chips", "-x")
    assert ran == [
        ("suites.memory.frontier", "v6e", "v5e", "--confirm", "--curve"),
        ("pytest", "suites/memory", "--aot", "v6e", *rest),
        ("pytest", "suites/memory", "--platform", "tpu-v5e-aot", *rest),
    ]


@pytest.mark.parametrize("option", ["--aot", "--frontier"])
@pytest.mark.parametrize("names", ["v9", "v6e,v9", ",", ""])
def test_an_unknown_chip_is_refused_by_name(option, names, capsys):
    with pytest.raises(SystemExit, match="2"):
        memory([option, names])
    assert f"{option} {names}: choose from v5e, v6e" in capsys.readouterr().err


def test_a_frontier_is_of_the_goals_and_ways_that_are_named(monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setattr("suites.memory.frontier.missing", lambda chip: "")
    monkeypatch.setattr("suites.memory.frontier.explore", lambda *given: asked.append(given))
    named = ["--goal", GOALS[1].name, "--form", "tiled", "--form", "one program", "--curve"]
    with pytest.raises(SystemExit, match="0"):
        frontier(["v5e", "v5p", *named, "--baseline-dir", str(tmp_path)])
    (chip, folder, _, *rest), (other, *_) = asked
    assert (chip, other, folder) == ("v5e", "v5p", tmp_path)
    assert rest == [[GOALS[1]], ["one program", "tiled"], False, True]
    with pytest.raises(SystemExit, match="2"):
        frontier(["v9"])
    assert "unknown chip v9: choose from v5e" in capsys.readouterr().err


def options_of(platform, **given):
    models = tuple(Model.of_preset(name, 0) for name in ("tiny", "cogvideox-2b"))
    given |= {"backends": ("flax", "torchax"), "dtypes": ("float32", "bfloat16"), "models": models}
    return SimpleNamespace(platform=platform, **given)


def test_each_kind_of_compiler_is_asked_its_own_programs():
    counts = {
        platform: [len(select(options_of(platform))) for select in SELECTIONS]
        for platform in ("cpu", "tpu-v6e-aot", "gpu-l4-aot")
    }
    assert counts == {"cpu": [0, 0, 0, 0, 0], "tpu-v6e-aot": [7, 1, 0, 6, 0], "gpu-l4-aot": [0, 0, 5, 2, 4]}
    assert {row["model"].label for row in small_steps(options_of("gpu-l4-aot"))} == {"tiny"}
    in_slabs = [row for row in asked_of_cards(options_of("gpu-l4-aot")) if row["case"].form == ROW_SLABS]
    assert [(row["backend"], row["case"].size) for row in in_slabs] == [("flax", "9x768x1360")]


def test_a_program_of_a_form_is_lowered_in_it_and_called_by_it(monkeypatch):
    monkeypatch.setattr("suites.memory.lowered.sharding_on", lambda chip, devices: None)
    (piece,) = pieces(Case("9 frames", "decode", 9, 480, 720, "streamed", form=WHOLE), FULL, "bfloat16")
    vae = SimpleNamespace(backend="flax", dtype="bfloat16", lower_step=lambda *given, **named: named["form"])
    assert lowered_for("h100", vae, "decode", piece) == WHOLE
    name = Programs(vae, "cogvideox-2b", "h100", None).name("decode", piece)
    assert name == "flax decode first 1x3x60x90x16 whole, cogvideox-2b bfloat16"


@pytest.mark.parametrize(("platform", "shown"), [("gpu-l4-aot", ["l4", "h100"]), ("tpu-v5e-aot", ["v6e"]), ("cpu", [])])
def test_a_page_shows_how_far_chips_of_its_own_kind_reach(platform, shown, tmp_path):
    found = Found(3, {3: 10, 4: None})
    for chip in ("l4", "h100", "v6e"):
        write_row(tmp_path / "frontier.jsonl", row_of(chip, GOALS[1], "streamed", 1, found, "compiler 1", True))
    assert [row["row"].chip for row in test_frontier.reached(options_of(platform, baseline_dir=tmp_path))] == shown


def test_what_a_gpus_compiler_says_is_known_at_once_and_what_does_not_fit_ends_the_search(tmp_path, monkeypatch):
    def compile(lowered):
        peak = lowered.shape[1] * 10 * 2**20
        return Outcome(peak <= GPUS["l4"].usable_bytes, peak, 1.0)

    def compiler(chip, baseline_dir, *_, **__):
        return Compiler(Store(tmp_path / "programs.jsonl"), "t", "v", True, compile)

    monkeypatch.setattr("twinvae.load", lambda *_, **__: Lowering)
    monkeypatch.setattr("suites.memory.lowered.sharding_on", lambda chip, devices: None)
    monkeypatch.setattr("suites.memory.frontier.compiler_for", compiler)
    monkeypatch.setattr("suites.memory.frontier.sizer_for", compiler)
    explore("l4", tmp_path, Console(quiet=True), GOALS[1:2], ("one program",))
    (row,) = read_rows(tmp_path / "frontier.jsonl")
    latents = GPUS["l4"].usable_bytes // (10 * 2**20)
    assert (row.n, row.budget, row.compiled) == ((latents - 1) // 2, 24, True)
