"""What a study would do and cost: everything that is known before it starts."""

from kdq.data.sources import DATASETS
from study.commands.options import RunOptions
from study.commands.site import machines_at
from study.plan import estimate_disk, estimate_time
from study.plan.plan import Plan
from study.plan.resources import resources, root_folder, slots
from study.trial.check_inputs import check_inputs


def describe(name: str, plan: Plan, options: RunOptions) -> str:
    """Trials, students, points, time and disk. Raises UserError for what a run would refuse."""
    check_inputs(plan, options.data_dir, root_folder(options.storage_path))
    machines = machines_at(options.address)
    at_once = slots(resources(options.cpus_per_trial, options.gpus_per_trial, machines), machines)
    lines = [estimate_time.describe(name, plan, at_once)]
    if options.extend or options.retry_failed:
        lines.append("(of the whole study, as if nothing of it were there: what is finished is not run again)")
    downloads = not DATASETS[plan.workload.dataset].is_embedded and not options.data_dir
    return "\n".join([*lines, estimate_disk.describe(plan, at_once, downloads=downloads)])
