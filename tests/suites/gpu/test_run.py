"""The run on a card: its steps, its processes and their ends, what it keeps, and what it says where it cannot run."""

from __future__ import annotations

import sys
import time

import pytest

from suites.gpu import __main__ as run
from suites.gpu import card
from suites.gpu.diagnosis import described
from suites.gpu.speed import is_new, joined
from suites.gpu.steps import FLAX, MORE_STEPS, STEPS, chosen
from suites.speed.cases import COMPILED, PYTORCH, Group
from suites.speed.measure import Measured
from twinvae.bench.records import Record, read_run
from twinvae.bench.timing import Timings

H100 = card.Card("0", "NVIDIA H100 80GB HBM3", 81559, 81000, "580.159.04")
RECORD = Record(suite="speed", case="warm call", metric="time of a call", value=1.5, unit="s")


def smi(**answers):
    return lambda query: next((text for name, text in answers.items() if name in query), "")


def test_steps_are_chosen_by_name_in_the_order_given():
    assert [step.name for step in chosen("parity-9,speed-9")] == ["parity-9", "speed-9"]
    assert chosen(None) == [*STEPS, *MORE_STEPS]
    small = chosen("speed-9", rehearse=True)[0].size
    assert (small.frames, small.height, small.width) == (9, 32, 48)


