"""Neural operators, tensor to tensor: `(B, C_in, *grid)` to `(B, C_out, *grid)`."""

from kinn.models.fkno import FKNO
from kinn.models.fno import FNO
from kinn.models.registry import build, model_names, register_model

__all__ = ["FKNO", "FNO", "build", "model_names", "register_model"]
