"""Neural operators, tensor to tensor: `(B, C_in, *grid)` to `(B, C_out, *grid)`."""

from kinn.models.fkno import FKNO
from kinn.models.fno import FNO
from kinn.models.registry import build, model_names, register_model
from kinn.models.ukno import UKNO, UKNO_DEEP, UKNO_SHALLOW

__all__ = ["FKNO", "FNO", "UKNO", "UKNO_DEEP", "UKNO_SHALLOW", "build", "model_names", "register_model"]
