from .baseline import CosineLinear as CosineLinear
from .baseline import baseline as baseline
from .baseline import baseline_plus_plus as baseline_plus_plus
