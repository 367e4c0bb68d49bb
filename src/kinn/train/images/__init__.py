"""Training and evaluation of image classifiers, with timm's data pipeline. Needs the extras `train` and `vision`."""

try:
    from kinn.train.images.evaluate import evaluate_images
    from kinn.train.images.fitting import ImageFit, fit_images
    from kinn.train.images.parts import hold_out
    from kinn.train.images.saving import load_classifier, save_classifier
    from kinn.train.images.settings import ImageSettings
    from kinn.train.images.sources import open_images
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    if package not in ("lightning", "timm", "webdataset"):
        raise
    raise ImportError(f"kinn.train.images needs {package}: pip install 'kinn-torch[train,vision]'") from error

__all__ = [
    "ImageFit",
    "ImageSettings",
    "evaluate_images",
    "fit_images",
    "hold_out",
    "load_classifier",
    "open_images",
    "save_classifier",
]
