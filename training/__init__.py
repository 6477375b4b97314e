"""Learns: data, fine-tuning, evaluation, export and the verdict on a candidate."""
