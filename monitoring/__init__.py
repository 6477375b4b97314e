"""Watches: records what happened, measures live quality and drift, and says when to train again."""
