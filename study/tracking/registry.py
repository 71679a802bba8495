"""The front of a study as a registered model in MLflow: a version for each point, its budget as alias."""

from collections.abc import Mapping, Sequence

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from kdq.bits import bits_name
from kdq.pipeline.point import PACKED_FILE
from study.results.front import SeedGroup, seed_groups
from study.results.point import Point
from study.tracking.runs import StoredRun


def register_front(client: MlflowClient, study: str, runs: Mapping[str, StoredRun], points: Sequence[Point]) -> None:
    """Register the front of a study. points: with the front marked; runs: by key, as in `RunTable`.

    Each configuration is a version of the model `study`: the packed file of its best seed. The alias `max-306048-bits`
    names the best model within that budget. A version is registered once; aliases follow the front.
    """
    front = [group for group in seed_groups(points) if group.on_front]
    if not front:
        return
    try:
        known = client.get_registered_model(study)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        known = client.create_registered_model(study, description=f"The Pareto front of the study {study}.")
    versions = {each.run_id: each for each in client.search_model_versions(f"name='{study}'")}
    aliases = dict(known.aliases)
    for group in front:
        winner = group.best_point
        run = runs[f"{winner.trial_id}/{winner.bits}"]
        if run.id not in versions:
            source = f"{run.artifact_uri}/{PACKED_FILE}"
            versions[run.id] = client.create_model_version(
                study, source, run.id, description=_description(group), await_creation_for=0
            )
        alias, version = f"max-{max(point.total_bits for point in group.points)}-bits", versions[run.id].version
        if str(aliases.pop(alias, "")) != str(version):
            client.set_registered_model_alias(study, alias, str(version))
    for alias in aliases:
        if alias.startswith("max-"):
            client.delete_registered_model_alias(study, alias)


def _description(group: SeedGroup) -> str:
    accuracies = ", ".join(f"{part} {group.mean(f'{part}_top1'):.2f} %" for part in ("val", "test"))
    return f"{group.parameters['method']}, {bits_name(group.bits)}: {accuracies} (mean of {group.n})"
