"""From runs to a versioned dataset on the Hub, and back.

    runs, published tags -> parts.py (hub_fetch.py) -> merge.py -> licenses.py, stored_images.py
    -> dataset.py: a dataset folder (dataset_rows.py, dataset_shards.py), checked by dataset_checks.py
    -> release.py: one commit, one tag, read back (push.py, release_plan.py, hub_repo.py)

rebuild.py puts withheld images back (image_search.py), export.py writes other trainers' layouts, model_release.py
publishes a trained model.
"""
