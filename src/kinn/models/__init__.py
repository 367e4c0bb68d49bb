"""Neural operators, tensor to tensor: `(B, C_in, *grid)` to `(B, C_out, *grid)`."""

from kinn.models.cno import CNO
from kinn.models.fkno import FKNO
from kinn.models.fno import FNO
from kinn.models.peers import NeuralOperatorFNO, NeuralOperatorUNO
from kinn.models.registry import build, model_names, register_model
from kinn.models.ukno import UKNO, UKNO_DEEP, UKNO_SHALLOW
from kinn.models.unet import UNet

__all__ = [
    "CNO",
    "FKNO",
    "FNO",
    "UKNO",
    "UKNO_DEEP",
    "UKNO_SHALLOW",
    "NeuralOperatorFNO",
    "NeuralOperatorUNO",
    "UNet",
    "build",
    "model_names",
    "register_model",
]
