"""The precision of a study's trainings: chosen once by the driver where the workload leaves it `auto`.

A study keeps its choice: it is part of its settings, so that it is resumed elsewhere with the same stages, and of the
students' identities. A study's default name, in contrast, is that of its settings before the choice.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kdq.distill.precision import Choice, choose
from kdq.distill.recipe import AUTO, TrainConfig
from study.plan.plan import Plan


def settle(plan: Plan, device: str, before: Mapping[str, Any] | None = None) -> tuple[Plan, str | None]:
    """Return the plan with a precision in each recipe, and a line with those that are trained in, and why.

    device: the type of device that trials use; before: the settings of the study if it exists, whose precision is
    kept unless the workload names one itself. The line is None if nothing is trained.
    """
    here, workload = choose(device), plan.workload
    kept: Mapping[str, Any] = before["workload"] if before else {}
    train = _settled(workload.train, kept.get("train"), here)
    taught = workload.teacher_train and _settled(workload.teacher_train, kept.get("teacher_train"), here)
    settled = replace(plan, workload=replace(workload, train=train, teacher_train=taught))
    return settled, _line(plan, settled, here, bool(before))


def _settled(recipe: TrainConfig, before: Mapping[str, Any] | None, here: Choice) -> TrainConfig:
    if recipe.precision != AUTO:
        return recipe
    return replace(recipe, precision=before["precision"] if before else here.precision)


def _line(given: Plan, settled: Plan, here: Choice, exists: bool) -> str | None:
    named = {}
    if given.needs_distilling:
        named["students"] = _described(given.workload.train, settled.workload.train, here, exists)
    if given.trains_teacher:
        named["teacher"] = _described(given.workload.teacher_recipe, settled.workload.teacher_recipe, here, exists)
    if not named:
        return None
    texts = set(named.values())
    together = texts.pop() if len(texts) == 1 else ", ".join(f"{who} {text}" for who, text in named.items())
    return f"precision of training: {together}"


def _described(given: TrainConfig, settled: TrainConfig, here: Choice, exists: bool) -> str:
    return f"{settled.precision} ({_reason(given, settled, here, exists)})"


def _reason(given: TrainConfig, settled: TrainConfig, here: Choice, exists: bool) -> str:
    if given.precision != AUTO:
        return "as the workload sets it"
    if not exists:
        return f"{AUTO}: {here.reason}"
    if settled.precision == here.precision:
        return f"{AUTO}: chosen when the study began, and fast here too: {here.reason}"
    return f"{AUTO}: chosen when the study began; a new study would take {here.precision}, since {here.reason}"


def settings(given: Plan, settled: Plan) -> tuple[str, ...]:
    """Return the `key=value` texts of --set that choose, on any machine, what was chosen for a plan."""
    before, after = given.workload, settled.workload
    recipes = {"train": (before.train, after.train), "teacher_train": (before.teacher_train, after.teacher_train)}
    return tuple(
        f"{name}.precision={chosen.precision}"
        for name, (recipe, chosen) in recipes.items()
        if recipe and chosen and recipe.precision == AUTO
    )


def slower(precision: str, nodes: Mapping[str, Choice]) -> list[str]:
    """Return a line for each node, by name, on which bf16, the precision of the study, is slower than float32."""
    return [
        f"{node} trains slowly: {choice.reason}, and one study trains in one precision, {precision}"
        for node, choice in nodes.items()
        if precision != choice.precision == "float32"
    ]
