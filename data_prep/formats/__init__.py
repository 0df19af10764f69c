"""Annotation formats of others, in and out: what `data_prep/convert.py` is made of.

Each module reads one format into `annotations.Annotations` and writes the one layout's videos in it.
"""
