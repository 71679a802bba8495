"""A configuration's model in another format, checked on its study's validation images."""

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.answer_report import command
from analysis.results import Results, label
from kdq.bits import bits_name
from kdq.errors import UserError
from study.results.front import SeedGroup

if TYPE_CHECKING:
    from kdq.data.dataset import Dataset
    from kdq.export import Exported

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}


def export_group(results: Results, group: SeedGroup, to: str, file: Path | None, data_dir: Path | None) -> "Exported":
    """Export the best seed of a configuration; return what was written and checked.

    file: by default STUDY-WIDTH with the format's suffix; data_dir: of the data set, by default the study's own.
    Raises UserError as `kdq.export.export`, for missing data, and for a study that does not name its data.
    """
    from kdq.export import export

    packed = results.packed_file(group)
    output = file or Path(f"{results.name}-{bits_name(group.bits).replace(' ', '')}{SUFFIXES[to]}")
    with tempfile.TemporaryDirectory() as folder:
        data = _data(results, data_dir, Path(folder))
        facts = {
            "Study": results.name,
            "Configuration": label(group),
            "Validation accuracy": f"{group.mean('val_top1'):.2f} % (mean of {group.n} seeds)",
            "Test accuracy": f"{group.mean('test_top1'):.2f} % (mean of {group.n} seeds)",
            "Data": f"{data.name}, {len(data.train_labels):,} training images",
            "Teacher": str(results.study.workload.get("teacher", "")),
        }
        try:
            return export(
                packed,
                to,
                output,
                data.val_images,
                data.val_labels,
                images_name="validation images",
                facts={name: value for name, value in facts.items() if value},
                command=command(results, group),
            )
        except OSError as error:
            raise UserError(f"{output}: cannot be written ({error.strerror}); choose another --file") from None


def _data(results: Results, data_dir: Path | None, folder: Path) -> "Dataset":
    """Return the study's data set, decoded into a folder."""
    from kdq.data.dataset import open_dataset
    from kdq.data.sources import load_source
    from kdq.data.spec import DataSpec
    from kdq.store.folder_store import StageStore

    workload = results.study.workload
    if not workload.get("dataset"):
        raise UserError(f"study {results.name}: its document does not name its data set; it is of an older version")
    store = StageStore(folder)
    source = load_source(DataSpec.parse(workload), data_dir or _own_data_dir(results), store)
    data = open_dataset(
        store.path(source), train_images=workload.get("train_images"), val_images=workload.get("val_images")
    )
    wanted = results.study.document.get("inputs", {}).get("data")
    if wanted not in (None, data.fingerprint):
        raise UserError(f"--data-dir: its {data.name} is not the data of study {results.name} (another fingerprint)")
    return data


def _own_data_dir(results: Results) -> Path | None:
    """Return the folder in the study's command."""
    try:
        words = shlex.split(results.study.command or "")
    except ValueError:  # somebody changed the tag
        return None
    given = [words[n + 1] for n, word in enumerate(words[:-1]) if word == "--data-dir"]
    return Path(given[-1]) if given else None
