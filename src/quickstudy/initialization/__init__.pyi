from .anil import ANIL as ANIL
from .maml import FOMAML as FOMAML
from .maml import MAML as MAML
from .meta_sgd import MetaSGD as MetaSGD
from .reptile import Reptile as Reptile
