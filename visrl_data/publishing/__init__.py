"""From runs to a versioned dataset on the Hub, and back.

    runs, published tags -> parts.py (fetching.py) -> merging.py -> licences.py, pixels.py
    -> dataset.py: a dataset folder (dataset_rows.py, dataset_folder.py, shards.py), checked by checking.py
    -> release.py: one commit, one tag, read back (pushing.py, release_plan.py, release_steps.py, hub_*.py)

rebuild.py puts withheld images back (finding.py), export.py writes other trainers' layouts, model_release.py
publishes a trained model.
"""
