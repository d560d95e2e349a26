"""`python3 -m grapnel_exhook`: the worker that the broker's exhook plugin starts."""

import sys

from ._process import main

sys.exit(main())
