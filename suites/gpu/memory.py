"""Memory on a card: what a call is predicted to need, from programs compiled anew, and what it then takes.

One process compiles, and another finds the programs in JAX's cache and is measured: kernels that are tried set an
allocator's mark, and of a program from the cache XLA for CUDA does not say the peak.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import twinvae
from suites.gpu.steps import Step
from suites.memory.bars import ON_A_CARD
from suites.memory.page import MEASURED, OFF, PREDICTED
from suites.memory.test_measured import off
from suites.speed.cases import Contender, Group
from suites.speed.contenders import input_of, out_of_memory
from twinvae import arrays
from twinvae.bench.options import Model
from twinvae.bench.resident import allocated, resident
from twinvae.bench.xla_cost import COMPILING, stages
from twinvae.jax.memory import tree_bytes

DTYPE, GB = "bfloat16", 1e9
SLOW = 4.0  # seconds of compiling that finding a program in the cache does not take
ALL_OF_IT = "all of the device's"


def plan_memory(step: Step, model: Model, folder: Path, record: Callable[..., None]) -> None:
    """Compile what the planner wants to know, without a budget and with the step's, and keep the plans."""
    plans: dict[str, dict[str, Any]] = {}
    for contender in step.contenders:
        vae, clip = _vae(contender, model), _clip(step, model)
        for budget in (None, step.budget):
            if jax.default_backend() != "cpu":
                vae.set_memory_budget(budget)
            elif budget:  # a rehearsal's frames are too small to need the leaner forms
                vae.forms = vae.call_of(step.operations[0], clip.shape).ways[-1:]
            name = f"{contender.backend} {budget or ALL_OF_IT}"
            try:
                plan = vae.plan(clip.shape, step.operations[0])
            except MemoryError as error:
                print(f"{name}: {error}", flush=True)
                continue
            print(plan, flush=True)
            if not plan.exact:
                print(f"{name}: only in tiles, which give other numbers: not measured", flush=True)
                continue
            plans[name] = {"form": plan.form, "peak": plan.peak_bytes, "above idle": _above_idle(vae, plan.peak_bytes)}
            (folder / "plans.json").write_text(json.dumps(plans))
            note = f"{plan.form}, {plan.peak_bytes / GB:.2f} GB with the weights"
            record(**_fields(step, contender, budget), metric=PREDICTED, value=plans[name]["above idle"] / GB,
                   unit="GB", tolerance=float("inf"), note=note)  # fmt: skip


def measure_memory(step: Step, model: Model, folder: Path, record: Callable[..., None]) -> None:
    """Measure a call of each plan, the leanest first, so that the mark it leaves is below the next one's."""
    path = folder / "plans.json"
    plans = json.loads(path.read_text()) if path.exists() else {}
    device = jax.devices()[0]
    for contender in step.contenders:
        vae, clip = _vae(contender, model), _clip(step, model)
        call = vae.decode if step.operations[0] == "decode" else lambda video, vae=vae: vae.encode(video).moments
        with arrays.dtype_scope(clip.dtype):
            given = jax.block_until_ready(jnp.asarray(clip))
        for budget in (step.budget, None):
            plan, fields = plans.get(f"{contender.backend} {budget or ALL_OF_IT}"), _fields(step, contender, budget)
            if plan is None:
                print(f"{fields['case']}: no plan, nothing to measure", flush=True)
                continue
            vae.forms = (plan["form"],)  # the planner would ask the compiler again, which does not know any more
            try:
                measuring = resident() if device.platform == "cpu" else allocated(device)
                with measuring as found, stages() as compiling:
                    jax.block_until_ready(call(given))
            except Exception as error:  # a lack of memory is a result
                if not out_of_memory(error):
                    raise
                print(str(error)[:2000], flush=True)
                record(**fields, metric=MEASURED, value=None, unit="GB", kind="absolute", note="out of memory")
                continue
            if "above idle" not in found:
                print(f"{fields['case']}: no room to hold what was held before: not measured", flush=True)
                continue
            slow = [one for one in compiling if one.stage == COMPILING and one.ended - one.began > SLOW]
            anew = f"; {len(slow)} programs were compiled meanwhile, and tried kernels may count" if slow else ""
            record(**fields, metric=MEASURED, value=found["above idle"] / GB, unit="GB", kind="absolute",
                   tolerance=1.1, note=plan["form"] + anew)  # fmt: skip
            note = f"{plan['above idle'] / GB:.2f} GB predicted, {found['above idle'] / GB:.2f} measured"
            record(**fields, metric=OFF, value=off(plan["above idle"], found["above idle"]), kind="absolute",
                   limit=None if device.platform == "cpu" else ON_A_CARD[OFF].limit, tolerance=float("inf"),
                   note=note)  # fmt: skip


def _vae(contender: Contender, model: Model) -> twinvae.VideoVAE:
    return twinvae.load(contender.backend, **model.source, dtype=DTYPE)


def _clip(step: Step, model: Model) -> Any:
    return input_of(Group(model, step.operations[0], step.size, DTYPE, 1, 1), 0)


def _above_idle(vae: twinvae.VideoVAE, peak: int) -> int:
    """Beyond the weights, which are there when nothing runs; so is what goes in, a hundredth of what comes out."""
    return peak - tree_bytes(vae.params)


def _fields(step: Step, contender: Contender, budget: str | None) -> dict[str, str]:
    return {"case": f"budget: {budget or ALL_OF_IT}", "operation": step.operations[0], "backend": contender.backend,
            "mode": contender.mode, "dtype": DTYPE, "shape": str(step.size)}  # fmt: skip
