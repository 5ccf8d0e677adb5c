from .gallery import Gallery as Gallery
from .records import Entry as Entry
from .records import Match as Match
from .records import Sample as Sample
from .records import Stats as Stats
