"""The dry run: what a study would do and cost, as far as known before it starts."""

from kdq.data.sources import DATASETS
from study.commands.options import RunOptions
from study.commands.site import machines_at
from study.plan import estimate_disk, estimate_time
from study.plan.plan import Plan
from study.plan.precision import settle
from study.plan.resources import resources, root_folder, slots
from study.trial.check_inputs import check_inputs


def describe(name: str, plan: Plan, options: RunOptions) -> str:
    """Return trials, students, points, time and disk space as text; raise UserError where a run would."""
    check_inputs(plan, options.data_dir, root_folder(options.storage_path))
    machines = machines_at(options.address)
    trial = resources(options.cpus_per_trial, options.gpus_per_trial, machines)
    at_once = slots(trial, machines)
    plan, precision = settle(plan, trial.device)
    lines = [*([precision] if plan.needs_distilling else []), estimate_time.describe(name, plan, at_once)]
    if options.extend or options.retry_failed:
        lines.append("(for the whole study from scratch; finished results are reused)")
    downloads = not DATASETS[plan.workload.dataset].is_embedded and not options.data_dir
    return "\n".join([*lines, estimate_disk.describe(plan, at_once, downloads=downloads)])
