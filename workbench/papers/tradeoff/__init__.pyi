from . import findings as findings
from . import shelf as shelf
from . import words as words
from .experiment import Job as Job
from .experiment import run as run
from .plan import ORGANISM as ORGANISM
from .plan import Plan as Plan
