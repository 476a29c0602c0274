from . import findings as findings
from .experiment import Job as Job
from .experiment import run as run
from .plan import CHAT as CHAT
from .plan import ORGANISM as ORGANISM
from .plan import Plan as Plan
