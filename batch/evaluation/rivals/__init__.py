"""Other tools' caches under the demo model, each in an environment of its own (`make rivals`).

Imports nothing of the product: these environments hold other versions of transformers. What is
asked comes as files from `python -m batch.evaluation.export_films`; the answers go back as JSON
Lines, which `batch evaluate` takes into its table.
"""
