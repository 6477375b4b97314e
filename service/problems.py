"""What callers may see of an error, whatever carries it to them."""

import logging

from regraft.errors import RegraftError
from regraft.ids import new_id

logger = logging.getLogger(__name__)


def presentable(error: Exception, where: str) -> RegraftError:
    """The error itself, if it is one of ours. What is not known to be safe to show is logged, and shown as an id."""
    if isinstance(error, RegraftError):
        return error
    id_ = new_id()
    logger.error("internal error %s in %s", id_, where, exc_info=error)
    return RegraftError(f"something went wrong here; the log has it under {id_}", id=id_)
