from .anil import ANIL as ANIL
from .maml import MAML as MAML
from .maml import fomaml as fomaml
from .maml_plus_plus import MAMLPlusPlus as MAMLPlusPlus
from .meta_sgd import MetaSGD as MetaSGD
from .reptile import Reptile as Reptile
