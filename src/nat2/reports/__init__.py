"""What a run tells people: tables, plots and the page."""

import logging

# Where there is no home, matplotlib keeps its cache elsewhere; nobody has to be told.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