@pytest.mark.parametrize(
    ("names", "said"), [("speed-9,fast", "unknown fast"), ("", "none"), ("speed-9,speed-9", "twice")]
)
def test_steps_that_there_are_not_are_refused_with_those_that_there_are(names, said, capsys):
    assert run.main(["--only", names]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "parity-small" in error


def test_a_card_is_read_from_nvidia_smi():
    said = "0, NVIDIA H100 80GB HBM3, 81559, 81000, 580.159.04\n1, NVIDIA H100 80GB HBM3, 81559, 3, 580.159.04\n"
    assert card.cards(smi(gpu=said)) == [H100, H100._replace(index="1", free=3)]
    assert card.cards(smi()) == []


def test_a_card_without_free_memory_is_refused_and_its_holder_named():
    assert card.refusal([H100], smi()) == ""
    full = H100._replace(free=2000)
    said = card.refusal([full], smi(compute="4711, python, 77000\n"))
    assert "2,000 of 81,559 MiB free" in said
    assert "4711, python, 77000" in said
    assert "another container's" in card.refusal([full], smi())


@pytest.mark.parametrize(
    ("found", "platform", "torch_cuda", "said"),
    [([], "cpu", False, "no NVIDIA card here"), ([H100], "cpu", True, "driver 580 or newer, and 580.159.04"),
     ([H100], "gpu", False, "build of torch with CUDA"), ([H100], "gpu", True, ""), ([], "gpu", True, "")],
)  # fmt: skip
def test_what_is_missing_is_said_with_what_installs_it(found, platform, torch_cuda, said):
    why = card.missing(found, platform, "no such device", torch_cuda, "2.13.0+cpu")
    assert said in why if said else not why
    assert card.INSTALL in why or platform == "gpu"


@pytest.fixture
def processes(monkeypatch):
    """Steps are these lines of Python."""

    def use(code):
        popen = run.subprocess.Popen
        monkeypatch.setattr(run.subprocess, "Popen", lambda _, **rest: popen([sys.executable, "-uc", code], **rest))

    return use


def test_a_step_whose_time_is_up_is_ended_with_all_it_started_and_what_it_had_measured_stays(processes, capsys):
    child = "import subprocess, time; subprocess.Popen(['sleep', '60']);"
    processes(f"{child} print('hello'); print('''{RECORD.model_dump_json()}'''); time.sleep(60)")
    kept, began = [], time.monotonic()
    ended = run.in_a_process(["speed-9"], {}, 2, kept.append)
    assert ended.status is None
    assert time.monotonic() - began < 20  # the grandchild has the pipe, too
    assert kept == [RECORD]
    assert capsys.readouterr().out == "hello\n"


def test_a_run_keeps_what_its_steps_measured_and_says_which_failed(processes, tmp_path, monkeypatch):
    described = run.Run(suite="speed", platform="gpu-x", date="d", commit="c", versions={}, device="x", cores=1,
                        machine="m", seed=0, weights="w", clip="c")  # fmt: skip

    def in_a_process(arguments, own, seconds, told):
        told({"facts": described, "speed-9": RECORD}.get(arguments[0], RECORD))
        return run.Ended({"speed-49": 1}.get(arguments[0], 0), 1.0)

    monkeypatch.setattr(run, "in_a_process", in_a_process)
    options = ["--no-pages", "--report-dir", str(tmp_path), "--commit", "abc"]
    assert run.main([*options, "--only", "speed-9,speed-49"]) == 1
    data = read_run(tmp_path / "gpu-x" / "records" / "speed.jsonl")
    assert data.run.commit == "abc"
    assert data.records == (RECORD,)
    assert [(failure.case, failure.rerun) for failure in data.failures] == [
        ("speed-49", "nox -s gpu -- --only speed-49")
    ]
    assert not data.complete
    assert run.main([*options, "--only", "speed-9"]) == 0
    assert not read_run(tmp_path / "gpu-x" / "records" / "speed.jsonl").complete  # all that was asked for is not all
    monkeypatch.setattr(run, "STEPS", [step for step in run.STEPS if step.name == "speed-9"])
    assert run.main([*options, "--only", "speed-9"]) == 0
    assert read_run(tmp_path / "gpu-x" / "records" / "speed.jsonl").complete
    assert run.main([*options, "--budget", "1", "--only", "speed-9"]) == 0
    assert not read_run(tmp_path / "gpu-x" / "records" / "speed.jsonl").records


def test_an_interrupted_run_keeps_its_records_and_says_so(tmp_path, monkeypatch):
    described = run.Run(suite="speed", platform="gpu-x", date="d", commit="c", versions={}, device="x", cores=1,
                        machine="m", seed=0, weights="w", clip="c")  # fmt: skip

    def in_a_process(arguments, own, seconds, told):
        told(described if arguments[0] == "facts" else RECORD)
        if arguments[0] != "facts":
            raise KeyboardInterrupt
        return run.Ended(0, 1.0)

    monkeypatch.setattr(run, "in_a_process", in_a_process)
    assert run.main(["--no-pages", "--report-dir", str(tmp_path), "--only", "speed-9"]) == 1
    data = read_run(tmp_path / "gpu-x" / "records" / "speed.jsonl")
    assert data.records == (RECORD,)
    assert data.interrupted


def test_programs_whose_peaks_are_asked_for_are_not_taken_from_the_cache_of_others(tmp_path):
    places = {step.name: run.environment(tmp_path, False, step)["JAX_COMPILATION_CACHE_DIR"] for step in STEPS}
    assert places["plan-81"] == places["memory-81"] != places["speed-9"]
    assert places["speed-9"] == places["parity-9"]


def test_times_of_two_processes_meet(tmp_path):
    group = Group(None, "decode", STEPS[0].size, "bfloat16", 2, 2)

    def timed(name, seconds):
        return Measured(group, Timings({name: seconds}, {name: [0.0] * len(seconds)}))

    assert joined(timed("flax jit", [1.0, 2.0, 3.0]), tmp_path / "times") == []
    second = timed("PyTorch", [4.0, 4.0])
    assert joined(second, tmp_path / "times") == [FLAX]
    assert second.timings.seconds == {"flax jit": [1.0, 2.0], "PyTorch": [4.0, 4.0]}


@pytest.mark.parametrize(
    ("contender", "over", "now", "before", "new"),
    [(FLAX, None, [FLAX], [], True), (FLAX, None, [FLAX], [FLAX], False), (FLAX, PYTORCH, [FLAX], [], False),
     (FLAX, PYTORCH, [FLAX], [PYTORCH], True), (FLAX, PYTORCH, [PYTORCH], [FLAX], True),
     (FLAX, PYTORCH, [FLAX, COMPILED], [FLAX, PYTORCH], False), (FLAX, COMPILED, [FLAX, COMPILED], [FLAX], True)],
)  # fmt: skip
def test_a_ratio_is_recorded_once_by_the_step_after_which_both_are_known(contender, over, now, before, new):
    assert is_new(contender, over, now, before) == new


def test_a_program_s_convolutions_and_largest_values_are_read_off_its_text():
    text = """
ENTRY %main (a: bf16[1,9,480,720,128], b: bf16[128,3,3,3,128]) -> f32[1,9,480,720,256] {
  %a = bf16[1,9,480,720,128]{4,3,2,1,0} parameter(0)
  %b = bf16[128,3,3,3,128]{4,3,2,1,0} parameter(1)
  %c.1 = (bf16[1,9,480,720,128]{4,3,2,1,0}, u8[0]{0}) custom-call(%a, %b), dim_labels=b012f_o012i->b012f, custom_call_target="__cudnn$convForward"
  ROOT %f.2 = f32[1,9,480,720,256]{4,3,2,1,0} fusion(%c.1), kind=kLoop
"""  # noqa: E501
    lines = described(text)
    assert lines[0].split() == ["1", "__cudnn$convForward", "bf16", "b012f"]
    assert lines[2].split()[:4] == ["3.185", "GB", "x", "1"]
    assert lines[2].endswith("fusion f32[1,9,480,720,256]")
