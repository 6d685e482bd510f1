"""A whole archive of videos: found, analysed, prefilled, catalogued and asked, run after run.

What was done is known by records in the folder of caches, see `store`; README.md beside this file
is for those who use it. A run begins in `run.index`.
"""
