"""Predictions of a packed model for images in memory and in files."""

from typing import TYPE_CHECKING

from kdq.lazy import public

if TYPE_CHECKING:
    from kdq.predict.classify import predict, predict_files
else:
    homes = {"predict": "kdq.predict.classify", "predict_files": "kdq.predict.classify"}
    __getattr__, __dir__ = public(__name__, homes)

__all__ = ["predict", "predict_files"]
