"""Image backbones with timm's interface. Importing this enters them in timm's registry; needs the extra `vision`."""

try:
    from kinn.models.vision.backbone import KINN
    from kinn.models.vision.kinn import VMAMBA, kinn_base, kinn_nano, kinn_small, kinn_tiny
    from kinn.models.vision.work import multiply_adds
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    if package != "timm":
        raise
    raise ImportError(f"kinn.models.vision needs {package}: pip install 'kinn-torch[vision]'") from error

__all__ = ["KINN", "VMAMBA", "kinn_base", "kinn_nano", "kinn_small", "kinn_tiny", "multiply_adds"]
