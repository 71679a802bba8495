"""System metrics of the driver's machine on a study's run, on request."""

from mlflow.environment_variables import (
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING,
    MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING,
    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
)
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from kdq.errors import UserError, first_line

_VARIABLES = (
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING,
    MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING,
    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
)


class SystemMetrics:
    """MLflow's monitor of processor, memory, disk, network and GPU, as `mlflow.start_run` has it: in a thread, every
    10 s, if the environment variable MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is true. It never fails a study."""

    def __init__(self, uri: str) -> None:
        """uri: of the tracking store. Raises UserError for a value of MLflow's variables that MLflow does not take."""
        try:
            values = [variable.get() for variable in _VARIABLES]  # type: ignore[no-untyped-call]
        except ValueError as error:
            raise UserError(f"{first_line(error)}; set another value, or unset it") from None
        self.uri, self.is_requested = uri, bool(values[0])
        self._monitor: SystemMetricsMonitor | None = None

    def start(self, run_id: str) -> None:
        """Begin to log to a run, which must be running, after its last step; without effect if not requested."""
        if self.is_requested and self._monitor is None:
            self._monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=self.uri)  # type: ignore[no-untyped-call]
            self._monitor.start()  # type: ignore[no-untyped-call]

    def finish(self) -> None:
        """Log what was collected, and stop."""
        if self._monitor:
            self._monitor.finish()  # type: ignore[no-untyped-call]
            self._monitor = None
