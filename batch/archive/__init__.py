"""A whole archive of videos: found, analysed, prefilled, catalogued and asked, run after run.

What was done is known by records in the folder of caches; see `store`.
"""
