"""Freezes what the fork server has imported; it imports this module last.

The garbage collector of a fork then skips these objects. If it walked through them, it would copy their memory pages.
"""

import gc

gc.collect()
gc.freeze()
